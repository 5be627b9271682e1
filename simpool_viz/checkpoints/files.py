"""Loads a checkpoint file as an encoder with a report of what was recognised, and converts it to a small, safe file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from simpool_viz.checkpoints.filling import fill
from simpool_viz.checkpoints.formats.containers import Weights, find_weights
from simpool_viz.checkpoints.formats.parts import LoadOptions, parse_options, read_load_options
from simpool_viz.checkpoints.formats.recognise import Report, build_encoder
from simpool_viz.checkpoints.reading import read_file, write_safetensors
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import Pooling, create_pooling
from simpool_viz.modeling.pooling.probes import AIM
from simpool_viz.outputs import written_whole

MARK = "simpool_viz"  # the key of what `convert` keeps of the container in a file's metadata
KEPT = ("mode", "gamma", "arch")  # settings of a training that say something of the model


def load_file(path: Path, *, name: str = "", base: Encoder | None = None, **options: Any) -> tuple[Encoder, Report]:
    """Load a checkpoint file of any kind that `formats` recognises.

    Args:
        path: of the file.
        name: of the encoder; the file's name by default.
        base: the encoder whose backbone a probing head is for.
        options: those of `parts.LoadOptions`.

    Returns:
        The encoder, in float32 and evaluation mode, and the report.

    Raises:
        CheckpointError: it cannot be read safely, is not recognised, or does not fit.
        OptionError: an option that does not exist, or a value that it does not take.
    """
    requested = read_load_options(options, path.name)
    weights, metadata, kept = read_weights(path, requested.weights)
    settings = read_load_options(kept | options, path.name)
    facts = _facts(path, name, settings, weights, metadata)
    if weights.family == "probe":
        return _probe(weights, base, facts, settings)
    if base is not None:
        raise CheckpointError(f"{path.name} has a backbone of its own, so backbone= is not for it; leave it out")
    return build_encoder(weights, facts, settings)


def read_weights(path: Path, which: str = "") -> tuple[Weights, dict[str, str], dict[str, Any]]:
    """Read the weights of a file.

    For a file that `convert` wrote, family and settings are those of the original, which its metadata holds.

    Args:
        path: of the file.
        which: another entry than the usual one, such as "student".

    Returns:
        The weights, the file's metadata, and the options with which it was converted ({} where it was not).

    Raises:
        CheckpointError: the file cannot be read safely, holds no weights, or has damaged metadata.
    """
    content, metadata = read_file(path)
    weights = find_weights(content, path.name, which)
    if MARK not in metadata:
        return weights, metadata, {}
    try:
        kept = json.loads(metadata[MARK])
        weights = dataclasses.replace(
            weights, family=str(kept["family"]), where=str(kept["where"]), args=dict(kept["args"])
        )
        options = dict(kept.get("options", {}))
        read_load_options(options, path.name)
        return weights, metadata, options
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} does not record what it was converted from ({error}); convert it again"
        ) from error


def convert(source: Path, target: Path, which: str = "", **options: Any) -> Report:
    """Write the weights of a checkpoint file to a `.safetensors` file that gives the same encoder.

    Args:
        source: the file to convert.
        target: the file to write.
        which: another entry than the usual one, such as "student".
        options: those with which `source` is loaded, see `parts.LoadOptions`; the new file keeps them.

    Returns:
        The report of what was recognised in `source`.

    Raises:
        CheckpointError: `source` cannot be read or is not recognised; `target` is no `.safetensors` file.
        OptionError: an option that does not exist, or a value that it does not take.
    """
    if target.suffix != ".safetensors":
        raise CheckpointError(f"the converted file ends in .safetensors, which {target.name} does not")
    read_load_options(options, source.name)
    weights, metadata, earlier = read_weights(source, which)
    options = earlier | options
    settings = read_load_options(options, source.name)
    if weights.family == "probe":
        report = Report(
            source.name, "probing head", "no backbone", "a probing head", _count(weights.state), len(weights.state)
        )
    else:
        facts = _facts(source, "", settings, weights, metadata)
        _, report = build_encoder(dataclasses.replace(weights, state=dict(weights.state)), facts, settings)
        metadata = {
            k: v for k, v in dataclasses.asdict(facts).items() if k in ("title", "source", "license", "accuracy")
        }
    args = {k: v for k, v in weights.args.items() if k in KEPT}
    kept = {"family": weights.family, "where": weights.where, "args": args, "options": options}
    metadata |= {"format": "pt", MARK: json.dumps(kept, default=str)}
    state = {key: value.contiguous().clone() for key, value in weights.state.items()}
    with written_whole(target) as part:
        write_safetensors(part, state, metadata)
    return report


def split_options(name: str) -> tuple[str, dict[str, Any]]:
    """Split a checkpoint's name from the options after its "?". The name of an existing file is not split.

    Args:
        name: such as "a.pth?gamma=2".

    Returns:
        The name alone, and the options with their types.

    Raises:
        OptionError: as in `parse_options`.
    """
    if Path(name).exists():
        return name, {}
    text, _, query = name.partition("?")
    return text, parse_options(query)


def _facts(path: Path, name: str, settings: LoadOptions, weights: Weights, metadata: Mapping[str, str]) -> Facts:
    from simpool_viz.checkpoints.formats.timm import imagenet_classes

    heads = [
        weights.state[k].shape[0]
        for k in ("head.weight", "fc.weight", "head.fc.weight", "2.weight")
        if k in weights.state
    ]
    return Facts(
        name=name or path.name,
        title=metadata.get("title") or path.name.split(".")[0],
        size=settings.size or 224,
        classes=imagenet_classes(heads[0]) if heads else (),
        source=metadata.get("source") or path.name,
        license=metadata.get("license") or "not stated in the file",
        accuracy=metadata.get("accuracy", ""),
    )


def _count(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in state.values() if value.is_floating_point())


# --- probing heads ----------------------------------------------------------------------------------------------------


def _probe(weights: Weights, base: Encoder | None, facts: Facts, settings: LoadOptions) -> tuple[Encoder, Report]:
    """A head of efficient-probing's code (`0.*` pooling, `1.*` BatchNorm, `2.*` linear) on the backbone of `base`."""
    if base is None:
        raise CheckpointError(
            f"{facts.name} is a probing head without a backbone; name the checkpoint it was trained on with backbone="
        )
    state = weights.state
    if "2.weight" not in state:
        raise CheckpointError(f"{facts.name}: 2.weight, the classifier of a probing head, is missing")
    pooling = _probe_pooling(state, base.dim, settings, facts.name)
    norm = nn.BatchNorm1d(pooling.out_dim, affine=False, eps=1e-6) if "1.running_mean" in state else None
    head = nn.Linear(pooling.out_dim, state["2.weight"].shape[0])
    learned = nn.ModuleDict({"0": pooling, "1": norm or nn.Identity(), "2": head})
    fill(learned, state, facts.name, {key: key for key in state})
    learned.eval().requires_grad_(False)
    facts = dataclasses.replace(
        base.facts, name=facts.name, title=facts.title, classes=facts.classes, source=facts.source, accuracy=""
    )
    encoder = Encoder(
        base.backbone, pooling, norm=norm, head=head, facts=dataclasses.replace(facts, base=base.facts.name)
    )
    what = f"a probing head on the backbone of {base.facts.name}"
    notes = (
        [f"{pooling.num_heads} heads are assumed, which no tensor determines; else say num_heads="]
        if isinstance(pooling, AIM)
        else []
    )
    return encoder.eval(), Report(
        facts.name, "probing head", what, pooling.title, _count(state), len(state), notes=tuple(notes)
    )


def _probe_pooling(state: Mapping[str, Tensor], dim: int, settings: LoadOptions, source: str) -> Pooling:
    width = next((state[k].shape[-1] for k in ("0.cls_token", "0.attention_pred.0.weight") if k in state), dim)
    if width != dim:
        raise CheckpointError(
            f"{source} is a head for features of {width} channels, and the backbone has {dim}; choose the one it was "
            "trained on"
        )
    if "0.attention_pred.0.weight" in state:
        layers = len([k for k in state if k.startswith("0.attention_pred.") and k.endswith(".weight")])
        return create_pooling("abmilp", dim, depth=layers)
    if "0.cls_token" in state and "0.k.weight" in state:
        return create_pooling("aim", dim, num_heads=settings.num_heads or None)
    if "0.cls_token" in state and "0.v.weight" in state:
        return create_pooling(
            "ep", dim, num_queries=state["0.cls_token"].shape[1], d_out=dim // state["0.v.weight"].shape[0]
        )
    raise CheckpointError(
        f"{source} is a probing head of another kind than EP, AIM and ABMILP: its pooling holds "
        f"{', '.join(list(state)[:6])}"
    )
