"""A visitor's own checkpoint, without a browser: what is read, what is refused, and that nothing outlives the visit."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch

from simpool_viz import record
from simpool_viz.app import own_checkpoint as own_module
from simpool_viz.app.board.component import BoardView
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.inspect import InspectPage, Visit
from simpool_viz.app.own_checkpoint import KEPT, OwnCheckpoints, OwnPanel
from simpool_viz.app.store import EncoderStore
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.errors import CheckpointError
from tests import made_files as made

EXAMPLE = str(bundled_folder("assets") / "chelsea.jpg")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read here; `tests/trust/test_untrusted.py` has the worker, whose start takes seconds."""
    monkeypatch.setattr(own_module, "load_untrusted", load_with_report)


@pytest.fixture
def panel() -> OwnPanel:
    return OwnPanel("cpu", {"pooling": "Pooling attention", "contribution": "Contribution"})


def visit_file(folder: Path, name: str = "mine.pth", **changes: Any) -> str:
    torch.save(
        made.self_supervised(made.vit(cls=False, grid=4) | made.simpool(128, "simpool."), gamma=1.25, **changes),
        folder / name,
    )
    return str(folder / name)


def test_file_that_another_visit_needs_stays(panel: OwnPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"no checkpoint")
    monkeypatch.setattr(own_module.HELD, "shared", lambda given: given == str(path))
    with pytest.raises(gr.Error):
        panel.recognise(str(path), "", OwnCheckpoints())
    assert path.exists()


def test_file_is_told_before_use_and_deleted_at_once(panel: OwnPanel, tmp_path: Path) -> None:
    own = OwnCheckpoints()
    told, button, cleared, same = panel.recognise(visit_file(tmp_path), "", own)
    assert "ViT, 3 blocks of 128 channels" in told and "Maps: Pooling attention" in told and "projection head" in told
    assert (
        "No CLS attention: its backbone has no class token." in told
        and "No Contribution: it has no linear head" in told
    )
    assert button["visible"] is True and cleared is None and same is own and own.encoders == {}
    assert list(tmp_path.iterdir()) == []


def test_own_checkpoint_is_computed_in_the_precision_of_the_app(tmp_path: Path) -> None:
    own = OwnCheckpoints()
    OwnPanel("cpu", {"pooling": "Pooling attention"}, "bfloat16").recognise(visit_file(tmp_path), "", own)
    assert own.waiting is not None and {p.dtype for p in own.waiting.parameters()} == {torch.bfloat16}


def test_used_checkpoint_is_chosen_and_brings_its_maps(panel: OwnPanel, tmp_path: Path) -> None:
    own = OwnCheckpoints()
    panel.recognise(visit_file(tmp_path), "", own)
    listed, maps, button, told, _ = panel.use(own, ["resnet_gap?size=64", "own:gone.pth"], ["contribution"])
    assert listed["value"] == ["resnet_gap?size=64", "own:mine.pth"]
    assert [(line["name"], line["title"], line["stride"]) for line in listed["own"]] == [
        ("own:mine.pth", "mine (yours)", own.encoders["own:mine.pth"].stride)
    ]
    assert maps["value"] == ["contribution", "pooling"] and "rollout" in [name for _, name in maps["choices"]]
    assert button["visible"] is False and "Press Run" in told
    with pytest.raises(gr.Error, match="Nothing is waiting"):
        panel.use(own, [], [])


def test_page_looks_with_a_visitors_checkpoint_and_nobody_elses(panel: OwnPanel, tmp_path: Path) -> None:
    page, own = ComparePage(EncoderStore("cpu")), OwnCheckpoints()
    panel.recognise(visit_file(tmp_path), "", own)
    panel.use(own, [], [])
    *_, last = page.run(EXAMPLE, ["own:mine.pth?size=64"], ["pooling", "rollout"], own)
    assert [row.checkpoint for row in last.board.rows] == ["own:mine.pth?size=64"] * 2
    with pytest.raises(gr.Error, match=r"no bundled checkpoint is called 'own:mine\.pth'; add your own"):
        list(page.run(EXAMPLE, ["own:mine.pth"], ["pooling"], OwnCheckpoints()))


@pytest.mark.parametrize("name", ["/etc", "timm:vit_tiny_patch16_224", "hf:user/repo", "../models/resnet_gap"])
def test_names_from_the_browser_reach_neither_the_disk_nor_the_network(name: str) -> None:
    with pytest.raises(gr.Error, match="no bundled checkpoint is called"):
        list(ComparePage(EncoderStore("cpu")).run(EXAMPLE, [name], ["pooling"]))


def test_visits_are_apart_and_end(panel: OwnPanel, tmp_path: Path) -> None:
    own = OwnCheckpoints()
    for i in range(KEPT + 2):
        panel.recognise(visit_file(tmp_path, f"{i}.pth"), "", own)
        panel.use(own, [], [])
    assert list(own.encoders) == [f"own:{i}.pth" for i in range(2, KEPT + 2)]
    assert copy.deepcopy(own).encoders == {}, "Gradio copies the state for each visit"
    own.clear()
    assert own.encoders == {} and own.waiting is None


