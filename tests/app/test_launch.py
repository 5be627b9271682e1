"""The app starts without what is damaged, and says so; without any checkpoint it does not start."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from simpool_viz import bundled
from simpool_viz.app import ending
from simpool_viz.app import launch as launching
from simpool_viz.app.launch import build, serve
from simpool_viz.app.store import EncoderStore
from simpool_viz.errors import CheckpointError
from simpool_viz.scores.results import FILE, bundled_results
from tests.helpers import run_command, save_small


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]) -> Iterator[Path]:
    """The folder of bundled models, of which there are two."""
    for name, pooling in (("a", "simpool"), ("b", "gap")):
        shutil.copytree(checkpoints[pooling], tmp_path / "models" / name)
    shutil.copytree(bundled.bundled_folder("assets"), tmp_path / "assets")
    shutil.copy(bundled.bundled_folder("models") / FILE, tmp_path / "models" / FILE)
    bundled_results.cache_clear()
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "package")
    yield tmp_path / "models"
    bundled_results.cache_clear()


def test_the_app_starts_without_a_damaged_checkpoint_and_says_so(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "b" / "model.safetensors").write_bytes(b"cut")
    with caplog.at_level(logging.WARNING, "simpool_viz"):
        blocks = build("cpu")
    assert "the bundled checkpoint b is left out: model.safetensors is damaged or cut off" in caplog.text
    (notice,) = [one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == "left-out"]
    assert notice.value == r"Left out: b, since model.safetensors is damaged or cut off"


def test_the_app_starts_where_only_the_tensors_show_the_damage(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(models / "a" / "model.safetensors", models / "b" / "model.safetensors")
    build("cpu")
    assert "no first board: " in caplog.text and "does not fit" in caplog.text


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"format": 99}', '{"format": 1, "tables": [1]}'])
def test_pages_that_quote_results_are_left_out_where_their_file_is_damaged(
    models: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    (models / FILE).unlink()
    if content is not None:
        (models / FILE).write_text(content)
    with caplog.at_level(logging.WARNING, "simpool_viz"):
        blocks = build("cpu")
    assert "Tour and Evidence are left out: " in caplog.text
    tabs = [one.label for one in blocks.blocks.values() if isinstance(one, gr.Tab)]
    assert {"Compare", "Inspect", "Video"} <= set(tabs) and not {"Tour", "Evidence"} & set(tabs)
    (notice,) = [one for one in blocks.blocks.values() if getattr(one, "elem_id", None) == "left-out"]
    assert notice.value == "Left out: Tour and Evidence, since the file of measured results is missing or damaged"


@pytest.mark.parametrize("left", ["damaged", "empty", "gone"])
def test_without_any_checkpoint_it_is_one_sentence(models: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in [one for one in models.iterdir() if one.is_dir()]:
        if left == "damaged":
            (folder / "config.json").write_text("{")
        else:
            shutil.rmtree(folder)
    if left == "gone":
        shutil.rmtree(models)
    status, _, err = run_command(capsys, "serve", "--device", "cpu")
    assert status == 2 and len(err.strip().splitlines()) >= 1
    assert err.strip().splitlines()[-1].endswith("install simpool_viz again")
    if left != "gone":
        with pytest.raises(CheckpointError, match="no bundled checkpoint can be used"):
            build("cpu")


def test_warm_loads_every_checkpoint_before_the_address_is_printed(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_small(models / "c", "gap", "third")  # the page's first board has two
    order: list[str] = []
    loaded = EncoderStore.get

    def get(store: EncoderStore, name: str, progress: Any = None) -> Any:
        order.append(name)
        return loaded(store, name, progress)

    def launched(blocks: Any, *_: Any, **__: Any) -> tuple[Any, str, str]:
        order.append("answers")
        return blocks, "http://here/", ""

    monkeypatch.setattr(EncoderStore, "get", get)
    monkeypatch.setattr(launching, "_launched", launched)
    monkeypatch.setattr(ending.Ending, "listen", lambda self: None)
    monkeypatch.setattr(ending.Ending, "wait", lambda self: order.append(capsys.readouterr().out))
    monkeypatch.setattr(ending, "finish", lambda blocks, patience: None)
    for warm in (True, False):
        order.clear()
        serve(device="cpu", warm=warm)
        *before, answers, printed = order
        assert set(before) <= {"small_gap", "small_simpool", "third"} and len(set(before)) == (3 if warm else 2)
        assert answers == "answers" and printed.splitlines()[-1] == "simpool_viz answers at http://here/"
