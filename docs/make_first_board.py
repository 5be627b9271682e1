"""Makes the board that the page opens with, as data and as a picture: `python docs/make_first_board.py`, whenever the
weights of its checkpoints, its photo or what a row says have changed. A test fails where it was forgotten.
"""

from __future__ import annotations

import gradio as gr

from simpool_viz.app.board.component import BoardView
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.store import EncoderStore


def main() -> None:
    page = ComparePage(EncoderStore("cpu", "float32"))
    with gr.Blocks():
        made = page.first_board_as_data(BoardView())
    made.save()


if __name__ == "__main__":
    main()
