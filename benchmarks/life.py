"""What LIFE costs beside the plain model: parameters, operations, memory and time, as ratios measured in one run:
`python benchmarks/life.py --results models/results.json`, then `python docs/make_results.py`.

Compared are the plain ViT of the recipes `patch_vit` and `patch_vit_life` and a ViT-S/16 at 224 px, with LIFE in every
block and without. The ratios of times are medians over rounds in which both take their turn; a step is forward,
cross entropy and backward of a batch. Peaks of memory are of one forward in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import in_child, in_turns, keep_table, peak_of, quartiles
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.scores.results import Cell, Column, Table
from simpool_viz.training.recipe import Recipe, load_recipe
from simpool_viz.training.step import attention_to_learn

TABLE = "cost/life"
BATCH = 16
MODELS = ("patch_vit", "vit_small_patch16_224")  # a recipe, whose stage says the size, and a timm model at 224 px
COLUMNS = (
    Column("model", "model", "text"),
    Column("size", "size (px)"),
    Column("parameters", "parameters (M)", "share"),
    Column("operations", "multiply-adds of a picture (M)"),
    Column("memory", "peak memory of a forward (MiB)"),
    Column("forward", "forward, x plain", "share"),
    Column("step", "training step, x plain", "share"),
)


def build(name: str, life: bool) -> tuple[Encoder, int]:
    """A model with LIFE or without, and its size in pixels.

    Args:
        name: of `MODELS`.
        life: whether LIFE stands in every block.
    """
    torch.manual_seed(0)
    if name == "patch_vit":
        recipe = load_recipe("patch_vit_life" if life else "patch_vit")
        assert isinstance(recipe, Recipe)
        return recipe.encoder.build(Facts(name)), recipe.stages[0].size
    spec = EncoderSpec(backbone=name, pooling="cls", num_classes=1000, inside="life" if life else "")
    return spec.build(Facts(name)), 224


def operations(encoder: Encoder, size: int) -> float:
    """Millions of multiply-adds of one picture's forward, matrix products and convolutions counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2e6


def memory(name: str, life: bool) -> float:
    """MiB by which memory grows at most in a forward of `BATCH` pictures, in a process of its own."""
    return float(in_child("--peak", name, *(["--life"] if life else []), script=Path(__file__).name)) / 2**20


def forward(encoder: Encoder, images: torch.Tensor) -> None:
    """One forward, as for maps."""
    with torch.inference_mode():
        encoder.eval()(images)


def step(encoder: Encoder, images: torch.Tensor, classes: torch.Tensor) -> None:
    """Forward, loss and backward."""
    encoder.train().zero_grad()
    logits = encoder(images).logits
    assert logits is not None
    F.cross_entropy(logits, classes).backward()


def rows_of(name: str, rounds: int) -> list[dict[str, Cell]]:
    """The rows of a model without LIFE and with it."""
    rows: list[dict[str, Cell]] = []
    works: dict[str, Callable[[], Any]] = {}
    for kind in ("plain", "LIFE"):
        encoder, size = build(name, kind == "LIFE")
        images, classes = torch.randn(BATCH, 3, size, size), torch.arange(BATCH)
        count = sum(p.numel() for p in encoder.parameters()) / 1e6
        row: dict[str, Cell] = {"model": f"{name}, {kind}", "size": size, "parameters": round(count, 3)}
        row |= {"operations": round(operations(encoder, size)), "memory": round(memory(name, kind == "LIFE"))}
        rows.append(row)
        works[f"forward {kind}"] = partial(forward, encoder, images)
        works[f"step {kind}"] = partial(step, encoder, images, classes)
    with attention_to_learn(torch.device("cpu")):
        taken = in_turns(works, rounds)
    for part in ("forward", "step"):
        ratios = [b / a for a, b in zip(taken[f"{part} plain"], taken[f"{part} LIFE"], strict=True)]
        rows[0][part], rows[1][part] = 1.0, [round(value, 3) for value in quartiles(ratios)]
    return rows


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--results", type=Path, help="the results file to put the table into")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--life", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.peak:
        encoder, size = build(arguments.peak, arguments.life)
        images = torch.randn(BATCH, 3, size, size)
        with torch.inference_mode():
            encoder.eval()(images)
            print(peak_of(lambda: encoder(images)))
        return 0
    rows = [row for name in MODELS for row in rows_of(name, arguments.rounds)]
    title = (
        f"**LIFE beside the plain model**, batches of {BATCH}, {torch.get_num_threads()} threads; median [quartiles]"
    )
    table = Table(title, COLUMNS, tuple(rows), "python benchmarks/life.py --results models/results.json")
    keep_table(TABLE, table, arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
