"""The Compare page without a browser: whose reference mask a photo gets, and how many photos are compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from simpool_viz.app import compare
from simpool_viz.app.compare import APART, MOST_PHOTOS, ComparePage, example_photos, reference_of
from simpool_viz.app.store import EncoderStore
from simpool_viz.board.board import Board
from simpool_viz.checkpoints.bundle import bundled_folder
from tests.helpers import make_photo

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"


def test_there_are_as_many_example_photos_as_are_compared_at_once_each_small() -> None:
    photos = example_photos()
    assert len(photos) == MOST_PHOTOS == 12
    assert len(ComparePage(EncoderStore("cpu"))._other_examples(str(EXAMPLE))) == 11
    assert all(photo.stat().st_size < 120_000 for photo in photos)


def test_every_example_photo_has_its_reference_wherever_it_lies(tmp_path: Path) -> None:
    for example in example_photos():
        copy = Path(shutil.copy(example, tmp_path / example.name))  # as an upload lies elsewhere
        with Image.open(example) as photo:
            for path in (example, copy):
                found = reference_of(str(path))
                assert found is not None and found.size == photo.size


def test_photo_that_is_only_called_like_an_example_has_no_reference(tmp_path: Path) -> None:
    photo = tmp_path / EXAMPLE.name
    Image.fromarray(make_photo(451, 300)).save(photo)  # of the example's very size
    assert reference_of(str(photo)) is None
    changed = bytearray(EXAMPLE.read_bytes())
    changed[len(changed) // 2] ^= 1
    photo.write_bytes(changed)
    stamp = EXAMPLE.stat()
    os.utime(photo, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert reference_of(str(photo)) is None, "one bit differs, in a file of one size, name and date"
    assert reference_of(str(tmp_path / "other.jpg")) is None


def test_scores_stand_beside_the_example_and_not_beside_a_photo_of_its_name(tmp_path: Path) -> None:
    page, photo = ComparePage(EncoderStore("cpu")), tmp_path / EXAMPLE.name
    Image.fromarray(make_photo(451, 300)).save(photo)
    *_, last = page.run(str(EXAMPLE), ["resnet_gap?size=64"], ["contribution"], photos=[str(photo)])
    own, others = last.board.rows
    assert own.scores and not others.scores


def test_more_photos_than_are_compared_at_once_are_refused(tmp_path: Path) -> None:
    page, photo = ComparePage(EncoderStore("cpu")), tmp_path / "photo.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(photo)
    with pytest.raises(gr.Error, match=rf"{MOST_PHOTOS + 1} photos were given; at most {MOST_PHOTOS}"):
        list(page.run(str(photo), ["resnet_gap?size=64"], ["contribution"], photos=[str(photo)] * MOST_PHOTOS))
    first = next(
        page.run(str(photo), ["resnet_gap?size=64"], ["contribution"], photos=[str(photo)] * (MOST_PHOTOS - 1))
    )
    assert len(first.board.pictures) == MOST_PHOTOS


# --- a board that grows -----------------------------------------------------------------------------------------------


def rows_of_states(monkeypatch: pytest.MonkeyPatch, seconds: float, fail_at: int = 0) -> list[tuple[int, bool]]:
    """How many rows each state of a board of five photos has, and whether it waits for more.

    Args:
        seconds: between two readings of the clock, two of which belong to a state that is shown.
        fail_at: number of the recording at which the run fails; 0 for none.
    """
    page, now, found = ComparePage(EncoderStore("cpu")), iter(i * seconds for i in range(100)), []
    monkeypatch.setattr(compare, "monotonic", lambda: next(now))
    iterate = page.boards.iterate

    def failing(*given: Any) -> Iterator[Board]:
        for number, board in enumerate(iterate(*given), 1):
            yield board
            if number == fail_at:
                raise ValueError("a fault of the program")

    monkeypatch.setattr(page.boards, "iterate", failing)
    photos = [str(photo) for photo in example_photos()[:5]]
    try:
        for state in page.run(photos[0], ["resnet_gap?size=64"], ["contribution"], photos=photos[1:]):
            found.append((len(state.board.rows), bool(state.waiting)))
    except (ValueError, gr.Error):
        assert fail_at
    return found


def test_a_board_grows_by_a_state_now_and_then_and_ends_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (5, False)
    slow = rows_of_states(monkeypatch, 1.5 * APART)
    assert slow == [(0, True), (1, True), (2, True), (3, True), (4, True), whole]
    assert rows_of_states(monkeypatch, 0.0) == [(0, True), (1, True), whole], "the first row at once"
    assert rows_of_states(monkeypatch, 0.6 * APART) == [(0, True), (1, True), (3, True), whole]


def test_what_was_recorded_before_a_failure_is_shown_though_it_came_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of_states(monkeypatch, 0.0, fail_at=3) == [(0, True), (1, True), (3, False)]
