"""The list of checkpoints, without a browser: its groups and lines, and what a browser may send."""

from __future__ import annotations

import gradio as gr
import pytest

from simpool_viz.app import checkpoint_list as module
from simpool_viz.app.checkpoint_list import CheckpointList, hub_groups, hub_state, timm_lines
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.store import EncoderStore
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.published import is_offered, offered


def test_every_bundled_checkpoint_stands_in_one_group_with_its_own_size_and_stride() -> None:
    groups = ComparePage(EncoderStore("cpu")).groups
    bundled = {line.name: (group.title, line) for group in groups if not group.hub for line in group.lines}
    assert sorted(bundled) == sorted(catalogue()) and len(bundled) == sum(len(g.lines) for g in groups if not g.hub)
    title, line = bundled["vit_simpool"]
    assert (title, line.title, line.size, line.stride) == ("ViT, one base", "ViT, SimPool", 224, 14)
    assert "12.3 M parameters" in line.about and "held-out photos" in line.about
    assert bundled["vit_ssl_cls"][0] == "ViT, self-supervised" and bundled["camvid_vit"][0] == "Street scenes"
    assert bundled["resnet_gap"][0] == "ResNet, from scratch"
    assert bundled["resnet_gap+slot"][0] == "Poolings on a frozen backbone"


def test_published_weights_stand_with_what_is_downloaded_and_at_the_size_of_their_file() -> None:
    simpool, dino, timm = hub_groups()
    assert len(simpool.lines) == 16 and all("MB or more" in line.about for line in (*simpool.lines, *dino.lines))
    dinov2 = next(line for line in dino.lines if line.title == "ViT-S/14, DINOv2")
    assert (dinov2.size, dinov2.stride) == (518, 14)
    names = {line["name"] for line in timm_lines()}
    assert timm.later and {"timm:vit_base_patch16_clip_224.openai", "timm:resnet50.a1_in1k"} <= names
    assert all(is_offered(name) for name in names) and not names & set(offered())


def test_hub_that_is_out_of_reach_leaves_what_is_in_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.hub, "is_reachable", lambda: False)
    monkeypatch.setattr(module.hub, "is_in_cache", lambda repository: repository == "timm/vit_base_patch8_224.dino")
    assert hub_state() == {"reached": False, "cached": ["timm:vit_base_patch8_224.dino"]}


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"names": ["vit_gap"]}, "a list of names"),
        ([1], "a list of names"),
        (["vit_gap?size=5"], "from 16 to 4096"),
        (["vit_gap?gamma=1"], "no option but size"),
        ([f"vit_gap?size={size}" for size in range(100, 125)], "25 checkpoints were chosen; at most 24"),
    ],
)
def test_what_no_page_sends_is_refused(sent: object, says: str) -> None:
    with pytest.raises(gr.Error, match=says):
        CheckpointList().preprocess(sent)


def test_what_is_sent_twice_is_chosen_once() -> None:
    assert CheckpointList().preprocess(["vit_gap", "vit_cls", "vit_gap"]) == ["vit_gap", "vit_cls"]
    assert CheckpointList().preprocess(None) == []
