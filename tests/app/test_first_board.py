"""The board that the page opens with travels as data: it is the one that would be made, and no other is taken."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from simpool_viz.app import compare as module
from simpool_viz.app import first_board
from simpool_viz.app.board.component import BoardView
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.first_board import FILE, FirstBoard, board_digest, read_first_board, without_times
from simpool_viz.app.store import EncoderStore
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import catalogue


@pytest.fixture(scope="module")
def page() -> ComparePage:
    return ComparePage(EncoderStore("cpu", "float32"))


@pytest.fixture
def view() -> BoardView:
    with gr.Blocks():
        return BoardView()


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def assert_same_row(stored: dict[str, Any], made: dict[str, Any]) -> None:
    for name in ("weights", "levels"):
        one, other = numbers(stored.pop(name)), numbers(made.pop(name))
        assert np.allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other[np.isfinite(other)]).max())
    for name in ("figures", "scale", "factor"):
        assert stored.pop(name) == pytest.approx(made.pop(name), rel=1e-3, abs=1e-5)
    assert stored == made


def pixels_of(picture: str) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(picture))) as opened:
        assert opened.format == "WEBP"
        return np.asarray(opened.convert("RGB"), np.float32)


def test_it_is_the_board_that_is_made_now(page: ComparePage, view: BoardView) -> None:
    assert page.store.where() == first_board.WHERE
    made = page.first_board_as_data(view)
    stored = read_first_board(made.digest)
    assert stored is not None, "weights, photo or version have changed; run docs/make_first_board.py"
    assert len(stored.rows) == len(made.rows) == 3
    for one, other in zip(stored.rows, made.rows, strict=True):
        assert_same_row(json.loads(one), json.loads(other))
    assert replace(stored, rows=[], picture="") == replace(made, rows=[], picture="")
    one, other = (pixels_of(board.picture) for board in (stored, made))
    assert one.shape == other.shape and np.abs(one - other).mean() < 1, "of 255"
    assert "ms" not in " ".join(json.loads(stored.rows[0])["lines"]), "no other machine's times"


def test_the_page_opens_without_a_model(page: ComparePage, view: BoardView, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[dict[str, Any], str]:
        first = page.first_board()
        assert first is not None
        payload = view.postprocess(first[0])
        assert payload is not None
        return payload, first[1]

    with monkeypatch.context() as patched:
        patched.setattr(EncoderStore, "get", lambda *_: pytest.fail("a model was read"))
        stored, point = found()
    monkeypatch.setattr(module, "read_first_board", lambda _: None)
    made, said = found()
    assert point == said and "What to see here" in point
    for one, other in zip(stored.pop("rows"), made.pop("rows"), strict=True):
        assert_same_row(json.loads(one), without_times(json.loads(other)))
    for payload in (stored, made):
        del payload["run"], payload["begun"]
    assert stored == made and stored["waiting"] == ""


def test_models_are_warm_after_it(page: ComparePage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = EncoderStore.get
    monkeypatch.setattr(EncoderStore, "get", lambda self, name, *given: asked.append(name) or get(self, name, *given))
    page.warm_up()
    assert set(asked) == set(page.first_checkpoints)


def test_digest_changes_with_all_that_the_board_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "masks").mkdir()
    photo, mask = tmp_path / "cat.jpg", tmp_path / "masks" / "cat.png"
    entry = catalogue()["vit_gap"]
    assert entry.facts.trunk, "its first blocks are another's"
    files = [photo, mask]
    for name in (entry.folder.name, entry.facts.trunk):
        files += [tmp_path / name / "config.json", tmp_path / name / "model.safetensors"]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"one")
    moved = replace(entry, folder=tmp_path / entry.folder.name)
    monkeypatch.setattr(first_board, "catalogue", lambda: {"vit_gap": moved})
    seen = {board_digest(photo, ["vit_gap"], ["own"])}
    for path in files:
        path.write_bytes(b"two")
        seen.add(board_digest(photo, ["vit_gap"], ["own"]))
    mask.unlink()
    seen.add(board_digest(photo, ["vit_gap"], ["own"]))
    seen.add(board_digest(photo, ["vit_gap"], ["own", "contribution"]))
    seen.add(board_digest(photo, ["vit_gap?size=448"], ["own"]))
    monkeypatch.setattr(first_board, "__version__", "0.0.0")
    seen.add(board_digest(photo, ["vit_gap"], ["own"]))
    assert len(seen) == len(files) + 5


def test_a_board_of_another_digest_or_a_damaged_file_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board, path = FirstBoard("mine", ["{}"], [], "Done.", "See.", 1, "UklGRg=="), tmp_path / "board.json"
    board.save(path)
    assert read_first_board("mine", path) == board and read_first_board("another", path) is None
    assert not caplog.text
    for text in ("", "[]", "{}", '{"digest": 1}', "\xff"):
        path.write_bytes(text.encode("latin-1"))
        assert read_first_board("mine", path) is None
    assert read_first_board("mine", tmp_path / "none.json") is None
    assert caplog.text.count("cannot be read") == 6


def test_elsewhere_than_it_was_measured_it_is_made(page: ComparePage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncoderStore, "where", lambda _: "cpu, bfloat16")
    monkeypatch.setattr(ComparePage, "_make_first_board", lambda _: None)
    assert page.first_board() is None
    assert FILE.parent == bundled_folder("assets")
