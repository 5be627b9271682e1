"""Recipes: short YAML files that say what to train, on what, and for how long.

A recipe may name a `base` beside it, whose settings it inherits, so that siblings differ only in what they compare.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.spec import EncoderSpec

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Stage:
    """A complete schedule: linear warm-up, then cosine to zero.

    size: training pictures are size x size pixels.
    photos: how many photos are seen in all.
    lr: peak learning rate of AdamW.
    crop: smallest share of a photo's area that a random crop takes.
    squeeze: whether a crop that is longer than the photo is squeezed, which adds to the jitter of proportions, or
        shrunk.
    """

    size: int
    photos: int
    lr: float
    warmup: int = 4000
    crop: float = 0.25
    squeeze: bool = False


@dataclass(frozen=True)
class Recipe:
    """What `simpool-viz train` runs.

    data: a folder that `sources.open_source` knows. classes: names of the classes, where the folder does not tell them.
    map_size: shorter side in pixels at which the maps are best, for those who use the checkpoint.
    init_from: the checkpoint whose weights are the start, bundled or beside this training's.
    freeze: "stem" or "backbone" for what keeps its weights as they are, batch statistics included; "" where all is
        trained.
    optimizer: timm's name of it. precision: "bf16", "fp16" or "no". ema: decay of the average of weights that is kept;
        0 for none.
    mixup, cutmix: timm's alphas; 0 for none.
    spe_penalty: weight in the loss of SPE's p0^2 + p1^2, where the backbone has SPE.
    spatial_entropy: weight in the loss of the spatial entropy of the scores that read the tokens; SAR takes 0.01.
    stored: side in pixels of the squares as which photos are kept. void: class number of pixels that count nowhere, for
        a dense head.
    """

    name: str
    title: str
    data: str
    encoder: EncoderSpec
    stages: tuple[Stage, ...]
    map_size: int
    init_from: str = ""
    freeze: str = ""
    batch_size: int = 128
    optimizer: str = "adamw"
    precision: str = "bf16"
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    spe_penalty: float = 0.1
    spatial_entropy: float = 0.0
    classes: tuple[str, ...] = ()
    void: int = 255
    stored: int = 128
    seed: int = 0
    sources: str = ""
    license: str = ""
    # The recipe's name or path and the overrides, as they were given: for the card, no part of what is trained.
    source: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class HeadsRecipe:
    """Heads trained on the frozen backbone of a checkpoint, whose features are computed once.

    frozen: the checkpoint whose backbone it is.
    heads: poolings, norms and options by the name that follows the checkpoint's: {"slot": {"pooling": "slot"}}.
    size: pictures are size x size pixels; crop: smallest share of a photo's area that its one crop takes.
    photos: how many each head sees in all; lr: peak learning rate, after a warm-up over `warmup` photos.
    optimizer, classes, void, stored: as in `Recipe`.
    """

    name: str
    data: str
    frozen: str
    heads: dict[str, dict[str, Any]]
    size: int
    photos: int
    lr: float
    warmup: int = 4000
    crop: float = 0.5
    batch_size: int = 128
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    classes: tuple[str, ...] = ()
    void: int = 255
    stored: int = 128
    seed: int = 0
    sources: str = ""
    license: str = ""
    source: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe | HeadsRecipe:
    """Read a recipe: a `HeadsRecipe` where it has the setting `frozen`.

    Args:
        name: a bundled recipe (`list_recipes`) or a path to a YAML file.
        overrides: "key=value" with YAML values; dots go into sub-tables: "encoder.pooling_options.gamma=1.25".

    Raises:
        ValueError: no such recipe, no YAML, or a setting that no recipe has or that is of the wrong kind.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    settings = _read(path)
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise TrainingError(f"--set takes key=value, not {override!r}")
        _set(settings, key.split("."), _parse(value, f"--set {key}"))
    kind = HeadsRecipe if "frozen" in settings else Recipe
    settings["classes"] = tuple(settings.get("classes", ()))
    try:
        if kind is Recipe:
            settings["encoder"] = EncoderSpec(**settings["encoder"])
            settings["stages"] = tuple(Stage(**_numbers(Stage, stage)) for stage in settings["stages"])
        recipe = kind(**_numbers(kind, settings), source=name, overrides=tuple(overrides or ()))
    except (TypeError, KeyError) as error:
        known = ", ".join(setting.name for setting in dataclasses.fields(kind) if setting.compare)
        raise TrainingError(f"{path.name} is not a complete recipe: {error}. Settings are: {known}") from error
    _check(recipe, path.name)
    return recipe


def _check(recipe: Recipe | HeadsRecipe, source: str) -> None:
    """Refuse a recipe that would train nothing."""
    if isinstance(recipe, HeadsRecipe):
        if (
            not isinstance(recipe.heads, dict)
            or not recipe.heads
            or not all(isinstance(h, dict) for h in recipe.heads.values())
        ):
            raise TrainingError(f"{source} trains nothing: heads is a table such as {{slot: {{pooling: slot}}}}")
        if recipe.batch_size < 1 or recipe.photos < recipe.batch_size:
            raise TrainingError(f"{source} trains nothing: it needs at least one batch of photos")
        return
    if recipe.batch_size < 1 or not recipe.stages or min(stage.photos for stage in recipe.stages) < recipe.batch_size:
        raise TrainingError(
            f"{source} trains nothing: it needs at least one stage, and in each at least one batch of photos"
        )
    if recipe.precision not in ("bf16", "fp16", "no"):
        raise TrainingError(f"{source}: precision is bf16, fp16 or no, not {recipe.precision!r}")
    if recipe.freeze not in ("", "stem", "backbone"):
        raise TrainingError(f"{source}: freeze is stem or backbone, or left out, not {recipe.freeze!r}")
    if recipe.freeze == "stem" and not recipe.encoder.stem:
        raise TrainingError(f"{source}: there is no stem to freeze; describe one as encoder.stem, or leave freeze out")
    if (recipe.mixup or recipe.cutmix) and (recipe.encoder.dense or recipe.batch_size % 2):
        raise TrainingError(
            f"{source}: mixup and cutmix mix pairs of photos with one class each; they need an even batch and no dense "
            "head"
        )


def list_recipes() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("_"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrainingError(
            f"there is no recipe {path.stem!r}; bundled are {', '.join(list_recipes())}, or give the path of a YAML "
            "file"
        )
    settings = _parse(path.read_text(encoding="utf-8"), str(path)) or {}
    if not isinstance(settings, dict):
        raise TrainingError(f"{path} is not a table of settings")
    base = settings.pop("base", None)
    return _merge(_read(path.parent / f"{base}.yaml"), settings) if base else settings


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrainingError(f"{source} is not readable as YAML: {' '.join(str(error).split())}") from error


def _numbers(kind: type, table: dict[str, Any]) -> dict[str, Any]:
    """The table with numbers where `kind` has them: YAML takes 1e-3, which has no point, for text."""
    table = dict(table)
    for setting in dataclasses.fields(kind):
        if setting.name in table and setting.type in ("int", "float"):
            try:
                number = float(table[setting.name])
            except (TypeError, ValueError):
                raise TrainingError(f"{setting.name} is a number, not {table[setting.name]!r}") from None
            if setting.type == "int" and not number.is_integer():
                raise TrainingError(f"{setting.name} is a whole number, not {number:g}")
            table[setting.name] = int(number) if setting.type == "int" else number
    return table


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: _merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in top.items()
    }
    return {**base, **both}


def _set(settings: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise TrainingError(f"--set {'.'.join(keys)}: {key} holds no settings of its own")
    settings[keys[-1]] = value
