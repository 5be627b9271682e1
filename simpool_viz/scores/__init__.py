"""Scores: agreement of maps and masks with reference masks, and the spatial entropy of maps."""
