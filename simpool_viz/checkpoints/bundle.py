"""Checkpoint folders: `model.safetensors`, `config.json` and a card, the form in which this project ships its models.

`config.json` describes the encoder (`EncoderSpec`) and its facts, so that a folder loads without code of its own. Where
a head was trained on the frozen backbone of another checkpoint, or a ViT on a frozen stem of another's first blocks,
its folder holds the rest alone: that part is read from the other checkpoint, which lies beside it or is bundled, and a
digest makes sure that it is the same one to the last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from pydantic import TypeAdapter

from simpool_viz.checkpoints.filling import fill
from simpool_viz.checkpoints.reading import read_safetensors, write_safetensors
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.layers.stem import STEM
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.outputs import written_whole
from simpool_viz.settings import checked

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
BACKBONE = "backbone."
State = dict[str, torch.Tensor]
_PACKAGE = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class _Config:
    """What `config.json` holds beside its format."""

    encoder: EncoderSpec
    facts: Facts


_CONFIG = TypeAdapter(_Config)


def bundled_folder(kind: str) -> Path:
    """The folder "models" or "assets": inside an installed wheel, else in the checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / kind).is_dir():
            return root / kind
    raise FileNotFoundError(
        f"the folder {kind!r} is neither in the installed package nor beside it; install simpool_viz again"
    )


def save_bundle(folder: Path, encoder: Encoder, spec: EncoderSpec, card: str) -> None:
    """Write a checkpoint folder, floating-point weights in half precision, without the part that its facts say another
    one holds.

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
        metadata[lent.part] = digest_of({lent.theirs(k): v for k, v in state.items() if k.startswith(lent.prefix)})
        state = {k: v for k, v in state.items() if not k.startswith(lent.prefix)}
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
    """The description of a checkpoint folder, without its weights.

    Raises:
        CheckpointError: `config.json` is missing, no JSON or of another format; a field is missing, unknown or of the
            wrong kind, and which.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(
            f"{folder} holds no {CONFIG} that can be read, so it is not a checkpoint folder of simpool_viz"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}; it was written by another version of simpool_viz")

    described = checked(_CONFIG, config, lambda told: CheckpointError(f"{path} does not describe a checkpoint: {told}"))
    return described.encoder, described.facts


def load_bundle(folder: Path) -> Encoder:
    """Build the encoder of a checkpoint folder and fill it, in float32 and evaluation mode.

    Raises:
        CheckpointError: an unreadable file, or tensors that are missing, unknown or of another shape.
    """
    spec, facts = read_config(folder)
    state, metadata = _read_weights(folder)
    try:
        encoder = spec.build(facts)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # timm builds whatever the file describes
        raise CheckpointError(f"{folder / CONFIG} does not describe an encoder that can be built: {error}") from error
    if lent := _lent(facts):
        state |= _borrow(lent, base_folder(folder, lent.lender, lent.part), metadata.get(lent.part, ""), facts, encoder)
    fill(encoder, state, str(folder / WEIGHTS))
    return encoder.eval().requires_grad_(False)


def _read_weights(folder: Path) -> tuple[State, dict[str, str]]:
    path = folder / WEIGHTS
    if not path.exists():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; copy the whole checkpoint folder")
    return read_safetensors(path, str(path))


def base_folder(folder: Path, base: str, part: str = "backbone") -> Path:
    """The checkpoint folder called `base`, beside `folder` or bundled; `part` is what is wanted of it.

    Raises:
        CheckpointError: it is in neither place.
    """
    for place in (folder.parent, bundled_folder("models")):
        if (place / base / CONFIG).is_file():
            return place / base
    what = "is a head on the backbone of" if part == "backbone" else "stands on the stem of"
    raise CheckpointError(
        f"{folder} {what} {base!r}, which is not in {folder.parent}; put that checkpoint folder there"
    )


@dataclasses.dataclass(frozen=True)
class _Lent:
    """A part of a checkpoint that another one, the lender, holds: "backbone" or "stem", and the prefix of its tensors
    here."""

    lender: str
    part: str
    prefix: str

    def theirs(self, key: str) -> str:
        """What the lender calls a tensor of the part."""
        return BACKBONE + key.removeprefix(self.prefix)


def _lent(facts: Facts) -> _Lent | None:
    if facts.base:
        return _Lent(facts.base, "backbone", BACKBONE)
    return _Lent(facts.stem, "stem", STEM) if facts.stem else None


def _borrow(lent: _Lent, folder: Path, digest: str, facts: Facts, encoder: Encoder) -> State:
    """The part's tensors out of the lender's folder, if they are those with which the checkpoint was trained."""
    given, wanted = _read_weights(folder)[0], [key for key in encoder.state_dict() if key.startswith(lent.prefix)]
    part = {key: given[lent.theirs(key)] for key in wanted if lent.theirs(key) in given}
    if digest_of({lent.theirs(key): value for key, value in part.items()}) != digest:
        what = "backbone in {} is not the one" if lent.part == "backbone" else "first blocks in {} are not those"
        raise CheckpointError(
            f"the {what.format(folder)} that {facts.name!r} was trained on; train it again, or put the earlier "
            f"{lent.lender!r} beside it"
        )
    return part


def digest_of(state: State) -> str:
    """SHA-256 of tensors with their names, in an order that does not depend on the file's."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
