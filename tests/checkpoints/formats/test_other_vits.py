"""Files of BEiT, CaiT and Swin, by timm's names and by their authors', give what timm's models give at any size."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.formats.timm import encoder_from_timm
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Facts
from tests.helpers import State, make_photo, random_images, save_weights

SIZES: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64},
    "cait_xxs24_224": {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 2, 2, 1), "num_heads": (2, 3, 4, 6)},
}
BEIT, CAIT, SWIN = SIZES


def made_model(tag: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(tag, num_classes=5, **(SIZES[tag] | options)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def of_microsoft(model: Any) -> State:
    """The names and the buffers of Microsoft's own files."""
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        state[key.replace("head.fc.", "head.")] = value
    for key in [key for key in state if key.endswith("relative_position_bias_table")]:
        state[key.replace("bias_table", "index")] = torch.zeros(4, 4, dtype=torch.long)
    if "layers.0.blocks.0.norm1.weight" in state:
        state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return state


def assert_as(model: Any, source: Path, dropped: int = 0, **options: Any) -> Any:
    """Logits and maps are those of timm's model, also away from its own size; returns the report."""
    encoder, report = load_with_report(source, device="cpu", **options)
    own = encoder_from_timm(model, Facts("own", size=encoder.facts.size)).eval()
    size = (224, 224) if isinstance(model, timm.models.swin_transformer.SwinTransformer) else (64, 64)
    x = random_images(*size)
    with torch.no_grad():
        wanted, found = model(x), encoder(x).logits
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max() and wanted.std() > 1e-3
    one, other = record(encoder, make_photo(), 96), record(own, make_photo(), 96)
    assert one.geometry.grid[0] != one.geometry.grid[1]
    for name, why in maps_of(encoder).items():
        if why is None:
            wanted_map = other.map(name).weights
            assert np.abs(one.map(name).weights - wanted_map).max() <= 1e-5 * np.abs(wanted_map).max(), name
    assert sum(report.dropped.values()) == dropped
    return report


@pytest.mark.parametrize(
    ("tag", "options", "says"),
    [
        (BEIT, {}, "BEiT, 2 blocks of 64 channels and 2 heads, patches of 16 px"),
        (BEIT, {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}, "and 2 heads"),
        (BEIT, {"global_pool": "token", "use_abs_pos_emb": True}, "BEiT"),
        (CAIT, {}, "CaiT, 2 blocks and 2 of class attention, 64 channels and 2 heads"),
        (SWIN, {}, "Swin of 2-2-2-1 blocks, 24 channels in the first, windows of 7 tokens"),
    ],
)
def test_plain_file_of_timm_tells_the_whole_model(tmp_path: Path, tag: str, options: Any, says: str) -> None:
    """Width 64 has two heads here, not one of 64 channels: the tables say it."""
    model = made_model(tag, **options)
    path = save_weights(tmp_path, {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}})
    report = assert_as(model, path)
    assert says in report.architecture and "heads" not in " ".join(report.notes)
    assert any("of ImageNet are assumed" in note for note in report.notes)


@pytest.mark.parametrize("tag", [BEIT, SWIN])
def test_microsofts_own_file_is_the_model_of_timm(tmp_path: Path, tag: str) -> None:
    model = made_model(tag)
    state = of_microsoft(model)
    dropped = len(state) - len(model.state_dict())
    report = assert_as(model, save_weights(tmp_path, {"model": state}), dropped)
    assert any("read by the names of Microsoft's" in note for note in report.notes) and dropped > 1


def test_beit_before_fine_tuning_loses_its_prediction(tmp_path: Path) -> None:
    model = made_model(BEIT, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token")
    state = of_microsoft(model) | {"mask_token": torch.zeros(1, 1, 64), "lm_head.weight": torch.zeros(9, 64)}
    report = assert_as(model, save_weights(tmp_path, {"model": state | {"lm_head.bias": torch.zeros(9)}}), 4)
    assert report.dropped["predicts what stands in masked patches, in training only"] == 2


def test_swins_own_file_takes_the_tag_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, create = made_model(SWIN), timm.create_model
    path = save_weights(tmp_path, {"model": of_microsoft(model)})
    monkeypatch.setattr(timm, "create_model", lambda *given, **options: create(*given, **(options | SIZES[SWIN])))
    report = assert_as(model, path, 8, arch=f"{SWIN}.ms_in1k")
    assert any("from timm's swin_tiny_patch4_window7_224.ms_in1k" in note for note in report.notes)


def test_cait_gives_the_attention_of_its_class_token_from_a_file_with_its_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and keys of its class attention are no SimPool's."""
    model, create = made_model(CAIT), timm.create_model
    path = save_weights(tmp_path, {"model": {f"module.{key}": value for key, value in model.state_dict().items()}})
    monkeypatch.setattr(timm, "create_model", lambda *given, **options: create(*given, **(options | SIZES[CAIT])))
    report = assert_as(model, path, arch=CAIT)
    assert report.architecture == f"timm {CAIT}"
    assert maps_of(load_checkpoint(path, device="cpu"))["cls"] is None


@pytest.mark.parametrize(
    ("tag", "change", "options", "says"),
    [
        (BEIT, lambda s: None, {"num_heads": 4}, "num_heads= is for plain ViTs, and this is a BEiT; leave it out"),
        (CAIT, lambda s: None, {"pos_embed": "dino"}, "pos_embed= is for plain ViTs, and this is a CaiT; leave it out"),
        (SWIN, lambda s: None, {"grid": [2, 8]}, "grid= is for position embeddings, and a Swin has none"),
        (BEIT, lambda s: None, {"grid": [2, 8]}, "a table of 52 relative positions is not that of 2 x 8 patches"),
        (CAIT, lambda s: None, {"grid": [2, 7]}, "its 16 position embeddings are not those of 2 x 7 patches"),
        (CAIT, lambda s: s.update(pos_embed=torch.zeros(1, 15, 64)), {}, "15 position embeddings are no square grid"),
        (CAIT, lambda s: s.pop("blocks_token_only.0.mlp.fc1.weight"), {}, r"blocks_token_only\.0\.mlp\.fc1\.weight is"),
        (BEIT, lambda s: s.update({"blocks.1.extra": torch.ones(2)}), {}, r"blocks\.1\.extra is not known"),
        (SWIN, lambda s: s.pop("layers.1.blocks.1.norm1.bias"), {}, r"layers\.1\.blocks\.1\.norm1\.bias is missing"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    tmp_path: Path, tag: str, change: Callable[[State], Any], options: dict[str, Any], says: str
) -> None:
    state = dict(made_model(tag).state_dict())
    change(state)
    with pytest.raises(ValueError, match=says):
        load_checkpoint(save_weights(tmp_path, state), device="cpu", **options)


@pytest.mark.parametrize(
    ("tag", "options", "says"),
    [
        ("xcit_nano_12_p16_224", {}, "XCiT attends between channels, not between tokens"),
        ("eva_giant_patch14_224", {"depth": 1, "embed_dim": 64, "num_heads": 4}, "as EVA's have; name it as a model"),
    ],
)
def test_relatives_that_tensors_do_not_tell_whole_are_refused_with_the_reason(
    tmp_path: Path, tag: str, options: dict[str, Any], says: str
) -> None:
    state = timm.create_model(tag, **options).state_dict()
    with pytest.raises(ValueError, match=says):
        load_checkpoint(save_weights(tmp_path, state), device="cpu")
