"""The page of the tour."""

from __future__ import annotations

from simpool_viz import load_checkpoint
from simpool_viz.app.tour import TourPage
from simpool_viz.board.tour import STOPS
from simpool_viz.modeling.encoder import Encoder


def test_page_makes_each_board_once_and_steps_within_the_tour() -> None:
    found: list[str] = []

    def find(name: str) -> Encoder:
        found.append(name)
        return load_checkpoint(name, device="cpu")

    page = TourPage(STOPS[:2], find)
    text, state = page.show("simpool")
    assert text == STOPS[1].markdown and page.show("simpool")[1] is state and found == ["vit_cls", "vit_simpool"]
    assert [page.step("cls", -1), page.step("cls", 1), page.step("simpool", 1)] == ["cls", "simpool", "simpool"]
    tabs, checkpoints, maps = page.take_along("simpool")
    assert (tabs.selected, checkpoints, maps) == ("compare", ["vit_cls", "vit_simpool"], ["own"])
