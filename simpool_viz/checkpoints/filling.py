"""Copies the tensors of a file into a model: all or none, and no weight of the model stays at its random start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str, names: Mapping[str, str] | None = None) -> None:
    """Copy tensors into a module, converted to the dtype of the module's own.

    Args:
        module: changed in place.
        state: tensors by name.
        source: name of the file, for errors.
        names: key of the file -> key of the module, where another program named them. Axes of length 1 may then
            differ, as between linear layers and 1 x 1 convolutions. Without names every key and shape must be the
            module's own.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; the message lists them.
    """
    refuse(faults_of(module, state, names), source, recognised=names is not None)
    own = module.state_dict()  # it also says in which version each module writes its tensors, which a new table loses
    given = {key if names is None else names[key]: value for key, value in state.items()}
    own.update({k: v.reshape(own[k].shape).to(own[k].dtype) for k, v in given.items()})
    with torch.no_grad():
        module.load_state_dict(own)


def faults_of(module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str] | None = None) -> list[str]:
    """List the tensors that do not fit a module.

    Args:
        module: may be on the meta device.
        state: tensors by name.
        names: as for `fill`.

    Returns:
        A phrase for each tensor that is missing, unknown or of another shape.
    """
    own = module.state_dict(keep_vars=True)
    if names is None:
        named, missing = {key: key for key in state}, [key for key in own if key not in state]
    else:
        named = {key: names[key] for key in state if key in names}
        missing = _not_given(own, set(named.values()), {target: key for key, target in names.items()})
    faults = [f"{key} is missing" for key in missing]
    faults += [f"{key} is not known" for key in state if named.get(key) not in own]
    for key, target in named.items():
        if target in own:
            found, wanted = tuple(state[key].shape), tuple(own[target].shape)
            if (found != wanted) if names is None else (_long_axes(found) != _long_axes(wanted)):
                faults.append(f"{key} has shape {found}, not {wanted}")
    return faults


def refuse(faults: list[str], source: str, recognised: bool = True) -> None:
    """Raise an error that lists the faults, if there are any.

    Args:
        faults: from `faults_of`.
        source: name of the file.
        recognised: whether the model was recognised from the file rather than given.

    Raises:
        CheckpointError: there are faults.
    """
    if faults:
        more = f" (and {len(faults) - 8} more)" if len(faults) > 8 else ""
        what = "the model it was recognised as" if recognised else "its encoder"
        raise CheckpointError(f"{source} does not fit {what}: {'; '.join(faults[:8])}{more}")


def _not_given(own: Mapping[str, Tensor], given: set[str], back: Mapping[str, str]) -> list[str]:
    """Keys of the model that another program's file does not fill, in the naming of the file."""
    # A timm model holds its head itself, and the encoder refers to the same tensors.
    shared = {id(own[key]) for key in given if key in own}
    missing = [k for k in own if k not in given and id(own[k]) not in shared and not k.endswith("num_batches_tracked")]
    return [back.get(key, key.removeprefix("backbone.")) for key in missing]


def _long_axes(shape: tuple[int, ...]) -> list[int]:
    return [length for length in shape if length != 1]
