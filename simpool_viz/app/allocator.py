"""What the C library keeps of memory that was freed: a server that runs for days gives it back."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

ARENAS = 2
_M_ARENA_MAX = -8  # glibc's number of the setting


def _of_glibc(name: str) -> Any:
    """A function of the C library, None where it is not glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def use_few_arenas() -> None:
    """Let all threads share few heaps, from now on. Each of a server's forty threads would have its own, and a heap
    that holds one small block keeps all that lay below it."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give what was freed back to the system, which glibc keeps otherwise."""
    gc.collect()
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)
