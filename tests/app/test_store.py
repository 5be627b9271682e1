"""The checkpoints that visitors share: what is kept, at which size, and what is fetched once for all."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from simpool_viz import load_checkpoint, record
from simpool_viz.app import store as module
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.store import EncoderStore
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.hub import Progress
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import small_resnet

EXAMPLE = str(bundled_folder("assets") / "chelsea.jpg")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, of a catalogue of five small checkpoints; "a+b" is a head on the backbone of "a"."""
    names: list[str] = []

    def load(name: str, device: str, precision: str) -> Encoder:
        names.append(name)
        encoder = small_resnet(name="a" if name == "a+b" else name)
        encoder.facts = dataclasses.replace(encoder.facts, name=name, base="a" if name == "a+b" else "")
        return encoder

    monkeypatch.setattr(module, "catalogue", lambda: dict.fromkeys(("a", "b", "c", "d", "a+b")))
    monkeypatch.setattr(module, "load_checkpoint", load)
    return names


def test_store_drops_the_checkpoint_that_was_asked_for_longest_ago(loads: list[str]) -> None:
    store = EncoderStore("cpu", limit=3)
    first = {name: store.get(name) for name in ("a", "b", "c")}
    assert store.get("a") is first["a"] and loads == ["a", "b", "c"], "each is loaded once"
    store.get("d")
    assert list(store._loaded) == ["c", "a", "d"], "b was asked for longest ago"
    assert store.get("a") is first["a"] and store.get("c") is first["c"] and len(loads) == 4
    assert store.get("b") is not first["b"] and loads == ["a", "b", "c", "d", "b"]
    for name in ("a", "b", "c", "d", "a", "b", "c", "d"):
        store.get(name)
        assert len(store._loaded) <= 3 and next(reversed(store._loaded)) == name


def test_store_keeps_eight_checkpoints_unless_told_otherwise(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(i) for i in range(12)]
    monkeypatch.setattr(module, "catalogue", lambda: dict.fromkeys(names))
    store = EncoderStore("cpu")
    for name in names:
        store.get(name)
    assert list(store._loaded) == names[-8:] and loads == names


def test_heads_in_the_store_share_the_backbone_of_their_base(loads: list[str]) -> None:
    store = EncoderStore("cpu")
    base, head, other = store.get("a"), store.get("a+b"), store.get("b")
    assert head.backbone is base.backbone is not other.backbone


# --- sizes


def test_checkpoint_at_another_size_shares_its_weights_and_is_told_apart() -> None:
    store = EncoderStore("cpu")
    own, larger = store.get("vit_gap"), store.get("vit_gap?size=448")
    assert larger.facts.size == 448 and own.facts.size == 224 and larger.backbone is own.backbone
    assert (larger.facts.name, larger.facts.title) == ("vit_gap?size=448", "ViT, GAP, 448 px")
    assert store.get("vit_gap?size=448") is larger, "Inspect knows a recording by its encoder"
    found = record(larger, EXAMPLE)
    assert found.geometry.grid[0] == 32 and record(own, EXAMPLE).geometry.grid[0] == 16


def test_size_of_a_name_is_that_of_python_and_of_the_command_line() -> None:
    encoder = load_checkpoint("resnet_gap?size=192", device="cpu")
    assert (encoder.facts.size, encoder.facts.name) == (192, "resnet_gap?size=192")
    with pytest.raises(ValueError, match="resnet_gap takes size alone"):
        load_checkpoint("resnet_gap?gamma=2", device="cpu")


@pytest.mark.parametrize("size", ["8", "5000", "1.5", "true", "'64'", "wide"])
def test_size_that_no_page_offers_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="takes a whole number of pixels from 16 to 4096"):
        EncoderStore("cpu").get(f"resnet_gap?size={size}")


def test_only_the_size_may_follow_a_name_in_the_page() -> None:
    with pytest.raises(ValueError, match="takes no option but size here, not gamma"):
        EncoderStore("cpu").get("vits_dino_simpool_ep100?gamma=2")


# --- the hub

LISTED = "timm:vit_small_patch14_dinov2.lvd142m"


def test_two_visitors_who_want_the_same_weights_fetch_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, fetched = threading.Event(), threading.Event(), []

    def load(name: str, *, device: str, precision: str, parameters: int, progress: Progress | None) -> Encoder:
        fetched.append(name)
        begun.set()
        assert go.wait(20)
        return small_resnet(name=name)

    monkeypatch.setattr(module, "load_offered", load)
    store = EncoderStore("cpu")
    assert not store.has(LISTED)
    with ThreadPoolExecutor(3) as pool:
        both = [pool.submit(store.get, LISTED) for _ in range(2)]
        assert begun.wait(20)
        assert store.get("resnet_gap").facts.name == "resnet_gap", "a bundled one does not wait for a download"
        go.set()
        one, other = (future.result() for future in both)
    assert one is other and fetched == [LISTED] and store.has(LISTED) and store.has(f"{LISTED}?size=224")


def test_board_says_how_much_of_a_download_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def load(name: str, *, device: str, precision: str, parameters: int, progress: Progress | None) -> Encoder:
        assert progress is not None
        progress(30_000_000, 88_000_000)
        assert go.wait(20)
        encoder = small_resnet(name=name)
        return encoder

    monkeypatch.setattr(module, "load_offered", load)
    said = []
    for state in ComparePage(EncoderStore("cpu")).run(EXAMPLE, [f"{LISTED}?size=64"], ["pooling"]):
        said.append(state.waiting)
        if "30 of 88 MB" in state.waiting:
            go.set()
    assert "Fetching ViT-S/14, DINOv2 from the hub, 30 of 88 MB ..." in said and said[-1] == ""
    assert [row.checkpoint for row in state.board.rows] == [f"{LISTED}?size=64"]


def test_download_that_fails_ends_the_wait_and_leaves_the_others_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: object) -> Encoder:
        raise ValueError("out of reach")

    monkeypatch.setattr(module, "load_offered", load)
    store = EncoderStore("cpu")
    for _ in range(2):
        with pytest.raises(ValueError, match="out of reach"):
            store.get(LISTED)
    assert not store.has(LISTED) and store.get("resnet_gap").pooling.name == "gap"
