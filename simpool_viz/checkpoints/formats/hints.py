"""What accompanies weights and no tensor holds: config.json beside a file, or what a naming of tensors implies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from simpool_viz.errors import CheckpointError
from simpool_viz.settings import CLOSED, Natural, NotNegative, Number, checked

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
LARGEST = 16 * 2**20  # bytes of a description: the names of ImageNet-21k's classes need two million
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, as transformers writes them
ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "silu": "silu",
}


def _none_or_two(given: tuple[int, ...]) -> tuple[int, ...]:
    if len(given) not in (0, 2) or not all(given):
        raise PydanticCustomError("two", "two numbers above 0")
    return given


def _none_or_three(given: tuple[float, ...]) -> tuple[float, ...]:
    if len(given) not in (0, 3):
        raise PydanticCustomError("three", "three numbers")
    return given


Three = Annotated[tuple[Number, ...], AfterValidator(_none_or_three)]


@dataclass(frozen=True)
class Hints:
    """Facts of a model that its tensors do not show; "", 0, () and {} stand for those that are not stated.

    Attributes:
        source: where mean and std come from, for notes.
        arch: timm's name of the model.
        trained: timm's name of the model as its trainer states it, for tensors that are not recognised.
        tag: of its weights in timm, as after the point of a name.
        notes: of timm on those weights.
        model_args: for `timm.create_model`.
        num_heads: of a ViT.
        eps: of its layer norms.
        act: activation of its MLPs, in timm's naming.
        pool: "patches" for the mean of a ViT's patches before its final norm, where no tensor shows it.
        pos_embed: how its position embedding is resized, as in `LoadOptions`.
        rope_theta: base of its rotary embedding.
        mean: (3,), subtracted from RGB values in [0, 1].
        std: (3,), by which they are divided then.
        size: side in pixels of its training's pictures.
        picture: (height, width) in pixels of those, where they were not square.
        interpolation: with which those were resized.
        classes: names of its head's outputs.
        license: of the weights.
    """

    __pydantic_config__ = CLOSED

    source: str = ""
    arch: str = ""
    trained: str = ""
    tag: str = ""
    notes: tuple[str, ...] = ()
    model_args: dict[str, Any] = field(default_factory=dict)
    num_heads: Natural = 0
    eps: NotNegative = 0.0
    act: str = ""
    pool: str = ""
    pos_embed: str = ""
    rope_theta: NotNegative = 0.0
    mean: Three = ()
    std: Annotated[tuple[Annotated[Number, Field(gt=0)], ...], AfterValidator(_none_or_three)] = ()
    size: Annotated[Natural, Field(le=2048)] = 0
    picture: Annotated[tuple[Annotated[Natural, Field(le=4096)], ...], AfterValidator(_none_or_two)] = ()
    interpolation: str = ""
    classes: tuple[str, ...] = ()
    license: str = ""

    def over(self, other: Hints) -> Hints:
        """These hints, and those of another for what they do not state."""
        stated = {key: value for key, value in vars(self).items() if value}
        if other.mean and not self.mean:
            stated.pop("source", None)  # it is for the preprocessing
        return dataclasses.replace(other, **stated)

    def as_table(self) -> dict[str, Any]:
        """What is stated, for JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}


_HINTS = TypeAdapter(Hints)


def read_hints(table: Mapping[str, Any], source: str) -> Hints:
    """Check hints from a file.

    Args:
        table: by attribute.
        source: name of the file, for errors.

    Raises:
        CheckpointError: a value of the wrong type or out of range.
    """
    return checked(_HINTS, dict(table), lambda fault: CheckpointError(f"{source} does not describe a model: {fault}"))


def hints_beside(folder: Path) -> Hints:
    """The hints of config.json and preprocessor_config.json in a folder, as transformers and timm write them.

    Args:
        folder: may hold neither.

    Raises:
        CheckpointError: one of them is no JSON, or holds values of another kind.
    """
    found = {name: read_json(folder / name) for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file()}
    return hints_of(found.get(CONFIG, {}), found.get(PREPROCESSOR, {}))


