"""Processes that read pictures ahead of the model. One that is killed costs at most the picture that did it.

Nothing here imports PyTorch, since the processes start with what this file imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from simpool_viz.batch.preparing import Fault, Frame, Prepared, prepare
from simpool_viz.errors import SimpoolError

Result = Prepared | Fault


def read_ahead(
    waiting: Mapping[str, Path],
    frames: Sequence[Frame],
    longest: int | None,
    workers: int,
    ahead: int,
    stack: ExitStack,
) -> Iterator[Result]:
    """The pictures of some files as worker processes read them, in order; else as `work_ahead`.

    Args:
        waiting: files by key.
        frames: input sizes and strides.
        longest: as in `prepare`.
        workers: number of processes.
        ahead: how many pictures at most are read before the consumer asks for them.
        stack: ends the processes when it is closed.
    """
    given = ((key, (path, frames, longest)) for key, path in waiting.items())
    return work_ahead(prepare, given, min(workers, len(waiting)), ahead, stack)


def work_ahead(
    read: Callable[..., Any], given: Iterable[tuple[str, tuple[Any, ...]]], workers: int, ahead: int, stack: ExitStack
) -> Iterator[Any]:
    """What a function makes of each picture in worker processes, in order.

    Where a process is killed, as the system does when memory runs out, its successor reads what was on its way one by
    one, since any of it may have been the cause; a picture that alone ends two more is a `Fault`.

    Args:
        read: called with the key and the rest; a function of a module, which never raises.
        given: key of each picture, and the rest.
        workers: number of processes.
        ahead: how many pictures at most are read before the consumer asks for them.
        stack: ends the processes when it is closed.

    Raises:
        SimpoolError: processes end before they have read anything.
    """
    if not workers:
        return
    readers = _Readers(workers, read)
    stack.callback(readers.end)
    begun: deque[tuple[str, tuple[Any, ...], Future[Any] | None]] = deque()  # None: to be read alone
    left, ended = iter(given), ""  # the picture that has ended a process alone
    while True:
        if not any(future is None for _, _, future in begun):
            for key, rest in left:
                begun.append((key, rest, readers.submit(key, rest)))
                if len(begun) >= ahead:
                    break
        if not begun:
            return
        key, rest, future = begun.popleft()
        try:
            yield (future or readers.submit(key, rest)).result()
        except BrokenProcessPool:
            readers.renew()
            if future is None and ended == key:
                yield Fault(key, f"{key} ended the process that read it, twice; it may need more memory than there is")
            else:
                ended = key if future is None else ""
                begun.appendleft((key, rest, None))
                begun = deque((k, r, f if f is not None and _is_read(f) else None) for k, r, f in begun)


def _is_read(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def half_the_cores() -> int:
    """The number of processes or threads that read or write beside the models."""
    return max(1, (os.cpu_count() or 2) // 2)


class _Readers:
    """A pool of processes that call a function, and its successors."""

    def __init__(self, count: int, read: Callable[..., Any]) -> None:
        self.count, self.read = count, read
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork of a process with PyTorch's threads can hang
        return ProcessPoolExecutor(self.count, context, initializer=_begin_worker)

    def submit(self, key: str, rest: tuple[Any, ...]) -> Future[Any]:
        """Have a picture read; of a pool that is broken the future says so."""
        try:
            return self._pool.submit(self.read, key, *rest)
        except BrokenProcessPool as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def renew(self) -> None:
        """Start a new pool in place of a broken one."""
        self.end()
        self._pool = self._new()
        try:
            self._pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise SimpoolError(
                "the processes that read pictures end as soon as they start; free some memory or take fewer --workers, "
                "and in a script of your own call run under: if __name__ == '__main__':"
            ) from None

    def end(self) -> None:
        """End the processes once they have read what they are reading."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Give a worker a lower priority: it takes the time that the forward pass leaves, not its cores."""
    follow_parent()
    if hasattr(os, "nice"):
        os.nice(5)


def follow_parent() -> None:
    """Let this process end with its parent, however that ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
