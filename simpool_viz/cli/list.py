"""The command `list`: everything that can be named: checkpoints, maps, poolings, comparisons, mask rules, recipes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from simpool_viz.cli.options import Command

NOTES = {
    "checkpoints": (
        " (and timm:<tag>, hf:<user>/<repository>, or a file: ViT, DeiT, DINO, SigLIP, EVA, BEiT, ResNet, ConvNeXt)"
    ),
    "comparisons": " (ready-made: compare --ready NAME)",
    "published": " (on the Hugging Face hub; fetched when first used)",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--poolings", action="store_true", help="the table of poolings: what each puts into the slots of the framework"
    )


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.board.ready_made import available, comparisons
    from simpool_viz.checkpoints.catalogue import catalogue
    from simpool_viz.checkpoints.published import published
    from simpool_viz.maps.registry import map_methods
    from simpool_viz.masks import mask_rules
    from simpool_viz.modeling.pooling import poolings
    from simpool_viz.training.recipe import list_recipes

    listing: dict[str, list[dict[str, Any]]] = {
        "checkpoints": [
            {
                "name": e.name,
                "title": e.facts.title,
                "pooling": e.spec.pooling,
                "size": e.facts.size,
                "accuracy": e.facts.accuracy,
                "available": e.available,
            }
            for e in catalogue().values()
        ],
        "published": [
            {
                "name": p.name,
                "title": p.title,
                "accuracy": f"{p.accuracy}; downloads {p.download}",
                "address": p.address,
            }
            for p in published().values()
        ],
        "maps": [
            {"name": m.name, "title": m.title, "summary": m.summary, "formula": m.formula, "paper": m.paper}
            for m in map_methods().values()
        ],
        "poolings": [
            {
                "name": p.name,
                "title": p.title,
                "group": p.group,
                "summary": p.summary,
                "paper": p.paper,
                "formula": p.formula,
            }
            | dataclasses.asdict(p.row)
            for p in poolings().values()
        ],
        "comparisons": [
            {"name": c.name, "title": c.title, "summary": c.question} for c in comparisons(available()).values()
        ],
        "masks": [
            {"name": r.name, "title": r.title, "summary": r.summary, "default": r.default}
            for r in mask_rules().values()
        ],
        "recipes": [{"name": name} for name in list_recipes()],
    }
    if arguments.poolings:
        _print_poolings(listing["poolings"], arguments.json)
        return
    if arguments.json:
        print(json.dumps(listing, indent=1, ensure_ascii=False))
        return
    for kind, entries in listing.items():
        print(kind.upper() + NOTES.get(kind, ""))
        for entry in entries:
            about = entry.get("summary") or "; ".join(str(entry[k]) for k in ("title", "accuracy") if entry.get(k))
            print(f"  {entry['name']:<15} {about}".rstrip())
        print()


def _print_poolings(rows: list[dict[str, Any]], as_json: bool) -> None:
    """The framework's table, a line per pooling, grouped as in the paper."""
    from simpool_viz.modeling.pooling import GROUPS

    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    columns = {
        "name": "name",
        "k": "k",
        "u0": "U0",
        "query": "phi_Q",
        "key": "phi_K",
        "similarity": "s",
        "attention": "h",
        "value": "phi_V",
    }
    columns |= {"mean": "f", "update": "phi_X, phi_U"}
    widths = {column: max(len(title), *(len(row[column]) for row in rows)) for column, title in columns.items()}
    print("  ".join(title.ljust(widths[column]) for column, title in columns.items()).rstrip())
    for number, group in GROUPS.items():
        print(f"{number} {group}")
        for row in rows:
            if row["group"] == number:
                print("  ".join(row[column].ljust(widths[column]) for column in columns).rstrip())


COMMAND = Command(
    "list", "everything that can be named: checkpoints, maps, poolings, mask rules, recipes", _add_options, _run
)
