"""Checkpoints: what can be loaded, and loading it safely."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from simpool_viz.checkpoints.bundle import CONFIG, load_bundle
from simpool_viz.checkpoints.catalogue import bundled_folder, catalogue
from simpool_viz.device import choose_device
from simpool_viz.encoder import Encoder

__all__ = ["bundled_folder", "catalogue", "load_checkpoint"]


def load_checkpoint(name: str | os.PathLike[str], *, device: str = "auto", **options: Any) -> Encoder:
    """Load a checkpoint, ready to be recorded from.

    Args:
        name: a bundled checkpoint ("resnet_simpool"), "timm:<tag>", or the path of a checkpoint folder that holds
            config.json and model.safetensors, such as `simpool-viz train` writes.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; half precision where it is a GPU.
        options: for timm models, `pretrained=False` and arguments of `timm.create_model`.

    Raises:
        ValueError: no such checkpoint, a damaged one, one that does not fit, or a device that is not here.
    """
    where, dtype = choose_device(device)
    return _load(os.fspath(name), options).to(where, dtype)


def _load(name: str, options: dict[str, Any]) -> Encoder:
    if name.startswith("timm:"):
        from simpool_viz.checkpoints.timm_models import load_timm

        return load_timm(name.removeprefix("timm:"), **options)
    if options:
        raise ValueError(f"options {', '.join(options)} are for timm:<tag> checkpoints; {name} takes none")
    entries = catalogue()
    if name in entries:
        return load_bundle(entries[name].folder)
    if (Path(name) / CONFIG).is_file():
        return load_bundle(Path(name))
    raise ValueError(
        f"no checkpoint is called {name!r}. Bundled are {', '.join(entries) or 'none'}; or give timm:<tag>, "
        "or the path of a checkpoint folder with config.json and model.safetensors"
    )
