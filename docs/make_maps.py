"""Writes docs/maps.md from the registries of maps and mask rules: `python docs/make_maps.py`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import griffe

from simpool_viz.board.comparison import ROW_FIGURES
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.maps.registry import MapMethod, map_methods, maps_of
from simpool_viz.masks import mask_rules
from simpool_viz.modeling.pooling import poolings

FOLDER = Path(__file__).parent
INTRO = """# Maps and masks

A map is one or more grids of weights, (M, h, w) float32, one value for each token of the picture. All maps of a photo
come from one forward pass; nothing is min-max scaled. In Python a map is `recording.map(NAME, OPTION=...)`, on the
command line `-m NAME:OPTION=...`; a pooling's name ("simpool") stands for the pooling attention of checkpoints that
pool so. A checkpoint that cannot have a map says why. [How to read a map](reading.md) explains units and scales,
[Scores](scores.md) the figures.

Symbols: xᵢ the feature of token i of N, D channels, H heads, L blocks; A the softmax attention of a block, rows are
queries; q, K queries and keys of width d; W, b the head. This page is written by `python docs/make_maps.py`.
"""
RULES = """## Mask rules

A rule gives a level, and the mask is every cell whose weight is at or above it, so that every viewer of the same
weights draws the same mask. Of a signed map the positive part counts. A constant map gives the whole picture, and the
row says so. On the command line it is `--mask RULE:AMOUNT`, in Python `attention.mask(RULE, AMOUNT)`.

| rule | the mask | amount |
|---|---|---|"""
ORDERS = """
## Orders of a board

Rows are sorted by any of these: `--sort NAME` or `NAME:lowest`, in Python `arrange(board, sort=...)`.

| name | figure |
|---|---|"""


@cache
def reasons() -> dict[str, list[str]]:
    """For every map, why some of the bundled checkpoints do not have it, each reason once."""
    found: dict[str, dict[str, None]] = {name: {} for name in map_methods()}
    for entry in catalogue().values():
        encoder = entry.outline()
        for name, why in maps_of(encoder).items():
            if why:  # of every pooling alike
                found[name][_of_any(why, encoder.pooling.title)] = None
    return {name: list(whys) for name, whys in found.items()}


def _of_any(why: str, title: str) -> str:
    """A reason without the name of one pooling, so that it stands once for all."""
    return why.replace(f"{title} pooling", "its pooling").replace(f"{title} does not", "its pooling does not")


def described(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a map's function says of its options, by name."""
    parsed = griffe.Docstring(inspect.getdoc(function) or "").parse("google", warnings=False)
    lines = [item for section in parsed if section.kind.value == "parameters" for item in section.value]
    return {name.strip(): " ".join(item.description.split()) for item in lines for name in item.name.split(",")}


def options(method: MapMethod) -> list[tuple[str, str, str]]:
    """(name, default, what it is) of every option of a map; [] where its function takes any (a pooling's own)."""
    parameters = list(inspect.signature(method.make).parameters.values())[1:]
    descriptions = described(method.make)
    return [
        (p.name, "" if p.default is None else str(p.default), descriptions.get(p.name, ""))
        for p in parameters
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def section(method: MapMethod) -> str:
    """One map as Markdown."""
    lines = [f"### {method.title} (`{method.name}`)", "", method.summary, ""]
    if method.formula:
        lines += [f"    {method.formula}", ""]
    if method.paper:
        lines += [f"{method.paper}.", ""]
    rows = options(method)
    if rows:
        lines += ["| option | default | what it is |", "|---|---|---|"]
        lines += [f"| `{name}` | {f'`{default}`' if default else ''} | {what} |" for name, default, what in rows] + [""]
    elif method.name in poolings():
        lines += [f"Options are those of the pooling: {_pooling_options(method.name)}.", ""]
    if why := reasons()[method.name]:
        lines += ["Why some checkpoints do not have it:", "", *(f"- {reason}" for reason in why), ""]
    return "\n".join(lines)


def _pooling_options(name: str) -> str:
    parameters = list(inspect.signature(poolings()[name]).parameters.values())[1:]
    return ", ".join(f"`{p.name}` ({p.default})" for p in parameters)


def page() -> str:
    """The whole page."""
    parts = [INTRO, "## Maps\n", *(section(method) for method in map_methods().values()), RULES]
    for rule in mask_rules().values():
        amount = "none" if rule.default is None else f"a share in (0, 1], {rule.default} by default"
        parts.append(f"| `{rule.name}` | {rule.summary} | {amount} |")
    parts.append(ORDERS)
    parts += [f"| `{figure.name}` | {figure.title} |" for figure in ROW_FIGURES.values()]
    return "\n".join(parts) + "\n"


def main() -> int:
    (FOLDER / "maps.md").write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