def test_checkpoint_used_again_makes_no_room_and_is_the_newest(panel: OwnPanel, tmp_path: Path) -> None:
    own, names = OwnCheckpoints(), [f"{i}.pth" for i in range(KEPT)]
    for name in [*names, names[0], "new.pth"]:
        panel.recognise(visit_file(tmp_path, name), "", own)
        panel.use(own, [], [])
    assert list(own.encoders) == [f"own:{name}" for name in [*names[2:], names[0], "new.pth"]]


def test_file_brought_again_under_its_name_shows_its_own_maps(panel: OwnPanel, tmp_path: Path) -> None:
    compare, own, visit = ComparePage(EncoderStore("cpu")), OwnCheckpoints(), Visit()
    inspect, shown = InspectPage([], compare.find, [("own", 0)], None), []
    for weights in ("teacher", "student"):
        panel.recognise(visit_file(tmp_path), f"?weights={weights}", own)
        panel.use(own, [], [])
        encoder = own.encoders["own:mine.pth"]
        expected = record(encoder, EXAMPLE, 64).map("pooling").weights
        *_, last = compare.run(EXAMPLE, ["own:mine.pth?size=64"], ["pooling"], own)
        state, *_ = inspect.record(EXAMPLE, "own:mine.pth", 64, "", own, visit)
        assert np.array_equal(last.board.rows[0].attention.weights, expected)
        assert np.array_equal(state.kept.recording.map("pooling").weights, expected)
        sent = BoardView().postprocess(last)
        assert sent is not None
        shown.append((expected, json.loads(sent["rows"][0])["weights"]))
    (first, sent), (second, sent_again) = shown
    assert not np.allclose(first, second) and sent != sent_again


def test_options_of_a_file_follow_in_the_field_of_the_name(panel: OwnPanel, tmp_path: Path) -> None:
    own = OwnCheckpoints()
    panel.recognise(visit_file(tmp_path), "?weights=student&gamma=1.5", own)
    assert own.waiting is not None and own.waiting.pooling.gamma == 1.5
    with pytest.raises(gr.Error, match="a probing head needs a backbone"):
        panel.recognise(visit_file(tmp_path), "?backbone=/etc/passwd", own)
    assert own.waiting is None


@pytest.mark.parametrize("limit", ["LARGEST", "MOST_PARAMETERS"])
def test_limits_hold(panel: OwnPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(own_module, limit, 1000)
    with pytest.raises(gr.Error, match="at most"):
        panel.recognise(visit_file(tmp_path), "", OwnCheckpoints())
    assert list(tmp_path.iterdir()) == []


def test_name_on_the_hub_is_fetched_within_the_limit_of_a_file(
    panel: OwnPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def fetch(name: str, **how: Any) -> Any:
        asked.append((name, how))
        raise CheckpointError("enough seen")

    monkeypatch.setattr(own_module, "load_for_visitor", fetch)
    with pytest.raises(gr.Error, match="enough seen"):
        panel.recognise(None, " hf:user/repo ", OwnCheckpoints())
    assert asked == [("hf:user/repo", {"device": "cpu", "precision": "auto", "limit": own_module.LARGEST})]
    assert own_module.LARGEST <= 2**30


def test_reading_that_takes_too_long_is_given_up(
    panel: OwnPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_module, "SECONDS", 0.05)
    go_on, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(OwnPanel, "_load", lambda *_: (go_on.wait(), ended.set()))
    own = OwnCheckpoints()
    try:
        with pytest.raises(gr.Error, match="took longer than"):
            panel.recognise(visit_file(tmp_path), "", own)
        assert not ended.is_set(), "it is told while the reading still goes on"
        assert own.waiting is None and list(tmp_path.iterdir()) == []
    finally:
        go_on.set()
    assert ended.wait(60), "the thread that read is not left behind"


def test_faults_are_sentences_and_markup_of_a_file_is_shown_as_text(panel: OwnPanel, tmp_path: Path) -> None:
    with pytest.raises(gr.Error, match="Choose a file, or write a name"):
        panel.recognise(None, " ", OwnCheckpoints())
    (tmp_path / "bad.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(gr.Error, match=r"bad\.pth"):
        panel.recognise(str(tmp_path / "bad.pth"), "", OwnCheckpoints())
    with pytest.raises(gr.Error, match="is neither hf:"):
        panel.recognise(None, "/etc/passwd", OwnCheckpoints())
    told, *_ = panel.recognise(visit_file(tmp_path, "<img src=x>.pth"), "", OwnCheckpoints())
    assert r"\<img src=x\>" in told and "<img" not in told.replace(r"\<", "")


def test_own_map_stays_among_the_choices_and_brings_no_other(tmp_path: Path) -> None:
    panel = OwnPanel("cpu", {"own": "How each one pools", "contribution": "Contribution"})
    own = OwnCheckpoints()
    panel.recognise(visit_file(tmp_path), "", own)
    _, maps, *_ = panel.use(own, [], ["own", "contribution"])
    assert maps["choices"][0] == ("How each one pools", "own") and maps["value"] == ["own", "contribution"]
