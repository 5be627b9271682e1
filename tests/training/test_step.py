"""One training step: processes, schedule, averages, mixed photos, gradients, and losses that are not finite."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training.data import Batches, load_photos
from simpool_viz.training.interruption import Run
from simpool_viz.training.loop import run_stage, train
from simpool_viz.training.recipe import Recipe, Stage, load_recipe
from simpool_viz.training.step import Step, descend, make_accelerator, make_optimizer, rows_of, tell_precision
from tests.helpers import (
    BACKBONE,
    short_recipe,
    small_resnet,
    small_spec,
    stored_weights,
    trained_weights,
    vit_recipe,
    vit_spec,
)


def test_two_processes_under_accelerate_launch_train_as_one(tmp_path: Path, shapes: Path) -> None:
    recipe = vit_recipe(shapes, vit_spec("gap"))
    settings = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in ("source", "overrides", "classes")}
    settings["stages"] = [dict(stage) for stage in settings["stages"]]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    launch = (
        "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no"
    )
    command = [
        sys.executable,
        *launch.split(),
        "--main_process_port",
        "0",
        "-m",
        "simpool_viz",
        "train",
        str(tmp_path / "mine.yaml"),
    ]
    # Where there are GPUs, they are left alone.
    command += [
        "-o",
        str(tmp_path / "two"),
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("holds the checkpoint") == 1
    assert "on 2 processes of 1 CPU thread(s)" in (tmp_path / "two" / "mine" / "README.md").read_text()
    two, one = (
        stored_weights(tmp_path / "two" / "mine"),
        stored_weights(train(recipe, tmp_path / "one", tmp_path / "cache")),
    )
    torch.manual_seed(0)
    start = recipe.encoder.build(Facts("start")).state_dict()
    for key, value in one.items():
        assert (value.float() - two[key].float()).abs().max() < 1e-3, key
    assert (one["head.weight"].float() - start["head.weight"]).abs().max() > 5e-3, "it has moved"


def test_batch_that_does_not_split_is_refused() -> None:
    class Three:
        num_processes, process_index = 3, 1

    assert rows_of(12, Three()) == slice(4, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a batch of 32 does not split over 3 processes; set batch_size"):
        rows_of(32, Three())  # type: ignore[arg-type]


def test_average_of_weights_is_what_is_kept(tmp_path: Path, shapes: Path) -> None:
    """With a decay of nearly 1 the average has hardly left the start when the weights have."""
    recipe = vit_recipe(shapes, small_spec("gap"))
    torch.manual_seed(recipe.seed)
    start = recipe.encoder.build(Facts("start")).state_dict()["head.weight"]
    plain = stored_weights(train(recipe, tmp_path / "plain", tmp_path / "cache"))["head.weight"].float()
    slow = stored_weights(train(dataclasses.replace(recipe, ema=0.5), tmp_path / "slow", tmp_path / "cache"))[
        "head.weight"
    ].float()
    assert 0.05 < (slow - start).norm() / (plain - start).norm() < 0.98


def test_mixed_photos_give_mixed_targets(tmp_path: Path, shapes: Path) -> None:
    recipe = vit_recipe(shapes, small_spec("gap"))
    runs = [
        train(dataclasses.replace(recipe, mixup=alpha), tmp_path / str(alpha), tmp_path / "cache")
        for alpha in (0.0, 0.8)
    ]
    assert not torch.equal(*(stored_weights(run)["head.weight"] for run in runs))


def learning_rates(stage: Stage, at: tuple[int, ...]) -> list[float]:
    """The optimiser's learning rate after so many photos."""
    optimizer, scheduler = make_optimizer(torch.nn.Linear(2, 2), load_recipe("resnet_gap"), stage)
    rates = []
    for seen in at:
        scheduler.step_update(seen)
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rates.append(rate)
    return rates


def test_learning_rate_warms_up_linearly_and_falls_by_half_a_cosine_to_zero() -> None:
    stage = Stage(size=64, photos=1000, lr=0.02, warmup=200)
    wanted = [0, 0.005, 0.02, 0.02 * (1 + math.cos(math.pi / 4)) / 2, 0.01, 0, 0]
    assert learning_rates(stage, (0, 50, 200, 400, 600, 1000, 1200)) == pytest.approx(wanted)
    assert learning_rates(Stage(64, 1000, 0.02, warmup=0), (1,)) == pytest.approx([0.02], rel=1e-4)


