"""Recipes: short YAML files that say what to train, on what, and for how long.

A recipe may name a `base` beside it, whose settings it inherits, so that siblings differ only in what they compare.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from simpool_viz.encoder import EncoderSpec

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Stage:
    """A complete schedule: linear warm-up, then cosine to zero.

    size: training pictures are size x size pixels.
    photos: how many photos are seen in all.
    lr: peak learning rate of AdamW.
    crop: smallest share of a photo's area that a random crop takes.
    """

    size: int
    photos: int
    lr: float
    warmup: int = 4000
    crop: float = 0.25


@dataclass(frozen=True)
class Recipe:
    """What `simpool-viz train` runs. `data` is a folder with train-*.parquet, val-*.parquet and classes.json."""

    name: str
    title: str
    data: str
    encoder: EncoderSpec
    stages: tuple[Stage, ...]
    map_size: int
    batch_size: int = 128
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    seed: int = 0
    sources: str = ""
    license: str = ""


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: a bundled recipe (`list_recipes`) or a path to a YAML file.
        overrides: "key=value" with YAML values; dots go into sub-tables: "encoder.pooling_options.gamma=1.25".

    Raises:
        ValueError: no such recipe, or a setting that no recipe has.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    settings = _read(path)
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"--set takes key=value, not {override!r}")
        _set(settings, key.split("."), yaml.safe_load(value))
    try:
        settings["encoder"] = EncoderSpec(**settings["encoder"])
        settings["stages"] = tuple(Stage(**stage) for stage in settings["stages"])
        return Recipe(**settings)
    except (TypeError, KeyError) as error:
        known = ", ".join(field.name for field in dataclasses.fields(Recipe))
        raise ValueError(f"{path.name} is not a complete recipe: {error}. Settings are: {known}") from error


def list_recipes() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("_"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no recipe {path.stem!r}; bundled are {', '.join(list_recipes())}, or give the path of a YAML file")
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not a table of settings")
    base = settings.pop("base", None)
    return _merge(_read(path.parent / f"{base}.yaml"), settings) if base else settings


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in top.items()}
    return {**base, **both}


def _set(settings: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
    settings[keys[-1]] = value