def hints_of(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Hints:
    """The hints of the two descriptions that transformers and timm write.

    Args:
        config: of config.json; {} for none.
        preprocessor: of preprocessor_config.json; {} for none.

    Raises:
        CheckpointError: values of another kind than those programs write.
    """
    if isinstance(config.get("architecture"), str):
        return read_hints(_timm(config), CONFIG)
    hints = read_hints(_transformers(config), CONFIG) if config.get("model_type") else Hints()
    return read_hints(_preprocessor(preprocessor), PREPROCESSOR).over(hints) if preprocessor else hints


def read_json(path: Path) -> dict[str, Any]:
    """Read a description.

    Args:
        path: of the file.

    Raises:
        CheckpointError: it is too large, or no JSON of a table.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(
                f"{path.name} has more than {LARGEST // 2**20} MB, which no description of a model has"
            )
        table = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not readable as JSON: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its name") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path.name} holds no table of settings")
    return table


def _timm(config: Mapping[str, Any]) -> dict[str, Any]:
    described = config.get("pretrained_cfg", config)  # before timm 0.8 the one stood in the other
    described = described if isinstance(described, Mapping) else {}
    table: dict[str, Any] = {"source": CONFIG, "arch": config["architecture"]}
    table |= {key: described[key] for key in ("mean", "std", "interpolation", "license") if described.get(key)}
    if isinstance(described.get("tag"), str):
        table["tag"] = described["tag"]
    if notes := described.get("notes"):
        table["notes"] = (notes,) if isinstance(notes, str) else notes
    if "input_size" in described:
        table["size"] = _last(described["input_size"])
    if isinstance(config.get("model_args"), Mapping):
        table["model_args"] = dict(config["model_args"])
    names = config.get("label_names", described.get("label_names")) or config.get("labels")
    if names:
        table["classes"] = names_of(names, CONFIG)
    return table


def _transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a vision model, or of the vision part of one for pictures and text."""
    part = config.get("vision_config")
    own = part if isinstance(part, Mapping) else config
    table: dict[str, Any] = {"source": CONFIG}
    for ours, theirs in (("num_heads", "num_attention_heads"), ("eps", "layer_norm_eps"), ("rope_theta", "rope_theta")):
        if own.get(theirs):
            table[ours] = own[theirs]
    if isinstance(own.get("rope_parameters"), Mapping) and own["rope_parameters"].get("rope_theta"):
        table["rope_theta"] = own["rope_parameters"]["rope_theta"]
    if own.get("hidden_act"):
        table["act"] = ACTIVATIONS.get(str(own["hidden_act"]), str(own["hidden_act"]))
    if size := own.get("image_size"):
        pair = isinstance(size, (list, tuple)) and len(size) == 2 and size[0] != size[1]
        pair = pair and all(isinstance(side, int) for side in size)
        table |= {"picture": tuple(size), "size": min(size)} if pair else {"size": _last(size)}
    labels = config.get("id2label")
    if labels and not _are_numbers(labels):
        table["classes"] = names_of(labels, CONFIG)
    return table


def _are_numbers(labels: Any) -> bool:
    """Whether labels are those that transformers makes up where there are none."""
    return isinstance(labels, Mapping) and all(str(v) == f"LABEL_{k}" for k, v in labels.items())


def _preprocessor(given: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {"source": PREPROCESSOR}
    if given.get("do_normalize", True):
        table |= {
            ours: given[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if given.get(theirs)
        }
    else:
        table |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    size = given.get("crop_size") if given.get("do_center_crop") else None
    size = size or given.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    if size:
        table["size"] = _last(size)
    if given.get("resample") is not None:
        table["interpolation"] = RESAMPLING.get(given["resample"], str(given["resample"]))
    return table


def _last(size: Any) -> Any:
    """The width of a size, None for one without numbers."""
    return next(reversed(size), None) if isinstance(size, (list, tuple)) else size


def names_of(given: Any, source: str) -> tuple[str, ...]:
    """Names of classes from a list, or from a table of numbers to names or of names to numbers.

    Args:
        given: as in a file.
        source: of it, for errors.

    Raises:
        CheckpointError: numbers are missing or given twice, or it is none of these.
    """
    if isinstance(given, Mapping):
        pairs = [(v, k) if isinstance(v, int) else (k, v) for k, v in given.items()]
        try:
            numbered = {int(number): str(name) for number, name in pairs}
        except (TypeError, ValueError):
            numbered = {}
        if len(numbered) != len(pairs) or sorted(numbered) != list(range(len(pairs))):
            raise CheckpointError(f"{source}: its classes are not numbered from 0 to {max(0, len(pairs) - 1)}")
        return tuple(numbered[number] for number in range(len(pairs)))
    if isinstance(given, (list, tuple)) and all(isinstance(name, str) for name in given):
        return tuple(given)
    raise CheckpointError(f"{source}: classes are a list of names, or a table of numbers and names")


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes from a file: one a line, or JSON.

    Args:
        path: of the file.

    Raises:
        CheckpointError: it cannot be read, or holds no names.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path.name} has more than {LARGEST // 2**20} MB, which no list of classes has")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"classes={path} cannot be read ({error.strerror}); check its name") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"classes={path} is no text in UTF-8 ({error.reason})") from error
    if text.lstrip()[:1] in ("{", "["):
        try:
            return names_of(json.loads(text), path.name)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CheckpointError(f"{path.name} is not readable as JSON: {error}") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())
