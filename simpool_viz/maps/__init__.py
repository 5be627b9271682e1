"""Maps, one file per family. Importing the package registers them, in the order in which every list shows them."""

from simpool_viz.maps import (  # noqa: F401  isort: skip
    pooling_attention,
    cls_attention,
    rollout,
    token_query,
    contribution,
    gradient,
    gated_features,
    discovery,
)
