"""A visit's files and state go when it has ended, and nothing that another visit or the app itself needs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from simpool_viz.app import visits
from simpool_viz.app.visits import EMPTY, FRESH, GRACE, OLDEST, RESTED, UNHELD, Held, VisitedBlocks, names_in


class Clock:
    """Now, and later once `passed`."""

    def __init__(self) -> None:
        self.later = 0.0

    def __call__(self) -> float:
        return time.time() + self.later


def file(folder: Path, name: str, content: bytes = b"x") -> str:
    path = folder / name.replace("/", os.sep)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def test_files_of_a_visit_go_with_it_and_shared_ones_with_the_last(tmp_path: Path) -> None:
    clock = Clock()
    held = Held(clock)
    own = file(tmp_path, "own/chelsea.jpg")
    held.keep_all(tmp_path)
    mine, ours = file(tmp_path, "a/mine.jpg"), file(tmp_path, "b/ours.jpg")
    held.claim("first", tmp_path, [{"path": mine}, {"path": ours, "meta": {}}, own])
    held.claim("second", tmp_path, {"rows": [{"photo": {"url": f"http://here/gradio_api/file={ours}"}}]})
    clock.later = FRESH + 1
    assert held.end("first", tmp_path) == 1
    assert not Path(mine).exists() and not Path(mine).parent.exists() and Path(ours).exists() and Path(own).exists()
    assert held.end("second", tmp_path) == 1 and not Path(ours).exists() and Path(own).exists()


def test_file_that_another_visit_has_just_uploaded_stays(tmp_path: Path) -> None:
    held = Held()
    path = file(tmp_path, "a/photo.jpg")
    held.claim("first", tmp_path, path)
    assert held.end("first", tmp_path) == 0 and Path(path).exists()


def test_names_that_a_browser_makes_up_delete_nothing(tmp_path: Path) -> None:
    outside, folder = file(tmp_path, "outside.txt"), tmp_path / "app"
    linked = folder / "link"
    folder.mkdir()
    linked.symlink_to(tmp_path)
    clock = Clock()
    held = Held(clock)
    held.claim(
        "a", folder, f"{folder}/../outside.txt", f"{folder}/link/outside.txt", outside, f"{folder}/\0", "x" * 10**6
    )
    clock.later = OLDEST + 1
    held.end("a", folder)
    held.sweep(folder)
    assert Path(outside).read_bytes() == b"x"


def test_files_that_nobody_names_and_old_ones_go(tmp_path: Path) -> None:
    clock = Clock()
    held = Held(clock)
    orphan, empty, named = file(tmp_path, "a/o"), file(tmp_path, "b/e", b""), file(tmp_path, "c/n")
    held.claim("first", tmp_path, named)
    for later, left in ((EMPTY - 5, {orphan, empty, named}), (EMPTY + 5, {orphan, named}), (UNHELD + 5, {named})):
        clock.later = later
        held.sweep(tmp_path)
        assert {str(p) for p in visits.files_in(tmp_path)} == left
    clock.later = OLDEST + 5
    held.sweep(tmp_path)
    assert not list(visits.files_in(tmp_path))


def test_visits_that_rest_and_those_beyond_the_limit_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    held = Held(clock)
    held.claim("old", tmp_path)
    clock.later = RESTED + 5
    held.claim("new", tmp_path)
    assert held.rested() == ["old"]
    monkeypatch.setattr(visits, "MOST_VISITS", 2)
    for number in range(3):
        clock.later += 1
        held.claim(str(number), tmp_path)
    assert held.rested() == ["old", "new", "0"]


def test_names_are_found_at_any_depth() -> None:
    sent: Any = {"a": [{"path": "/t/x/1"}, ("q", {"b": "http://h/file=/t/x/2"})], "c": None, "d": 7, "e": "/u/x"}
    assert set(names_in(sent, "/t/x")) == {"/t/x/1", "/t/x/2"}


def test_state_messages_and_files_of_a_closed_page_are_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(visits, "HELD", Held(clock))
    monkeypatch.setattr(visits, "upload_folder", lambda: tmp_path)
    with VisitedBlocks() as blocks:
        gr.File()
        blocks.listen()
    deleted: list[str] = []
    blocks.state_holder = SimpleNamespace(
        delete_state=deleted.append, session_data={"a": 1, "b": 1}, time_last_used={"a": 1, "b": 1}
    )
    blocks._queue.pending_messages_per_session.update({"a": 1, "b": 1})
    paths = {visit: file(tmp_path, f"{visit}/photo.jpg") for visit in "ab"}
    for visit, path in paths.items():
        visits.HELD.claim(visit, tmp_path, path)
        blocks._closed[visit] = clock()
    clock.later = GRACE - 1
    visits.HELD.claim("b", tmp_path)  # its page came back
    blocks.step()
    assert not deleted
    clock.later = GRACE + 1
    blocks.step()
    assert deleted == ["a"] and set(blocks.state_holder.session_data) == {"b"}
    assert set(blocks._queue.pending_messages_per_session) == {"b"}
    assert not Path(paths["a"]).exists() and Path(paths["b"]).exists() and not blocks._closed


def test_files_of_a_request_that_waits_stay_when_another_visit_with_them_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(visits, "HELD", Held(clock))
    monkeypatch.setattr(visits, "upload_folder", lambda: tmp_path)
    with VisitedBlocks() as blocks:
        blocks.listen()
    blocks.state_holder = SimpleNamespace(delete_state=lambda _: None, session_data={}, time_last_used={})
    path = file(tmp_path, "a/photo.jpg")
    waits = SimpleNamespace(session_hash="b", data=SimpleNamespace(data=[{"path": path}]))
    blocks._queue.event_queue_per_concurrency_id["look"] = SimpleNamespace(queue=[waits])
    visits.HELD.claim("a", tmp_path, path)
    blocks._closed["a"] = clock()
    clock.later = GRACE + 1
    blocks.step()
    assert not blocks._closed and Path(path).exists()


def test_file_that_another_visit_waits_for_is_shared(tmp_path: Path) -> None:
    held, path = Held(), file(tmp_path, "a/mine.pth")
    held.claim("a", tmp_path, [{"path": path}])
    assert not held.shared(path)
    waits = SimpleNamespace(session_hash="b", data=SimpleNamespace(data=[{"path": path}]))
    held.waiting = lambda: [waits]
    assert held.shared(path)
    waits.session_hash = "a"
    assert not held.shared(path)
    held.claim("b", tmp_path, path)
    assert held.shared(path)
