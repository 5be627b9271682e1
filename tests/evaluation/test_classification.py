"""The table of accuracies, its differences paired by photo."""

from __future__ import annotations

import numpy as np

from simpool_viz.evaluation.classification import Classified, classification_table
from simpool_viz.evaluation.table import interval
from tests.helpers import small_resnet, table_column


def test_table_of_accuracies_pairs_the_differences_by_photo() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.7
    better = first | (rng.random(400) < 0.2)
    rows = [Classified(small_resnet("gap", "a"), first), Classified(small_resnet("simpool", "b"), better)]
    table = classification_table(rows, "made up, held out")
    assert table.startswith("**made up, held out**, 400 photos\n")
    gained = (better.astype(float) - first) * 100
    mean, low, high = interval(gained)
    assert table_column(table, "against a (points)") == {"a": "", "b": f"+{mean:.1f} [+{low:.1f}, +{high:.1f}]"}
    assert low > 0 and table_column(table, "top-1 (%)")["a"].startswith(f"{100 * first.mean():.1f} [")
    assert table_column(table, "pooling") == {"a": "GAP", "b": "SimPool"}
