"""Interrupted training goes on to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from simpool_viz.training import loop as loop_module
from simpool_viz.training.loop import train
from simpool_viz.training.recipe import Stage
from simpool_viz.training.step import Step
from tests.helpers import BACKBONE, short_recipe, small_spec, trained_weights

TWO = (Stage(32, 32 * 7, 0.004, warmup=32), Stage(40, 32 * 4, 0.001, warmup=0))


class Interrupted(Exception):
    pass


@pytest.fixture
def every_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "SAVE_EVERY", 2)


@pytest.mark.usefixtures("every_two_steps")
@pytest.mark.parametrize("at", [1, 5, 6, 8, 10])
def test_interrupted_training_goes_on_to_the_same_bits(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    spec = dataclasses.replace(small_spec(), backbone_kwargs={**BACKBONE, "drop_path_rate": 0.3})
    recipe = short_recipe(
        shapes, stages=TWO, encoder=spec, mixup=0.4, ema=0.9
    )  # chance and memory beside the weights' own
    whole = train(recipe, tmp_path / "whole", tmp_path / "cache")
    step, seen = Step.__call__, []

    def breaking(*arguments: Any) -> Any:
        if len(seen) == at:
            raise Interrupted
        seen.append(1)
        return step(*arguments)

    monkeypatch.setattr(Step, "__call__", breaking)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "parts", tmp_path / "cache")
    steps: list[int] = []
    monkeypatch.setattr(Step, "__call__", lambda *a: (steps.append(a[-1].step), step(*a))[1])
    parts = train(recipe, tmp_path / "parts", tmp_path / "cache")
    left = {1: 11, 5: 7, 6: 5, 8: 4, 10: 2}[at]  # from the last multiple of two steps, or the start of the stage
    assert len(steps) == left and not (parts / "resume.pt").exists()
    first, second = trained_weights(whole), trained_weights(parts)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for name in ("log_stage1.csv", "log_stage2.csv"):
        assert (whole / name).exists() and (parts / name).exists()


@pytest.mark.usefixtures("every_two_steps")
def test_interrupted_training_of_another_recipe_is_not_gone_on_with(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short_recipe(shapes, stages=TWO)
    count = loop_module.measure
    monkeypatch.setattr(loop_module, "measure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(recipe, tmp_path, tmp_path / "cache")
    monkeypatch.setattr(loop_module, "measure", count)
    with pytest.raises(
        ValueError, match="holds an interrupted run of another recipe; begin anew with --restart, or choose another"
    ):
        train(dataclasses.replace(recipe, seed=1), tmp_path, tmp_path / "cache")
    moved = dataclasses.replace(recipe, data=str(shapes / ".." / shapes.name), source="elsewhere")
    train(moved, tmp_path, tmp_path / "cache")
    assert "going on with stage 1, step 6" in capsys.readouterr().out
    (tmp_path / "short" / "resume.pt").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"resume\.pt is damaged; delete it, or begin anew with --restart"):
        train(recipe, tmp_path, tmp_path / "cache")
    train(recipe, tmp_path, tmp_path / "cache", restart=True)
