"""Training: recipes, photos, the loop and the card it writes. Needs the `train` extra (accelerate, pyarrow,
tensorboard)."""
