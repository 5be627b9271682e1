"""Checkpoint folders: `model.safetensors`, `config.json` and a card, the form in which this project ships its models.

`config.json` describes the encoder (`EncoderSpec`) and its facts, so that a folder loads without code of its own. Where
a head was trained on the frozen backbone of another checkpoint, or a ViT on another's frozen stem or trunk, its folder
holds the rest alone: that part is read from the other checkpoint, which lies beside it or is bundled, and a digest
makes sure that it is the same one to the last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import nn

from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.filling import faults_of, fill, refuse
from simpool_viz.checkpoints.reading import read_safetensors, write_safetensors
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.layers.stem import STEM
from simpool_viz.modeling.outline import outlined
from simpool_viz.modeling.sharing import is_of_trunk
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.outputs import written_whole
from simpool_viz.settings import checked

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
BACKBONE = "backbone."
State = dict[str, torch.Tensor]
_POINTER = b"version https://git-lfs"


@dataclasses.dataclass(frozen=True)
class _Config:
    """The content of `config.json`, without its format."""

    encoder: EncoderSpec
    facts: Facts


_CONFIG = TypeAdapter(_Config)


def save_bundle(folder: Path, encoder: Encoder, spec: EncoderSpec, card: str) -> None:
    """Write a checkpoint folder, with floating-point weights in float16.

    A backbone, stem or trunk that is another checkpoint's, according to the facts, is not written; its digest is.

    Args:
        folder: to write to; files of other names stay.
        encoder: with weights and facts.
        spec: from which the encoder was built.
        card: Markdown of README.md.

    Raises:
        CheckpointError: a weight is not finite in half precision, as after a training that diverged.
    """
    state = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in encoder.state_dict().items()}
    faults = [k for k, v in state.items() if not v.isfinite().all()]
    if faults:
        raise CheckpointError(
            f"{encoder.facts.name} is not saved: not finite in half precision are {', '.join(faults[:8])}"
        )
    metadata = {"format": "pt"}
    if lent := _lent(encoder.facts):
        metadata[lent.part] = digest_of({lent.theirs(k): v for k, v in state.items() if lent.holds(k)})
        state = {k: v for k, v in state.items() if not lent.holds(k)}
    config = {"format": FORMAT, "encoder": dataclasses.asdict(spec), "facts": dataclasses.asdict(encoder.facts)}
    # Moved only when all three are written; a folder of a training holds other files, so it is not replaced as one.
    with (
        written_whole(folder / WEIGHTS) as weights,
        written_whole(folder / CONFIG) as description,
        written_whole(folder / CARD) as readme,
    ):
        write_safetensors(weights, state, metadata)
        description.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        readme.write_text(card, encoding="utf-8")


def read_config(folder: Path) -> tuple[EncoderSpec, Facts]:
    """Read the description of a checkpoint folder, without its weights.

    Args:
        folder: of the checkpoint.

    Raises:
        CheckpointError: `config.json` is missing, no JSON or of another format, or a field is missing, unknown or of
            the wrong type; the message names the field.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(
            f"{folder} holds no {CONFIG} that can be read, so it is not a checkpoint folder of simpool_viz"
        ) from None
    except (ValueError, RecursionError) as error:  # no text, no JSON, or countless brackets
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}; it was written by another version of simpool_viz")

    described = checked(
        _CONFIG, config, lambda fault: CheckpointError(f"{path} does not describe a checkpoint: {fault}")
    )
    return described.encoder, described.facts


def load_bundle(folder: Path) -> Encoder:
    """Load the encoder of a checkpoint folder.

    Args:
        folder: of the checkpoint.

    Returns:
        The encoder, in float32, on the CPU and in evaluation mode.

    Raises:
        CheckpointError: an unreadable file, or tensors that are missing, unknown or of another shape.
    """
    spec, facts = read_config(folder)
    state, metadata = _read_weights(folder)
    with outlined():  # no memory is taken before the file is known to fit
        trial = build_described(folder, spec, facts)
    if lent := _lent(facts):
        state |= _borrow(lent, base_folder(folder, lent.lender, lent.part), metadata.get(lent.part, ""), facts, trial)
    refuse(faults_of(trial, state), str(folder / WEIGHTS), recognised=False)
    encoder = build_described(folder, spec, facts)
    fill(encoder, state, str(folder / WEIGHTS))
    return encoder.eval().requires_grad_(False)


