"""A small set of photos with masks."""

from __future__ import annotations

import pytest

from simpool_viz.evaluation.datasets import DataSet, open_data_set
from tests.helpers import make_mask_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return open_data_set(make_mask_set(tmp_path_factory.mktemp("sets") / "discs"))
