"""Loads checkpoints of every kind by name, safely.

The recognisers of files are imported when one is read: they need timm, whose import takes a second, which the app's
page and whoever loads no file need not wait for.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from simpool_viz.checkpoints import hub
from simpool_viz.checkpoints.bundle import CONFIG, load_bundle
from simpool_viz.checkpoints.catalogue import catalogue, damaged_descriptions
from simpool_viz.checkpoints.folders import INDEX, is_folder, weights_of
from simpool_viz.checkpoints.formats.hints import Hints, hints_of
from simpool_viz.checkpoints.formats.parts import parse_options, read_load_options, split_options
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.checkpoints.precision import place
from simpool_viz.checkpoints.published import offered, published
from simpool_viz.checkpoints.untrusted import convert_untrusted, warn_where_costly
from simpool_viz.errors import CheckpointError, OptionError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.sharing import share_trunk
from simpool_viz.tensors import choose_device, identical

SMALLEST, LARGEST = 16, 4096  # pixels of a size that is asked for
PUBLISHED_LIMIT = 2 * 2**30  # bytes: training checkpoints also hold a student, an optimizer and projection heads


def load_checkpoint(
    name: str | os.PathLike[str] | nn.Module, *, device: str = "auto", precision: str = "auto", **options: Any
) -> Encoder:
    """Load a checkpoint as an encoder.

    Args:
        name: a bundled checkpoint ("resnet_simpool"), one of `published()`, "timm:<tag>",
            "hf:<user>/<repository>[/<file>]", the path of a file (.safetensors, or .pth, .pt, .pth.tar read with
            weights only), or of a checkpoint folder such as `simpool-viz train`, transformers and timm write. Options
            may follow as in a web address: "weights.pth?gamma=2&weights=student"; true, false, none and numbers arrive
            as such. Also a model in memory, of timm, torchvision or transformers, which stays as it is.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: "auto", "float32", "bfloat16" or "float16", of the forward pass; "auto" is half precision on a CUDA
            device, and bfloat16 on a processor that computes in it for checkpoints whose maps were measured to be the
            same.
        options: for files those of `parts.LoadOptions`; for timm models `pretrained=False`, `size` as for files, and
            arguments of `timm.create_model`.

    Raises:
        CheckpointError: no such checkpoint, a damaged or unsafe one, or one that does not fit.
        DownloadError: one that cannot be fetched.
        OptionError: a device or precision that does not exist, or an option of the wrong type.

    Examples:
        >>> from simpool_viz import load_checkpoint
        >>> encoder = load_checkpoint("resnet_simpool")
        >>> encoder.facts.name, encoder.pooling.name, encoder.facts.size, encoder.stride
        ('resnet_simpool', 'simpool', 128, 8)
    """
    return load_with_report(name, device=device, precision=precision, **options)[0]


def load_with_report(
    name: str | os.PathLike[str] | nn.Module, *, device: str = "auto", precision: str = "auto", **options: Any
) -> tuple[Encoder, Report]:
    """Load a checkpoint, with a report of what was recognised. Arguments and errors are those of `load_checkpoint`."""
    choose_device(device, precision)  # refuses before anything is read
    if isinstance(name, nn.Module):
        from simpool_viz.checkpoints.formats.modules import load_module

        encoder, report = load_module(name, **options)
        return place(encoder, device, precision), report
    text, given = split_options(os.fspath(name))
    encoder, report = _load(text, given | options)
    return place(encoder, device, precision), report


def load_untrusted(
    path: Path, *, device: str = "auto", precision: str = "auto", **options: Any
) -> tuple[Encoder, Report]:
    """Load a stranger's file: it is read in a process of its own, with limits of memory and time that hold.

    Arguments and errors are those of `load_checkpoint`, for the path of a file, and of `convert_untrusted`.
    """
    choose_device(device, precision)
    encoder, report = _load_untrusted(path, options)
    return place(encoder, device, precision), report


def load_for_visitor(
    name: str, *, device: str = "auto", precision: str = "auto", limit: int = 2**30
) -> tuple[Encoder, Report]:
    """Load a checkpoint from the hub for an anonymous visitor of the app.

    Local files cannot be named, downloads are deleted afterwards, and no login of the server is used.

    Args:
        name: "hf:<user>/<repository>[/<file>]", "timm:<tag>" or one of `published()`; options may follow a "?".
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.
        limit: the largest download in bytes; for those in `published()` at least `PUBLISHED_LIMIT`.

    Returns:
        The encoder and the report of what was recognised.

    Raises:
        CheckpointError: another kind of name, or as in `load_checkpoint`.
    """
    text, _, query = name.strip().partition("?")
    options = parse_options(query)
    refuse_local(options)
    choose_device(device, precision)
    if text in published():
        limit = max(limit, PUBLISHED_LIMIT)
    with tempfile.TemporaryDirectory(prefix="simpool_viz-hub-") as cache:
        encoder, report = _load_anonymously(text, options, hub.Access(limit, Path(cache), token=False))
    return place(encoder, device, precision), report


def load_offered(
    name: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    parameters: int | None = None,
    progress: hub.Progress | None = None,
) -> Encoder:
    """Load a checkpoint that the app's page lists and the hub holds, without a login of the server.

    Downloads of those in `offered` stay in the cache that HF_HOME names, the others are deleted.

    Args:
        name: one of `offered` or `timm_tags`.
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.
        parameters: the most that are taken; None for any number.
        progress: is told of the download.

    Raises:
        CheckpointError: too many parameters, or as in `load_checkpoint`.
        DownloadError: the hub is out of reach.
    """
    choose_device(device, precision)
    with tempfile.TemporaryDirectory(prefix="simpool_viz-hub-") as cache:
        kept = None if name in offered() else Path(cache)
        encoder, report = _load_anonymously(name, {}, hub.Access(PUBLISHED_LIMIT, kept, False, progress))
    if parameters is not None and report.parameters > parameters:
        raise CheckpointError(f"{name} has {report.parameters:,} parameters; at most {parameters:,} are taken here")
    return place(encoder, device, precision)


def _load_anonymously(name: str, options: dict[str, Any], access: hub.Access) -> tuple[Encoder, Report]:
    """Load "hf:<user>/<repository>[/<file>]", "timm:<tag>" or one of `published()`; named and titled as listed."""
    known = offered().get(name)
    address, options = (known.address, known.options | options) if known else (name, options)
    if address.startswith("hf:"):
        encoder, report = _load_from_hub(address.removeprefix("hf:"), options, access)
    elif address.startswith("timm:"):
        encoder, report = _load_from_hub(_repository_of(address.removeprefix("timm:")), options, access)
    else:
        raise CheckpointError(
            f"{name!r} is neither hf:<user>/<repository> nor timm:<tag> nor the name of a published checkpoint"
        )
    if known or name.startswith("timm:"):
        title = known.title if known else name.removeprefix("timm:")
        encoder.facts = dataclasses.replace(encoder.facts, name=name, title=title)
    return encoder, report


def split_size(name: str) -> tuple[str, int | None]:
    """Split "vit_simpool?size=448" into the checkpoint's name and its size in pixels, None where none is given.

    Raises:
        OptionError: another option, or a size that is no whole number from `SMALLEST` to `LARGEST`.
    """
    plain, options = split_options(name)
    size = options.pop("size", None)
    if options:
        raise OptionError(f"{plain} takes no option but size here, not {', '.join(options)}")
    if size is not None:
        check_size(size, plain)
    return plain, size


def check_size(size: object, name: str) -> None:
    """Make sure that a size is a whole number of pixels from `SMALLEST` to `LARGEST`.

    Raises:
        OptionError: it is not.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
        raise OptionError(f"{name}?size= takes a whole number of pixels from {SMALLEST} to {LARGEST}, not {size!r}")


