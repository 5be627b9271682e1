"""The end of the server: what finishes in time is waited for, and the visitors of the rest are told."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from simpool_viz.app import ending
from simpool_viz.app.ending import SENTENCE, finish, unfinished


def app(running: list[Any], waiting: list[Any]) -> tuple[Any, list[tuple[Any, Any]]]:
    told: list[tuple[Any, Any]] = []
    lines = {"look": SimpleNamespace(queue=waiting)}
    queue = SimpleNamespace(active_jobs=[None, running], event_queue_per_concurrency_id=lines)
    queue.send_message = lambda event, message: told.append((event, message))
    return SimpleNamespace(_queue=queue), told


def test_visitors_of_what_does_not_finish_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "TOLD", 0.0)
    blocks, told = app(["runs"], ["waits"])
    assert unfinished(blocks) == ["runs", "waits"]
    finish(blocks, 0.1)
    assert [event for event, _ in told] == ["runs", "waits"]
    assert all(not message.success and message.output["error"] == SENTENCE for _, message in told)


def test_what_finishes_in_time_is_waited_for() -> None:
    running = ["runs"]
    blocks, told = app(running, [])
    threading.Timer(0.2, running.clear).start()
    begun = time.monotonic()
    finish(blocks, 30)
    assert not told and not running and time.monotonic() - begun < 20
