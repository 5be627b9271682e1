"""SPE: the released formula and the paper's figure, its parameters, its place in a ResNet, and its gates on the
board."""

from __future__ import annotations

import pytest
import timm
import torch

from simpool_viz import record
from simpool_viz.maps.gated_features import gates_by_depth
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.layers.spe import SPE, insert_spe, spe_penalty
from simpool_viz.modeling.spec import EncoderSpec
from tests.helpers import make_photo


def drawn(channels: int, variant: str = "official", seed: int = 0) -> SPE:
    torch.manual_seed(seed)
    module = SPE(channels, variant).double()
    for parameter in module.parameters():
        parameter.data.normal_()
    return module


def by_hand(x: torch.Tensor, module: SPE, variant: str) -> torch.Tensor:
    """One channel of one picture at a time, from the formulas."""
    out = torch.empty_like(x)
    p0, p1 = (float(v) for v in module.p)
    share = p0**2 / (p0**2 + p1**2)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            w1, b1, w2, b2 = (float(getattr(module, n)[0, c, 0, 0]) for n in ("w1", "b1", "w2", "b2"))
            high, low = float(x[b, c].max()), float(x[b, c].min())
            uh, ul = w2 * high + b2, w2 * low + b2
            r = 1 / (1 + torch.tensor(-(uh + ul), dtype=torch.float64).exp())
            if variant == "official":
                gate = r / (1 + torch.tensor(-(w1 * (share * uh + (1 - share) * ul) + b1), dtype=torch.float64).exp())
            else:
                gate = 1 / (1 + (-(r * (w1 * (share * high + (1 - share) * low) + b1))).exp())
            out[b, c] = x[b, c] * gate
    return out


@pytest.mark.parametrize("variant", ["official", "figure"])
def test_output_equals_the_formula(variant: str) -> None:
    module, x = drawn(5, variant), torch.randn(3, 5, 4, 7, dtype=torch.float64)
    assert (module(x) - by_hand(x, module, variant)).abs().max() < 1e-12


@pytest.mark.parametrize("variant", ["official", "figure"])
def test_gradients_are_right(variant: str) -> None:
    module = drawn(2, variant)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


def test_gate_starts_at_the_published_value_and_counts_4c_plus_2_parameters() -> None:
    module = SPE(16)
    x = torch.randn(2, 16, 5, 6)
    gate = torch.sigmoid(torch.tensor(-2.0)) * torch.sigmoid(torch.tensor(-1.0))
    assert gate == pytest.approx(0.0321, abs=1e-4) and torch.allclose(module(x), gate * x)
    assert sum(p.numel() for p in module.parameters()) == 4 * 16 + 2
    assert module.penalty().item() == pytest.approx(0.5)


def test_parameters_added_to_a_resnet_164_are_the_papers() -> None:
    """ResNet-164 for CIFAR has 18 bottleneck blocks of 64, of 128 and of 256 channels out."""
    added = sum(sum(p.numel() for p in SPE(channels).parameters()) for channels in (64, 128, 256) for _ in range(18))
    assert added == 32_364


@pytest.mark.parametrize("tag", ["resnet18", "resnet26"])
def test_spe_stands_before_the_add_in_every_block(tag: str) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(tag, num_classes=0).eval()
    before = sum(p.numel() for p in backbone.parameters())
    insert_spe(backbone)
    blocks = [m for m in backbone.modules() if isinstance(m, SPE)]
    channels = [m.w1.shape[1] for m in blocks]
    assert sum(p.numel() for p in backbone.parameters()) - before == sum(4 * c + 2 for c in channels)
    assert len(blocks) == 8 and float(spe_penalty(backbone)) == pytest.approx(0.5 * 8)
    x = torch.randn(1, 3, 64, 96)
    first = backbone.layer1[0]
    seen: dict[str, torch.Tensor] = {}
    last = first.bn3 if hasattr(first, "bn3") else first.bn2
    last.register_forward_hook(lambda m, i, o: seen.update(branch=o))
    first.register_forward_hook(lambda m, i, o: seen.update(inside=i[0], out=o))
    backbone(x)
    skip = seen["inside"] if first.downsample is None else first.downsample(seen["inside"])
    assert torch.allclose(seen["out"], (first.se(seen["branch"]) + skip).relu(), atol=1e-5)


@pytest.mark.parametrize(
    ("tag", "says"), [("vit_tiny_patch16_224", "has none"), ("seresnet50", "another channel attention")]
)
def test_backbone_that_cannot_take_it_is_refused(tag: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        insert_spe(timm.create_model(tag, num_classes=0))
    with pytest.raises(ValueError, match="SPE has the variants official and figure, not 'x'"):
        SPE(4, "x")


def test_spec_builds_it_and_a_recording_shows_its_gates() -> None:
    spec = EncoderSpec("resnet18", "gap", 3, inside="spe", inside_options={"variant": "figure"})
    encoder = spec.build(Facts("spe", size=64)).eval().requires_grad_(False)
    recording = record(encoder, make_photo(), 64)
    assert len(recording.gates) == 8 and recording.map("gates").names == ("gated", "ungated")
    for values in gates_by_depth(recording).values():
        assert values.min() >= 0 and values.max() <= 1
    with pytest.raises(ValueError, match="inside a backbone goes one of spe, life, nosn, se, cbam, eca, srm, not 'x'"):
        EncoderSpec("resnet18", "gap", 3, inside="x").build(Facts("x"))
