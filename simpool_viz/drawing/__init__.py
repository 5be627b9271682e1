"""Pixels: the only room that knows pixels of pictures."""
