"""A training that was interrupted goes on to the same bits: what is kept of it, and when it may be taken up."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import written_whole
from simpool_viz.training.recipe import Recipe

RESUME = "resume.pt"


class Run:
    """A training as it stands: what is needed to go on with it, in `folder`/resume.pt.

    stage: the number of the stage it is in. within: the state inside that stage; {} at its start.
    done: a line for each stage that is over. minutes: it has taken so far, over all its parts.
    """

    def __init__(self, folder: Path, recipe: Recipe, encoder: Encoder, state: dict[str, Any]) -> None:
        self.folder, self.recipe, self.encoder = folder, recipe, encoder
        self._begun, self._before = time.time(), float(state.get("minutes", 0.0))
        self.stage = int(state.get("stage", 1))
        self.done: list[str] = list(state.get("done", []))
        self.within: dict[str, Any] = state.get("within", {})
        if state:
            encoder.load_state_dict(state["encoder"])

    @property
    def minutes(self) -> float:
        return self._before + (time.time() - self._begun) / 60

    def save(self, place: dict[str, Any]) -> None:
        """Keep where it stands, whole or not at all."""
        state = {"recipe": fingerprint(self.recipe), "minutes": self.minutes, "done": self.done}
        with written_whole(self.folder / RESUME) as part:
            torch.save({**state, "encoder": self.encoder.state_dict(), **place}, part)


def fingerprint(recipe: Recipe) -> str:
    """What makes two runs the same: every setting but where the data lies."""
    settings = dataclasses.asdict(recipe)
    return json.dumps({k: v for k, v in settings.items() if k not in ("data", "source", "overrides")}, sort_keys=True)


def read_interrupted(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The state of an interrupted run in `folder`; {} where there is none.

    Raises:
        TrainingError: it is of another recipe, or cannot be read.
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