def at_size(encoder: Encoder, size: int) -> Encoder:
    """The same checkpoint, weights shared, with another size as its own, which its name and title tell.

    Args:
        encoder: stays as it is.
        size: shorter side of its input in pixels.
    """
    other = copy.copy(encoder)
    facts = encoder.facts
    name, title = f"{facts.name}?size={size}", f"{facts.title or facts.name}, {size} px"
    other.facts = dataclasses.replace(facts, size=size, name=name, title=title)
    return other


def refuse_local(options: Mapping[str, Any]) -> None:
    """Refuse options by which a visitor could read files of the server.

    Args:
        options: by name.

    Raises:
        CheckpointError: one of them is.
    """
    if "backbone" in options:
        raise CheckpointError(
            "a probing head needs a backbone, which can be named in Python and on the command line only"
        )
    if "classes" in options:
        raise CheckpointError("a file of classes can be named in Python and on the command line only")


def _repository_of(tag: str) -> str:
    """The repository on the hub that holds the weights of a timm tag."""
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
    names: Sequence[str | os.PathLike[str]], *, device: str = "auto", precision: str = "auto", progress: bool = False
) -> list[Encoder]:
    """Load several checkpoints. Heads on one backbone share it, so that a board runs it once.

    Args:
        names: as in `load_checkpoint`.
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.
        progress: whether to show a progress bar, where there are three or more and standard error is a terminal.
    """
    from tqdm import tqdm

    bar = tqdm(names, desc="loading checkpoints", disable=not progress or len(names) < 3 or None, leave=False)
    return share_backbones([load_checkpoint(name, device=device, precision=precision) for name in bar])


