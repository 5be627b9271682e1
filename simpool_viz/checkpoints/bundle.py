"""Checkpoint folders: `model.safetensors`, `config.json` and a card, the form in which this project ships its models.

`config.json` describes the encoder (`EncoderSpec`) and its facts, so that a folder loads without code of its own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from simpool_viz.encoder import Encoder, EncoderSpec, Facts

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_bundle(folder: Path, encoder: Encoder, spec: EncoderSpec, card: str) -> None:
    """Write a checkpoint folder, floating-point weights in half precision.

    Raises:
        ValueError: a weight is not finite in half precision, as after a training that diverged.
    """
    state = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in encoder.state_dict().items()}
    faults = [k for k, v in state.items() if not v.isfinite().all()]
    if faults:
        raise ValueError(f"{encoder.facts.name} is not saved: not finite in half precision are {', '.join(faults[:8])}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # it is written readable by its owner alone
    config = {"format": FORMAT, "encoder": dataclasses.asdict(spec), "facts": dataclasses.asdict(encoder.facts)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def read_config(folder: Path) -> tuple[EncoderSpec, Facts]:
    """The description of a checkpoint folder, without its weights.

    Raises:
        ValueError: `config.json` is missing, no JSON, of another format, or lacks a field.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{folder} holds no {CONFIG} that can be read, so it is not a checkpoint folder of simpool_viz") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT}; it was written by another version of simpool_viz")
    try:
        facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["facts"].items()}
        return EncoderSpec(**config["encoder"]), Facts(**facts)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a checkpoint: {error}") from error


def load_bundle(folder: Path) -> Encoder:
    """Build the encoder of a checkpoint folder and fill it, in float32 and evaluation mode.

    Raises:
        ValueError: an unreadable file, or tensors that are missing, unknown or of another shape.
    """
    spec, facts = read_config(folder)
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {WEIGHTS}; copy the whole checkpoint folder") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    try:
        encoder = spec.build(facts)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder / CONFIG} does not describe an encoder that can be built: {error}") from error
    fill(encoder, state, str(path))
    return encoder.eval().requires_grad_(False)


def fill(encoder: torch.nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Copy `state` into `encoder`, every tensor or none.

    Raises:
        ValueError: names the source and every tensor that is missing, unknown or of another shape.
    """
    own = encoder.state_dict()
    faults = [f"{k} is missing" for k in own if k not in state]
    faults += [f"{k} is not known" for k in state if k not in own]
    shapes = ((k, tuple(state[k].shape), tuple(own[k].shape)) for k in own if k in state)
    faults += [f"{k} has shape {found}, not {wanted}" for k, found, wanted in shapes if found != wanted]
    if faults:
        more = f" (and {len(faults) - 8} more)" if len(faults) > 8 else ""
        raise ValueError(f"{source} does not fit its encoder: {'; '.join(faults[:8])}{more}")
    encoder.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})
