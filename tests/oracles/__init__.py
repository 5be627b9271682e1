"""Short, slow, independent references, written from the definitions and not from the package."""
