"""What the page tells of the checkpoints, as data, is what their models are."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from simpool_viz import bundled, load_checkpoint
from simpool_viz.app import outlines
from simpool_viz.app.outlines import FILE, Outline, described, description_digest, read_outlines, write_outlines
from simpool_viz.checkpoints.catalogue import catalogue, usable
from tests.helpers import change_config, save_small


def test_it_is_what_the_models_are() -> None:
    built, _ = usable()
    stored = read_outlines(bundled.bundled_folder("models") / FILE)
    made = {name: Outline.of(entry, outline) for name, (entry, outline) in built.items()}
    assert stored == made, "checkpoints or their maps have changed; run docs/make_outlines.py"
    encoder = load_checkpoint("vit_simpool", device="cpu")
    assert stored["vit_simpool"].parameters == sum(p.numel() for p in encoder.parameters())
    assert stored["vit_simpool"].stride == encoder.stride and stored["vit_gap"].maps["pooling"]


def test_no_model_is_built_for_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(catalogue())
    monkeypatch.setattr(outlines, "outlines_of", lambda _: pytest.fail("a model was built"))
    found, faults = described()
    assert list(found) == expected and not faults


def test_the_page_is_made_without_timm() -> None:
    code = "import sys; from simpool_viz.app.launch import build; build('cpu'); print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled models, of which there are three, with their outlines."""
    for name, pooling in (("a", "simpool"), ("b", "gap"), ("c", "gem")):
        save_small(tmp_path / "models" / name, pooling, name)
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "package")
    write_outlines(tmp_path / "models" / FILE, {n: Outline.of(e, built) for n, (e, built) in usable()[0].items()})
    return tmp_path / "models"


def test_a_checkpoint_that_was_described_anew_is_built(models: Path) -> None:
    before = read_outlines(models / FILE)
    change_config(lambda config: config["facts"].update(title="Another"))(models / "b")
    found, faults = described()
    assert list(found) == ["a", "b", "c"] and not faults
    entry, outline = found["b"]
    assert entry.facts.title == "Another" and outline.digest == description_digest(entry) != before["b"].digest
    assert (outline.parameters, outline.maps) == (before["b"].parameters, before["b"].maps)
    change_config(lambda config: config["encoder"].update(backbone="resnet19"))(models / "a")
    found, faults = described()
    assert list(found) == ["b", "c"] and "resnet19" in faults["a"] and str(models) not in faults["a"]


def test_a_checkpoint_whose_weights_are_gone_is_left_out_though_its_outline_is_here(models: Path) -> None:
    (models / "c" / "model.safetensors").unlink()
    found, faults = described()
    assert list(found) == ["a", "b"] and faults == {"c": "model.safetensors is missing"}
    shutil.rmtree(models / "a")
    assert list(described()[0]) == ["b"]


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"a": 1}', '{"a": {"digest": "x"}}', "\xff"])
def test_without_the_file_models_are_built(models: Path, content: str | None, caplog: pytest.LogCaptureFixture) -> None:
    expected = described()
    (models / FILE).unlink()
    if content is not None:
        (models / FILE).write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING, "simpool_viz"):
        assert described() == expected
    assert caplog.text.count("outlines of the checkpoints cannot be read") == 1


def test_a_map_that_was_registered_since_is_told_of(models: Path) -> None:
    known = read_outlines(models / FILE)
    one, *others = known["a"].maps
    write_outlines(models / FILE, {**known, "a": replace(known["a"], maps={m: known["a"].maps[m] for m in others})})
    assert described()[0]["a"][1] == known["a"] and one in known["a"].maps


def test_another_version_builds_them(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads((models / FILE).read_text())
    monkeypatch.setattr(outlines, "__version__", "0.0.0")
    found, _ = described()
    assert all(outline.digest != stored[name]["digest"] for name, (_, outline) in found.items())
