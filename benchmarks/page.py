"""How long a large board takes in the browser: `python benchmarks/page.py --before COMMIT`, which prints Markdown.

Twelve photos and four checkpoints in Chromium: the whole board from Run to the last map, against the server's own time
for the same board in the same process; one step of Amount and of Smooth, from the event to the frame after the one in
which the board is painted. `--before` measures another commit in the same run, from a temporary worktree. It needs the
extra `test` and Chromium (the path in CHROMIUM, or on the PATH).
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
CHECKPOINTS = ("vit_gap", "vit_simpool", "resnet_gap", "resnet_simpool")
MAPS = ("own", "contribution")  # as a visit begins
ROWS = 72  # 12 photos x (2 of each SimPool, 1 of each GAP, which has no attention of its own)
STEPS = 9
TITLES = {
    "server": "server's own time, s",
    "page": "whole board in the browser, s",
    "ratio": "x server",
    "amount": "one step of Amount, ms",
    "smooth": "Smooth, ms",
}
# Milliseconds from an event to the frame after the board has painted what is seen.
STEP = """async (look) => {
  const board = document.querySelector('#board .simpool-board'), started = performance.now();
  board.dispatchEvent(new CustomEvent('simpool-look', { bubbles: true, detail: look }));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))));
  return performance.now() - started;
}"""
DONE = """(count) => {
  const board = document.querySelector('#board .simpool-board'), read = board?.parentElement.readMasks;
  return Boolean(read) && !board.querySelector('.waiting') && read(false).length >= count;
}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="a commit to compare with")
    parser.add_argument("--photos", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(sorted(arguments.photos.glob("*.jpg")))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        make_photos(photos)
        found = {"now": _in_child(HERE, photos)}
        if arguments.before:
            other = Path(folder) / "before"
            git = ["git", "-C", str(HERE), "worktree"]
            subprocess.run([*git, "add", "--detach", str(other), arguments.before], check=True, capture_output=True)
            try:
                found = {f"before ({arguments.before[:7]})": _in_child(other, photos), **found}
            finally:
                subprocess.run([*git, "remove", "--force", str(other)], check=True, capture_output=True)
    print(report(found))
    return 0


def make_photos(folder: Path) -> None:
    """Twelve photos of about 640 pixels: crops of four bundled ones, the same for every commit."""
    from PIL import Image

    folder.mkdir()
    for i in range(12):
        with Image.open(HERE / "assets" / f"{('astronaut', 'chelsea', 'coffee', 'motorcycle')[i % 4]}.jpg") as image:
            width, height = image.size
            part = (1, 0.9, 0.8)[i // 4]
            image.crop((0, 0, round(part * width), round(part * height))).save(folder / f"photo_{i:02}.jpg", quality=90)


def _in_child(place: Path, photos: Path) -> dict[str, float]:
    """The figures of a checkout, in a process of its own, in which this very file runs on that checkout's package."""
    command = [sys.executable, __file__, "--child", "--photos", str(photos)]
    environment = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(photos: Sequence[Path]) -> dict[str, float]:
    """The figures of the package that is imported, by the keys of `TITLES`."""
    from playwright.sync_api import sync_playwright

    from simpool_viz.app.launch import launch

    server = _server_time(photos)
    blocks, address, _ = launch(host="127.0.0.1", device="cpu", prevent_thread_lock=True, quiet=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(address)
            page.wait_for_selector("#board .row canvas", timeout=120_000)
            board = _whole_board(page, photos)
            amounts = [page.evaluate(STEP, {"rule": "mass", "amount": 0.4 + 0.01 * i}) for i in range(STEPS)]
            smooths = [page.evaluate(STEP, {"smooth": bool(i % 2)}) for i in range(STEPS)]
            browser.close()
    finally:
        getattr(blocks, "blocks", blocks).close()
    return {
        "server": server,
        "page": board,
        "ratio": board / server,
        "amount": statistics.median(amounts),
        "smooth": statistics.median(smooths),
    }


def _server_time(photos: Sequence[Path]) -> float:
    """Seconds of the second of two runs of the event behind Run with what it sends, without a browser."""
    from simpool_viz.app import compare
    from simpool_viz.app.board.component import BoardView

    page = compare.ComparePage(compare.EncoderStore("cpu"))  # wherever a commit defines the store
    view, taken = BoardView(), 0.0
    asked: dict[str, Any] = {"photo": str(photos[0]), "checkpoints": list(CHECKPOINTS), "maps": list(MAPS)}
    asked["photos"] = [str(p) for p in photos[1:]]
    if "size" in inspect.signature(page.run).parameters:  # of older commits; 0 is each checkpoint's own
        asked["size"] = 0
    for _ in range(2):
        started = time.perf_counter()
        for state in page.run(**asked):
            view.postprocess(state)
        taken = time.perf_counter() - started
    return taken


def _whole_board(page: Any, photos: Sequence[Path]) -> float:
    """Seconds from Run until the last map of the board is there; the first photo's own run warms the models before."""
    for title in ("ResNet, GAP", "ResNet, SimPool"):
        _press(page.locator("#checkpoints").get_by_label(title, exact=True))
    _press(page.locator("#photo button[aria-label='Remove Image'], #photo button[aria-label='Clear']").first)
    page.locator("#photo input[type=file]").set_input_files(str(photos[0]))
    page.locator("#board .photo figcaption", has_text=photos[0].name).wait_for(timeout=300_000)
    page.wait_for_function(DONE, arg=ROWS // len(photos), timeout=300_000)
    _press(page.get_by_text("More photos, for the matrix"))
    page.locator("#more-photos input[type=file]").set_input_files([str(p) for p in photos[1:]])
    page.locator("#more-photos", has_text=photos[-1].stem).wait_for(timeout=120_000)
    started = time.perf_counter()
    _press(page.locator("#run"))
    page.wait_for_function(DONE, arg=ROWS, timeout=600_000, polling=50)
    return time.perf_counter() - started


def _press(control: Any) -> None:
    """Click a control, also where a bar of an older page lies over it."""
    control.evaluate("node => node.click()")


def report(found: dict[str, dict[str, float]]) -> str:
    """A table of both states."""
    from simpool_viz.outputs import markdown_table

    digits = {"amount": 0, "smooth": 0, "ratio": 2}
    rows = [[title, *(f"{one[key]:.{digits.get(key, 1)}f}" for one in found.values())] for key, title in TITLES.items()]
    return markdown_table(["12 photos x 4 checkpoints", *found], rows)


if __name__ == "__main__":
    sys.exit(main())
