"""Data sets of photos with masks or boxes: one file for each kind of folder, and the registry that opens them."""

from simpool_viz.evaluation.datasets.kinds import DataSetKind, data_set_kinds, open_data_set
from simpool_viz.evaluation.datasets.pairs import pair_files, set_of_pairs
from simpool_viz.evaluation.datasets.samples import DataSet, Sample

__all__ = ["DataSet", "DataSetKind", "Sample", "data_set_kinds", "open_data_set", "pair_files", "set_of_pairs"]