def share_backbones(encoders: Sequence[Encoder], in_use: Sequence[Encoder] = ()) -> list[Encoder]:
    """Replace equal copies of backbones, stems and trunks by one, so that a board runs it once.

    A head gets the backbone of its base, or of the first other head on that base, and a ViT the trunk likewise. A base
    is identified by its name, which two files may have: what is not equal to the last bit stays a checkpoint's own.

    Args:
        encoders: changed in place, but for those in use.
        in_use: those of them that another thread may be running; the others get their parts.

    Returns:
        The same encoders.
    """
    for name_of, share in ((_stem_of, _share_stem), (_trunk_of, _share_trunk), (_base_of, _share_backbone)):
        groups: dict[str, list[Encoder]] = {}
        for encoder in encoders:
            if name := name_of(encoder):
                groups.setdefault(name, []).append(encoder)
        for name, members in groups.items():
            # One in use lends, else the base itself, else the first.
            lender = min(members, key=lambda e: (not _among(e, in_use), e.facts.name != name))
            for encoder in members:
                if encoder is not lender and not _among(encoder, in_use):
                    share(encoder, lender)
    return list(encoders)


def _among(encoder: Encoder, encoders: Sequence[Encoder]) -> bool:
    return any(encoder is other for other in encoders)


def _stem_of(encoder: Encoder) -> str:
    return encoder.facts.stem if encoder.has_stem else ""


def _trunk_of(encoder: Encoder) -> str:
    return (encoder.facts.trunk or encoder.facts.base or encoder.facts.name) if encoder.has_trunk else ""


def _base_of(encoder: Encoder) -> str:
    return encoder.facts.base or encoder.facts.name


def _share_stem(encoder: Encoder, lender: Encoder) -> None:
    own: Any = encoder.backbone.patch_embed
    other: Any = lender.backbone.patch_embed
    if _equal(own.backbone, other.backbone):
        own.backbone = other.backbone


def _share_trunk(encoder: Encoder, lender: Encoder) -> None:
    if blocks := encoder.facts.trunk_blocks or lender.facts.trunk_blocks:
        share_trunk(encoder, lender, blocks)