def build_described(folder: Path, spec: EncoderSpec, facts: Facts, backbone: nn.Module | None = None) -> Encoder:
    """Build the encoder that a checkpoint folder describes, with random weights.

    Args:
        folder: of the checkpoint, for the error.
        spec: from its description.
        facts: from its description.
        backbone: as in `EncoderSpec.build`.

    Raises:
        CheckpointError: the description is of no encoder that can be built.
    """
    try:
        return spec.build(facts, backbone)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # timm builds whatever the file describes
        raise CheckpointError(f"{folder / CONFIG} does not describe an encoder that can be built: {error}") from error


def fault_of_weights(folder: Path) -> str:
    """What is wrong with the weights of a checkpoint folder, from the file's head and size alone; "" where nothing is.

    Args:
        folder: of the checkpoint.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt"):  # compares the places of the tensors with the size of the file
            return ""
    except (OSError, SafetensorError):
        pass
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        return f"{WEIGHTS} is missing" if isinstance(error, FileNotFoundError) else f"{WEIGHTS} cannot be read"
    if start == _POINTER:
        return f"{WEIGHTS} is a pointer of Git LFS, not the weights; fetch them with: git lfs pull"
    return f"{WEIGHTS} is damaged or cut off"


def _read_weights(folder: Path) -> tuple[State, dict[str, str]]:
    path = folder / WEIGHTS
    if not path.exists():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; copy the whole checkpoint folder")
    return read_safetensors(path, str(path))


def folder_beside(folder: Path, name: str) -> Path | None:
    """The checkpoint folder of a name, beside another folder or bundled; None where there is none."""
    places = (folder.parent / name, bundled_folder("models") / name)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def base_folder(folder: Path, base: str, part: str = "backbone") -> Path:
    """Find the checkpoint folder that holds the backbone, stem or trunk of another one.

    Args:
        folder: of the checkpoint that needs it.
        base: name of the folder, beside `folder` or bundled.
        part: "backbone", "stem" or "trunk", for errors.

    Raises:
        CheckpointError: it is in neither place.
    """
    if found := folder_beside(folder, base):
        return found
    what = "is a head on the backbone of" if part == "backbone" else f"stands on the {part} of"
    raise CheckpointError(
        f"{folder} {what} {base!r}, which is not in {folder.parent}; put that checkpoint folder there"
    )


@dataclasses.dataclass(frozen=True)
class _Lent:
    """A part of a checkpoint that another one, the lender, holds.

    Attributes:
        lender: name of the other checkpoint.
        part: "backbone", "stem" or "trunk".
        holds: whether a tensor of this name in this checkpoint belongs to the part.
        prefix: what the names of the part's tensors begin with in this checkpoint, and not in the other.
    """

    lender: str
    part: str
    holds: Callable[[str], bool]
    prefix: str = BACKBONE

    def theirs(self, key: str) -> str:
        """The lender's name of a tensor of the part."""
        return BACKBONE + key.removeprefix(self.prefix)


def _lent(facts: Facts) -> _Lent | None:
    if facts.base:
        return _Lent(facts.base, "backbone", lambda key: key.startswith(BACKBONE))
    if facts.trunk:
        return _Lent(facts.trunk, "trunk", lambda key: is_of_trunk(key, facts.trunk_blocks))
    return _Lent(facts.stem, "stem", lambda key: key.startswith(STEM), STEM) if facts.stem else None


def _borrow(lent: _Lent, folder: Path, digest: str, facts: Facts, encoder: Encoder) -> State:
    """The part's tensors from the lender's folder, if they are those with which the checkpoint was trained."""
    given, wanted = _read_weights(folder)[0], [key for key in encoder.state_dict() if lent.holds(key)]
    part = {key: given[lent.theirs(key)] for key in wanted if lent.theirs(key) in given}
    if digest_of({lent.theirs(key): value for key, value in part.items()}) != digest:
        what = "backbone in {} is not the one" if lent.part == "backbone" else "first blocks in {} are not those"
        raise CheckpointError(
            f"the {what.format(folder)} that {facts.name!r} was trained on; train it again, or put the earlier "
            f"{lent.lender!r} beside it"
        )
    return part


def digest_of(state: State) -> str:
    """SHA-256, in hexadecimal, of tensors and their names, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
