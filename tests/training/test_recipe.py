"""Recipes: bundled and of one's own, overrides, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.sharing import is_of_trunk
from simpool_viz.training.recipe import HeadsRecipe, Stage, list_recipes, load_recipe, scales_at
from tests.helpers import write_recipe


def test_precision_is_checked_when_the_recipe_is_read() -> None:
    with pytest.raises(ValueError, match="precision is bf16, fp16 or no, not 'half'"):
        load_recipe("resnet_gap", ["precision=half"])
    with pytest.raises(ValueError, match="an even batch and no dense head"):
        load_recipe("resnet_gap", ["mixup=0.2", "batch_size=33"])


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested dict as {"a.b": value}."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{path}.{key}".lstrip(".")).items()}


def test_bundled_recipes_are_listed_without_their_bases_and_load() -> None:
    assert {"resnet_gap", "resnet_simpool"} <= set(list_recipes()) and not any(
        name.startswith("_") for name in list_recipes()
    )
    for name in list_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.sources and recipe.license
        assert isinstance(recipe, HeadsRecipe) or (recipe.title and recipe.stages)


def test_siblings_of_one_base_differ_only_in_what_they_compare() -> None:
    siblings = {
        p: flat(dataclasses.asdict(load_recipe(f"resnet_{p}")))
        for p in ("gap", "gem", "simpool", "spe_gap", "spe_simpool")
    }
    gap, compared = siblings["gap"], {"encoder.pooling", "encoder.inside"}
    slow, open_gates = "rates.pooling.w[qk].weight", "rates.backbone.*.se.*"
    flatter = "scales.pooling.wk.weight"
    for name, recipe in siblings.items():
        differing = {k for k in gap.keys() | recipe.keys() if gap.get(k) != recipe.get(k)}
        assert differing <= compared | {"name", "title", "source", "rates", "scales", slow, open_gates, flatter}, name
        assert recipe.get(slow) == (0.03 if "simpool" in name else None)
        assert recipe.get(flatter) == ((1, 1, 0.6) if "simpool" in name else None)
        assert recipe.get(open_gates) == (10 if "spe" in name else None)
        assert recipe["encoder.inside"] == ("spe" if "spe" in name else "")


def test_scales_have_a_factor_for_the_start_of_each_stage() -> None:
    recipe = load_recipe("resnet_simpool", ["scales={pooling.wk.weight: [1, 1, 0.6], pooling.wq.weight: 0.5}"])
    assert [scales_at(recipe, stage) for stage in (1, 2, 3)] == [
        {"pooling.wk.weight": 1, "pooling.wq.weight": 0.5},
        {"pooling.wk.weight": 1},
        {"pooling.wk.weight": 0.6},
    ]
    short = load_recipe("resnet_simpool", ["stages=[{size: 64, photos: 200, lr: 0.1}]"])
    assert scales_at(short, 1) == {"pooling.wk.weight": 1}
    with pytest.raises(TrainingError, match=r"scales\.pooling\.wk\.weight\[1\] is a number, not 'x'"):
        load_recipe("resnet_simpool", ["scales={pooling.wk.weight: [1, x, 0.6]}"])


def test_a_stage_rests_the_backbone_alone_and_only_where_classes_are_learned() -> None:
    with pytest.raises(TrainingError, match="freeze of a stage is backbone, or left out, not 'trunk'"):
        load_recipe("resnet_gap", ["stages=[{size: 64, photos: 200, lr: 0.1, freeze: trunk}]"])
    for taught in ("distil={teacher: vit_thin}", "dino={outputs: 64, local_crops: 2}"):
        with pytest.raises(TrainingError, match="a student's backbone learns in every stage; leave out freeze"):
            load_recipe("resnet_gap", [taught, "encoder.num_classes=0"])


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("patch_vit_life", "encoder.inside", "life"), ("patch_vit_sar", "spatial_entropy", 0.01)],
)
def test_plain_vits_from_scratch_differ_in_what_they_compare_alone(name: str, setting: str, value: Any) -> None:
    plain, other = (flat(dataclasses.asdict(load_recipe(recipe))) for recipe in ("patch_vit", name))
    differ = {k for k in plain.keys() | other.keys() if plain.get(k) != other.get(k)}
    assert differ == {"name", "title", "source", setting}
    assert other[setting] == value and not other["init_from"] and not other["freeze"] and other["follow_entropy"]


def test_settings_of_spatial_entropy_are_checked() -> None:
    with pytest.raises(TrainingError, match="entropy_schedule is one of rise and fall, rise, constant, not 'cosine'"):
        load_recipe("vit_cls_sar", ["entropy_schedule=cosine"])
    with pytest.raises(TrainingError, match="entropy_threshold is one of mean, median, not 'otsu'"):
        load_recipe("vit_cls_sar", ["entropy_threshold=otsu"])
    for share in (0, 1.5):
        with pytest.raises(TrainingError, match="share is"):
            load_recipe("patch_vit", [f"share={share}"])
    for setting in ("spatial_entropy=0.01", "follow_entropy=true"):
        with pytest.raises(TrainingError, match="measured where classes are learned, and this student learns none"):
            load_recipe("vit_ssl_cls", [setting])


LIFE = {"encoder.inside", "encoder.inside_options.first"}
VITS = {
    "vit_gap": {"encoder.pooling"},
    "vit_ggem": {"encoder.pooling"},
    "vit_simpool": {"encoder.pooling", "rates.pooling.w[qk].weight"},
    "vit_cls_sar": {"spatial_entropy"},
    "vit_life_cls": LIFE,
}


def differing(one: str, other: str) -> set[str]:
    """The settings in which two recipes differ, but for their names."""
    own, theirs = (flat(dataclasses.asdict(load_recipe(n))) for n in (one, other))
    told = {"name", "title", "source", "encoder.inside_options"}
    return {key for key in own | theirs if own.get(key) != theirs.get(key)} - told


@pytest.mark.parametrize("name", VITS)
def test_vits_differ_from_the_one_with_class_token_only_in_what_they_compare(name: str) -> None:
    assert differing("vit_cls", name) == VITS[name]


def test_vits_and_dense_models_with_life_differ_from_their_siblings_in_life_and_how_it_begins() -> None:
    # LIFE learns slowly there, and SimPool begins as its sibling's.
    assert differing("vit_simpool", "vit_life_simpool") == LIFE | {
        "drawn_as_plain",
        "rates.backbone.blocks.*.attn.qkv.*",
    }
    assert differing("camvid_vit", "camvid_vit_life") == LIFE | {"init_from"}


def test_the_self_supervised_pair_differs_in_its_pooling_alone() -> None:
    assert differing("vit_ssl_cls", "vit_ssl_simpool") == {"encoder.pooling", "rates.pooling.w[qk].weight"}


def test_recipes_of_vits_are_siblings_on_one_frozen_trunk_and_one_size() -> None:
    for name in (*VITS, "vit_cls", "vit_life_simpool", "vit_ssl_cls", "vit_ssl_simpool"):
        recipe = load_recipe(name)
        encoder = recipe.encoder.build(Facts(name))
        assert (recipe.init_from, recipe.freeze, recipe.trunk_blocks) == ("vit_thin", "trunk", 10)
        own = sum(value.numel() for key, value in encoder.state_dict().items() if not is_of_trunk(key, 10))
        assert own < 5e6, "at most 10 MB in half precision"


def test_recipe_of_ones_own_inherits_from_a_base_beside_it(tmp_path: Path) -> None:
    write_recipe(tmp_path, "_base")
    (tmp_path / "child.yaml").write_text(
        "base: _base\nname: child\nencoder: {pooling_options: {beta: true}}\nbatch_size: 16\n"
    )
    child, base = load_recipe(str(tmp_path / "child.yaml")), load_recipe(str(tmp_path / "_base.yaml"))
    assert child.encoder.pooling_options == {"gamma": 2.0, "beta": True}
    same = dataclasses.replace(child.encoder, pooling_options=base.encoder.pooling_options)
    assert dataclasses.replace(child, name="_base", encoder=same, batch_size=32) == base


def test_later_bases_go_before_earlier_ones_and_null_gives_a_setting_its_default_back(tmp_path: Path) -> None:
    write_recipe(tmp_path, "_base")
    (tmp_path / "_short.yaml").write_text("batch_size: 8\nencoder: {num_classes: 3}\nseed: 5\n")
    (tmp_path / "child.yaml").write_text("base: [_base, _short]\nname: child\nseed: null\n")
    child, base = (load_recipe(str(tmp_path / f"{name}.yaml")) for name in ("child", "_base"))
    assert (child.batch_size, child.encoder.num_classes, child.seed) == (8, 3, 0)
    assert child.encoder.pooling_options == base.encoder.pooling_options


def test_overrides_reach_any_setting_with_its_type() -> None:
    changes = ["seed=3", "weight_decay=1e-3", "encoder.pooling_options.gamma=1.25", "title=My own, with = in it"]
    recipe = load_recipe("resnet_simpool", [*changes, "stages=[{size: 64, photos: 256, lr: 1e-4}]"])
    assert (recipe.seed, recipe.weight_decay, recipe.title) == (3, 0.001, "My own, with = in it")
    assert recipe.encoder.pooling_options == {"gamma": 1.25} and recipe.stages == (Stage(64, 256, 0.0001),)
    assert load_recipe("resnet_simpool").seed == 0, "the bundled recipe is not changed"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "--set takes key=value, not 'seed'"),
        ("epochs=3", "epochs"),
        ("encoder.poling=gap", "poling"),
        ("seed=three", "seed is a number, not 'three'"),
        ("batch_size=1.5", "batch_size is a whole number, not 1.5"),
        ("batch_size=0", "at least one batch of photos"),
        ("stages=[]", "at least one stage"),
        ("stages=[{size: 64, photos: 5, lr: 0.1}]", "at least one batch of photos"),
        ("stages=[{size: 64, photos: 500}]", "lr"),
        ("stages=[{size: 64, photos: 500, lr: fast}]", "lr is a number, not 'fast'"),
        ("stages.0.lr=1", "stages holds no settings of its own"),
        ("title=[1, 2", "--set title is not readable as YAML"),
    ],
)
def test_override_that_fits_no_setting_is_refused_in_a_sentence(override: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        load_recipe("resnet_simpool", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- a\n- b\n", "is not a table of settings"),
        ("name: [1, 2", "is not readable as YAML"),
        ("name: mine\n", "is not a complete recipe"),
        ("base: absent\nname: mine\n", "there is no recipe 'absent'"),
        ("", "is not a complete recipe"),
    ],
)
def test_file_that_is_no_recipe_is_refused_in_a_sentence(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=says):
        load_recipe(str(tmp_path / "mine.yaml"))
    with pytest.raises(ValueError, match=r"there is no recipe 'absent'; bundled are .*resnet_gap"):
        load_recipe("absent")
