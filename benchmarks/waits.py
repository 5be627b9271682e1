"""The waits of people before a commit and now, measured in turns in one run.

    python benchmarks/waits.py --before fbd30a7 --parts start forward maps rows
    python benchmarks/waits.py --before fbd30a7 --parts evaluate --photos ../shared/data/masks/horses
    python benchmarks/waits.py --before fbd30a7 --parts batch --photos ../shared/data/objects/val-*.parquet

It prints Markdown. The other commit stands in a temporary worktree, whose files are compiled first; each measurement is
a process of its own, and both commits take turns in each round. Nothing else may run beside it.

Evaluate and batch are measured once for each commit, the others in several rounds.

Parts: start (from the command to the app's first board), forward (a DINOv2 ViT-S/14 in float32 and in bfloat16), maps
(every map of one request as a ratio to the plain forward, beside eager N x N matrices), rows (a board of twelve),
evaluate (the command, with seven ViTs and four maps), batch (the command's rate as a share of the plain forward's).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
TREE = "WAITS_TREE"  # names the checkout whose package a child measures
sys.path.insert(0, str(HERE))

PARTS = ("start", "forward", "maps", "rows", "evaluate", "batch")
SIZES = {50: (32, 224), 101: (16, 160), 197: (16, 224), 325: (16, 288), 577: (16, 384), 901: (16, 480), 1370: (14, 518)}
EVERY, EAGER, PLAIN = "every map in one request", "eager N x N: CLS, roll-out, dense", "plain fused forward"
VITS = ("vit_cls", "vit_gap", "vit_ggem", "vit_simpool", "vit_cls_sar", "vit_life_cls", "vit_life_simpool")
MAPS = ("cls", "pooling", "contribution", "rollout")
Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="a commit to compare with")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["start", "forward", "maps", "rows"])
    parser.add_argument("--photos", nargs="+", type=Path, default=[], help="for batch; for evaluate one data set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _use(os.environ[TREE])
        print(json.dumps(_child(*arguments.child)))
        return 0
    photos = [path.resolve() for path in arguments.photos]
    if "evaluate" in arguments.parts and len(photos) != 1:
        parser.error("evaluate takes one data set: --photos FOLDER")
    from benchmarks.run import machine
    from simpool_viz.outputs import markdown_table

    print(machine("cpu") + "\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        trees = {"now": HERE}
        git = ["git", "-C", str(HERE), "worktree"]
        if arguments.before:
            other = Path(folder) / "before"
            subprocess.run([*git, "add", "--detach", str(other), arguments.before], check=True, capture_output=True)
            subprocess.run([sys.executable, "-m", "compileall", "-q", str(other / "simpool_viz")], check=True)
            trees = {"before": other, "now": HERE}
        try:
            rows = [row for part in arguments.parts for row in _rows(part, trees, photos, arguments.rounds)]
        finally:
            if arguments.before:
                subprocess.run([*git, "remove", "--force", str(trees["before"])], check=True)
    print(markdown_table(["wait", *trees], rows))
    return 0


def _rows(
    part: str, trees: Mapping[str, Path], photos: Sequence[Path], rounds: int, tokens: Iterable[int] = SIZES
) -> Iterator[list[str]]:
    """The lines of a part: a name, and for each tree the median and the range of the rounds."""
    once = {"maps": [[str(count)] for count in tokens], "evaluate": [list(map(str, photos))]}
    for given in once.get(part, [list(map(str, photos)) if part == "batch" else []]):
        found: dict[str, list[Figures]] = {name: [] for name in trees}
        for _ in range(1 if part in ("evaluate", "batch", "forward") else rounds):
            for name, tree in trees.items():
                found[name].append(_measured(tree, part, given))
        for figure in found["now"][0]:
            cells = [_cell([one[figure] for one in found[name] if figure in one]) for name in trees]
            yield [f"{figure}, {given[0]} tokens" if part == "maps" else figure, *cells]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = statistics.median(values)
    return f"{middle:.3g}" + (f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else "")


def _measured(tree: Path, part: str, given: Sequence[str]) -> Figures:
    """The figures of a part in a process of its own with the package of a checkout; {} where that one has none."""
    environment = os.environ | {TREE: str(tree), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tree)}
    if part == "batch":
        script = [str(tree / "benchmarks" / "batch.py"), *given, "-c", "resnet_simpool", "-m", "pooling"]
        told = subprocess.run(
            [sys.executable, *script, "--decoded", "40"], env=environment, capture_output=True, text=True, check=True
        )
        figures = json.loads(told.stdout)
        names = ("share_of_plain_forward", "pictures_per_second")
        return {f"batch, resnet_simpool, {name.replace('_', ' ')}": figures[name] for name in names}
    if part == "forward" and tree != HERE:
        return {}
    plain = _told(environment, "seven", given) if part == "evaluate" and tree == HERE else {}
    return plain | _told(environment, part, given)


def _told(environment: Mapping[str, str], part: str, given: Sequence[str]) -> Figures:
    """What a child prints; its errors go where ours go."""
    told = subprocess.run(
        [sys.executable, __file__, "--child", part, *given],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(told.stdout.splitlines()[-1])


def _use(tree: str) -> None:
    """Import the package from a checkout, and what measures from this one, which puts its own checkout first."""
    import benchmarks

    sys.path.insert(0, tree)
    import simpool_viz

    if Path(str(simpool_viz.__file__)).resolve().parent.parent != Path(tree).resolve():
        raise RuntimeError(f"the package came from {simpool_viz.__file__}, not from {tree}")
    benchmarks.__path__ = [str(HERE / "benchmarks")]


def _child(part: str, *given: str) -> Figures:
    measures: dict[str, Callable[..., Figures]] = {"start": _start, "forward": _forward, "maps": _maps, "rows": _board}
    return (measures | {"evaluate": _evaluate, "seven": _seven})[part](*given)


def _start() -> Figures:
    from benchmarks.start import first_board

    picture, board = first_board(Path(os.environ[TREE]))
    return {"first board, s": board} | ({"its picture, s": picture} if picture else {})


def _forward() -> Figures:
    import timm
    import torch

    from benchmarks.measure import in_turns

    found: Figures = {}
    for side in (224, 518):
        works: dict[str, Callable[[], Any]] = {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            model: Any = timm.create_model("vit_small_patch14_dinov2", img_size=side).eval().to(dtype)
            works[name] = partial(model, torch.randn(1, 3, side, side).to(dtype))
        with torch.inference_mode():
            taken = in_turns(works, 9)
        tokens = (side // 14) ** 2 + 1
        found |= {f"DINOv2 ViT-S/14, {tokens} tokens, {name}, s": statistics.median(v) for name, v in taken.items()}
    return found


def _maps(tokens: str) -> Figures:
    from benchmarks.measure import in_turns

    # The checkout's own, which know how its maps are asked for, at the sizes of this one.
    own = spec_from_file_location("own_subjects", Path(os.environ[TREE]) / "benchmarks" / "subjects.py")
    assert own is not None and own.loader is not None
    subjects: Any = module_from_spec(own)
    sys.modules["own_subjects"] = subjects
    own.loader.exec_module(subjects)
    subjects.SIZES = SIZES
    setup = subjects.make_setup(int(tokens), "cpu", 1)
    works = {name: subjects.SUBJECTS[name](setup) for name in (PLAIN, EVERY, EAGER)}
    taken = in_turns(works, 9 if int(tokens) < 600 else 5)
    ratios = {
        name: statistics.median(one / plain for one, plain in zip(taken[name], taken[PLAIN], strict=True))
        for name in (EVERY, EAGER)
    }
    return {"every map, x the forward": ratios[EVERY], "eager N x N, x the forward": ratios[EAGER]}


def _board() -> Figures:
    import numpy as np
    from PIL import Image

    from benchmarks.measure import in_turns
    from simpool_viz.board.board import Settings, iterate_board
    from simpool_viz.checkpoints.load import load_checkpoints
    from simpool_viz.images import Picture, read_picture
    from simpool_viz.maps.request import MapRequest

    encoders, photos = load_checkpoints(["vit_cls", "vit_gap", "vit_ggem", "vit_simpool"], device="cpu"), []
    for name in ("chelsea", "coffee", "astronaut"):
        whole = Image.fromarray(read_picture(HERE / "assets" / f"{name}.jpg").rgb)
        photos.append(Picture(np.asarray(whole.resize((450, 300))), name))

    def states() -> Iterator[Any]:
        return iter(iterate_board(photos, encoders, [MapRequest("own")], Settings()))

    taken = in_turns({"board": lambda: list(states()), "first": lambda: next(states())}, 7)
    return {
        "board of twelve rows, s": statistics.median(taken["board"]),
        "its first row, s": statistics.median(taken["first"]),
    }


def _seven(data: str) -> Figures:
    from benchmarks.evaluation_time import forward_seconds, prepared_batches
    from simpool_viz import load_checkpoints
    from simpool_viz.batch.boards import Job
    from simpool_viz.board.board import Settings
    from simpool_viz.evaluation.datasets import open_data_set
    from simpool_viz.maps.request import parse_maps

    job = Job(load_checkpoints(VITS, device="cpu"), parse_maps(MAPS), Settings())
    batches = prepared_batches(open_data_set(Path(data)), job, 16)
    forward_seconds(job, batches[:1])
    return {"forwards of seven ViTs on decoded batches, s": forward_seconds(job, batches)}


def _evaluate(data: str) -> Figures:
    chosen = [text for names, flag in ((VITS, "-c"), (MAPS, "-m")) for name in names for text in (flag, name)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "simpool_viz", "evaluate", data, "-o", f"{folder}/out", *chosen]
        subprocess.run([*command, "--device", "cpu"], cwd=os.environ[TREE], check=True, stdout=subprocess.DEVNULL)
        return {"evaluate with them, from the command to its end, s": time.perf_counter() - started}


if __name__ == "__main__":
    sys.exit(main())
