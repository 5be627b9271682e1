"""Visitors of the app for some minutes: `python benchmarks/load.py --visitors 10 --minutes 10 --out load.json`.

It starts the app in a process of its own, with a folder of its own for temporary files, and warms it by one visit of
each kind. Then so many visitors come at a time, each over plain HTTP as a page does: a connection that says that the
page is open, an upload, boards, the Inspect page, the ZIP, a checkpoint of one's own. Every board is compared with the
one that the same request had alone, to the last digit. A share of the requests is rubbish. The memory of the server's
processes and its files are read from the system every few seconds, and once more after all pages are closed. A soak is
the same for an hour: `--visitors 4 --minutes 60`.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from simpool_viz.app.board.component import FIRST_STYLE

ROOT = Path(__file__).parent.parent
API = "/gradio_api"
CHECKPOINTS = (["vit_gap", "vit_simpool"], ["resnet_simpool"], ["vit_simpool"])
REST = 100.0  # seconds after the last page is closed, in which a visit is to be freed
KEPT = ("title", "map", "weights", "scale", "figures", "levels")  # of a row; not the milliseconds in its caption


class Failed(Exception):
    """The app answered an honest request with an error."""


def photos() -> list[bytes]:
    """Eight photos, no two alike: crops of the examples."""
    found = []
    for place, path in enumerate(sorted((ROOT / "assets").glob("*.jpg"))[:4]):
        with Image.open(path) as whole:
            for step in range(2):
                data = io.BytesIO()
                crop = whole.crop((7 * step, 5 * step, whole.width - 9 * step, whole.height - 3 * step - place))
                crop.convert("RGB").save(data, "JPEG", quality=90)
                found.append(data.getvalue())
    return found


def checkpoint() -> bytes:
    """A small ViT as a file that a visitor brings."""
    data, made = io.BytesIO(), importlib.import_module("tests.made_files")
    torch.save(made.vit(), data)
    return data.getvalue()


class Page:
    """One visit, from a page that opens to one that closes."""

    def __init__(self, address: str, functions: dict[str, int]) -> None:
        self.functions, self.visit = functions, uuid.uuid4().hex
        self.told = {"x-forwarded-for": f"203.0.113.{random.randrange(256)}"}  # as a proxy tells its visitors apart
        self.client = httpx.Client(base_url=address, timeout=300, headers=self.told)
        self._open = threading.Event()
        self._closing = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Page:
        self._beating.start()
        self._open.wait(30)
        return self

    def __exit__(self, *_: Any) -> None:
        self._closing.set()
        self._beating.join(30)
        self.client.close()

    def _beat(self) -> None:
        with (
            httpx.Client(base_url=self.client.base_url, timeout=60) as client,
            client.stream("GET", f"{API}/heartbeat/{self.visit}") as beats,
        ):
            for _ in beats.iter_raw():
                self._open.set()
                while not self._closing.wait(0.1):
                    pass
                return

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """A file of the visitor, as the app names it."""
        answer = self.client.post(f"{API}/upload", files=[("files", (name, data))])
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def ask(self, function: str, *given: Any, event: Any = None) -> list[Any]:
        """The answer of one of the app's functions.

        Raises:
            Failed: the app answers with an error.
        """
        body = {"data": list(given), "fn_index": self.functions[function], "session_hash": self.visit}
        joined = self.client.post(f"{API}/queue/join", json=body | {"event_data": event, "trigger_id": None})
        if joined.status_code != 200:
            raise Failed(f"{joined.status_code}: {joined.text[:200]}")
        wanted = joined.json()["event_id"]
        with self.client.stream("GET", f"{API}/queue/data", params={"session_hash": self.visit}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed" and message.get("event_id") == wanted:
                    if not message["success"]:
                        raise Failed(str(message["output"].get("error"))[:200])
                    return list(message["output"]["data"])
        raise Failed("the answer ended without a result")


def essence(board: Any) -> str:
    """What of a board must be equal."""
    rows = [{key: row[key] for key in KEPT} for row in map(json.loads, board["rows"])]
    for row in rows:
        row["figures"] = {name: value for name, value in row["figures"].items() if name != "milliseconds"}
    return json.dumps([[photo["size"] for photo in board["photos"]], rows], sort_keys=True)


# --- what visitors do ---


def compare(page: Page, draw: random.Random, given: dict[str, Any], alone: dict[tuple[int, int], str]) -> bool:
    """A board, and whether it is the one that the request had alone, which the first one is kept as."""
    photo, chosen = draw.randrange(len(given["photos"])), draw.randrange(len(CHECKPOINTS))
    file = page.upload(f"photo{photo}.jpg", given["photos"][photo])
    (board,) = page.ask("run", file, CHECKPOINTS[chosen], ["own"], None, None, None)
    return alone.setdefault((photo, chosen), essence(board)) == essence(board)


def inspect(page: Page, draw: random.Random, given: dict[str, Any], _: Any) -> bool:
    """Inspect a photo and point at a token."""
    file = page.upload("photo.jpg", draw.choice(given["photos"]))
    page.ask("record", file, "vit_simpool", 0, "pooling", None, None, [])
    page.ask("point", None, event={"x": 50, "y": 60})
    return True


def take(page: Page, draw: random.Random, given: dict[str, Any], _: Any) -> bool:
    """The board as a ZIP."""
    file = page.upload("photo.jpg", draw.choice(given["photos"]))
    shown = {"style": given["style"], "group": "none", "sort": "", "lowest": False, "steps": 1}
    page.ask("take_everything", shown, "two", ["overlay"], ["map"], file, ["resnet_simpool"], ["own"], None, None, None)
    return True


def bring(page: Page, draw: random.Random, given: dict[str, Any], _: Any) -> bool:
    """A checkpoint of one's own, and a board with it."""
    file = page.upload("mine.pth", given["checkpoint"])
    page.ask("recognise", file, "", None)
    (name,) = page.ask("use", None, [], ["own"])[0]["value"]
    photo = page.upload("photo.jpg", draw.choice(given["photos"]))
    (board,) = page.ask("run", photo, [name], ["own"], None, None, None)
    return bool(board["rows"])


