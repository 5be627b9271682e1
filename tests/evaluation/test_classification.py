"""The table of accuracies, its differences paired by photo."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.classification import Classified, classification_table, pairs_table
from simpool_viz.scores.results import interval
from tests.helpers import small_resnet, table_column


def test_table_of_accuracies_pairs_the_differences_by_photo() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.7
    better = first | (rng.random(400) < 0.2)
    rows = [Classified(small_resnet("gap", "a"), first), Classified(small_resnet("simpool", "b"), better)]
    table = classification_table(rows, "made up, held out").markdown()
    assert table.startswith("**made up, held out**, 400 photos\n")
    gained = (better.astype(float) - first) * 100
    mean, low, high = interval(gained)
    assert table_column(table, "against a (points)") == {"a": "", "b": f"+{mean:.1f} [+{low:.1f}, +{high:.1f}]"}
    assert low > 0 and table_column(table, "top-1 (%)")["a"].startswith(f"{100 * first.mean():.1f} [")
    assert table_column(table, "pooling") == {"a": "GAP", "b": "SimPool"}


def test_pairs_are_compared_photo_by_photo_and_strangers_refused() -> None:
    rng = np.random.default_rng(3)
    right = [rng.random(300) < share for share in (0.6, 0.7, 0.8)]
    rows = [Classified(small_resnet("gap", name), own) for name, own in zip("abc", right, strict=True)]
    table = pairs_table(rows, [("c", "b"), ("a", "c")])
    assert [row["pair"] for row in table.rows] == ["c against b", "a against c"]
    mean, low, high = interval(right[2].astype(float) - right[1])
    assert table.row("c against b")["top1"] == pytest.approx([mean, low, high], abs=1e-5)
    assert table.figure("a against c", "top1").startswith("-") and "[" not in table.figure("a against c", "top1")
    with pytest.raises(OptionError, match="--pair names d; the checkpoints are a, b, c"):
        pairs_table(rows, [("a", "d")])
