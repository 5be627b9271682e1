"""How fast the maps are, as ratios to the plain forward and to other packages: `python benchmarks/run.py`, which prints
Markdown.

  python benchmarks/run.py                                  every part on the CPU
  python benchmarks/run.py --parts maps memory --tokens 197 901
  python benchmarks/run.py --parts maps memory --device cuda --batch 1 64
  python benchmarks/run.py --json now.json                  and the values, for benchmarks/changes.py

Parts: maps (time), memory (peaks, a process for each), large (12,545 tokens), entropy, drawing, board, rows (a board of
twelve), click, folder, start. What is compared with comes from the extra `bench`: pip install -e ".[bench]"; what is
not installed is left out and named.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import after, folder, spatial_entropy, start, token_click
from benchmarks.measure import Samples, in_child, in_turns, peak_of, quartiles
from benchmarks.subjects import PEERS, SUBJECTS, Work, check_same, make_setup
from simpool_viz.outputs import markdown_table

PARTS = ("maps", "memory", "large", "entropy", "drawing", "board", "rows", "click", "folder", "start")
PLAIN = "plain fused forward"
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[197, 901, 1370, 3601])
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="pictures at once")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--subjects", nargs="+", default=[""], metavar="TEXT", help="only subjects whose names hold one of these"
    )
    parser.add_argument("--json", type=Path, help="a file for the values of every figure")
    parser.add_argument("--child", nargs=3, metavar=("SUBJECT", "TOKENS", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, tokens, batch = arguments.child
        print(_peak(name, int(tokens), arguments.device, int(batch)))
        return 0
    print(machine(arguments.device) + "\n", flush=True)
    samples = Samples()
    for part in arguments.parts:
        for text in _part(part, arguments, samples):
            print(text + "\n", flush=True)
        if arguments.json:
            samples.save(arguments.json, machine(arguments.device))
    return 0


def _part(part: str, arguments: argparse.Namespace, samples: Samples) -> Iterator[str]:
    device, rounds = arguments.device, arguments.rounds
    if part in ("maps", "memory"):
        make = times if part == "maps" else memory
        names = [name for name in SUBJECTS if name == PLAIN or any(text in name for text in arguments.subjects)]
        yield from (
            make(Run(tokens, device, batch, rounds, names), samples)
            for tokens in arguments.tokens
            for batch in arguments.batch
        )
        return
    lines = {"large": large, "entropy": spatial_entropy.report, "drawing": after.drawing, "board": after.board}
    lines |= {"rows": after.rows, "click": token_click.report, "folder": folder.report, "start": start.report}
    yield f"### {part}\n"
    yield from lines[part](rounds, samples)


def machine(device: str) -> str:
    """Processor, threads and versions."""
    names = ("torch", "torchvision", "timm", "opencv-python-headless", "pillow", "torchcam", "grad-cam", "captum")
    what = (
        torch.cuda.get_device_name() + ", half precision" if device.startswith("cuda") else f"{_processor()}, float32"
    )
    return f"{what}; {torch.get_num_threads()} threads; Python {platform.python_version()}, " + ", ".join(
        _version(n) for n in names
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


@dataclass(frozen=True)
class Run:
    """One table: a number of tokens, a device, pictures at once, rounds, and the names of subjects."""

    tokens: int
    device: str
    batch: int
    rounds: int
    names: Sequence[str] = tuple(SUBJECTS)

    @property
    def title(self) -> str:
        return f"{self.tokens} tokens, {self.batch} picture{'s' * (self.batch > 1)}"


def times(run: Run, samples: Samples) -> str:
    """A table of medians and of ratios to the plain forward of the same round."""
    tokens, device, rounds = run.tokens, run.device, run.rounds
    setup = make_setup(tokens, device, run.batch)
    works: dict[str, Work] = {}
    missing = []
    for name in run.names:
        try:
            works[name] = SUBJECTS[name](setup)
            if device.startswith("cuda"):
                works[name]()  # whether memory suffices
        except ImportError as error:
            missing.append(f"{name}: {error.name} is not installed")
        except torch.OutOfMemoryError:
            works.pop(name, None)
            missing.append(f"{name}: out of memory")
    same = check_same(setup) if tokens < 1000 and "eager N x N: CLS, roll-out, dense" in works else None
    taken = in_turns(works, rounds, device, slow=frozenset(PEERS) if tokens > 2000 else frozenset())
    rows = []
    for name, values in taken.items():
        middle, low, high = quartiles(values)
        # A slow subject takes its turn in rounds 0, 3, 6, ...
        against = taken[PLAIN] if len(values) == rounds else taken[PLAIN][::3]
        shares = [value / plain for value, plain in zip(values, against, strict=True)]
        samples.add(f"maps, {run.title}: {name}, time", "s", values)
        if name != PLAIN:
            samples.add(f"maps, {run.title}: {name}", "x", shares)
        ratios = quartiles(shares)
        rows.append(
            [
                name,
                f"{ratios[0]:.2f}",
                f"{ratios[1]:.2f} to {ratios[2]:.2f}",
                f"{1000 * middle:.1f}",
                f"{1000 * low:.1f} to {1000 * high:.1f}",
            ]
        )
    head = f"### maps: {run.title}, {rounds} rounds\n"
    notes = [] if same is None else [f"Maps here and by N x N matrices differ by {same:.1e} of the largest weight."]
    notes += missing
    return "\n".join([head, markdown_table(["subject", "x plain", "quartiles", "ms", "quartiles"], rows), "", *notes])


def memory(run: Run, samples: Samples) -> str:
    """A table of peaks above what the model holds, each in a process of its own, beside the size of all queries and
    keys."""
    tokens, device, batch = run.tokens, run.device, run.batch
    setup = make_setup(tokens, device, batch)
    held = 2 * 12 * tokens * 384 * batch * setup.images.element_size()
    del setup
    peaks = {name: in_child("--device", device, "--child", name, tokens, batch) for name in run.names}
    plain, rows = int(peaks[PLAIN].split()[0]), []
    for name, told in peaks.items():
        above = (int(told.split()[0]) - plain) if told else 0
        if told:
            samples.add(f"memory, {run.title}: {name}", "MiB", [int(told.split()[0]) / MIB])
        rows.append(
            [name, f"{int(told.split()[0]) / MIB:.0f}", f"{above / MIB:.0f}", f"{above / held:.2f}"]
            if told
            else [name, "failed", "", ""]
        )
    head = f"### memory: {run.title}; q and k of the blocks are {held / MIB:.0f} MiB\n"
    return "\n".join([head, markdown_table(["subject", "peak, MiB", "above the forward's", "x (q + k)"], rows)])


def _peak(name: str, tokens: int, device: str, batch: int) -> str:
    """Bytes by which memory grows in the work, and the most that the whole process took."""
    import resource

    setup = make_setup(tokens, device, batch)
    grown = peak_of(SUBJECTS[name](setup), device)
    return f"{grown} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}"


def large(rounds: int, samples: Samples) -> list[str]:
    """A ViT-S at 1,792 px: the whole process while it makes the roll-out."""
    told = in_child("--child", "roll-out", 12545, 1)
    if not told:
        return ["The roll-out at 12,545 tokens failed."]
    grown, whole = (int(value) / 2**30 for value in told.split())
    samples.add("large: the whole process", "GiB", [whole])
    return [
        f"Roll-out at 12,545 tokens (ViT-S/16 at 1,792 px): the whole process takes {whole:.2f} GiB at most, "
        f"{grown:.2f} GiB in the work."
    ]


if __name__ == "__main__":
    sys.exit(main())
