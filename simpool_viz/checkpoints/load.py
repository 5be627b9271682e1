"""Checkpoints: what can be loaded, and loading it safely."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from simpool_viz.checkpoints import hub
from simpool_viz.checkpoints.bundle import CONFIG, load_bundle
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.files import load_file, split_options
from simpool_viz.checkpoints.formats.parts import parse_options, read_load_options
from simpool_viz.checkpoints.formats.recognise import Report
from simpool_viz.checkpoints.published import published
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.tensors import choose_device, identical

PUBLISHED_LIMIT = 2 * 2**30  # bytes: training checkpoints also hold a student, an optimizer and projection heads


def load_checkpoint(name: str | os.PathLike[str], *, device: str = "auto", **options: Any) -> Encoder:
    """Load a checkpoint, ready to be recorded from.

    Args:
        name: a bundled checkpoint ("resnet_simpool"), one of `published()`, "timm:<tag>",
            "hf:<user>/<repository>[/<file>]", the path of a file (.safetensors, or .pth, .pt, .pth.tar read with
            weights only), or of a checkpoint folder such as `simpool-viz train` writes. Options may follow as in a web
            address: "weights.pth?gamma=2&weights=student"; true, false, none and numbers arrive as such.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; half precision where it is a GPU.
        options: for files those of `parts.LoadOptions`; for timm models `pretrained=False`, `size` as for files, and
            arguments of `timm.create_model`.

    Raises:
        CheckpointError: no such checkpoint, a damaged or unsafe one, or one that does not fit.
        DownloadError: one that cannot be fetched.
        OptionError: a device that is not here.
    """
    return load_with_report(name, device=device, **options)[0]


def load_with_report(name: str | os.PathLike[str], *, device: str = "auto", **options: Any) -> tuple[Encoder, Report]:
    """The same, with what was recognised. Arguments and errors as in `load_checkpoint`."""
    where, dtype = choose_device(device)
    text, asked = split_options(os.fspath(name))
    encoder, report = _load(text, asked | options)
    return encoder.to(where, dtype), report


def load_for_visitor(name: str, *, device: str = "auto", limit: int = 2**30) -> tuple[Encoder, Report]:
    """A checkpoint from the network for a stranger: nothing local can be named, nothing is kept, no login of ours is
    used.

    Args:
        name: "hf:<user>/<repository>[/<file>]", "timm:<tag>" or one of `published()`; options may follow a "?".
        limit: the most bytes that are fetched; of those in `published()`, which are known, `PUBLISHED_LIMIT` if that is
            more.

    Raises:
        CheckpointError: another kind of name, or as in `load_checkpoint`.
    """
    text, _, query = name.strip().partition("?")
    options = parse_options(query)
    if "backbone" in options:
        raise CheckpointError(
            "a probing head needs a backbone, which can be named in Python and on the command line only"
        )
    where, dtype = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="simpool_viz-hub-") as cache:
        if text in (known := published()):
            options = known[text].options | options
            text, limit = known[text].address, max(limit, PUBLISHED_LIMIT)
        access = hub.Access(limit, Path(cache), token=False)
        if text.startswith("hf:"):
            encoder, report = _load_from_hub(text.removeprefix("hf:"), options, access)
        elif text.startswith("timm:"):
            encoder, report = _load_from_hub(_repository_of(text.removeprefix("timm:")), options, access)
        else:
            raise CheckpointError(
                f"{text!r} is neither hf:<user>/<repository> nor timm:<tag> nor the name of a published checkpoint"
            )
    return encoder.to(where, dtype), report


def _repository_of(tag: str) -> str:
    """The hub's repository with the weights of a timm tag."""
    import timm

    config = timm.get_pretrained_cfg(tag) if timm.is_model(tag) else None
    repository = str((config and config.hf_hub_id) or "")
    if config is None or not repository:
        raise CheckpointError(
            f"timm {timm.__version__} has no weights for {tag!r} on the hub; `timm.list_pretrained()` lists those it "
            "has"
        )
    return f"{repository}{config.architecture}.{config.tag}" if repository.endswith("/") else repository


def load_checkpoints(
    names: Sequence[str | os.PathLike[str]], *, device: str = "auto", progress: bool = False
) -> list[Encoder]:
    """Several checkpoints; heads on one backbone share it, so that a board runs it once. Errors as in
    `load_checkpoint`.

    Args:
        progress: whether to show a progress bar, where there are three or more and standard error is a terminal.
    """
    from tqdm import tqdm

    bar = tqdm(names, desc="loading checkpoints", disable=not progress or len(names) < 3 or None, leave=False)
    return share_backbones([load_checkpoint(name, device=device) for name in bar])


