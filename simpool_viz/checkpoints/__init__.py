"""Checkpoints: what can be loaded, and loading it safely."""
