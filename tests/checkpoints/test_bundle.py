"""Checkpoint folders: what is saved comes back, and every kind of damage is a sentence that names the file and the
fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from simpool_viz import record
from simpool_viz.checkpoints import bundle
from simpool_viz.checkpoints.bundle import load_bundle, read_config, save_bundle
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import change_config, make_photo, small_resnet, small_spec
from tests.photos import CLASSES


def test_saved_encoder_comes_back_in_half_precision_with_its_description(tmp_path: Path, resnet: Encoder) -> None:
    save_bundle(tmp_path / "new" / "small", resnet, small_spec(), "# card\n")
    loaded = load_bundle(tmp_path / "new" / "small")
    assert loaded.facts == resnet.facts and loaded.facts.classes == CLASSES
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    own, other = resnet.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    for key, value in own.items():
        assert other[key].dtype == value.dtype
        assert torch.equal(other[key], value.half().to(value.dtype) if value.is_floating_point() else value), key
    assert (tmp_path / "new" / "small" / "README.md").read_text() == "# card\n"
    stored = load_file(tmp_path / "new" / "small" / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16, torch.int64}


def test_loaded_encoder_makes_the_maps_of_the_saved_one(tmp_path: Path, resnet: Encoder) -> None:
    save_bundle(tmp_path, resnet, small_spec(), "")
    maps = [record(encoder, make_photo()).map("simpool").weights for encoder in (resnet, load_bundle(tmp_path))]
    assert np.abs(maps[0] - maps[1]).max() < 0.02 * maps[0].max() and np.ptp(maps[0]) > 0.5 / maps[0].size


def test_saving_a_loaded_encoder_again_changes_no_bit(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    spec, _ = read_config(checkpoints["simpool"])
    save_bundle(tmp_path, load_bundle(checkpoints["simpool"]), spec, "# made up\n")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / name).read_bytes() == (checkpoints["simpool"] / name).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_half_precision_cannot_hold_are_not_saved(tmp_path: Path, value: float) -> None:
    encoder = small_resnet()
    encoder.pooling.wq.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"small_simpool is not saved.*pooling\.wq\.weight"):
        save_bundle(tmp_path / "new", encoder, small_spec(), "")
    assert not (tmp_path / "new").exists()


def change_state(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def write(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors", ""),
    "empty weights": (write("model.safetensors", b""), "model.safetensors is damaged or not a safetensors file", ""),
    "other weights": (write("model.safetensors", b"PK\x03\x04 a pickle, say" * 9), "model.safetensors is damaged", ""),
    "weights cut off": (write("model.safetensors", lambda b: b[: len(b) // 2]), "model.safetensors is damaged", ""),
    "header garbled": (
        write("model.safetensors", lambda b: b[:8] + b"?" * 40 + b[48:]),
        "model.safetensors is damaged",
        "",
    ),
    "git-lfs pointer": (
        write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "damaged",
        "",
    ),
    "missing tensor": (
        change_state(lambda s: s.pop("pooling.wk.weight")),
        "model.safetensors",
        "pooling.wk.weight is missing",
    ),
    "extra tensor": (
        change_state(lambda s: s.update(surplus=torch.zeros(2))),
        "model.safetensors",
        "surplus is not known",
    ),
    "wrong shape": (
        change_state(lambda s: s.update({"head.weight": torch.zeros(4, 16)})),
        "model.safetensors",
        "head.weight has shape (4, 16), not (3, 16)",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json", "not a checkpoint folder"),
    "config is not JSON": (write("config.json", b"{format: 1"), "config.json is not readable as JSON", ""),
    "config is not text": (write("config.json", b"\xff\xfe\x00\x81"), "config.json is not readable as JSON", ""),
    "config is a list": (write("config.json", b"[1]"), "config.json is not of format 1", ""),
    "config of another format": (change_config(lambda c: c.update(format=2)), "config.json is not of format 1", ""),
    "config without encoder": (
        change_config(lambda c: c.pop("encoder")),
        "config.json does not describe a checkpoint",
        "'encoder'",
    ),
    "config without facts": (
        change_config(lambda c: c.pop("facts")),
        "config.json does not describe a checkpoint",
        "'facts'",
    ),
    "config without backbone": (
        change_config(lambda c: c["encoder"].pop("backbone")),
        "config.json does not describe",
        "'backbone'",
    ),
    "config with an unknown field": (
        change_config(lambda c: c["facts"].update(size_=3)),
        "config.json does not describe",
        "'size_'",
    ),
    "unknown backbone": (
        change_config(lambda c: c["encoder"].update(backbone="resnet19")),
        "config.json",
        "'resnet19'",
    ),
    "unknown pooling": (change_config(lambda c: c["encoder"].update(pooling="simpol")), "config.json", "'simpol'"),
    "unknown pooling option": (
        change_config(lambda c: c["encoder"]["pooling_options"].update(gama=1)),
        "config.json",
        "gama",
    ),
    "unknown backbone option": (
        change_config(lambda c: c["encoder"]["backbone_kwargs"].update(stemtype=1)),
        "config.json",
        "stemtype",
    ),
    "number of classes is text": (change_config(lambda c: c["encoder"].update(num_classes="three")), "config.json", ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folder_is_refused_by_the_name_of_its_file_and_fault(
    tmp_path: Path, checkpoints: dict[str, Path], name: str
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(checkpoints["simpool"], folder)
    damage, *said = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_every_fault_is_told_at_once_and_a_long_list_is_cut(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    shutil.copytree(checkpoints["simpool"], tmp_path / "small")
    change_state(lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.layer4")])(tmp_path / "small")
    change_state(lambda s: s.update(surplus=torch.zeros(2)))(tmp_path / "small")
    with pytest.raises(ValueError, match=r"is missing.*\(and \d+ more\)"):
        load_bundle(tmp_path / "small")


def test_fill_copies_every_tensor_or_none() -> None:
    encoder = small_resnet()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = {k: torch.zeros_like(v) for k, v in before.items()}
    state["head.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"here does not fit its encoder: head\.bias has shape \(7,\), not \(3,\)"):
        bundle.fill(encoder, state, "here")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
