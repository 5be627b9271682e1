"""With which pictures a file was trained: from options, what accompanies it, or its tag; what is assumed is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import ImageNetInfo

from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.dense import outputs_of
from simpool_viz.checkpoints.formats.hints import Hints, read_class_names, read_hints
from simpool_viz.checkpoints.formats.parts import LoadOptions
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD, Facts

HEADS = (
    *("head.weight", "fc.weight", "head.fc.weight", "2.weight"),
    *("classifier.6.weight", "classifier.3.weight", "classifier.1.weight", "classifier.weight"),
)
SUBSETS = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21843: "imagenet-21k-goog",
}
UNNAMED = tuple(f"{name}{end}" for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
USUAL_SIZE = 224
OTHER_TRAINERS = ("gp", "mode")  # settings of SimPool's, who had the mean and std of ImageNet for every model
KNOWN = ("self-supervised", "supervised", "deit")  # trainings of this field, all with the mean and std of ImageNet


def prepare_facts(
    path: Path, name: str, settings: LoadOptions, weights: Weights, metadata: Mapping[str, str]
) -> tuple[Facts, list[str]]:
    """The name, preprocessing and classes of a file.

    Args:
        path: of the file.
        name: of the encoder; the file's name by default.
        settings: options, which come first.
        weights: of the file.
        metadata: of a `.safetensors` file.

    Returns:
        The facts, and what is not certain of them, a sentence each.

    Raises:
        CheckpointError: names of classes that cannot be read, or that are not as many as the head's outputs.
    """
    hints = weights.hints
    if settings.arch:
        hints = hints.over(hints_of_tag(settings.arch.removeprefix("timm:")))
    elif config_of(hints.trained) and not any(weights.args.get(key) for key in OTHER_TRAINERS):
        hints = hints.over(dataclasses.replace(hints_of_tag(hints.trained), size=0))
    notes: list[str] = []
    mean, std = settings.mean or hints.mean, settings.std or hints.std
    if (hints.mean or hints.std) and not (settings.mean and settings.std):
        notes.append(f"mean {_numbers(mean)} and std {_numbers(std)}, from {hints.source or 'the file'}")
    elif not (mean and std):
        usual = ", as trainings of this kind have them" if weights.family in KNOWN else ""
        notes.append(f"mean and std of ImageNet are assumed{usual}; say mean= and std= if it was trained with others")
    if not (settings.size or hints.size):
        notes.append(f"its maps are made at {USUAL_SIZE} px, since the file states no size; else say size=")
    if hints.interpolation and hints.interpolation != "bicubic":
        notes.append(
            f"it was trained on pictures resized by {hints.interpolation} interpolation; here they are bicubic"
        )
    outputs = next((weights.state[key].shape[0] for key in HEADS if key in weights.state), 0)
    outputs = outputs_of(weights.state) or outputs
    return Facts(
        name=name or path.name,
        title=metadata.get("title") or (name or path.name if path.name in UNNAMED else path.name).split(".")[0],
        size=settings.size or hints.size or USUAL_SIZE,
        mean=mean or IMAGENET_MEAN,
        std=std or IMAGENET_STD,
        classes=_classes(settings, hints, outputs, path.name, notes),
        source=metadata.get("source") or path.name,
        license=metadata.get("license") or hints.license or "not stated in the file",
        accuracy=metadata.get("accuracy", ""),
    ), notes


def _classes(settings: LoadOptions, hints: Hints, outputs: int, source: str, notes: list[str]) -> tuple[str, ...]:
    names = class_names(settings)
    if settings.classes and len(names) != outputs:
        raise CheckpointError(f"{source}: classes= names {len(names)} classes, and the head has {outputs} outputs")
    if not names and hints.classes and outputs:
        if len(hints.classes) == outputs:
            return hints.classes
        notes.append(f"the {len(hints.classes)} classes that the file names are not the head's {outputs} outputs")
    return names or imagenet_classes(outputs)


def class_names(settings: LoadOptions) -> tuple[str, ...]:
    """The names that the option `classes` gives, itself or by a file; () without it.

    Raises:
        CheckpointError: the file cannot be read.
    """
    asked = settings.classes
    return read_class_names(Path(asked)) if isinstance(asked, str) and asked else tuple(asked)


def _numbers(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.3g}" for value in values)


def imagenet_classes(count: int) -> tuple[str, ...]:
    """The names of ImageNet's classes (1k, 12k, 21k), where a head has as many outputs; else ()."""
    if count not in SUBSETS:
        return ()
    return tuple(name.split(",")[0] for name in ImageNetInfo(SUBSETS[count]).label_descriptions())


def config_of(tag: str) -> Any:
    """timm's configuration of a tag; None for a model or weights that timm does not have.

    Args:
        tag: as in `timm.create_model`.
    """
    if not timm.is_model(tag):
        return None
    try:
        return timm.get_pretrained_cfg(tag)
    except RuntimeError:  # weights that this version does not list
        return None


def hints_of_tag(tag: str) -> Hints:
    """What timm states of the pictures of a tag; of an architecture alone, only where all its tags agree.

    Args:
        tag: timm's name of the model.

    Raises:
        CheckpointError: timm has no weights of that tag.
    """
    if not timm.is_model(tag):
        return Hints()
    architecture, _, own = tag.partition(".")
    config = config_of(tag)
    if config is None and own:
        known = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        raise CheckpointError(
            f"timm has no weights called {own!r} of {architecture}; leave the tag out, or name one of "
            f"{', '.join(known[:8]) or 'none'}"
        )
    if config is None:
        return Hints()
    if not own:
        tags = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{architecture}.*")]
        if any((c.mean, c.std) != (config.mean, config.std) for c in tags if c is not None):
            return Hints()
    size = {"size": int(config.input_size[-1])} if own and config.input_size else {}
    table = {"source": f"timm's {tag}", "mean": config.mean, "std": config.std, "interpolation": config.interpolation}
    return read_hints(table | size, tag)
