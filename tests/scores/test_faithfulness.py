"""Insertion and deletion against a model whose answer is known: it reads one part of the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simpool_viz import record
from simpool_viz.errors import MapError, OptionError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording
from simpool_viz.scores.faithfulness import Faithfulness, faithfulness, iterate_faithfulness
from tests.helpers import make_photo, small_resnet


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(small_resnet("gap", "mine", 0), make_photo(), 64)


class Corner(nn.Module):
    """Stands for an encoder: the class 1 is probable where the upper left quarter is bright."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.facts, self.classifier = encoder.facts, encoder.classifier

    def forward(self, images: torch.Tensor) -> Any:
        h, w = images.shape[-2] // 2, images.shape[-1] // 2
        score = images[:, :, :h, :w].mean((1, 2, 3))
        return dataclasses.make_dataclass("Out", ["logits"])(torch.stack([0 * score, 8 * score], 1))


def corner(recording: Recording) -> Recording:
    image = torch.ones_like(recording.image)
    encoder: Any = Corner(recording.encoder)
    return dataclasses.replace(recording, encoder=encoder, image=image, logits=torch.tensor([0.0, 8.0]))


def test_a_map_of_what_counts_deletes_early_and_inserts_early(recording: Recording) -> None:
    known = corner(recording)
    right, wrong = np.zeros((4, 6), np.float32), np.zeros((4, 6), np.float32)
    right[:2, :3], wrong[2:, 3:] = 1, 1
    good, bad = (faithfulness(known, weights, steps=8, target=1) for weights in (right, wrong))
    assert good.areas["deletion"] < bad.areas["deletion"] - 0.25
    # The blurred picture is as bright as the picture: nothing is gained by inserting.
    assert good.areas["insertion"] == pytest.approx(bad.areas["insertion"], abs=1e-6)
    # A quarter is deleted after two of eight steps; what is left of the class is its chance.
    assert good.deletion[2] == pytest.approx(0.5, abs=0.04) and good.deletion[0] == pytest.approx(1, abs=1e-3)
    assert bad.deletion[2] == pytest.approx(1, abs=1e-3) and bad.deletion[-1] == pytest.approx(0.5, abs=1e-6)


def test_curves_begin_and_end_with_the_pictures_they_name(recording: Recording) -> None:
    curves = faithfulness(recording, recording.map("contribution"), steps=5)
    index, name, probability = recording.top_classes(1)[0]
    assert curves.class_name == name and np.allclose(curves.shares, np.linspace(0, 1, 6), atol=1e-3)
    assert curves.deletion[0] == pytest.approx(probability, abs=1e-4)
    assert curves.insertion[-1] == pytest.approx(probability, abs=1e-4)
    with torch.inference_mode():
        empty = recording.encoder(torch.zeros_like(recording.image)[None]).logits.softmax(-1)[0, index]
    assert curves.deletion[-1] == pytest.approx(float(empty), abs=1e-4)
    assert curves.areas["deletion"] == pytest.approx(np.trapezoid(curves.deletion, curves.shares))


def test_the_curves_grow_and_end_as_the_whole(recording: Recording) -> None:
    weights = recording.map("contribution").fused()
    parts = list(iterate_faithfulness(recording, weights, steps=9))
    assert [len(part.shares) for part in parts] == [4, 8, 10]
    whole = faithfulness(recording, weights, steps=9)
    assert np.allclose(parts[-1].deletion, whole.deletion) and parts[-1].areas == whole.areas


def test_areas_are_those_of_trapezoids() -> None:
    curves = Faithfulness(np.array([0, 0.5, 1]), np.array([1, 0.5, 0]), np.array([0, 1, 1]), "cat")
    assert curves.areas == {"deletion": 0.5, "insertion": 0.75}


def test_what_has_no_curves_is_refused(recording: Recording) -> None:
    weights = np.ones((4, 6), np.float32)
    encoder: Any = Corner(recording.encoder)
    encoder.classifier = None
    headless = dataclasses.replace(recording, encoder=encoder, logits=None)
    with pytest.raises(MapError, match="mine has no classifier"):
        faithfulness(headless, weights)
    for steps in (0, 201):
        with pytest.raises(OptionError, match="1 to 200 steps"):
            faithfulness(recording, weights, steps)
    with pytest.raises(OptionError, match="has classes 0 to"):
        faithfulness(recording, weights, 2, 10_000)


def test_compare_writes_curves_masks_and_refined_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from simpool_viz.cli.main import main

    Image.fromarray(make_photo()).save(tmp_path / "photo.png")
    box = "20,10,60,50"
    command = ["compare", str(tmp_path / "photo.png"), "-c", "resnet_simpool", "-o", str(tmp_path / "out")]
    command += ["--size", "64", "--faithfulness", "3", "--refine", "grabcut", "--reference", box, "--device", "cpu"]
    assert main(command) == 0
    header = (tmp_path / "out" / "scores.csv").read_text().splitlines()[0].split(",")
    assert {"deletion_area", "insertion_area", "iou_refined", "iou", "iou_at_best_threshold"} <= set(header)
    with Image.open(tmp_path / "out" / "faithfulness.png") as picture:
        assert picture.size[0] > 800
    binary = np.asarray(Image.open(tmp_path / "out" / "photo.resnet_simpool.pooling.binary.png"))
    assert set(np.unique(binary)) == {0, 255} and binary.shape == make_photo().shape[:2]
    assert main([*command[:-6], "--overwrite", "--faithfulness", "-1"]) != 0
    assert "1 to 200 steps" in capsys.readouterr().err
