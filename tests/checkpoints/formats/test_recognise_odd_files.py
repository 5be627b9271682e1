"""Files with one fault, tensor by tensor, and files made to exhaust the machine: each is refused in a sentence that
names the fault."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.formats.containers import find_weights
from simpool_viz.checkpoints.formats.parts import LoadOptions
from simpool_viz.checkpoints.formats.recognise import build_encoder
from simpool_viz.modeling.encoder import Facts
from tests import made_files as made

State = dict[str, Tensor]


FILES: dict[str, Callable[[], State]] = {
    "vit": lambda: made.vit(64, 2, grid=4, classes=3),
    "self-supervised vit": lambda: made.vit(64, 2, grid=4, cls=False) | made.simpool(64, "simpool."),
    "life": lambda: made.vit(192, 1, grid=4, classes=3, life=True),
    "siglip": lambda: dict(
        timm.create_model(
            "vit_tiny_patch16_224", img_size=64, depth=2, class_token=False, global_pool="map", reg_tokens=1
        ).state_dict()
    ),
    "resnet": lambda: made.resnet(width=4, classes=3),
    "resnet with spe": lambda: made.resnet(width=4, bottleneck=False, spe=True) | made.simpool(32, "global_pool.pool."),
    "convnext": lambda: (
        made.convnext((1, 1, 1, 1), (8, 8, 12, 16), classes=3) | made.simpool(16, "head.global_pool.pool.")
    ),
    "convnext of timm": lambda: dict(
        timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 12, 16)).state_dict()
    ),
}


# what no tensor of these files contradicts: whether there is one token more before the patches, and of which kind
UNSEEN = {
    "siglip": {"reg_token missing"},
}


def attempt(state: State) -> None:
    build_encoder(find_weights(state, "odd.pth"), Facts("odd.pth"), LoadOptions())


def faults(key: str, value: Tensor) -> Iterator[tuple[str, dict[str, Tensor | None], str]]:
    """(name, change of the state, what the sentence must name)."""
    # SimPool's are told by their suffix.
    yield (
        "missing",
        {key: None},
        re.sub(r".*pool\.(norm_patches|wq|wk)\.", r"\1.", key),
    )
    yield "scalar", {key: torch.tensor(1.0)}, key
    yield "longer", {key: torch.cat([value, value]) if value.ndim else torch.ones(2)}, ""
    if value.ndim > 1 and 1 != value.shape[0] != value.shape[1] != 1:  # axes of length 1 change nothing
        yield "transposed", {key: value.transpose(0, 1).contiguous()}, "has shape"
    yield "twice", {f"{key}.again": value}, f"{key}.again"


@pytest.mark.parametrize("kind", FILES)
def test_one_faulty_tensor_is_told_whichever_it_is(kind: str) -> None:
    state, wrong = FILES[kind](), []
    attempt(dict(state))
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        for name, change, named in faults(key, value):
            try:
                attempt({k: v for k, v in (state | change).items() if v is not None})
                wrong.append(f"{key} {name}: loaded")
            except ValueError as error:
                if "odd.pth" not in str(error) or named not in str(error):
                    wrong.append(f"{key} {name}: {error}")
    allowed = UNSEEN.get(kind, set())
    assert not [w for w in wrong if w.partition(":")[0] not in allowed], "\n".join(wrong)


@pytest.mark.parametrize(("kind", "key"), [("vit", "blocks.1.mlp.fc2.weight"), ("siglip", "attn_pool.mlp.fc1.weight")])
def test_tensor_of_as_many_numbers_in_another_shape_is_refused(kind: str, key: str) -> None:
    state = FILES[kind]()
    rows, columns = state[key].shape
    state[key] = state[key].T.contiguous()
    with pytest.raises(
        ValueError,
        match=rf"odd\.pth does not fit .*: {key} has shape \({columns}, {rows}\), not \({rows}, {columns}\)$",
    ):
        attempt(state)


def test_axes_of_length_one_may_differ() -> None:
    state = FILES["convnext"]()
    key = "stages.0.0.pwconv1.weight"
    wide = dict(state) | {key: state[key][:, :, None, None]}
    one, other = (build_encoder(find_weights(s, "a.pth"), Facts("a.pth"), LoadOptions())[0] for s in (state, wide))
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(one(x).logits, other(x).logits)


@pytest.mark.parametrize(
    ("state", "options", "says"),
    [
        (made.vit(64, 1, grid=4) | {"blocks.900000000.norm1.weight": torch.ones(64)}, {}, r"blocks\.1 is missing"),
        (made.resnet(width=4) | {"layer3.5000000.conv1.weight": torch.ones(4, 4, 1, 1)}, {}, r"layer3\.1 is missing"),
        (
            {
                "patch_embed.proj.weight": torch.zeros(1_000_000, 3, 1, 1),
                "pos_embed": torch.zeros(1, 1, 1_000_000),
                "blocks.0.mlp.fc1.weight": torch.zeros(1, 1_000_000),
                "blocks.0.attn.qkv.bias": torch.zeros(3_000_000),
            },
            {"num_heads": 1},
            r"blocks\.0\.mlp\.fc2\.weight is missing",
        ),
        (made.vit(64, 1, grid=4), {"arch": "eva_giant_patch14_560"}, r"is missing|has shape"),
    ],
    ids=["deep", "deep resnet", "wide", "giant"],
)
def test_model_far_larger_than_its_file_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, options: dict[str, Any], says: str
) -> None:
    torch.save(state, tmp_path / "bomb.pth")
    built: list[str] = []
    original = torch.nn.Module.__init__
    monkeypatch.setattr(
        torch.nn.Module,
        "__init__",
        lambda self, *a, **k: (built.append(type(self).__name__), original(self, *a, **k))[1],
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=says) as caught:
        load_checkpoint(tmp_path / "bomb.pth", device="cpu", **options)
    assert "bomb.pth" in str(caught.value) or "arch" in options
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "KiB"
    assert len(built) < 2000, "modules: no more than the largest known architecture has, whatever the file claims"


@pytest.mark.parametrize("heads", [-2, 7, 0.5])
def test_numbers_of_heads_that_cannot_be_are_refused(tmp_path: Path, heads: float) -> None:
    torch.save(made.vit(64, 1, grid=4), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth"):
        load_checkpoint(tmp_path / "a.pth", device="cpu", num_heads=heads)
