"""Maps: one file per family. Importing the package registers them in the order of every list."""

from simpool_viz.maps import (  # noqa: F401  isort: skip
    pooling_attention,
    cls_attention,
    rollout,
    token_query,
    contribution,
    gradient,
    gated_features,
)