WORKS: dict[str, tuple[Callable[..., bool], int]] = {  # with how many of a dozen requests are such
    "board": (compare, 8),
    "inspect": (inspect, 2),
    "zip": (take, 1),
    "own checkpoint": (bring, 1),
}


def rubbish(page: Page, draw: random.Random) -> None:
    """One request that nobody should send.

    Raises:
        Failed: it is not refused with a status from 400 to 499, or in a sentence, or its answer tells too much.
    """
    post, join = page.client.post, f"{API}/queue/join"
    noise = draw.randbytes(draw.randrange(2000))
    whole = {"fn_index": page.functions["run"], "session_hash": uuid.uuid4().hex}
    kind = draw.randrange(6)
    if kind == 0:
        answer = post(join, content=noise, headers={"content-type": "application/json"})
    elif kind == 1:
        answer = post(join, json={"data": draw.choice([None, 7, "x", {}]), "fn_index": draw.choice([-1, 10**9, "x"])})
    elif kind == 2:
        answer = page.client.get(f"{API}/file=/etc/{draw.choice(['passwd', '../etc/hosts', '%2e%2e/shadow'])}")
    elif kind == 3:
        answer = post(f"{API}/upload", content=noise, headers={"content-type": "multipart/form-data; boundary=x"})
    elif kind == 4:
        answer = post(join, json=whole | {"data": ["x" * 17 * 2**20]})
    else:
        file = page.upload("photo.jpg", noise or b"x")
        try:
            page.ask("run", file, ["vit_gap"], ["own"], None, None, None)
        except Failed as refusal:
            if "fault of ours" in str(refusal) or str(ROOT) in str(refusal):
                raise
            return
        raise Failed("noise was taken for a photo")
    if not 400 <= answer.status_code < 500 or "Traceback" in answer.text or "site-packages" in answer.text:
        raise Failed(f"rubbish of kind {kind}: {answer.status_code} {answer.text[:100]}")


# --- the server ---


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The app as a process that keeps its temporary files in a folder, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "simpool_viz", "serve", "--port", str(port), "--device", "cpu", "--warm"]
    with (folder / "server.log").open("wb") as log:
        environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": place}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{address}/healthz").status_code == 200:
                return process, address
        except httpx.HTTPError:
            time.sleep(0.5)
        if process.poll() is not None:
            break
    raise SystemExit((folder / "server.log").read_text(encoding="utf-8"))


def memory_of(process: int) -> float:
    """MiB of a process and those below it, as the system counts resident pages."""
    total, family = 0, {process}
    for entry in sorted((e for e in Path("/proc").iterdir() if e.name.isdigit()), key=lambda e: int(e.name)):
        try:
            told = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
        except OSError:
            continue  # it has just ended
        if int(told["Pid"]) in family or int(told["PPid"]) in family:
            family.add(int(told["Pid"]))
            total += int(told.get("VmRSS", "0 kB").split()[0])
    return total / 1024


def files_of(folder: Path) -> tuple[int, float]:
    """Number and MiB of the files in a folder, but for the log."""
    sizes = []
    for path, _, names in os.walk(folder):  # which passes over folders that go meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                sizes += [(Path(path) / name).stat().st_size] if name != "server.log" else []
    return len(sizes), sum(sizes) / 2**20


