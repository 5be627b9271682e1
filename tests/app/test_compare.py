"""The Compare page without a browser: whose reference mask a photo gets, and how many photos are compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
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
from simpool_viz.bundled import bundled_folder
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


def rows_of_states(
    monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], fail_at: int = 0
) -> list[tuple[int, bool]]:
    """How many rows each state of a board of four photos and two checkpoints has, and whether it waits for more.

    Args:
        seconds: that the recordings take.
        fail_at: number of the recording at which the run fails; 0 for none.
    """
    page, now, found = ComparePage(EncoderStore("cpu")), [0.0], []
    monkeypatch.setattr(compare, "monotonic", lambda: now[0])
    iterate = page.boards.iterate

    def timed(*given: Any) -> Iterator[Board]:
        for number, (board, took) in enumerate(zip(iterate(*given), seconds, strict=True), 1):
            now[0] += took
            yield board
            if number == fail_at:
                raise ValueError("a fault of the program")

    monkeypatch.setattr(page.boards, "iterate", timed)
    photos, names = [str(photo) for photo in example_photos()[:4]], ["resnet_gap?size=64", "resnet_simpool?size=64"]
    try:
        for state in page.run(photos[0], names, ["contribution"], photos=photos[1:]):
            found.append((len(state.board.rows), bool(state.waiting)))
    except (ValueError, gr.Error):
        assert fail_at
    return found


SOON, LATE = 0.3 * APART, 1.5 * APART


def test_a_board_grows_by_a_state_now_and_then_and_ends_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (8, False)
    slow = [(0, True), *((rows, True) for rows in range(1, 8)), whole]
    assert rows_of_states(monkeypatch, [LATE] * 8) == slow
    assert rows_of_states(monkeypatch, [SOON] * 8) == [(0, True), (1, True), (5, True), whole]


def test_a_row_does_not_wait_for_a_long_recording_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint shares the first one's forward, and a photo's first recording takes long."""
    found = rows_of_states(monkeypatch, [LATE, SOON] * 4)
    shown = [rows for rows, _ in found]
    assert shown == [0, 1, 2, 3, 4, 5, 6, 7, 8], "also those that came soon after the one before"


def test_what_was_recorded_before_a_failure_is_shown_though_it_came_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows_of_states(monkeypatch, [SOON] * 8, fail_at=4)
    assert found[-1] == (4, False) and (3, True) not in found
