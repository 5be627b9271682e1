"""A server's threads share few heaps, so that what they freed goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from simpool_viz.app.allocator import ARENAS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_info"), reason="heaps are those of glibc"
)
# Eight threads that hold memory at the same time, then the number of glibc's heaps.
HEAPS = """
import ctypes, os, sys, threading
from simpool_viz.app.allocator import use_few_arenas
if sys.argv[1] == "few":
    use_few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fdopen.restype = ctypes.c_void_p, ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
all_here = threading.Barrier(9)
def hold():
    libc.malloc(1000)
    all_here.wait()
for _ in range(8):
    threading.Thread(target=hold).start()
all_here.wait()
reading, writing = os.pipe()
told = libc.fdopen(writing, b"w")
libc.malloc_info(0, told)
libc.fclose(told)
print(os.fdopen(reading).read().count("<heap nr="))
"""


def heaps(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", HEAPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_threads_share_few_heaps() -> None:
    assert heaps("few") <= ARENAS < heaps("as glibc does")