def test_biases_norms_and_exponents_are_not_decayed() -> None:
    encoder = EncoderSpec("resnet18", "ggem", 3, dict(BACKBONE), False, {"groups": 4}).build(Facts("x"))
    optimizer, _ = make_optimizer(encoder, load_recipe("resnet_gap"), Stage(64, 1000, 0.02))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    own = dict(encoder.named_parameters())
    assert (
        id(own["pooling.mean.p"]) not in decayed
        and id(own["head.bias"]) not in decayed
        and id(own["head.weight"]) in decayed
    )
    assert len(decayed) == len([p for p in own.values() if p.ndim > 1])


def test_rates_are_factors_of_the_schedule_and_split_the_groups_of_weight_decay() -> None:
    encoder = small_spec("simpool").build(Facts("mine"))
    rates = {"backbone.*": 0.5, "pooling.w[qk].weight": 0.03, "backbone.bn1.*": 2}
    stage = Stage(64, 1000, 0.02, warmup=100)
    optimizer, scheduler = make_optimizer(encoder, load_recipe("resnet_gap"), stage, rates)
    names = {parameter: name for name, parameter in encoder.named_parameters()}
    for photos, share in ((0, 0.0), (50, 0.5), (100, 1.0), (550, 0.5)):
        scheduler.step_update(photos)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[parameter]
                factor = (
                    2
                    if ".bn1." in name and name.count(".") == 2
                    else 0.5
                    if name.startswith("backbone")
                    else 0.03
                    if ".wq." in name or ".wk." in name
                    else 1
                )
                assert group["lr"] == pytest.approx(0.02 * share * factor, abs=1e-12), name
                assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_rates_of_what_does_not_learn_are_refused() -> None:
    encoder = small_spec("gap").build(Facts("mine"))
    encoder.backbone.requires_grad_(False)
    stage = Stage(64, 1000, 0.02)
    for pattern in ("pooling.wq.weight", "backbone.conv1*"):
        with pytest.raises(ValueError, match=r"no tensor that learns is called .*; there are head\.weight, head\.bias"):
            make_optimizer(encoder, load_recipe("resnet_gap"), stage, {pattern: 0.1})
    resting = dataclasses.replace(stage, freeze="backbone")  # in the other stages it learns
    optimizer, _ = make_optimizer(encoder, load_recipe("resnet_gap"), resting, {"backbone.conv1*": 0.1})
    learned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert learned == {id(encoder.head.weight), id(encoder.head.bias)}
    with pytest.raises(ValueError, match=r"no tensor that learns is called pooling\.wq\.weight"):
        make_optimizer(encoder, load_recipe("resnet_gap"), resting, {"pooling.wq.weight": 0.1})


def test_schedule_reaches_the_optimiser(tmp_path: Path, shapes: Path) -> None:
    """In a warm-up that has hardly begun no weight moves, whatever the peak."""
    recipe = short_recipe(shapes)
    encoder = recipe.encoder.build(Facts("still"))
    before = {k: v.clone() for k, v in encoder.named_parameters()}
    photos = load_photos(shapes, "train", tmp_path)
    run, accelerator = Run(tmp_path, recipe, encoder, {}), make_accelerator("no", "cpu")
    run_stage(run, Stage(32, 96, 0.1, warmup=10**9), photos, 1, accelerator, tmp_path)
    assert all((v - before[k]).abs().max() < 1e-6 for k, v in encoder.named_parameters())
    run_stage(run, Stage(32, 96, 0.1, warmup=0), photos, 1, accelerator, tmp_path)
    assert all((v - before[k]).abs().max() > 1e-3 for k, v in encoder.named_parameters())