def _share_backbone(encoder: Encoder, lender: Encoder) -> None:
    based = encoder.facts.base or lender.facts.base  # two checkpoints of one name are no heads of one another
    if based and encoder.backbone is not lender.backbone and _equal(encoder.backbone, lender.backbone):
        encoder.backbone = lender.backbone


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are of one class and hold the same numbers."""
    own, theirs = one.state_dict(), other.state_dict()
    return type(one) is type(other) and own.keys() == theirs.keys() and all(identical(own[k], theirs[k]) for k in own)


def _load(name: str, options: dict[str, Any]) -> tuple[Encoder, Report]:
    if name.startswith("timm:"):
        from simpool_viz.checkpoints.formats.timm import load_timm, notes_of, quick_variant

        tag = name.removeprefix("timm:")
        encoder = load_timm(tag, **options)
        notes = notes_of(getattr(encoder.backbone, "pretrained_cfg", None) or {})
        if (quick := quick_variant(tag)) != tag:
            notes = (f"built as {quick}, since its weights were trained with QuickGELU", *notes)
        encoder, report = _reported(encoder, "timm")
        return encoder, dataclasses.replace(report, notes=notes)
    if name in (known := published()):
        return _load(known[name].address, known[name].options | options)
    if name.startswith("hf:"):
        return _load_from_hub(name.removeprefix("hf:"), options)
    entries = catalogue()
    if name not in entries and is_folder(Path(name)):
        return _load_file(weights_of(Path(name)), options, Path(name).resolve().name)
    if name in entries or (Path(name) / CONFIG).is_file():
        size = options.pop("size", None)
        if options:
            raise CheckpointError(
                f"options {', '.join(options)} are for files and timm:<tag> checkpoints; {name} takes size alone"
            )
        encoder = load_bundle(entries[name].folder if name in entries else Path(name))
        if size is not None:
            check_size(size, name)
            encoder = at_size(encoder, size)
        return _reported(encoder, "checkpoint folder")
    if Path(name).exists():
        return _load_file(Path(name), options)
    if fault := damaged_descriptions().get(name):
        raise CheckpointError(f"the bundled checkpoint {name!r} cannot be used: {fault}")
    raise CheckpointError(
        f"no checkpoint is called {name!r}. Bundled are "
        f"{', '.join(n for n, e in entries.items() if not e.is_head) or 'none'}; or give "
        "timm:<tag>, hf:<user>/<repository>, or the path of a file, or of a checkpoint folder with config.json and "
        "model.safetensors"
    )


def _load_file(
    path: Path, options: dict[str, Any], name: str = "", hints: Hints | None = None
) -> tuple[Encoder, Report]:
    from simpool_viz.checkpoints.files import load_file

    backbone = read_load_options(options, name or path.name).backbone
    base = load_checkpoint(backbone, device="cpu") if backbone else None
    with warn_where_costly(path):
        return load_file(path, name=name, base=base, hints=hints, **options)


def _load_untrusted(
    path: Path, options: dict[str, Any], name: str = "", hints: Hints | None = None
) -> tuple[Encoder, Report]:
    from simpool_viz.checkpoints.files import load_file

    others = dict(options)
    which = str(others.pop("weights", ""))
    with tempfile.TemporaryDirectory(prefix="simpool_viz-read-") as folder:
        target = Path(folder) / "read.safetensors"
        report = convert_untrusted(path, target, which, hints, **others)
        encoder, found = load_file(target, name=name or path.name, **others)
    return encoder, dataclasses.replace(report, source=found.source)


def _load_from_hub(address: str, options: dict[str, Any], access: hub.Access | None = None) -> tuple[Encoder, Report]:
    """Load a file of the hub, with the descriptions beside it, as transformers and timm write them."""
    repository, file = hub.split_address(address)
    read_load_options(options, f"hf:{address}")  # before anything is fetched
    sizes = None if file else hub.list_files(repository, access)
    hints = None
    if sizes is not None:
        try:
            found = hub.descriptions(repository, sizes, access)
            hints = hints_of(*(found.get(name, {}) for name in hub.DESCRIPTIONS))
        except CheckpointError as error:
            raise CheckpointError(f"hf:{address}: {error}; name its file instead") from error
    path = hub.download(repository, file, access, sizes)
    if sizes is not None and path.name in INDEX:
        hub.download_shards(repository, path, sizes, access)
    read = _load_file if access is None else _load_untrusted  # what a visitor names is a stranger's
    encoder, report = read(path, options, f"hf:{address}", hints)
    known = published().get(repository.partition("/")[2])
    if known is not None and known.address == f"hf:{repository}":
        encoder.facts = dataclasses.replace(
            encoder.facts, title=known.title, accuracy=known.accuracy, license=known.license
        )
    return encoder, report


def _reported(encoder: Encoder, container: str) -> tuple[Encoder, Report]:
    """The encoder and the report of a checkpoint that comes with its own description."""
    what = f"{type(encoder.backbone).__name__} of {encoder.dim} channels" + (
        f" and {encoder.depth} blocks" if encoder.depth else ""
    )
    parameters = sum(p.numel() for p in encoder.parameters())
    return encoder, Report(
        encoder.facts.name, container, what, encoder.pooling.title, parameters, len(encoder.state_dict())
    )
