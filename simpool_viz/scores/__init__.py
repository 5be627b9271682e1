"""Scores: how well maps and masks match references, and how a map's mass is spread."""
