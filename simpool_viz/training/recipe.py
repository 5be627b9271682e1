"""Recipes: short YAML files that describe a training: model, data and schedule.

A recipe may name a `base` beside it, whose settings it inherits, so that siblings differ only in what they compare.
Every setting is checked when a recipe is read, and so is whether its encoder can be built: nothing is decoded or
trained before. Values are YAML 1.1, in files and in `--set key=value` alike: `no` is false and `"no"` is text; `128.0`
is a whole number; `1e-3` is a number (see `settings`), and `1e2` is no whole number, which is written `100`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from simpool_viz.errors import OptionError, SimpoolError, TrainingError
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.outline import outlined
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.scores.spatial_entropy import THRESHOLDS
from simpool_viz.settings import (
    CLOSED,
    CropArea,
    Flag,
    Natural,
    NotNegative,
    Number,
    Positive,
    Share,
    Table,
    Whole,
    checked,
    fields_of,
)
from simpool_viz.training.dino import SelfDistillation
from simpool_viz.training.distil import Distillation
from simpool_viz.training.losses import SCHEDULES

FOLDER = Path(__file__).parent / "recipes"

ClassNumber = Annotated[Whole, Field(ge=0, le=255)]
# YAML reads `no` as false.
Precision = Annotated[str, BeforeValidator(lambda given: "no" if given is False else given)]
# One number is a list of one.
Factors = Annotated[tuple[Number, ...], BeforeValidator(lambda given: given if isinstance(given, list) else [given])]


@dataclass(frozen=True)
class Stage:
    """A complete schedule: linear warm-up, then cosine to zero.

    Attributes:
        size: side of the square training pictures in pixels.
        photos: number of photos in all, repetitions included.
        lr: peak learning rate.
        warmup: number of photos of the warm-up.
        crop: smallest share of a photo's area in a random crop, in (0, 1].
        squeeze: whether a crop that is longer than the photo is squeezed, which adds to the jitter of proportions,
            rather than shrunk.
        kept: whether each photo has one crop throughout, so that a frozen trunk runs once on each, and not at every
            step.
        freeze: "backbone" for a stage in which that is not trained, batch statistics included; "" for what the recipe
            freezes.
    """

    __pydantic_config__ = CLOSED

    size: Positive
    photos: Natural
    lr: NotNegative
    warmup: Natural = 4000
    crop: CropArea = 0.25
    squeeze: Flag = False
    kept: Flag = False
    freeze: str = ""


@dataclass(frozen=True)
class Recipe:
    """The training of an encoder.

    `load_recipe` checks settings against the annotations; the constructor checks nothing.

    Attributes:
        name: of the checkpoint.
        title: of its card.
        data: a folder for `sources.open_source`, or several whose photos are taken together.
        encoder: the model.
        stages: schedules that follow one another.
        map_size: shorter side in pixels at which the maps are best; the default when the checkpoint is used.
        init_from: the checkpoint with whose weights the training starts, bundled or in the folder of this one's.
        freeze: "stem", "trunk" or "backbone" for the part that is not trained, batch statistics included; "" for none.
        trunk_blocks: number of the first blocks that are the trunk, with the embedding, where that is frozen.
        batch_size: photos of a step, over all processes.
        optimizer: timm's name of it.
        precision: "bf16" (float32 on a device that would only emulate it), "fp16" or "no".
        weight_decay: of the optimizer.
        rates: factors of the learning rate by names of tensors, in which * stands for anything: {"pooling.w*": 0.03};
            of several that fit, the last one counts.
        scales: factors of tensors at the start, by names as in `rates`, after what `init_from` gives:
            {"pooling.wk.weight": 0} lets SimPool begin as a plain mean, so that no random draw decides its map. Of
            several factors each is for the start of a stage; where there is none it is 1.
        drawn_as_plain: whether pooling and head begin as the seed draws them for the same model with nothing inside, so
            that siblings differ at their start in what stands inside alone.
        label_smoothing: in [0, 1].
        mixup: timm's alpha; 0 for none.
        cutmix: timm's alpha; 0 for none.
        ema: decay of the moving average of weights, which is what is saved; 0 for none.
        spe_penalty: weight in the loss of SPE's p0^2 + p1^2, where the backbone has SPE.
        spatial_entropy: weight in the loss of the spatial entropy of the readout scores; SAR uses 0.01.
        entropy_schedule: of that weight over a stage, one of `losses.SCHEDULES`: "rise and fall" as SAR, "rise" alone,
            or "constant".
        entropy_threshold: what a score must exceed to count, the map's "mean" as SAR, or its "median".
        follow_entropy: whether the spatial entropy is logged and drawn in the card where it is no part of the loss.
        share: of the training photos of each class that is used, in (0, 1], drawn by the seed.
        classes: names of the classes, where the data folder has none.
        void: label of pixels that are left out, for a dense head.
        stored: side in pixels of the squares as which photos are stored.
        seed: of weights and batches.
        distil: what of a teacher is learned, in place of classes where encoder.num_classes is 0. Beside classes, the
            pooled vector learns (aim: vector).
        dino: what is learned without labels, of the model's own slow average, in place of classes; encoder.num_classes
            is 0 then.
        sources: origin of the data, for the card.
        license: of the weights, for the card.
        source: name or path of the recipe, for the card.
        overrides: the values of --set, for the card.
    """

    __pydantic_config__ = CLOSED

    name: str
    title: str
    data: str | tuple[str, ...]
    encoder: EncoderSpec
    stages: tuple[Stage, ...]
    map_size: Positive
    init_from: str = ""
    freeze: str = ""
    trunk_blocks: Natural = 0
    batch_size: Whole = 128
    optimizer: str = "adamw"
    precision: Precision = "bf16"
    weight_decay: NotNegative = 0.05
    rates: dict[str, NotNegative] = field(default_factory=dict)
    scales: dict[str, Factors] = field(default_factory=dict)
    drawn_as_plain: Flag = False
    label_smoothing: Share = 0.1
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    ema: Share = 0.0
    spe_penalty: Number = 0.1
    spatial_entropy: Number = 0.0
    entropy_schedule: str = "rise and fall"
    entropy_threshold: str = "mean"
    follow_entropy: Flag = False
    share: CropArea = 1.0
    classes: tuple[str, ...] = ()
    void: ClassNumber = 255
    stored: Positive = 128
    seed: Natural = 0
    distil: Distillation | None = None
    dino: SelfDistillation | None = None
    sources: str = ""
    license: str = ""
    # The recipe's name or path and the overrides, as they were given: for the card, no part of what is trained.
    source: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)

    @property
    def measures_entropy(self) -> bool:
        """Whether the spatial entropy of the readout scores is measured at every step."""
        return bool(self.spatial_entropy) or self.follow_entropy


class Head(TypedDict):
    """One of the `heads` of a `HeadsRecipe`; its settings are those of an `EncoderSpec`, and `rates` as in `Recipe`."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    pooling: str
    pooling_options: NotRequired[Table]
    norm: NotRequired[str]
    dense: NotRequired[Flag]
    rates: NotRequired[dict[str, NotNegative]]


