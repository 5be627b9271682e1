"""Maps: one file per family. Importing the package registers them in the order of every list."""

from simpool_viz.maps import pooling, cls, rollout, token, contribution, gradient, gates  # noqa: F401  isort: skip
