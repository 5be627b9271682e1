"""Segmentation heads in the file of their backbone: each token's scores are those of its raw tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from simpool_viz import load_checkpoint, record
from simpool_viz.board.segmentation import segment
from simpool_viz.checkpoints.files import convert
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.errors import CheckpointError, OptionError
from tests import made_files as made
from tests.helpers import State, flat_rows, make_photo, random_images, save_weights, token_scores
from tests.oracles import attention

DIM, CLASSES = 64, 5


def vit() -> State:
    return made.vit(DIM, 2, grid=4)


def linear(out: int, wide: int, seed: int = 1, conv: bool = False) -> State:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, wide, generator=random) / wide**0.5
    return {"weight": weight[:, :, None, None] if conv else weight, "bias": torch.randn(out, generator=random)}


def batch_norm(wide: int) -> State:
    random = torch.Generator().manual_seed(3)
    draw = {name: torch.randn(wide, generator=random) for name in ("weight", "bias", "running_mean")}
    return draw | {
        "running_var": 0.5 + torch.rand(wide, generator=random),
        "num_batches_tracked": torch.tensor(7),
    }


def under(prefix: str, state: State) -> State:
    return {f"{prefix}.{key}": value for key, value in state.items()}


def normed(x: torch.Tensor, bn: State) -> torch.Tensor:
    return (x - bn["running_mean"]) / (bn["running_var"] + 1e-5).sqrt() * bn["weight"] + bn["bias"]


def through(x: torch.Tensor, layer: State) -> torch.Tensor:
    return x @ layer["weight"].reshape(layer["weight"].shape[:2]).T + layer["bias"]


def segmenter() -> tuple[State, Callable[[torch.Tensor], torch.Tensor]]:
    """Segmenter's file keeps the classifier of the pretraining in its encoder."""
    head = linear(CLASSES, DIM)
    state = under("encoder", vit() | under("head", linear(21, DIM, 9))) | under("decoder.head", head)
    return state, lambda x: through(x, head)


def of_dinov2() -> tuple[State, Callable[[torch.Tensor], torch.Tensor]]:
    head, bn = linear(CLASSES, DIM, conv=True), batch_norm(DIM)
    state = under("backbone", vit()) | under("decode_head.conv_seg", head) | under("decode_head.bn", bn)
    return state | under("auxiliary_head.conv_seg", linear(CLASSES, DIM, 8, conv=True)), (
        lambda x: through(normed(x, bn), head)
    )


def mlp() -> tuple[State, Callable[[torch.Tensor], torch.Tensor]]:
    first, bn, last = linear(32, DIM), batch_norm(32), linear(CLASSES, 32, 2)
    state = under("model", vit() | under("seg_head.0", first) | under("seg_head.1", bn) | under("seg_head.3", last))
    return state, lambda x: through(F.gelu(normed(through(x, first), bn)), last)


def of_transformers() -> tuple[State, Callable[[torch.Tensor], torch.Tensor]]:
    head = linear(CLASSES, DIM, conv=True)
    return vit() | under("classifier.classifier", head), lambda x: through(x, head)


@pytest.mark.parametrize("given", [segmenter, of_dinov2, mlp, of_transformers])
def test_scores_of_every_token_are_those_of_the_raw_tensors(
    tmp_path: Path, given: Callable[[], tuple[State, Callable[[torch.Tensor], torch.Tensor]]]
) -> None:
    state, wanted = given()
    options = {"between": "gelu"} if given is mlp else {}
    path = save_weights(tmp_path, {"state_dict": state})
    encoder, report = load_with_report(path, device="cpu", **options)
    images = random_images(64, 96)
    with torch.no_grad():
        output = encoder(images)
        tokens = load_checkpoint(save_weights(tmp_path, vit(), "plain.pth"), device="cpu").tokens(images)
        scores = wanted(tokens.patches).transpose(1, 2).unflatten(2, tokens.grid)
    assert encoder.dense and output.logits is None and output.dense_logits is not None
    assert torch.allclose(output.dense_logits, scores, atol=1e-4)
    dropped = " ".join(report.dropped)
    assert ("the classifier of the whole picture" in dropped) == (given is segmenter)
    assert ("used in training only" in dropped) == (given is of_dinov2)
    assert any("class scores to every patch token, after the final norm" in note for note in report.notes)


