"""The page of poolings is what its script writes from the registry."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from simpool_viz.modeling.pooling import poolings

DOCS = Path(__file__).parent.parent / "docs"


def _uncounted(page: str) -> str:
    """Without the multiply-adds, whose count depends on how a version of PyTorch splits its fused kernels."""
    return re.sub(r"multiply-adds: [\d,]+", "", page)


@pytest.mark.skipif(not DOCS.is_dir(), reason="the docs travel with the repository, not with the package")
def test_the_page_of_poolings_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_poolings", DOCS / "make_poolings.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    committed = (DOCS / "poolings.md").read_text(encoding="utf-8")
    assert _uncounted(script.page()) == _uncounted(committed), "run: python docs/make_poolings.py"
    for pooling in poolings().values():
        assert f"(`{pooling.name}`)" in committed and pooling.formula in committed
        assert (DOCS / "poolings" / f"{pooling.name}.jpg").is_file() == (script.map_of(pooling) is not None)
