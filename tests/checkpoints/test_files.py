"""Options of files, and files converted to a smaller one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.files import MARK, convert, load_file
from tests import made_files as made
from tests.checkpoints.formats.test_flax import as_flax
from tests.helpers import INPUT_SIZES, pooling_weights, random_images, save_weights


def test_options_are_checked(tmp_path: Path) -> None:
    path = save_weights(tmp_path, made.vit())
    for query, says in (
        ("colour=red", "takes no option colour. It takes weights"),
        ("num_heads=many", "num_heads= takes a number"),
    ):
        with pytest.raises(ValueError, match=says):
            load_checkpoint(f"{path}?{query}", device="cpu")
    with pytest.raises(ValueError, match="pos_embed is timm, dino or transformers, not 'x'"):
        load_checkpoint(path, device="cpu", pos_embed="x")
    narrow = save_weights(tmp_path, made.vit(dim=48), "narrow.pth")
    with pytest.raises(ValueError, match="48 channels do not determine the number of heads; say num_heads="):
        load_checkpoint(narrow, device="cpu")
    assert load_checkpoint(f"{narrow}?num_heads=4&size=96", device="cpu").facts.size == 96


@pytest.mark.parametrize("kind", ["vit", "supervised", "resnet", "convnext"])
def test_converted_file_is_a_fifth_and_maps_identically(tmp_path: Path, kind: str) -> None:
    content = {
        "vit": lambda: made.self_supervised(
            made.vit(cls=False) | made.simpool(128, "simpool.", beta=True), arch="vit", gamma=None
        ),
        "supervised": lambda: made.supervised(
            made.vit(cls=False, classes=3) | made.simpool(128, "gp.pool."), mode="simpool", gamma=1.25
        ),
        "resnet": lambda: made.self_supervised(made.resnet() | made.simpool(512, "simpool."), gamma=2.0),
        "convnext": lambda: made.self_supervised(made.convnext() | made.simpool(40, "simpool."), gamma=2.0),
    }[kind]()
    source, target = save_weights(tmp_path, content), tmp_path / "new" / "small.safetensors"
    report = convert(source, target)
    before, after = load_checkpoint(source, device="cpu"), load_checkpoint(target, device="cpu")
    for size in INPUT_SIZES:
        assert torch.equal(pooling_weights(before, size), pooling_weights(after, size))
        with torch.inference_mode():
            assert torch.equal(before(random_images(*size)).vector, after(random_images(*size)).vector)
    if kind != "supervised":
        assert target.stat().st_size <= source.stat().st_size / 5
    assert report.used == len(load_tensors(target)) and list(target.parent.iterdir()) == [target]


def test_converting_twice_changes_nothing_and_the_student_can_be_taken(tmp_path: Path) -> None:
    source = save_weights(
        tmp_path, made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool."), gamma=1.5)
    )
    convert(source, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    one, two = (load_checkpoint(tmp_path / f"{n}.safetensors", device="cpu") for n in "ab")
    assert torch.equal(pooling_weights(one, (224, 224)), pooling_weights(two, (224, 224)))
    convert(source, tmp_path / "s.safetensors", "student")
    assert load_checkpoint(tmp_path / "s.safetensors", device="cpu").pooling.gamma == 1.5


def test_converted_file_keeps_the_options_with_which_it_loads(tmp_path: Path) -> None:
    source = save_weights(tmp_path, made.vit(dim=48, cls=False) | made.simpool(48, "simpool."))
    with pytest.raises(ValueError, match="say num_heads="):
        convert(source, tmp_path / "a.safetensors")
    asked: dict[str, Any] = {"num_heads": 4, "gamma": 1.5, "pos_embed": "dino", "size": 96}
    convert(source, tmp_path / "a.safetensors", **asked)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    before = load_checkpoint(source, device="cpu", **asked)
    for name in ("a", "b"):
        after = load_checkpoint(tmp_path / f"{name}.safetensors", device="cpu")
        assert torch.equal(pooling_weights(before, INPUT_SIZES[1]), pooling_weights(after, INPUT_SIZES[1]))
        assert (after.pooling.gamma, after.facts.size) == (1.5, 96)
    assert load_checkpoint(tmp_path / "a.safetensors", device="cpu", gamma=2.0).pooling.gamma == 2.0


def test_converted_probing_head_goes_onto_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"0.cls_token": torch.randn(1, 4, 128), "0.v.weight": torch.randn(128, 128)}
    state |= {"2.weight": torch.randn(6, 128), "2.bias": torch.randn(6)}
    backbone = save_weights(tmp_path, made.vit(), "backbone.pth")
    convert(save_weights(tmp_path, {"saved_module": "head", "model": state}, "head.pth"), tmp_path / "head.safetensors")
    before, after = (
        load_checkpoint(tmp_path / f"head.{n}", device="cpu", backbone=str(backbone), tokens="after_norm")
        for n in ("pth", "safetensors")
    )
    with torch.inference_mode():
        assert torch.equal(before(random_images(*INPUT_SIZES[1])).logits, after(random_images(*INPUT_SIZES[1])).logits)
    del state["2.weight"]
    with pytest.raises(ValueError, match=r"head\.pth: 2\.weight, the classifier of a probing head, is missing"):
        load_checkpoint(
            save_weights(tmp_path, {"saved_module": "head", "model": state}, "head.pth"),
            device="cpu",
            backbone=str(backbone),
        )


def test_what_cannot_be_converted_leaves_no_file(tmp_path: Path) -> None:
    bad = save_weights(tmp_path, {"bert.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="not recognised"):
        convert(bad, tmp_path / "out" / "a.safetensors")
    with pytest.raises(ValueError, match=r"ends in \.safetensors, which a\.pth does not"):
        convert(bad, tmp_path / "a.pth")
    assert not (tmp_path / "out").exists()


def test_a_base_is_for_heads_alone(tmp_path: Path) -> None:
    encoder, _ = load_file(save_weights(tmp_path, made.vit()))
    assert dataclasses.asdict(encoder.facts)["license"] == "not stated in the file"
    with pytest.raises(ValueError, match="has a backbone of its own"):
        load_file(tmp_path / "weights.pth", base=encoder)


def test_converted_file_keeps_heads_preprocessing_and_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **small_npz())
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    before = load_checkpoint(tmp_path / "a.npz", device="cpu", classes=tmp_path / "names.txt")
    convert(tmp_path / "a.npz", tmp_path / "a.safetensors", classes=str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").unlink()
    after = load_checkpoint(tmp_path / "a.safetensors", device="cpu")
    assert after.blocks[0].attn.num_heads == before.blocks[0].attn.num_heads == 6
    assert after.facts.mean == (0.5, 0.5, 0.5) and after.facts.classes == before.facts.classes == ("ant", "bee", "cat")
    with torch.inference_mode():
        assert torch.equal(before(random_images(64, 96)).logits, after(random_images(64, 96)).logits)


def small_npz() -> dict[str, np.ndarray]:
    import timm

    options = {"depth": 1, "embed_dim": 96, "num_heads": 6, "num_classes": 3, "img_size": 64}
    return as_flax(timm.create_model("vit_tiny_patch16_224", **options).state_dict(), 1, 6)


def test_metadata_of_a_file_opens_no_other_file(tmp_path: Path) -> None:
    """Else the lines of any file of the server would be shown as classes."""
    secret = tmp_path / "secret.txt"
    secret.write_text("one\ntwo\nthree\n")
    mark = {"family": "plain", "where": "", "args": {}, "options": {"classes": str(secret), "backbone": str(secret)}}
    save_file(made.vit(64, 1, grid=4, classes=3), tmp_path / "a.safetensors", metadata={MARK: json.dumps(mark)})
    assert load_checkpoint(tmp_path / "a.safetensors", device="cpu").facts.classes == ()


@pytest.mark.parametrize(
    "mark", ["", "{", "[]", "{}", '{"family": "plain", "where": "", "args": 3}', '{"family": "plain"}']
)
def test_converted_file_whose_description_is_damaged_is_told(tmp_path: Path, mark: str) -> None:
    save_file(made.vit(64, 1, grid=4), tmp_path / "a.safetensors", metadata={MARK: mark})
    with pytest.raises(
        ValueError, match=r"a\.safetensors does not record what it was converted from .*; convert it again"
    ):
        load_checkpoint(tmp_path / "a.safetensors", device="cpu")


def test_converted_file_with_options_that_do_not_exist_is_told(tmp_path: Path) -> None:
    mark = {"family": "plain", "where": "", "args": {}, "options": {"colour": "red"}}
    save_file(made.vit(64, 1, grid=4), tmp_path / "a.safetensors", metadata={MARK: json.dumps(mark)})
    with pytest.raises(ValueError, match="takes no option colour"):
        load_checkpoint(tmp_path / "a.safetensors", device="cpu")
