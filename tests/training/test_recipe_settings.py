"""Every setting of a recipe is held against its type before anything is read or trained, in files as with --set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from simpool_viz.errors import OptionError, TrainingError
from simpool_viz.training.recipe import HeadsRecipe, Recipe, load_recipe
from tests.helpers import write_recipe

STAGE = {"size": 32, "photos": 128, "lr": 0.004}
REFUSED = [
    ("encoder.dense=maybe", "encoder.dense is true or false, not 'maybe'"),
    ('encoder.stem_pool="false"', "encoder.stem_pool is true or false, not 'false'"),
    ("encoder.stem_pool=0", "encoder.stem_pool is true or false, not 0"),
    ('stages=[{size: 64, photos: 500, lr: 1e-3, squeeze: "no"}]', "stages[0].squeeze is true or false, not 'no'"),
    ("encoder.num_classes=1e2", "encoder.num_classes is a whole number (in digits, without quotes and exponent)"),
    ('encoder.num_classes="114"', "encoder.num_classes is a whole number (in digits, without quotes and exponent)"),
    ("encoder.num_classes=-1", "encoder.num_classes is at least 0, not -1"),
    ("encoder.num_classes=", "encoder.num_classes is a whole number, not null"),
    ("encoder.pooling_options=5", "encoder.pooling_options is a table, not 5"),
    ("encoder.backbone_kwargs=[1]", "encoder.backbone_kwargs is a table, not [1]"),
    ("encoder.pooling=3", "encoder.pooling is text, not 3"),
    ("encoder=resnet18", "encoder is a table, not 'resnet18'"),
    ("encoder.poling=gap", "there is no setting encoder.poling: 'poling' is none of backbone, pooling, num_classes"),
    ("encoder.stem={backbone: resnet18}", "'blocks' is missing in encoder.stem"),
    ("encoder.stem={backbone: resnet18, blocks: 2, depth: 3}", "there is no setting encoder.stem.depth"),
    ('encoder.stem={backbone: resnet18, blocks: 2, stem_pool: "no"}', "encoder.stem.stem_pool is true or false"),
    ("encoder.stem={backbone: resnet18, blocks: 0}", "encoder.stem.blocks is at least 1, not 0"),
    ("encoder.stem=resnet18", "encoder.stem is a table, not 'resnet18'"),
    ("seed=true", "seed is a whole number, not true"),
    ("seed=-1", "seed is at least 0, not -1"),
    ("map_size=-3", "map_size is at least 1, not -3"),
    ("void=300", "void is at most 255, not 300"),
    ("stored=0", "stored is at least 1, not 0"),
    ("batch_size=-4", "batch_size is -4"),
    ("ema=1.5", "ema is at most 1, not 1.5"),
    ("label_smoothing=-0.1", "label_smoothing is at least 0, not -0.1"),
    ("weight_decay=.nan", "weight_decay is a finite number, not nan"),
    ("weight_decay=yes", "weight_decay is a number, not true"),
    ('weight_decay="0.1"', "weight_decay is a number, not '0.1'"),
    ("title=3", "title is text, not 3"),
    ("optimizer=no", "optimizer is text, not false"),
    ("classes=cat", "classes is a list, not 'cat'"),
    ("classes=[cat, 3]", "classes[1] is text, not 3"),
    ("stages={size: 64}", "stages is a list, not {'size': 64}"),
    ("stages=[64]", "stages[0] is a table, not 64"),
    ("stages=[{size: -64, photos: 500, lr: 0.1}]", "stages[0].size is at least 1, not -64"),
    ("stages=[{size: 64, photos: 500, lr: 0.1, crop: 0}]", "stages[0].crop is greater than 0, not 0"),
    ("stages=[{size: 64, photos: 500, lr: 0.1, epochs: 3}]", "there is no setting stages[0].epochs: 'epochs' is none"),
    ("source=me", "there is no setting source. Settings are: name, title,"),
    ("overrides=[]", "there is no setting overrides. Settings are: name, title,"),
    ("encoder.backbone=resnet19", "encoder cannot be built: timm"),
    ("encoder.pooling=simpol", "no pooling is called 'simpol'"),
    ("encoder.pooling_options.gamma=high", "pooling 'simpool': gamma is a number or none, not 'high'"),
    ("encoder.pooling_options.gama=1", "gama"),
    ("encoder.backbone_kwargs.stem_width=wide", "backbone_kwargs.stem_width is a whole number, not 'wide'"),
    ("encoder.backbone_kwargs.stem_width=-8", "backbone_kwargs.stem_width is at least 1, not -8"),
    ('encoder.backbone_kwargs.avg_down="no"', "backbone_kwargs.avg_down is true or false, not 'no'"),
    ("encoder.backbone_kwargs.channels=64", "backbone_kwargs.channels is a list or none, not 64"),
    ("encoder.backbone_kwargs.stemtype=deep", "stemtype"),
    ("encoder.norm=bach", "the norm between pooling and head is one of none, layer, batch, not 'bach'"),
]


@pytest.mark.parametrize(("override", "says"), REFUSED)
def test_setting_of_the_wrong_kind_is_refused_with_its_key(override: str, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        load_recipe("resnet_simpool", [override])
    assert says in str(caught.value) and "resnet_simpool.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": True}, "seed is a whole number, not true"),
        ({"stages": [STAGE | {"squeeze": "no"}]}, "stages[0].squeeze is true or false, not 'no'"),
        ({"stages": [STAGE, STAGE | {"photos": "1e2"}]}, "stages[1].photos is a whole number (in digits"),
        ({"batch_size": "32"}, "batch_size is a whole number (in digits"),
        ({"classes": {"a": 1}}, "classes is a list, not {'a': 1}"),
        ({"base": [3]}, "base is the name of a recipe beside it, or a list of names, not [3]"),
        ({"base": "mine"}, "is among the recipes that it is a base of"),
        ({7: 8}, "there is no setting 7"),
    ],
)
def test_files_and_overrides_are_held_against_the_same_types(
    tmp_path: Path, changes: dict[Any, Any], says: str
) -> None:
    path = write_recipe(tmp_path, "mine")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    with pytest.raises(TrainingError) as caught:
        load_recipe(str(path))
    assert says in str(caught.value) and "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("heads=5", "heads is a table, not 5"),
        ("heads={a: slot}", "heads.a is a table, not 'slot'"),
        ("heads={a: {norm: batch}}", "'pooling' is missing in heads.a"),
        ("heads={a: {pooling: slot, layers: 3}}", "there is no setting heads.a.layers: 'layers' is none of pooling"),
        ('heads={a: {pooling: slot, dense: "yes"}}', "heads.a.dense is true or false, not 'yes'"),
        ("heads={a: {pooling: slot, pooling_options: 3}}", "heads.a.pooling_options is a table, not 3"),
        ("heads={1: {pooling: gap}}", "is text, not 1"),
        ("size=-112", "size is at least 1, not -112"),
        ("seed=false", "seed is a whole number, not false"),
        ("precision=bf16", "there is no setting precision. Settings are: name, data, frozen"),
    ],
)
def test_settings_of_heads_are_checked_likewise(override: str, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        load_recipe("resnet_heads", [override])
    assert says in str(caught.value)


def test_numbers_as_people_write_them_in_yaml_are_taken() -> None:
    recipe = load_recipe(
        "resnet_simpool",
        [
            "map_size=128.0",
            "weight_decay=1e-3",
            "ema=0",
            "encoder.num_classes=1.14e+2",
            "encoder.pooling_options.gamma=1e-1",
            "stages=[{size: 64, photos: 5000, lr: 2e-3, squeeze: no}]",
            "precision=no",
            "classes=[cat, dog]",
        ],
    )
    assert isinstance(recipe, Recipe)
    assert (recipe.map_size, recipe.weight_decay, recipe.ema, recipe.precision) == (128, 0.001, 0.0, "no")
    assert type(recipe.map_size) is type(recipe.encoder.num_classes) is int and recipe.encoder.num_classes == 114
    assert recipe.encoder.pooling_options == {"gamma": 0.1} and recipe.classes == ("cat", "dog")
    (stage,) = recipe.stages
    assert stage.lr == 0.002 and stage.squeeze is False
    heads = load_recipe("resnet_heads", ["size=112.0", "lr=1e-4"])
    assert isinstance(heads, HeadsRecipe) and (heads.size, heads.lr) == (112, 0.0001)
    assert heads.source == "resnet_heads" and heads.overrides == ("size=112.0", "lr=1e-4")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "--set takes key=value, not 'seed'"),
        ("stages.0.lr=1", "--set stages.0.lr: stages holds no settings of its own"),
        ("title=[1, 2", "--set title is not readable as YAML"),
        ("title=2024-13-45", "--set title is not readable as YAML: month must be in 1..12"),
        (f"title={'[' * 5000}", "--set title is not readable as YAML"),
    ],
)
def test_override_that_cannot_be_read_is_a_fault_of_the_option(override: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        load_recipe("resnet_simpool", [override])
    assert says in str(caught.value)


def test_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(TrainingError, match=r"mine\.yaml is not a text in UTF-8"):
        load_recipe(str(tmp_path / "mine.yaml"))
