"""`config.json` of a checkpoint folder is held against the types of what it describes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from simpool_viz.checkpoints.bundle import load_bundle, read_config, save_bundle
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Facts
from tests.helpers import hybrid
from tests.photos import CLASSES

READ = [
    ("facts.mean", "0.5", "facts.mean is a list, not '0.5'"),
    ("facts.mean", [0.5, 0.5], "facts.mean is a list of at least 3, not [0.5, 0.5]"),
    ("facts.mean", [0.5, "a", 0.5], "facts.mean[1] is a number, not 'a'"),
    ("facts.std", [0.2, 0, 0.2], "facts.std[1] is greater than 0, not 0"),
    ("facts.std", None, "facts.std is a list, not null"),
    ("facts.size", "big", "facts.size is a number, not 'big'"),
    ("facts.size", 0, "facts.size is at least 1, not 0"),
    ("facts.size", 128.5, "facts.size is a whole number, not 128.5"),
    ("facts.classes", "cat", "facts.classes is a list, not 'cat'"),
    ("facts.classes", [1, 2], "facts.classes[0] is text, not 1"),
    ("facts.name", 7, "facts.name is text, not 7"),
    ("facts.minutes", "long", "facts.minutes is a number, not 'long'"),
    ("facts", 3, "facts is a table, not 3"),
    ("facts.sise", 3, "there is no setting facts.sise: 'sise' is none of name, title, size"),
    ("encoder", [], "encoder is a table, not []"),
    ("encoder.num_classes", "three", "encoder.num_classes is a number, not 'three'"),
    ("encoder.num_classes", True, "encoder.num_classes is a whole number, not true"),
    ("encoder.stem_pool", "false", "encoder.stem_pool is true or false, not 'false'"),
    ("encoder.dense", 1, "encoder.dense is true or false, not 1"),
    ("encoder.backbone_kwargs", "depth", "encoder.backbone_kwargs is a table, not 'depth'"),
    ("encoder.stem.blocks", "all", "encoder.stem.blocks is a number, not 'all'"),
    ("encoder.stem.depth", 3, "there is no setting encoder.stem.depth"),
]
BUILT = [
    ("encoder.backbone_kwargs.depth", "three", "backbone_kwargs.depth is a whole number, not 'three'"),
    ("encoder.backbone_kwargs.depth", -1, "backbone_kwargs.depth is at least 1, not -1"),
    ("encoder.backbone_kwargs.depth", 2.5, "backbone_kwargs.depth is a whole number, not 2.5"),
    ("encoder.backbone_kwargs.embed_dim", 0, "backbone_kwargs.embed_dim is at least 1, not 0"),
    ("encoder.backbone_kwargs.class_token", "no", "backbone_kwargs.class_token is true or false, not 'no'"),
    ("encoder.backbone_kwargs.fc_norm", "false", "backbone_kwargs.fc_norm is true or false or none, not 'false'"),
    ("encoder.backbone_kwargs.norm_layer", 3, "backbone_kwargs.norm_layer is text or"),
    ("encoder.backbone_kwargs.norm_layer", "lay", "norm_layer is the name of one of timm's layers, not 'lay'"),
    ("encoder.backbone_kwargs.num_heads", 5, "num_heads=5"),
    ("encoder.backbone_kwargs.global_pool", "mean", "backbone_kwargs.global_pool is '', 'avg'"),
    ("encoder.backbone_kwargs.num_classes", 3, "backbone_kwargs may not hold num_classes"),
    ("encoder.stem.backbone_kwargs.stem_width", "x", "stem.backbone_kwargs.stem_width is a whole number, not 'x'"),
    ("encoder.stem.backbone_kwargs.pretrained", True, "stem.backbone_kwargs may not hold pretrained"),
    ("encoder.pooling_options.gamma", "x", "gamma is a number or none, not 'x'"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ViT on a stem, whose description has every table."""
    folder, spec = tmp_path_factory.mktemp("whole") / "whole", hybrid("simpool", pooling_options={"gamma": 1.25})
    facts = Facts("whole", size=64, classes=CLASSES, stages=("whole: 64 px",))
    save_bundle(folder, spec.build(facts), spec, "")
    return folder


def change(source: Path, folder: Path, key: str, value: Any) -> None:
    """Put a value into a copy of a checkpoint's description."""
    folder.mkdir()
    shutil.copy(source / "model.safetensors", folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    *above, last = key.split(".")
    table = config
    for step in above:
        table = table[step]
    table[last] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("key", "value", "says"), READ)
def test_field_of_the_wrong_kind_is_refused_with_its_key(
    whole: Path, tmp_path: Path, key: str, value: Any, says: str
) -> None:
    change(whole, tmp_path / "mine", key, value)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path / "mine")
    assert says in str(caught.value) and str(tmp_path / "mine" / "config.json") in str(caught.value)


@pytest.mark.parametrize(("key", "value", "says"), BUILT)
def test_option_that_the_backbone_does_not_take_is_refused_with_its_key(
    whole: Path, tmp_path: Path, key: str, value: Any, says: str
) -> None:
    change(whole, tmp_path / "mine", key, value)
    with pytest.raises(CheckpointError) as caught:
        load_bundle(tmp_path / "mine")
    assert says in str(caught.value) and str(tmp_path / "mine" / "config.json") in str(caught.value)


def test_whole_numbers_and_lists_of_json_arrive_as_they_are_meant(whole: Path, tmp_path: Path) -> None:
    change(whole, tmp_path / "mine", "facts.size", 128.0)
    spec, facts = read_config(tmp_path / "mine")
    assert type(facts.size) is int and isinstance(facts.mean, tuple) and isinstance(facts.classes, tuple)
    assert (spec, facts.stages) == (read_config(whole)[0], ("whole: 64 px",))
