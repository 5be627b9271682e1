"""How long one waits for the help, and for the app's first board, from the command on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.measure import Samples

HERE = Path(__file__).parent.parent


def _help() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "simpool_viz", "--help"], cwd=HERE, capture_output=True, check=True)
    return time.perf_counter() - started


def first_board(home: Path = HERE) -> tuple[float, float]:
    """Seconds until the starting page shows the example board as a picture, 0 without one, and until the app is served,
    whose configuration holds the finished board.

    Args:
        home: the checkout whose app is started.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started, shown = time.perf_counter(), 0.0
    command = [sys.executable, "-m", "simpool_viz", "serve", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(
        command,
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        while time.perf_counter() - started < 120 and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5) as answer:
                    if b"board-row-0" in answer.read():
                        return shown, time.perf_counter() - started
            except urllib.error.HTTPError as error:  # of the starting page
                shown = shown or (time.perf_counter() - started if b"data:image/webp" in error.read() else 0.0)
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError("the app did not serve its first board within two minutes")
    finally:
        server.terminate()
        server.wait()


def report(rounds: int, samples: Samples) -> list[str]:
    """Medians of a few starts; files are in the system's cache, as after a first start."""
    helps = [_help() for _ in range(5)]
    shown, served = (list(seconds) for seconds in zip(*(first_board() for _ in range(5)), strict=True))
    lines = [f"- `simpool-viz --help`: {samples.add('simpool-viz --help', 's', helps):.2f} s"]
    for name, seconds in (("picture of the first board", shown), ("first board", served)):
        median = samples.add(f"simpool-viz serve to its {name}", "s", seconds)
        lines.append(f"- `simpool-viz serve` to its {name}: {median:.1f} s")
    return ["\n".join(lines)]
