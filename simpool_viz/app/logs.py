"""The log of the app: lines on standard error, of which nobody can make more than a few a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class Bounded(logging.Filter):
    """Lets each kind of line pass a few times a minute, and then says how many were left out.

    A kind is a place in the code, so that lines which differ in what a visitor sent are of one kind.

    Args:
        most: lines of a kind within a minute.
        clock: seconds.
    """

    def __init__(self, most: int = 30, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most, self.clock = most, clock
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line passes; the first after a minute says how many did not."""
        kind, now = (record.pathname, record.lineno), self.clock()
        begun, count = self._kinds.get(kind, (now, 0))
        if now - begun >= 60:
            if count > self.most:
                record.msg, record.args = f"{record.getMessage()} (and {count - self.most} like it before)", None
            begun, count = now, 0
        self._kinds[kind] = begun, count + 1
        return count < self.most


def begin_log() -> None:
    """Write the log as lines to standard error, bounded; also what the server below the app has to say."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(Bounded())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("uvicorn.error").addFilter(Bounded())
