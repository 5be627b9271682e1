"""The board component: data in Python, canvases in the browser."""
