"""Formats of checkpoint files: containers, and architectures recognised by their tensors."""