@pytest.mark.parametrize(("emulated", "precision"), [(True, "no"), (False, "bf16")])
def test_bfloat16_that_would_be_emulated_gives_way_to_float32_and_it_is_said(
    emulated: bool, precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2" if emulated else "AVX512")
    accelerator = make_accelerator("bf16", "cpu")
    tell_precision(accelerator, "bf16")
    assert accelerator.mixed_precision == precision
    assert ("float32 is computed" in capsys.readouterr().out) == emulated


def step_for(recipe: Recipe, encoder: Any, rate: float = 0.0) -> Step:
    optimizer = torch.optim.SGD(encoder.parameters(), lr=rate)
    return Step(recipe, recipe.stages[0], encoder, encoder, optimizer, make_accelerator("no", "cpu"), 1)


def test_gradient_of_a_step_is_that_of_its_own_batch(shapes: Path, tmp_path: Path) -> None:
    photos, gradients = load_photos(shapes, "train", tmp_path), []
    for steps in (2, 1):
        encoder = small_resnet().train().requires_grad_(True)
        step, stream = (
            step_for(short_recipe(shapes), encoder),
            Batches(len(photos), 32, 96, torch.Generator().manual_seed(0)),
        )
        batches = [(photos.batch(index), index) for index in stream]
        stream.step = 1
        for batch, index in batches[-steps:]:
            stream.generator.manual_seed(7)
            step(batch, index, stream)
        gradients.append(encoder.pooling.wq.weight.grad)
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


@pytest.mark.parametrize(("norm", "moved"), [(100.0, 1.0), (5.0, 1.0), (1.5, 1.0), (0.25, 0.25)])
def test_gradients_are_clipped_to_a_norm_of_1_over_all_groups(norm: float, moved: float) -> None:
    one, two = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [one]}, {"params": [two]}], lr=1.0)
    direction = torch.nn.functional.normalize(torch.tensor([3.0, -1.0, 2.0, 5.0, 1.0]), dim=0)
    accelerator = make_accelerator("no", "cpu")
    for step in (1, 2):  # the second of the same length: no gradient of the first is left
        loss = norm * (torch.cat([one, two]) @ direction)
        assert float(descend(accelerator, optimizer, loss, step)) == pytest.approx(loss.item())
        found = torch.cat([one, two]).detach()
        torch.testing.assert_close(found, -step * moved * direction, rtol=1e-4, atol=1e-5)


def test_gradient_that_is_not_finite_stops_the_training_before_a_weight_moves() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(FloatingPointError, match=r"the gradient is (inf|nan) at step 7; lower the learning rate"):
        descend(make_accelerator("no", "cpu"), optimizer, weight.sqrt().sum(), 7)
    assert torch.equal(weight.detach(), torch.zeros(2))


def test_loss_that_is_not_finite_stops_the_training_with_its_step(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step [2-9]\d*; lower the learning rate"):
        train(short_recipe(shapes, stages=(Stage(32, 3200, 1e20, warmup=0),)), tmp_path, tmp_path / "cache")
    assert not (tmp_path / "short" / "model.safetensors").exists()


def test_loss_that_is_nan_at_once_stops_at_step_1(tmp_path: Path, shapes: Path) -> None:
    recipe = short_recipe(shapes)
    encoder = recipe.encoder.build(Facts("broken"))
    encoder.head.weight.data.fill_(float("nan"))
    photos = load_photos(shapes, "train", tmp_path)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1;"):
        run_stage(
            Run(tmp_path, recipe, encoder, {}), recipe.stages[0], photos, 1, make_accelerator("no", "cpu"), tmp_path
        )


def test_spe_is_trained_with_its_penalty(tmp_path: Path, shapes: Path) -> None:
    spec = dataclasses.replace(small_spec("gap"), inside="spe")
    strong, none = (
        short_recipe(shapes, encoder=spec, spe_penalty=weight, stages=(Stage(32, 32 * 30, 0.01, warmup=0),))
        for weight in (10.0, 0.0)
    )
    penalties = []
    for i, recipe in enumerate((strong, none)):
        state = trained_weights(train(recipe, tmp_path / str(i), tmp_path / "cache"))
        penalties.append(
            sum(float((value.float() ** 2).sum()) for key, value in state.items() if key.endswith(".se.p"))
        )
    assert penalties[0] < 0.8 * penalties[1]