@dataclass(frozen=True)
class HeadsRecipe:
    """The training of heads on the frozen backbone of a checkpoint, whose features are computed once.

    `load_recipe` checks settings against the annotations; the constructor checks nothing. Attributes that are not
    listed are those of `Recipe`.

    Attributes:
        frozen: the checkpoint whose backbone it is.
        heads: a `Head` by the name that follows the checkpoint's: {"slot": {"pooling": "slot"}}.
        size: side of the square pictures in pixels.
        photos: number of photos for each head in all, repetitions included.
        lr: peak learning rate.
        warmup: number of photos of the warm-up.
        crop: smallest share of a photo's area in its one crop, in (0, 1].
    """

    __pydantic_config__ = CLOSED

    name: str
    data: str | tuple[str, ...]
    frozen: str
    heads: dict[str, Annotated[dict[str, Any], fields_of(Head)]]
    size: Positive
    photos: Natural
    lr: NotNegative
    warmup: Natural = 4000
    crop: CropArea = 0.5
    batch_size: Whole = 128
    optimizer: str = "adamw"
    weight_decay: NotNegative = 0.05
    label_smoothing: Share = 0.1
    classes: tuple[str, ...] = ()
    void: ClassNumber = 255
    stored: Positive = 128
    seed: Natural = 0
    sources: str = ""
    license: str = ""
    source: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)


def factor_of(factors: Mapping[str, float], name: str) -> float:
    """The factor of a tensor, of `Recipe.rates` or `Recipe.scales`: that of the last pattern that fits, else 1."""
    return next((factor for pattern, factor in reversed([*factors.items()]) if fnmatchcase(name, pattern)), 1.0)


def scales_at(recipe: Recipe, stage: int) -> dict[str, float]:
    """The factors of `Recipe.scales` at the start of a stage.

    Args:
        recipe: whose scales are asked for.
        stage: its number, from 1.
    """
    return {name: factors[stage - 1] for name, factors in recipe.scales.items() if stage <= len(factors)}


