"""Evaluation: data sets of photos with masks, and the tables that compare checkpoints on them."""