def share_backbones(encoders: Sequence[Encoder]) -> list[Encoder]:
    """Let every head use the backbone of its base, or of the first other head on it, in place of its own equal copy;
    likewise stems.

    A base is known by its name, and two files may have one name: a backbone that is not equal to the last bit stays a
        head's own.
    """
    stems: dict[str, Encoder] = {}
    for encoder in encoders:
        if encoder.facts.stem and encoder.has_stem:
            own, first = (
                encoder.backbone.patch_embed,
                stems.setdefault(encoder.facts.stem, encoder).backbone.patch_embed,
            )
            if _equal(own.backbone, first.backbone):  # type: ignore[union-attr, arg-type]
                own.backbone = first.backbone  # type: ignore[union-attr]
    bases: dict[str, Encoder] = {e.facts.name: e for e in encoders if not e.facts.base}
    for encoder in encoders:
        if encoder.facts.base:
            base = bases.setdefault(encoder.facts.base, encoder)
            if base.backbone is not encoder.backbone and _equal(base.backbone, encoder.backbone):
                encoder.backbone = base.backbone
    return list(encoders)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two backbones are of one kind and hold the same numbers."""
    own, theirs = one.state_dict(), other.state_dict()
    return type(one) is type(other) and own.keys() == theirs.keys() and all(identical(own[k], theirs[k]) for k in own)


def _load(name: str, options: dict[str, Any]) -> tuple[Encoder, Report]:
    if name.startswith("timm:"):
        from simpool_viz.checkpoints.formats.timm import load_timm

        return _reported(load_timm(name.removeprefix("timm:"), **options), "timm")
    if name in (known := published()):
        return _load(known[name].address, known[name].options | options)
    if name.startswith("hf:"):
        return _load_from_hub(name.removeprefix("hf:"), options)
    entries = catalogue()
    if name in entries or (Path(name) / CONFIG).is_file():
        if options:
            raise CheckpointError(
                f"options {', '.join(options)} are for files and timm:<tag> checkpoints; {name} takes none"
            )
        return _reported(load_bundle(entries[name].folder if name in entries else Path(name)), "checkpoint folder")
    if Path(name).exists():
        return _load_file(Path(name), options)
    raise CheckpointError(
        f"no checkpoint is called {name!r}. Bundled are "
        f"{', '.join(n for n, e in entries.items() if not e.is_head) or 'none'}; or give "
        "timm:<tag>, hf:<user>/<repository>, or the path of a file, or of a checkpoint folder with config.json and "
        "model.safetensors"
    )


def _load_file(path: Path, options: dict[str, Any], name: str = "") -> tuple[Encoder, Report]:
    backbone = read_load_options(options, name or path.name).backbone
    base = load_checkpoint(backbone, device="cpu") if backbone else None
    return load_file(path, name=name, base=base, **options)


def _load_from_hub(address: str, options: dict[str, Any], access: hub.Access | None = None) -> tuple[Encoder, Report]:
    """A file of the hub; that of a repository in timm's own form with the preprocessing it tells."""
    repository, file = hub.split_address(address)
    read_load_options(options, f"hf:{address}")  # before anything is fetched
    config = {} if file or "arch" in options else hub.timm_config(repository, access)
    if config:
        options = options | {"arch": config["architecture"]}
    encoder, report = _load_file(hub.download(repository, file, access), options, f"hf:{address}")
    if config:
        described = config.get("pretrained_cfg")
        encoder.facts = _facts_of_timm(
            encoder.facts, described if isinstance(described, dict) else {}, "size" in options
        )
    known = published().get(repository.partition("/")[2])
    if known is not None and known.address == f"hf:{repository}":
        encoder.facts = dataclasses.replace(
            encoder.facts, title=known.title, accuracy=known.accuracy, license=known.license
        )
    return encoder, report


def _facts_of_timm(facts: Facts, config: dict[str, Any], sized: bool) -> Facts:
    """What a repository in timm's form says of preprocessing and licence.

    Raises:
        CheckpointError: it is not what timm writes.
    """
    try:
        told: dict[str, Any] = {key: tuple(map(float, config[key])) for key in ("mean", "std") if key in config}
        if "input_size" in config and not sized:
            told["size"] = int(config["input_size"][-1])
        wrong = "" if _possible(told) else str(told)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        wrong = str(error)
    if wrong:
        raise CheckpointError(
            f"{facts.name}: its config.json does not tell how pictures are prepared ({wrong}); name its file instead"
        )
    if config.get("license"):
        told["license"] = str(config["license"])
    return dataclasses.replace(facts, **told)


def _possible(told: dict[str, Any]) -> bool:
    """Whether pictures can be prepared so."""
    three = all(len(told[key]) == 3 for key in ("mean", "std") if key in told)
    return three and 0 not in told.get("std", ()) and 0 < told.get("size", 1) <= 2048


def _reported(encoder: Encoder, container: str) -> tuple[Encoder, Report]:
    """The report of a checkpoint whose description comes with it."""
    what = f"{type(encoder.backbone).__name__} of {encoder.dim} channels" + (
        f" and {encoder.depth} blocks" if encoder.depth else ""
    )
    parameters = sum(p.numel() for p in encoder.parameters())
    return encoder, Report(
        encoder.facts.name, container, what, encoder.pooling.title, parameters, len(encoder.state_dict())
    )
