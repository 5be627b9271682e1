"""Starts from another checkpoint, and what stays frozen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.sharing import is_of_trunk
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training.data import load_photos
from simpool_viz.training.features import CropPlan, keep_features
from simpool_viz.training.loop import Learner, train
from simpool_viz.training.recipe import FOLDER, Recipe, Stage, load_recipe
from simpool_viz.training.start import draw_as_plain, scale_tensors, start_from
from tests.helpers import hybrid, logged_losses, small_spec, stored_weights, vit_recipe, vit_spec


def test_training_starts_from_another_and_tells_what_it_took(tmp_path: Path, shapes: Path) -> None:
    first = train(vit_recipe(shapes, vit_spec("cls"), name="first"), tmp_path, tmp_path / "cache")
    later = vit_recipe(shapes, vit_spec("simpool"), init_from="first", stages=(Stage(32, 32, 0.0),))
    folder = train(later, tmp_path, tmp_path / "cache")
    before, after = stored_weights(first), stored_weights(folder)
    assert torch.equal(before["backbone.blocks.0.attn.qkv.weight"], after["backbone.blocks.0.attn.qkv.weight"])
    card, stages = (folder / "README.md").read_text(), load_checkpoint(folder, device="cpu").facts.stages
    assert "started from `first`: " in card and "new are pooling (4)" in card
    assert [line.split(":")[0] for line in stages] == ["first", "mine"] and "2. mine: 32 px, 32 photos seen" in card


def test_start_that_does_not_fit_is_refused(tmp_path: Path, shapes: Path) -> None:
    train(vit_recipe(shapes, vit_spec("cls"), name="first"), tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match="nothing of the backbone of first has the names and shapes"):
        start_from(small_spec().build(Facts("x")), "first", tmp_path / "mine")
    with pytest.raises(ValueError, match=r"no checkpoint .absent., bundled or in .*; train it first"):
        start_from(small_spec().build(Facts("x")), "absent", tmp_path / "mine")


def test_frozen_stem_keeps_its_start_to_the_bit_while_the_rest_learns(tmp_path: Path, shapes: Path) -> None:
    first = train(vit_recipe(shapes, small_spec("gap"), name="first"), tmp_path, tmp_path / "cache")
    recipe = vit_recipe(shapes, hybrid(), init_from="first", freeze="stem", ema=0.9)
    folder = train(recipe, tmp_path, tmp_path / "cache")
    before, after = stored_weights(first), stored_weights(folder)
    encoder = load_checkpoint(folder, device="cpu")
    stem = encoder.backbone.patch_embed.backbone.state_dict()
    assert "bn1.running_mean" in stem and all(
        torch.equal(value.to(before[f"backbone.{key}"].dtype), before[f"backbone.{key}"]) for key, value in stem.items()
    )
    assert encoder.facts.stem == "first" and not any("patch_embed.backbone" in key for key in after), (
        "it is not saved a second time"
    )
    untrained = train(
        dataclasses.replace(recipe, name="untrained", stages=(Stage(32, 32, 0.0),)), tmp_path, tmp_path / "cache"
    )
    assert not torch.equal(
        after["backbone.blocks.0.attn.qkv.weight"], stored_weights(untrained)["backbone.blocks.0.attn.qkv.weight"]
    )
    card = (folder / "README.md").read_text()
    assert "the first 5 blocks of a resnet18" in card and "; the stem stays as it is |" in card
    later = train(
        vit_recipe(shapes, hybrid("simpool"), name="later", init_from="mine", freeze="stem"),
        tmp_path,
        tmp_path / "cache",
    )
    assert load_checkpoint(later, device="cpu").facts.stem == "first", "the stem is lent by who had it first"
    loose = train(vit_recipe(shapes, hybrid(), name="loose", init_from="first"), tmp_path, tmp_path / "cache")
    assert load_checkpoint(loose, device="cpu").facts.stem == "" and any(
        "patch_embed.backbone" in key for key in stored_weights(loose)
    )
    before["backbone.conv1.0.weight"][0] += 1
    save_file(before, first / "model.safetensors")
    with pytest.raises(ValueError, match=r"the first blocks in .* are not those that 'mine' was trained on"):
        load_checkpoint(folder, device="cpu")
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="stands on the stem of 'first', which is not in"):
        load_checkpoint(folder, device="cpu")


DEEP = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def test_frozen_trunk_is_lent_to_the_bit_and_kept_crops_teach_what_is_above_it(tmp_path: Path, shapes: Path) -> None:
    def spec(**changes: Any) -> EncoderSpec:
        return vit_spec(**{"backbone_kwargs": DEEP, **changes})

    first = train(vit_recipe(shapes, spec(), name="first"), tmp_path, tmp_path / "cache")
    stage = Stage(32, 128, 0.01, warmup=32, kept=True)
    base = vit_recipe(
        shapes, spec(pooling="simpool"), name="base", init_from="first", freeze="trunk", trunk_blocks=2, ema=0.5
    )
    recipe = dataclasses.replace(base, stages=(stage,))
    folder = train(recipe, tmp_path, tmp_path / "cache")
    before, after = stored_weights(first), stored_weights(folder)
    encoder = load_checkpoint(folder, device="cpu")
    assert (encoder.facts.trunk, encoder.facts.trunk_blocks) == ("first", 2)
    assert not any(is_of_trunk(key, 2) for key in after) and "backbone.blocks.2.attn.qkv.weight" in after
    state = encoder.state_dict()
    assert all(torch.equal(state[key], before[key].float()) for key in before if is_of_trunk(key, 2))
    assert not torch.equal(after["backbone.blocks.2.attn.qkv.weight"], before["backbone.blocks.2.attn.qkv.weight"])
    losses = logged_losses(
        train(
            dataclasses.replace(recipe, stages=(Stage(32, 3200, 0.01, kept=True),), name="longer"),
            tmp_path,
            tmp_path / "cache",
        )
    )
    assert losses[-1] < 0.8 * losses[0]
    sibling = train(
        dataclasses.replace(recipe, name="sibling", encoder=spec(pooling="gap"), init_from="base"),
        tmp_path,
        tmp_path / "cache",
    )
    assert load_checkpoint(sibling, device="cpu").facts.trunk == "first", "the trunk is lent by who had it first"
    deeper = dataclasses.replace(recipe, name="deeper", init_from="base", trunk_blocks=1)
    assert load_checkpoint(train(deeper, tmp_path, tmp_path / "cache"), device="cpu").facts.trunk == "first"
    before["backbone.blocks.1.norm1.bias"][0] += 1
    save_file(before, first / "model.safetensors")
    with pytest.raises(ValueError, match=r"the first blocks in .* are not those that 'base' was trained on"):
        load_checkpoint(folder, device="cpu")
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="stands on the trunk of 'first', which is not in"):
        load_checkpoint(folder, device="cpu")


def test_kept_crops_give_the_gradient_of_the_same_crops_drawn(tmp_path: Path, shapes: Path) -> None:
    recipe = vit_recipe(shapes, vit_spec(backbone_kwargs=DEEP), freeze="trunk", trunk_blocks=2)
    torch.manual_seed(0)
    encoder = recipe.encoder.build(Facts("mine"))
    photos = load_photos(shapes, "train", tmp_path / "cache")
    plan, index = CropPlan(32, 0.3, 7), np.arange(0, 40, 3)
    kept = keep_features(encoder.eval(), photos, plan, tmp_path / "cache", block=1)
    images = plan.crops(photos.aspect).of(torch.from_numpy(index)).images(torch.tensor(photos.images[index]), 32)
    whole, parts = Learner(encoder), Learner(encoder)
    parts.blocks, parts.grid = 2, kept.grid
    with torch.inference_mode():
        given, drawn = parts(kept.sequence(index)).logits, whole(images).logits
    assert torch.allclose(given, drawn, atol=3e-2), "up to bf16 in the trunk"


def test_frozen_backbone_leaves_pooling_and_head_to_learn(tmp_path: Path, shapes: Path) -> None:
    first = train(vit_recipe(shapes, small_spec("simpool"), name="first"), tmp_path, tmp_path / "cache")
    folder = train(
        vit_recipe(shapes, small_spec("simpool"), init_from="first", freeze="backbone"), tmp_path, tmp_path / "cache"
    )
    before, after = stored_weights(first), stored_weights(folder)
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"pooling", "head"}


@pytest.mark.parametrize(
    ("freeze", "told"),
    [
        ("head", "freeze is stem, trunk or backbone"),
        ("stem", "there is no stem to freeze"),
        ("trunk", "freeze: trunk and trunk_blocks, the number of its blocks, go together"),
        ("trunk\ntrunk_blocks: 2", "a trunk of 2 blocks is frozen in a ViT of more blocks, and resnet18 has 0"),
        ("stem\ntrunk_blocks: 2", "go together"),
    ],
)
def test_freezing_what_is_not_there_is_refused(tmp_path: Path, freeze: str, told: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"base: {FOLDER / '_resnet'}\nname: mine\ntitle: Mine\nencoder: {{pooling: gap}}\nfreeze: {freeze}\n"
    )
    with pytest.raises(ValueError, match=told):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_life_starts_from_a_plain_vit_near_what_it_replaces(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = vit_spec().build(Facts("plain", "Plain", 64)).eval()
    for block in plain.blocks:
        torch.nn.init.orthogonal_(block.attn.qkv.weight)
    save_bundle(tmp_path / "plain", plain, vit_spec(), "# made up\n")
    spec = vit_spec(inside="life", inside_options={"first": 1})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = plain.tokens(images).patches
        fresh = spec.build(Facts("fresh")).eval()
        taught = spec.build(Facts("taught")).eval()
        summary = start_from(taught, "plain", tmp_path / "taught").summary
        errors = [float((e.tokens(images).patches - wanted).norm() / wanted.norm()) for e in (taught, fresh)]
    assert "new are" not in summary and errors[0] < 0.1 < errors[1]


def test_pooling_and_head_begin_as_those_of_the_sibling_with_nothing_inside() -> None:
    plain, life = (vit_spec(pooling="simpool", inside=inside) for inside in ("", "life"))
    recipe = Recipe("mine", "Mine", "photos", life, (), 64, seed=3)
    torch.manual_seed(3)
    wanted = plain.build(Facts("plain"))
    torch.manual_seed(3)
    encoder = life.build(Facts("mine"))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert not torch.equal(encoder.pooling.wk.weight, wanted.pooling.wk.weight)
    draw_as_plain(encoder, recipe)
    for part in ("pooling", "head"):
        own, other = getattr(encoder, part).state_dict(), getattr(wanted, part).state_dict()
        assert own and all(torch.equal(own[name], value) for name, value in other.items())
    for name, value in encoder.state_dict().items():
        assert name.startswith(("pooling.", "head.")) or torch.equal(value, before[name])


@pytest.mark.parametrize("plain", [True, False])
def test_a_recipe_decides_how_its_pooling_is_drawn(tmp_path: Path, shapes: Path, plain: bool) -> None:
    spec = vit_spec(pooling="simpool", inside="life")
    still = (Stage(32, 32, 0.0),)
    life = vit_recipe(shapes, spec, stages=still, drawn_as_plain=plain)
    sibling = vit_recipe(shapes, dataclasses.replace(spec, inside=""), stages=still, name="sibling")
    own, other = (stored_weights(train(one, tmp_path, tmp_path / "cache")) for one in (life, sibling))
    assert torch.equal(own["pooling.wk.weight"], other["pooling.wk.weight"]) == plain


def test_scales_multiply_what_they_name_and_nothing_else() -> None:
    encoder = small_spec("simpool").build(Facts("mine"))
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    scale_tensors(encoder, {"pooling.w*": 0.5, "pooling.wk.weight": 0})
    for name, value in encoder.named_parameters():
        factor = {"pooling.wq.weight": 0.5, "pooling.wk.weight": 0.0}.get(name, 1.0)
        torch.testing.assert_close(value, factor * before[name])
    with pytest.raises(ValueError, match=r"scales: no tensor is called pooling\.wz; there are .*head\.bias"):
        scale_tensors(encoder, {"pooling.wz": 0})


def test_simpool_whose_keys_begin_at_zero_begins_as_a_plain_mean() -> None:
    encoder = small_spec("simpool").build(Facts("mine", size=32)).eval()
    scale_tensors(encoder, {"pooling.wk.weight": 0})
    weights = (
        record(encoder, np.random.default_rng(0).integers(0, 255, (40, 64, 3), dtype=np.uint8)).map("simpool").fused()
    )
    np.testing.assert_allclose(weights, 1 / weights.size, rtol=1e-5)