@pytest.mark.parametrize("given", [segmenter, of_dinov2, mlp])
def test_a_converted_file_gives_the_same_scores(tmp_path: Path, given: Callable[[], tuple[State, object]]) -> None:
    options = {"between": "relu"} if given is mlp else {}
    path = save_weights(tmp_path, {"model": given()[0]})
    convert(path, tmp_path / "small.safetensors", **options)
    images = random_images(64, 64)
    one, two = load_checkpoint(path, device="cpu", **options), load_checkpoint(tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(one(images).dense_logits, two(images).dense_logits)


def test_dense_roll_out_and_segmentation_read_the_head(tmp_path: Path) -> None:
    path = save_weights(tmp_path, {"model": segmenter()[0]})
    names = ["road", "sky", "tree", "car", "wall"]
    encoder = load_checkpoint(path, device="cpu", classes=names)
    recording = record(encoder, make_photo(96, 64), 64)
    found = segment(recording)
    assert found.names == tuple(names) and found.labels.shape == (4, 6)
    blocks = [m[0].numpy() for m in attention.eager_attention(encoder, recording.image[None])]
    expected = attention.dense_rollout(attention.rollout(blocks), token_scores(recording), 1, soft=False)
    maps = recording.map("dense_rollout", classes=list(expected))
    assert set(expected) == set(found.found()) and len(expected) > 1 and maps.note == ""
    np.testing.assert_allclose(flat_rows(maps.weights), np.stack(list(expected.values())), atol=1e-5)


def test_a_head_of_several_layers_asks_what_is_between_them(tmp_path: Path) -> None:
    path = save_weights(tmp_path, {"model": mlp()[0]})
    encoder, report = load_with_report(path, device="cpu")
    assert not encoder.dense and encoder.head is None
    assert any("say between=relu or between=gelu" in reason for reason in report.dropped)
    with pytest.raises(CheckpointError, match="between= is relu or gelu, not 'tanh'"):
        load_checkpoint(path, device="cpu", between="tanh")
    with pytest.raises(OptionError, match="between"):
        load_checkpoint(path, device="cpu", between=3)
    images = random_images(64, 64)
    with torch.no_grad():
        one, two = (load_checkpoint(f"{path}?between={kind}", device="cpu")(images) for kind in ("relu", "gelu"))
    assert not torch.equal(one.dense_logits, two.dense_logits)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (under("decode_head.bottleneck", {"weight": torch.zeros(8, DIM, 3, 3)}), "mixes tokens"),
        (under("decode_head", linear(CLASSES, 4 * DIM)), "heads on the tokens of several blocks"),
        (under("decode_head.0", linear(32, DIM)) | under("decode_head.2", linear(CLASSES, 48)), "do not follow"),
        (under("decode_head.bn", batch_norm(DIM)), "do not follow one another"),
        (
            under("decoder.head", linear(CLASSES, DIM)) | under("decoder.blocks.0", linear(DIM, DIM)),
            "what a decoder makes",
        ),
        (under("seg_head", linear(CLASSES, DIM)) | under("neck.0", linear(DIM, DIM)), "what a decoder makes"),
        ({"decoder.cls_emb": torch.zeros(1, 5, DIM)} | under("decoder.proj_dec", linear(DIM, DIM)), "mask transformer"),
    ],
)
def test_heads_that_give_tokens_no_scores_are_left_out_with_the_reason(
    tmp_path: Path, extra: State, reason: str
) -> None:
    encoder, report = load_with_report(save_weights(tmp_path, vit() | extra), device="cpu")
    assert not encoder.dense and encoder.head is None
    assert any(reason in why for why in report.dropped), report.dropped
    assert record(encoder, make_photo(64, 64), 64).map("cls").weights.shape[1:] == (4, 4)


def test_a_classifier_of_pictures_in_a_module_called_classifier_is_none_of_tokens(tmp_path: Path) -> None:
    """As of a training whose module keeps its whole model as `classifier`, where that calls its head so."""
    torch.manual_seed(0)
    model = timm.create_model("efficientnet_b0", num_classes=CLASSES).eval()
    path = save_weights(tmp_path, {"state_dict": under("classifier", model.state_dict())})
    encoder = load_checkpoint(path, device="cpu", arch="efficientnet_b0")
    images = random_images(64, 64)
    with torch.no_grad():
        assert not encoder.dense and torch.allclose(encoder(images).logits, model(images), atol=1e-4)
