"""The end of the server: what runs is finished, or its visitors are told, and the process ends with status 0."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

from gradio.server_messages import ProcessCompletedMessage

logger = logging.getLogger(__name__)
PATIENCE = 6.0  # seconds in which running requests may finish
TOLD = 1.0  # seconds in which a last message reaches a page
SENTENCE = "The server is being restarted, so this was not finished. Try again in a minute."


class Ending:
    """Waits for SIGTERM or SIGINT. While `wait` runs, further signals change nothing."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def listen(self) -> None:
        """Take the signals, which only the main thread can."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.set())

    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked.is_set()

    def wait(self) -> None:
        """Return when a signal has come."""
        while not self._asked.wait(1.0):  # in short steps, since Windows delivers signals only between them
            pass


def unfinished(blocks: Any) -> list[Any]:
    """The events of an app that wait or run, as its queue holds them."""
    queue = blocks._queue
    running = [event for job in queue.active_jobs if job for event in job]
    return running + [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]


def finish(blocks: Any, patience: float = PATIENCE) -> None:
    """Let an app's events finish, and tell the visitors of those that did not.

    Args:
        blocks: the launched app, to which nothing new comes.
        patience: seconds that events have.
    """
    end = time.monotonic() + patience
    while unfinished(blocks) and time.monotonic() < end:
        time.sleep(0.05)
    left = unfinished(blocks)
    if left:
        logger.warning("%d requests were not finished when the server ended", len(left))
        for event in left:
            content = {"error": SENTENCE, "visible": True, "duration": 10, "title": "Error"}
            blocks._queue.send_message(event, ProcessCompletedMessage(output=content, success=False))
        time.sleep(TOLD)
    else:
        time.sleep(min(TOLD, 0.3))  # the last answer is still on its way
