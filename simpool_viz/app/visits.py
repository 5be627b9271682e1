"""The end of a visit: what it held is freed soon after its page closes. Gradio itself keeps state for an hour, and
files for longer.

A visit holds the files that its requests and their answers name. They lie in one folder of the process, in which
Gradio gives equal files one place, so that a file goes only when no other visit holds it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils

from simpool_viz.app.allocator import give_back
from simpool_viz.app.downloads import download
from simpool_viz.app.ending import unfinished
from simpool_viz.app.events import GuardedBlocks, event_handler, refusal

logger = logging.getLogger(__name__)
GRACE = 30.0  # seconds in which a page that lost its connection may come back and use what it holds
STEP = 10.0  # seconds between two rounds
RESTED = 3600.0  # seconds without a request after which a visit has ended, be its page open or not
FRESH = 20.0  # seconds within which a visit names what it uploads
UNHELD = 600.0  # seconds after which a file goes that no visit has named,
EMPTY = 60.0  # or that is empty besides: Gradio makes one for each file that it hands over
OLDEST = 3600.0  # seconds after which a file goes that is not the app's own
MOST_VISITS = 1000  # that are remembered; beyond it the one that asked longest ago is forgotten
LONGEST_NAME = 4096  # characters; a longer text is no path


class Held:
    """Which files of a folder visits hold.

    Args:
        clock: seconds since the epoch, as files' times are.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._files: dict[str, set[str]] = {}
        self._used: dict[str, float] = {}
        self._own: set[str] = set()
        self._lock = threading.Lock()
        self.waiting: Callable[[], list[Any]] = list  # the events that wait or run

    def keep_all(self, folder: Path) -> None:
        """What lies in a folder now is the app's own, and stays."""
        with self._lock:
            self._own.update(map(str, files_in(folder)))

    def claim(self, visit: str, folder: Path, *sent: Any) -> None:
        """A visit holds what is named in what it sent or was sent; it only keeps files from being deleted."""
        found = set(names_in(sent, str(folder)))
        with self._lock:
            self._files.setdefault(visit, set()).update(found)
            self._used[visit] = self.clock()

    def shared(self, path: str) -> bool:
        """Whether more than one visit holds a file, or waits for an answer about it."""
        waiting = {event.session_hash for event in self.waiting() if path in names_in(event.data.data, path)}
        with self._lock:
            return len(waiting | {visit for visit, files in self._files.items() if path in files}) > 1

    def used(self, visit: str) -> float:
        """When a visit last asked for something; 0 for one that is not known."""
        with self._lock:
            return self._used.get(visit, 0.0)

    def rested(self) -> list[str]:
        """The visits that have asked for nothing for long, or are more than are remembered."""
        with self._lock:
            by_age = sorted(self._used, key=lambda visit: self._used[visit])
            old = sum(self.clock() - self._used[visit] > RESTED for visit in by_age)
            return by_age[: max(old, len(by_age) - MOST_VISITS)]

    def end(self, visit: str, folder: Path) -> int:
        """Delete the files that this visit alone held; returns how many."""
        with self._lock:
            gone = self._files.pop(visit, set())
            self._used.pop(visit, None)
            gone -= self._own.union(*self._files.values())
            # Only what the folder really holds, since names come from browsers. A file that was just written may be
            # another visit's upload of the same, which has not named it yet; `sweep` finds what is left.
            now = self.clock()
            return _delete(p for p in files_in(folder) if str(p) in gone and _age(p, now) > FRESH)

    def sweep(self, folder: Path) -> int:
        """Delete files that are old, or that nobody has named; returns how many."""
        with self._lock:
            held, now = set[str]().union(*self._files.values()), self.clock()
            rest = [p for p in files_in(folder) if str(p) not in self._own]
            return _delete(p for p in rest if _age(p, now) > (OLDEST if str(p) in held else _patience(p)))


HELD = Held()  # one for the process, as the folder is


def files_in(folder: Path) -> Iterator[Path]:
    """The files below a folder; links are not followed."""
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)


def names_in(sent: Any, folder: str) -> Iterator[str]:
    """The paths below a folder that stand in tables, lists and text."""
    left = [sent]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, (list, tuple)):
            left += one
        elif isinstance(one, str) and len(one) <= LONGEST_NAME and (place := one.find(folder)) >= 0:
            yield one[place:]


def _age(path: Path, now: float) -> float:
    try:
        told = path.lstat()
    except OSError:
        return 0.0  # it has just gone
    return now - max(told.st_mtime, told.st_ctime)


def _patience(path: Path) -> float:
    try:
        return UNHELD if path.lstat().st_size else EMPTY
    except OSError:
        return UNHELD


