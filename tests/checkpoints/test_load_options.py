"""Options behind the "?" of a checkpoint's name, and the same as arguments: they arrive with their types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.formats.parts import UNSET, LoadOptions, parse_options, read_load_options, split_options
from simpool_viz.checkpoints.load import load_for_visitor
from simpool_viz.errors import CheckpointError, OptionError
from tests import made_files as made

TINY = "timm:vit_tiny_patch16_224?pretrained=False&depth=1"


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("pretrained=False&num_classes=3", {"pretrained": False, "num_classes": 3}),
        ("gamma=none&size=448", {"gamma": None, "size": 448}),
        ("gamma=1.25&num_heads=6", {"gamma": 1.25, "num_heads": 6}),
        ("img_size=224x448&channels=8+8", {"img_size": (224, 448), "channels": [8, 8]}),
        ("global_pool=avg&drop_rate=1e-1&qk_norm=true", {"global_pool": "avg", "drop_rate": 0.1, "qk_norm": True}),
        ("pos_embed=none&arch=none&weights=1&backbone=7", {"pos_embed": "none", "arch": "none", "weights": "1"}),
        ("backbone=a%26b.pth%3Fgamma=2", {"backbone": "a&b.pth?gamma=2"}),
        ("backbone=resnet_gap+slot", {"backbone": "resnet_gap+slot"}),
        ("global_pool=", {"global_pool": ""}),
    ],
)
def test_options_arrive_with_their_types(query: str, options: dict[str, Any]) -> None:
    found = parse_options(query)
    for key, value in options.items():
        assert found[key] == value and type(found[key]) is type(value)
    assert split_options(f"absent.pth?{query}") == ("absent.pth", found)


@pytest.mark.parametrize(("query", "says"), [("gamma", "'gamma' in"), ("size=1&size=2", "size is given twice")])
def test_options_that_are_no_pairs_are_refused(query: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        load_checkpoint(f"absent.pth?{query}", device="cpu")


def test_timm_tag_takes_options_with_their_types() -> None:
    encoder = load_checkpoint(
        f"{TINY}&num_classes=3&img_size=64x96&global_pool=avg&class_token=false&size=160&init_values=1e-5",
        device="cpu",
    )
    assert encoder.head is not None and encoder.head.out_features == 3 and encoder.depth == 1
    assert encoder.facts.size == 160 and encoder.facts.source.endswith("random weights")
    assert not encoder.has_class_token and encoder.pooling.name == "gap"
    assert encoder.backbone.pos_embed.shape[1] == 4 * 6
    resnet = load_checkpoint("timm:resnet18?pretrained=false&channels=8+8+16+24&num_classes=0", device="cpu")
    assert resnet.dim == 24 and resnet.head is None


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("pretrained=maybe", "timm:resnet18: pretrained= takes true or false, not 'maybe'"),
        ("pretrained=0", "timm:resnet18: pretrained= takes true or false, not 0"),
        ("pretrained=false&num_classes=many", "timm:resnet18: num_classes= takes a whole number, not 'many'"),
        ("pretrained=false&size=0", "timm:resnet18: size= takes at least 1 or none, not 0"),
        ("pretrained=false&channels=0+8+8+8", r"timm:resnet18: channels= takes at least 1, not \[0, 8, 8, 8\]"),
        ("pretrained=false&avg_down=no", "timm:resnet18: avg_down= takes true or false, not 'no'"),
        ("pretrained=false&colour=red", "timm:resnet18 does not take these options: colour"),
        ("pretrained=false&output_stride=7", r"timm:resnet18 cannot be built with output_stride=7 \(AssertionError"),
        (
            "pretrained=false&norm_layer=odd",
            r"timm:resnet18: norm_layer= takes the name of one of timm's layers, not 'odd'",
        ),
    ],
)
def test_timm_tag_refuses_values_of_the_wrong_kind(query: str, says: str) -> None:
    with pytest.raises(CheckpointError if " with " in says or "these" in says else OptionError, match=says):
        load_checkpoint(f"timm:resnet18?{query}", device="cpu")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_heads": "many"}, "num_heads= takes a number, not 'many'"),
        ({"num_heads": True}, "num_heads= takes a whole number, not true"),
        ({"num_heads": 2.5}, "num_heads= takes a whole number, not 2.5"),
        ({"size": -1}, "size= takes at least 1, not -1"),
        ({"gamma": "high"}, "gamma= takes a number or none, not 'high'"),
        ({"gamma": True}, "gamma= takes a number or none, not true"),
        ({"weights": 3}, "weights= takes text, not 3"),
        ({"arch": None}, "arch= takes text, not null"),
        ({"colour": "red"}, "takes no option colour. It takes weights: which entry of a training checkpoint"),
    ],
)
def test_options_of_a_file_are_refused_in_a_sentence(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    torch.save(made.vit(), tmp_path / "a.pth")
    with pytest.raises(OptionError) as caught:
        load_checkpoint(tmp_path / "a.pth", device="cpu", **options)
    assert str(caught.value).startswith("a.pth: ") and says in str(caught.value)


def test_options_of_a_file_are_the_same_as_text_and_as_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool."), gamma=1.25), path)
    for name, options in (
        (f"{path}?gamma=2&size=96", {}),
        (str(path), {"gamma": 2, "size": 96.0}),
    ):
        encoder = load_checkpoint(name, device="cpu", **options)
        assert encoder.pooling.gamma == 2.0 and isinstance(encoder.pooling.gamma, float)
        assert type(encoder.facts.size) is int and encoder.facts.size == 96
    assert load_checkpoint(f"{path}?gamma=none&weights=student", device="cpu").pooling.gamma is None


def test_options_that_are_not_given_are_left_to_the_file() -> None:
    assert read_load_options({}, "a.pth") == LoadOptions() and LoadOptions().gamma is UNSET
    given = {"gamma": None, "backbone": Path("a") / "b.pth"}
    assert read_load_options(given, "a.pth") == LoadOptions(gamma=None, backbone=str(Path("a") / "b.pth"))


def test_wrong_option_of_a_hub_name_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("nothing is asked of the hub")

    monkeypatch.setattr("simpool_viz.checkpoints.hub.descriptions", fetch)
    monkeypatch.setattr("simpool_viz.checkpoints.hub.download", fetch)
    for load in (load_checkpoint, load_for_visitor):
        for query, says in (("size=big", "size= takes a number, not 'big'"), ("pretrained=False", "takes no option")):
            with pytest.raises(OptionError, match=f"hf:user/repo: .*{says}"):
                load(f"hf:user/repo?{query}", device="cpu")