def run(visitors: int, minutes: float, share: float, seed: int, folder: Path) -> dict[str, Any]:
    """Serve visitors and return what was measured."""
    given: dict[str, Any] = {"photos": photos(), "checkpoint": checkpoint(), "style": FIRST_STYLE}
    process, address = start(folder)
    config = httpx.get(f"{address}/config", timeout=60).json()
    functions = {one["api_name"]: one["id"] for one in config["dependencies"] if one.get("api_name")}
    alone: dict[tuple[int, int], str] = {}
    counts, faults = collections.Counter[str](), collections.Counter[str]()
    seconds = collections.defaultdict[str, list[float]](list)
    samples: list[tuple[float, float, int, float]] = []
    begun = time.monotonic()

    def sample() -> tuple[float, float, int, float]:
        samples.append((time.monotonic() - begun, memory_of(process.pid), *files_of(folder)))
        return samples[-1]

    def visit(number: int, end: float) -> None:
        draw = random.Random(f"{seed} {number}")
        while time.monotonic() < end:
            counts["visits"] += 1
            with Page(address, functions) as page:
                for _ in range(draw.randint(1, 6)):
                    if time.monotonic() >= end:
                        break
                    one(page, draw)

    def one(page: Page, draw: random.Random) -> None:
        try:
            if draw.random() < share:
                counts["rubbish"] += 1
                rubbish(page, draw)
                return
            (name,) = draw.choices(list(WORKS), [weight for _, weight in WORKS.values()])
            counts[name] += 1
            before = time.monotonic()
            equal = WORKS[name][0](page, draw, given, alone)
            seconds[name].append(time.monotonic() - before)
            if not equal:
                faults[f"{name}: not the answer alone"] += 1
        except Exception as error:
            faults[f"{type(error).__name__}: {str(error)[:120]}"] += 1

    try:
        at_start = sample()
        for photo in range(len(given["photos"])):
            for chosen in range(len(CHECKPOINTS)):
                with Page(address, functions) as page:
                    file = page.upload(f"photo{photo}.jpg", given["photos"][photo])
                    (board,) = page.ask("run", file, CHECKPOINTS[chosen], ["own"], None, None, None)
                    alone[photo, chosen] = essence(board)
        for work, _ in WORKS.values():
            with Page(address, functions) as page:
                work(page, random.Random(0), given, alone)
        time.sleep(REST)
        warm = sample()
        end = time.monotonic() + 60 * minutes
        threads = [threading.Thread(target=visit, args=(number, end), daemon=True) for number in range(visitors)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(5)
            sample()
        time.sleep(REST)
        rested = sample()
        lines = (folder / "server.log").read_text(encoding="utf-8").splitlines()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            status = -9
    return {
        "visitors": visitors,
        "minutes": minutes,
        "requests": dict(counts),
        "faults": dict(faults),
        "seconds": {name: spread(own) for name, own in seconds.items()},
        "memory_mib": {
            "start": at_start[1],
            "warm": warm[1],
            "most": max(s[1] for s in samples),
            "after": rested[1],
            "after_to_warm": rested[1] / warm[1],
        },
        "files": {"start": at_start[2], "warm": warm[2], "most": max(s[2] for s in samples), "after": rested[2]},
        "files_mib": {"most": max(s[3] for s in samples), "after": rested[3]},
        "log_lines": len(lines),
        "exit": status,
        "left_in_folder": files_of(folder)[0],
        "samples": [[round(value, 1) for value in s] for s in samples],
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile of one kind of request."""
    cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else seconds * 19
    return {"median": round(statistics.median(seconds), 2), "95 %": round(cuts[18], 2)}


def summary(found: dict[str, Any]) -> str:
    """What was measured, in a few lines."""
    asked, memory, files = found["requests"], found["memory_mib"], found["files"]
    honest = sum(asked.get(name, 0) for name in WORKS)
    faults = "".join(f"\n- {times} x {what}" for what, times in found["faults"].items())
    return (
        f"{found['visitors']} visitors for {found['minutes']:g} min: {asked.get('visits', 0)} visits, {honest} honest "
        f"requests, {asked.get('rubbish', 0)} of rubbish; {sum(found['faults'].values())} faults{faults}\n"
        f"seconds: {', '.join(f'{name} {own}' for name, own in found['seconds'].items())}\n"
        f"memory, MiB: {memory['start']:.0f} at start, {memory['warm']:.0f} warm, {memory['most']:.0f} at most, "
        f"{memory['after']:.0f} after ({memory['after_to_warm']:.2f} of warm)\n"
        f"files: {files['start']} at start, {files['warm']} warm, {files['most']} at most, {files['after']} after, "
        f"{found['left_in_folder']} left at the end; {found['log_lines']} lines of log; exit {found['exit']}"
    )


def main() -> None:
    """Run it, write what was measured and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rubbish", type=float, default=0.1, help="share of the requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for all that was measured")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simpool_viz-load-") as folder:
        found = run(asked.visitors, asked.minutes, asked.rubbish, asked.seed, Path(folder))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(summary(found))


if __name__ == "__main__":
    main()
