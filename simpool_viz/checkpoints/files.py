"""Loads a checkpoint file as an encoder with a report of what was recognised, and converts it to a small, safe file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from simpool_viz.checkpoints.folders import DESCRIBED, read_any
from simpool_viz.checkpoints.formats.containers import Weights, find_weights
from simpool_viz.checkpoints.formats.dense_alone import build_dense
from simpool_viz.checkpoints.formats.hints import Hints, hints_beside, read_hints
from simpool_viz.checkpoints.formats.parts import read_load_options
from simpool_viz.checkpoints.formats.preparation import class_names, prepare_facts
from simpool_viz.checkpoints.formats.probing import build_probe
from simpool_viz.checkpoints.formats.recognise import build_encoder
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.checkpoints.reading import write_safetensors
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import written_whole

# Heads without a backbone by family: what they are called, and how they go on one.
ALONE = {"probe": ("probing head", build_probe), "dense": ("segmentation head", build_dense)}
MARK = "simpool_viz"  # the key of what `convert` keeps of the container in a file's metadata
LOCAL = ("classes", "backbone")  # options that name files of this machine, which a file of others must not
KEPT = (
    "mode",
    "gp",
    "gamma",
    "arch",
    "cls_features",
    "num_heads",
    "model",
    "loader",
    "timm",
    "openclip",
    "abmilp_sa",
    "abmilp_act",
    "abmilp_content",
)  # settings of a training that say something of the model


def load_file(
    path: Path, *, name: str = "", base: Encoder | None = None, hints: Hints | None = None, **options: Any
) -> tuple[Encoder, Report]:
    """Load a checkpoint file of any kind that `formats` recognises.

    Args:
        path: of the file.
        name: of the encoder; the file's name by default.
        base: the encoder whose backbone a probing head is for.
        hints: what accompanies it; by default config.json beside files that are called as transformers and timm do.
        options: those of `parts.LoadOptions`.

    Returns:
        The encoder, in float32 and evaluation mode, and the report.

    Raises:
        CheckpointError: it cannot be read safely, is not recognised, or does not fit.
        OptionError: an option that does not exist, or a value that it does not take.
    """
    requested = read_load_options(options, path.name)
    weights, metadata, kept = read_weights(path, requested.weights, hints)
    settings = read_load_options(kept | options, path.name)
    facts, notes = prepare_facts(path, name, settings, weights, metadata)
    if weights.family in ALONE:
        return ALONE[weights.family][1](weights, base, facts, settings)
    if base is not None:
        raise CheckpointError(f"{path.name} has a backbone of its own, so backbone= is not for it; leave it out")
    encoder, report = build_encoder(weights, facts, settings)
    return encoder, dataclasses.replace(report, notes=(*report.notes, *notes))


def read_weights(
    path: Path, which: str = "", hints: Hints | None = None
) -> tuple[Weights, dict[str, str], dict[str, Any]]:
    """Read the weights of a file.

    For a file that `convert` wrote, family and settings are those of the original, which its metadata holds.

    Args:
        path: of the file.
        which: another entry than the usual one, such as "student".
        hints: as for `load_file`.

    Returns:
        The weights, the file's metadata, and the options with which it was converted ({} where it was not).

    Raises:
        CheckpointError: the file cannot be read safely, holds no weights, or has damaged metadata.
    """
    content, metadata = read_any(path)
    if hints is None and path.name in DESCRIBED:
        hints = hints_beside(path.parent)
    weights = find_weights(content, path.name, which, hints)
    if MARK not in metadata:
        return weights, metadata, {}
    try:
        kept = json.loads(metadata[MARK])
        weights = dataclasses.replace(
            weights,
            family=str(kept["family"]),
            where=str(kept["where"]),
            args=dict(kept["args"]),
            hints=read_hints(kept.get("hints", {}), path.name),
        )
        options = {key: value for key, value in dict(kept.get("options", {})).items() if key not in LOCAL}
        read_load_options(options, path.name)
        return weights, metadata, options
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} does not record what it was converted from ({error}); convert it again"
        ) from error


def convert(source: Path, target: Path, which: str = "", *, hints: Hints | None = None, **options: Any) -> Report:
    """Write the weights of a checkpoint file to a `.safetensors` file that gives the same encoder.

    Args:
        source: the file to convert.
        target: the file to write.
        which: another entry than the usual one, such as "student".
        hints: as for `load_file`.
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
    weights, metadata, earlier = read_weights(source, which, hints)
    options = earlier | options
    settings = read_load_options(options, source.name)
    if weights.family in ALONE:
        kind, _ = ALONE[weights.family]
        report = Report(source.name, kind, "no backbone", f"a {kind}", weights.parameters, len(weights.state))
    else:
        facts, notes = prepare_facts(source, "", settings, weights, metadata)
        _, report = build_encoder(dataclasses.replace(weights, state=dict(weights.state)), facts, settings)
        report = dataclasses.replace(report, notes=(*report.notes, *notes))
        metadata = {
            k: v for k, v in dataclasses.asdict(facts).items() if k in ("title", "source", "license", "accuracy")
        }
    args = {k: v for k, v in weights.args.items() if k in KEPT}
    kept = {"family": weights.family, "where": weights.where, "args": args, "options": options}
    kept["options"] = {key: value for key, value in options.items() if key not in LOCAL}
    kept["hints"] = Hints(classes=class_names(settings)).over(weights.hints).as_table()
    metadata |= {"format": "pt", MARK: json.dumps(kept, default=str)}
    state = {key: value.contiguous().clone() for key, value in weights.state.items()}
    with written_whole(target) as part:
        write_safetensors(part, state, metadata)
    return report