def _delete(paths: Iterable[Path]) -> int:
    count = 0
    for path in list(paths):
        try:
            path.unlink()
            count += 1
            path.parent.rmdir()
        except OSError:
            continue  # another file lies beside it, or somebody else has deleted it
    return count


def upload_folder() -> Path:
    """The folder of visitors' files."""
    return Path(processing_utils.utils.get_upload_folder())


class VisitedBlocks(GuardedBlocks):
    """An app that ends a visit once its page has been closed for `GRACE` seconds."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._closed: dict[str, float] = {}
        self.examples: dict[str, dict[str, Any]] = {}  # of endpoints' parameters, by their names
        self.warm_up: Callable[[], None] = lambda: None  # to be called once the page is served

    async def process_api(self, *given: Any, **named: Any) -> dict[str, Any]:
        """As in `gr.Blocks`; what the visit holds is noted."""
        visit, function = named.get("session_hash"), named.get("block_fn")
        if not visit or any(target[1] == "unload" for target in getattr(function, "targets", ())):
            return await super().process_api(*given, **named)
        await _fetch_all(named.get("inputs"))
        HELD.claim(visit, upload_folder(), named.get("inputs"))
        answer = await super().process_api(*given, **named)
        HELD.claim(visit, upload_folder(), answer.get("data"))
        return answer

    def get_api_info(self, *given: Any, **named: Any) -> Any:
        """As in `gr.Blocks`, with examples of our own: Gradio's name places of this machine or elsewhere."""
        info = super().get_api_info(*given, **named)
        for name, about in info["named_endpoints"].items():
            ours = self.examples.get(name.strip("/"), {})
            for parameter in about["parameters"]:
                default = parameter["parameter_default"]
                parameter["example_input"] = ours.get(parameter["parameter_name"], default)
        return info

    def listen(self) -> None:
        """Hear of files once they are uploaded, and of pages that close; to be called at the end of `with`."""

        @event_handler
        def closed(request: gr.Request) -> None:
            if request.session_hash:
                self._closed[request.session_hash] = HELD.clock()

        for block in list(self.blocks.values()):
            if isinstance(block, (gr.File, gr.Video)) and block.interactive is not False:
                block.upload(_named, block, None, queue=False, preprocess=False, api_visibility="private")
        self.unload(closed)

    def begin(self) -> None:
        """End visits from now on, in a thread that ends with the app; what lies in the folder now is the app's."""
        HELD.keep_all(upload_folder())
        HELD.waiting = lambda: unfinished(self)
        threading.Thread(target=self._work, name="visits", daemon=True).start()

    def _work(self) -> None:
        ran = False
        while self.is_running or not ran:
            time.sleep(min(STEP, GRACE))
            ran = ran or self.is_running
            try:
                if self.is_running:
                    self.step()
            except Exception as error:  # a disk that fails now may work in the next round
                logger.warning("visits could not be ended: %s", type(error).__name__)

    def step(self) -> None:
        """End what has ended, and give memory back to the system."""
        now, folder = HELD.clock(), upload_folder()
        for event in unfinished(self):  # what waits needs its files, though nothing has read them yet
            HELD.claim(event.session_hash, folder, event.data.data)
        for visit, when in [(visit, when) for visit, when in list(self._closed.items()) if now - when >= GRACE]:
            del self._closed[visit]
            if HELD.used(visit) <= when:  # else it came back
                self._end(visit, folder)
        for visit in HELD.rested():
            self._end(visit, folder)
        HELD.sweep(folder)
        give_back()

    def _end(self, visit: str, folder: Path) -> None:
        """Free the state, the messages and the files of a visit."""
        holder, queue = self.state_holder, self._queue
        holder.delete_state(visit)
        holder.session_data.pop(visit, None)
        holder.time_last_used.pop(visit, None)
        if not queue.pending_event_ids_session.get(visit):
            queue.pending_messages_per_session.pop(visit, None)
        HELD.end(visit, folder)


async def _fetch_all(inputs: Any) -> None:
    """Put files in place of addresses; Gradio itself would fetch what has no bounds."""
    left = [inputs]
    while left:
        one = left.pop()
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if isinstance(one, dict) and str(one.get("path")).startswith(("http://", "https://")):
            try:
                one["path"] = await download(one["path"], upload_folder())
            except Exception as error:  # of the HTTP client, of the guard, of the name look-up
                raise refusal(f"The file could not be fetched ({type(error).__name__}). Upload it instead.") from error


@event_handler
def _named(_file: Any) -> None:
    """The visit holds the file by having named it."""
