"""How long one waits for the help, and for the app's first board, from the command on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.measure import Samples

HERE = Path(__file__).parent.parent


def _help() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "simpool_viz", "--help"], cwd=HERE, capture_output=True, check=True)
    return time.perf_counter() - started


def _first_board() -> float:
    """Seconds until the page is served, whose configuration holds the finished board."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    command = [sys.executable, "-m", "simpool_viz", "serve", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(
        command,
        cwd=HERE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        while time.perf_counter() - started < 120 and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5) as answer:
                    if b"board-row-0" in answer.read():
                        return time.perf_counter() - started
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the app did not serve its first board within two minutes")
    finally:
        server.terminate()
        server.wait()


def report(rounds: int, samples: Samples) -> list[str]:
    """Medians of a few starts; files are in the system's cache, as after a first start."""
    helps, boards = [_help() for _ in range(5)], [_first_board() for _ in range(5)]
    lines = [f"- `simpool-viz --help`: {samples.add('simpool-viz --help', 's', helps):.2f} s"]
    first = samples.add("simpool-viz serve to its first board", "s", boards)
    lines.append(f"- `simpool-viz serve` to its first board: {first:.1f} s")
    return ["\n".join(lines)]
