"""Resuming an interrupted training, with bit-identical results: what is saved, and when it may be used."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import written_whole
from simpool_viz.training.recipe import Recipe

RESUME = "resume.pt"


class Run:
    """The state of a training, which `save` writes to `folder`/resume.pt.

    Args:
        folder: of the run.
        recipe: of the run.
        encoder: the model, whose weights are set from `state`.
        state: from `read_interrupted`; {} for a new run.
        beside: what is trained with the encoder and is no part of it, such as a student's projection.

    Attributes:
        stage: number of the current stage, from 1.
        within: the state inside that stage; {} at its start.
        done: a line for each completed stage.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        encoder: Encoder,
        state: dict[str, Any],
        beside: nn.Module | None = None,
    ) -> None:
        self.folder, self.recipe, self.encoder = folder, recipe, encoder
        self._begun, self._before = time.time(), float(state.get("minutes", 0.0))
        self.stage = int(state.get("stage", 1))
        self.done: list[str] = list(state.get("done", []))
        self.within: dict[str, Any] = state.get("within", {})
        self._modules: dict[str, nn.Module] = {"encoder": encoder} | ({} if beside is None else {"beside": beside})
        for name, module in self._modules.items() if state else ():
            module.load_state_dict(state[name])

    @property
    def minutes(self) -> float:
        """Wall-clock time so far, interrupted parts included."""
        return self._before + (time.time() - self._begun) / 60

    def save(self, place: dict[str, Any]) -> None:
        """Replace resume.pt by the present state, completely or not at all.

        Args:
            place: the keys "stage" and "within" of the state.
        """
        state = {"recipe": fingerprint(self.recipe), "minutes": self.minutes, "done": self.done}
        with written_whole(self.folder / RESUME) as part:
            torch.save({**state, **{k: m.state_dict() for k, m in self._modules.items()}, **place}, part)


def fingerprint(recipe: Recipe) -> str:
    """Every setting of a recipe as JSON, except the paths of data and recipe: equal where a run may be resumed."""
    settings = dataclasses.asdict(recipe)
    return json.dumps({k: v for k, v in settings.items() if k not in ("data", "source", "overrides")}, sort_keys=True)


def read_interrupted(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Read the state of an interrupted run.

    Args:
        folder: of the run.
        recipe: with which it is to be resumed.

    Returns:
        The state for `Run`; {} where there is none.

    Raises:
        TrainingError: the state belongs to another recipe, or cannot be read.
    """
    path = folder / RESUME
    if not path.is_file():
        return {}
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes, the reader raises whatever they lead to
        raise TrainingError(f"{path} is damaged; delete it, or begin anew with --restart") from error
    if state.get("recipe") != fingerprint(recipe):
        raise TrainingError(
            f"{folder} holds an interrupted run of another recipe; begin anew with --restart, or choose another folder "
            "with -o"
        )
    return state