def check_patterns(setting: str, factors: Mapping[str, float], names: Sequence[str], kind: str = "") -> None:
    """Make sure that every pattern of a setting fits a tensor.

    Args:
        setting: its name, as "rates".
        factors: by patterns.
        names: of the tensors.
        kind: of the tensors, for the error's sentence, as " that learns".

    Raises:
        TrainingError: a pattern fits none.
    """
    if idle := [pattern for pattern in factors if not any(fnmatchcase(name, pattern) for name in names)]:
        raise TrainingError(
            f"{setting}: no tensor{kind} is called {', '.join(idle)}; there are {', '.join(names[-8:])} and others"
        )


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe | HeadsRecipe:
    """Read a recipe: a `HeadsRecipe` where it has the setting `frozen`.

    Args:
        name: a bundled recipe (`list_recipes`) or a path to a YAML file.
        overrides: "key=value" with YAML values; dots lead into tables: "encoder.pooling_options.gamma=1.25".

    Raises:
        TrainingError: no such recipe, no YAML, an encoder that cannot be built, or a setting that is missing, unknown,
            of the wrong type or out of range; the message names the setting.
        OptionError: an override that is not key=value, or leads to no table.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    settings = _read(path)
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise OptionError(f"--set takes key=value, not {override!r}")
        _set(settings, key.split("."), _parse(value, f"--set {key}", OptionError))
    settings = {key: value for key, value in settings.items() if value is not None}  # null: not as the base has it
    kind = HeadsRecipe if "frozen" in settings else Recipe
    fields = [setting for setting in dataclasses.fields(kind) if setting.compare]
    known = ", ".join(setting.name for setting in fields)
    if unknown := [str(key) for key in settings if key not in {setting.name for setting in fields}]:
        raise TrainingError(f"{path.name}: there is no setting {', '.join(unknown)}. Settings are: {known}")
    if needed := [
        f.name for f in fields if f.name not in settings and f.default is f.default_factory is dataclasses.MISSING
    ]:
        raise TrainingError(f"{path.name} is not a complete recipe: {', '.join(needed)} missing. Settings are: {known}")
    adapter: TypeAdapter[Recipe | HeadsRecipe] = TypeAdapter(kind)
    recipe = checked(adapter, settings, lambda fault: TrainingError(f"{path.name}: {fault}"))
    _check(recipe, path.name)
    return dataclasses.replace(recipe, source=name, overrides=tuple(overrides or ()))


def _check(recipe: Recipe | HeadsRecipe, source: str) -> None:
    """Refuse a recipe that would train nothing, or whose settings contradict one another."""
    if isinstance(recipe, HeadsRecipe):
        if not recipe.heads:
            raise TrainingError(f"{source} trains nothing: heads is a table such as {{slot: {{pooling: slot}}}}")
        if recipe.batch_size < 1 or recipe.photos < recipe.batch_size:
            raise TrainingError(
                f"{source} trains nothing: it needs at least one batch of photos, and photos is {recipe.photos}, "
                f"batch_size {recipe.batch_size}"
            )
        return
    if recipe.batch_size < 1 or not recipe.stages or min(stage.photos for stage in recipe.stages) < recipe.batch_size:
        raise TrainingError(
            f"{source} trains nothing: it needs at least one stage, and in each at least one batch of photos "
            f"(batch_size is {recipe.batch_size})"
        )
    if recipe.precision not in ("bf16", "fp16", "no"):
        raise TrainingError(f"{source}: precision is bf16, fp16 or no, not {recipe.precision!r}")
    if recipe.freeze not in ("", "stem", "trunk", "backbone"):
        raise TrainingError(f"{source}: freeze is stem, trunk or backbone, or left out, not {recipe.freeze!r}")
    if wrong := [stage.freeze for stage in recipe.stages if stage.freeze not in ("", "backbone")]:
        raise TrainingError(f"{source}: freeze of a stage is backbone, or left out, not {wrong[0]!r}")
    if any(stage.freeze for stage in recipe.stages) and (recipe.distil or recipe.dino):
        raise TrainingError(
            f"{source}: a student's backbone learns in every stage; leave out freeze of a stage, or distil and dino"
        )
    for setting, known in (("entropy_schedule", SCHEDULES), ("entropy_threshold", THRESHOLDS)):
        if (given := getattr(recipe, setting)) not in known:
            raise TrainingError(f"{source}: {setting} is one of {', '.join(known)}, not {given!r}")
    if (recipe.freeze == "trunk") != (recipe.trunk_blocks > 0):
        raise TrainingError(f"{source}: freeze: trunk and trunk_blocks, the number of its blocks, go together")
    if recipe.freeze == "stem" and not recipe.encoder.stem:
        raise TrainingError(f"{source}: there is no stem to freeze; describe one as encoder.stem, or leave freeze out")
    if recipe.distil and (recipe.mixup or recipe.cutmix or recipe.freeze in ("stem", "backbone")):
        raise TrainingError(
            f"{source}: what a teacher makes of a photo is not mixed, and its student's backbone learns: leave out "
            "mixup, cutmix and freeze, but for freeze: trunk"
        )
    if recipe.distil and recipe.encoder.num_classes and recipe.distil.aim != "vector":
        raise TrainingError(
            f"{source}: a student learns tokens and no classes: set encoder.num_classes to 0; or set distil.aim to "
            "vector, which is learned beside classes"
        )
    if recipe.distil and not recipe.encoder.num_classes and recipe.measures_entropy:
        raise TrainingError(
            f"{source}: spatial entropy is measured where classes are learned, and this student learns none; leave out "
            "spatial_entropy and follow_entropy"
        )
    if recipe.dino:
        beside = {"encoder.num_classes": recipe.encoder.num_classes, "encoder.dense": recipe.encoder.dense}
        names = ("distil", "mixup", "cutmix", "ema", "freeze", "spatial_entropy", "follow_entropy")
        beside |= {name: getattr(recipe, name) for name in names}
        if given := [name for name, value in beside.items() if value]:
            raise TrainingError(
                f"{source}: dino learns a whole model without labels, of its own average; leave out {', '.join(given)}"
            )
        if recipe.encoder.inside == "spe":
            raise TrainingError(f"{source}: SPE's penalty is no part of dino's loss; leave out encoder.inside")
    if any(stage.kept for stage in recipe.stages):
        moving = recipe.mixup or recipe.cutmix or (recipe.distil and recipe.distil.jitter)
        squeezed = any(stage.squeeze for stage in recipe.stages)
        if recipe.freeze != "trunk" or recipe.encoder.dense or moving or squeezed:
            raise TrainingError(
                f"{source}: kept crops are for a frozen trunk, whose features are kept too: set freeze: trunk, and "
                "leave out squeeze, mixup, cutmix, distil.jitter and dense heads"
            )
    if (recipe.mixup or recipe.cutmix) and (recipe.encoder.dense or recipe.batch_size % 2):
        raise TrainingError(
            f"{source}: mixup and cutmix mix pairs of photos with one class each; they need an even batch and no dense "
            "head"
        )
    try:
        with outlined():
            encoder = recipe.encoder.build(Facts(recipe.name))
    except SimpoolError as error:
        raise TrainingError(f"{source}: encoder cannot be built: {error}") from error
    if recipe.freeze == "trunk" and not (encoder.has_trunk and recipe.trunk_blocks < encoder.depth):
        raise TrainingError(
            f"{source}: a trunk of {recipe.trunk_blocks} blocks is frozen in a ViT of more blocks, and "
            f"{recipe.encoder.backbone} has {encoder.depth}"
        )


def list_recipes() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("_"))


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise TrainingError(
            f"there is no recipe {path.stem!r}; bundled are {', '.join(list_recipes())}, or give the path of a YAML "
            "file"
        )
    if path.resolve() in below:
        raise TrainingError(f"{path} is among the recipes that it is a base of; let one of them name no base")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not a text in UTF-8: {error}") from error
    settings = _parse(text, str(path), TrainingError) or {}
    if not isinstance(settings, dict):
        raise TrainingError(f"{path} is not a table of settings")
    bases = settings.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(base and isinstance(base, str) for base in bases):
        raise TrainingError(f"{path}: base is the name of a recipe beside it, or a list of names, not {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merge(merged, _read(path.parent / f"{base}.yaml", (*below, path.resolve())))
    return _merge(merged, settings)


def _parse(text: str, source: str, kind: type[SimpoolError]) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-45
        raise kind(f"{source} is not readable as YAML: {' '.join(str(error).split())}") from error


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: _merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in top.items()
    }
    return {**base, **both}


def _set(settings: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise OptionError(f"--set {'.'.join(keys)}: {key} holds no settings of its own")
    settings[keys[-1]] = value


def folders_of(recipe: Recipe | HeadsRecipe) -> list[Path]:
    """The folders that hold a recipe's photos."""
    return [Path(folder) for folder in ([recipe.data] if isinstance(recipe.data, str) else recipe.data)]
