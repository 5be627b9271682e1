"""Mutated pictures and checkpoints: `python benchmarks/fuzz.py pictures --minutes 10 --keep findings`.

Each input is a small file of every kind, changed at random: bytes flipped, numbers replaced by extreme ones, pieces
cut, doubled and exchanged with another file's. It is read as the app reads it. What is right is a result, or a
`SimpoolError`, within 20 s and 1 GB; anything else is a finding, whose bytes are kept, also where it ends the process.
A seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import collections
import io
import multiprocessing
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as safetensors_of

sys.path.insert(0, str(Path(__file__).parent.parent))

from simpool_viz.checkpoints.files import read_weights
from simpool_viz.errors import SimpoolError
from simpool_viz.images import read_picture
from simpool_viz.scores.references import read_reference

SECONDS, MEMORY = 20, 2**30
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
SAVED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "CMYK", {}),
    ("TIFF", "1", {"compression": "group4"}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("PPM", "L", {}),
    ("AVIF", "RGB", {}),
)


class TooSlow(BaseException):
    """The time is up; no decoder catches it."""


def pictures() -> list[bytes]:
    """A small picture in every format and mode that is read, some of them animations."""
    pixels = np.random.default_rng(0).integers(256, size=(24, 40, 3), dtype=np.uint8)
    image, found = Image.fromarray(pixels), []
    for kind, mode, options in SAVED:
        grey = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        for more in ({}, {"save_all": True, "append_images": [grey, grey]}):
            if more and (kind not in ("GIF", "WEBP", "PNG", "TIFF") or mode == "I;16"):
                continue
            data = io.BytesIO()
            grey.save(data, kind, **options, **more)
            found.append(data.getvalue())
    return found


def checkpoints() -> list[bytes]:
    """A small checkpoint in every form that is read."""
    state = {"blocks.0.weight": torch.ones(3, 2), "head.bias": torch.zeros(5, dtype=torch.float16)}
    found = [safetensors_of(state, {"title": "T", "simpool_viz": "{}"})]
    scalar = np.float64(3.0)
    for content in (state, {"teacher": state, "args": argparse.Namespace(arch="vit", gamma=scalar), "b": b"\x00\xff"}):
        for zipped in (True, False):
            data = io.BytesIO()
            torch.save(content, data, _use_new_zipfile_serialization=zipped)
            found.append(data.getvalue())
    return found


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the seeds with one to eight changes."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(max(1, len(data)))
        end = min(len(data), place + draw.randint(1, 64))
        kind = draw.randrange(6)
        if kind == 0:
            data[place : place + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            form = draw.choice(("<H", ">H", "<I", ">I"))
            raw = struct.pack(form, draw.choice(EXTREMES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
            data[place : place + len(raw)] = raw
        elif kind == 2:
            del data[place:end]
        elif kind == 3:
            data[place:place] = data[place:end] * draw.randint(1, 8)
        elif kind == 4:
            other = draw.choice(seeds)
            start = draw.randrange(len(other))
            data[place:end] = other[start : start + draw.randint(1, 64)]
        else:
            del data[draw.randrange(len(data) + 1) :]
    return bytes(data)


def as_picture(path: Path) -> None:
    """Read a file as a photo, then as a mask."""
    for read in (read_picture, read_reference):
        try:
            read(path)
        except SimpoolError as error:
            str(error).encode()


def as_checkpoint(path: Path) -> None:
    """Read the weights of a file."""
    try:
        read_weights(path)
    except SimpoolError as error:
        str(error).encode()


KINDS: dict[str, tuple[Callable[[], list[bytes]], Callable[[Path], None], str]] = {
    "pictures": (pictures, as_picture, "photo.jpg"),
    "checkpoints": (checkpoints, as_checkpoint, "mine.pth"),
}


def _give_up(*_: Any) -> None:
    raise TooSlow


def run_supervised(
    kind: str, seconds: float, seed: int, keep: Path | None = None
) -> tuple[int, collections.Counter[str]]:
    """As `run`, in processes of which another one begins, with other inputs, where an input has ended one."""
    forked, ends = multiprocessing.get_context("fork"), time.monotonic() + seconds
    count, found, part = 0, collections.Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < ends:
            done, answers = forked.Value("L"), forked.SimpleQueue()

            def work(done: Any = done, answers: Any = answers, part: int = part) -> None:
                left = ends - time.monotonic()
                answers.put(run(kind, left, seed + 1_000_000 * part, keep, folder=Path(folder), done=done)[1])

            process = forked.Process(target=work)
            process.start()
            process.join()
            count, part = count + done.value, part + 1
            if process.exitcode == 0:
                found += answers.get()
                continue
            found[f"the process ended with status {process.exitcode}"] += 1
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                data = (Path(folder) / KINDS[kind][2]).read_bytes()
                (keep / f"{kind}-{seed}-ended-{part}").write_bytes(data)
    return count, found


def run(
    kind: str,
    seconds: float,
    seed: int = 0,
    keep: Path | None = None,
    most: float = float("inf"),
    folder: Path | None = None,
    done: Any = None,
) -> tuple[int, collections.Counter[str]]:
    """Read mutated files for some time.

    Args:
        kind: of `KINDS`.
        seconds: for which inputs are made.
        seed: of the inputs.
        keep: a folder for the findings, or None.
        most: inputs, after which it ends earlier.
        folder: where each input stands while it is read; one of its own where None.
        done: whose `value` is the number of inputs so far, where another process wants to know.

    Returns:
        The number of inputs, and of findings by what was raised.
    """
    import resource

    make, read, name = KINDS[kind]
    seeds, draw, count, found = make(), random.Random(seed), 0, collections.Counter[str]()
    signal.signal(signal.SIGALRM, _give_up)
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = (folder or Path(own)) / name
        while time.monotonic() < ends and count < most:
            data, count = mutated(seeds, draw), count + 1
            path.write_bytes(data)
            if done is not None:
                done.value = count
            before, what = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
            signal.alarm(SECONDS)
            try:
                read(path)
            except TooSlow:
                what = f"more than {SECONDS} s"
            except Exception as error:
                what = f"{type(error).__name__}: {str(error)[:60]}"
            finally:
                signal.alarm(0)
            if 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > MEMORY:
                what = "more than 1 GB"
            if what:
                found[what] += 1
                if keep is not None and found[what] <= 3:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{kind}-{seed}-{count}").write_bytes(data)
    return count, found


def main() -> None:
    """Run it and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    count, found = run_supervised(asked.kind, 60 * asked.minutes, asked.seed, asked.keep)
    print(f"{count:,} mutated {asked.kind} in {asked.minutes:g} min, seed {asked.seed}: {found.total()} findings")
    for what, times in found.most_common():
        print(f"- {times} x {what}")


if __name__ == "__main__":
    main()
