"""Poolings: the framework, its instances (one file per group of the paper's table) and their registry."""

from simpool_viz.modeling.pooling.create import create_pooling, poolings, register_pooling
from simpool_viz.modeling.pooling.framework import GROUPS, Pooled, Pooling, Tokens

# Importing a group registers its poolings; the order is the order of every list.
from simpool_viz.modeling.pooling import simple, clustering, gating, attentive, probes  # noqa: F401  isort: skip

__all__ = ["GROUPS", "Pooled", "Pooling", "Tokens", "create_pooling", "poolings", "register_pooling"]
