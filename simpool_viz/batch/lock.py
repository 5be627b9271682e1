"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from simpool_viz.errors import DataError

LOCK, HOLDER = ".lock", ".running.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(out: Path) -> Iterator[str]:
    """A context in which no other run writes to a folder.

    The lock is the operating system's, so that it goes with the process that holds it and holds between containers that
    share the folder. A file beside it says whose it is.

    Args:
        out: the folder, which is made.

    Yields:
        A sentence where an earlier run did not come to its end or the file system has no locks, else "".

    Raises:
        DataError: another run holds the folder.
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    holder, lock = out / HOLDER, FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another run writes to {out}{_whose(holder)}; wait for its end, or choose another folder"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        yield f"the file system of {out} has no locks, so a second run there would not be noticed"
        return
    try:
        note = f"an earlier run did not come to its end{_whose(holder)}; this one goes on" if holder.exists() else ""
        whose = {"process": os.getpid(), "computer": platform.node(), "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        holder.write_text(json.dumps(whose), encoding="utf-8")
        yield note
    finally:
        if out.is_dir():
            holder.unlink(missing_ok=True)
        lock.release()


def _whose(holder: Path) -> str:
    """ " (process 7 on ada, since ...)", "" where the file does not say it."""
    try:
        told = json.loads(holder.read_text(encoding="utf-8"))
        return f" (process {int(told['process'])} on {told['computer']}, started {told['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
