"""Channel attention with a chosen squeeze: timm's own modules where the mean is squeezed, the formulas elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers.cbam import ChannelAttn
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import nn

from simpool_viz import record
from simpool_viz.board.inspection import facts_of, gate_profiles
from simpool_viz.errors import CheckpointError
from simpool_viz.maps.gated_features import gates_by_depth
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.layers import squeeze as module
from simpool_viz.modeling.layers.spe import SPE
from simpool_viz.modeling.layers.squeeze import SQUEEZES, Squeeze
from simpool_viz.modeling.spec import EncoderSpec
from tests.helpers import make_photo

KINDS: dict[str, Callable[[int, str], nn.Module]] = {
    "se": module.SEGates,
    "cbam": module.CBAMChannelGates,
    "eca": module.ECAGates,
    "srm": module.SRMGates,
}


def drawn(kind: str, channels: int = 32, squeeze: str = "avg") -> nn.Module:
    torch.manual_seed(0)
    made = KINDS[kind](channels, squeeze).eval()
    for name, parameter in made.named_parameters():
        if name != "squeeze.p":
            parameter.data.normal_()
    return made


def features(channels: int = 32) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, channels, 5, 8)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("avg", lambda plane: plane.mean()),
        ("max", lambda plane: plane.max()),
        ("min", lambda plane: plane.min()),
        ("max+min", lambda plane: (plane.max() + plane.min()) / 2),
        ("adaptive", lambda plane: 0.8 * plane.max() + 0.2 * plane.min()),
    ],
)
def test_squeeze_is_one_number_of_each_channel(kind: str, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
    squeeze, x = Squeeze(kind), features(4)
    if squeeze.p is not None:
        squeeze.p.data = torch.tensor([2.0, 1.0])  # lambda = 4 / 5
    expected = torch.stack([torch.stack([value(plane) for plane in picture]) for picture in x])
    assert squeeze(x).shape == (3, 4) and torch.allclose(squeeze(x), expected, atol=1e-6)


def test_adaptive_squeeze_begins_as_half_of_each_and_learns() -> None:
    squeeze, x = Squeeze("adaptive"), features()
    assert torch.allclose(squeeze(x), Squeeze("max+min")(x))
    squeeze(x).sum().backward()
    assert squeeze.p is not None and squeeze.p.grad is not None and squeeze.p.grad[0] > 0 > squeeze.p.grad[1]


def test_se_of_the_mean_is_timms() -> None:
    ours, theirs = drawn("se"), SEModule(32, rd_channels=8).eval()
    for layer in ("fc1", "fc2"):
        getattr(theirs, layer).weight.data = getattr(ours, layer).weight.data[:, :, None, None]
        getattr(theirs, layer).bias.data = getattr(ours, layer).bias.data
    assert torch.allclose(ours(features()), theirs(features()), atol=1e-6)


def test_cbam_of_the_mean_is_timms() -> None:
    ours, theirs = drawn("cbam"), ChannelAttn(32, rd_channels=8).eval()
    for layer in ("fc1", "fc2"):
        getattr(theirs, layer).weight.data = getattr(ours, layer).weight.data[:, :, None, None]
    assert torch.allclose(ours(features()), theirs(features()), atol=1e-6)


@pytest.mark.parametrize("channels", [8, 32, 64, 256, 512])
def test_eca_of_the_mean_is_timms(channels: int) -> None:
    ours, theirs = drawn("eca", channels), EcaModule(channels).eval()
    assert ours.conv.weight.shape == theirs.conv.weight.shape
    theirs.conv.weight.data = ours.conv.weight.data
    assert torch.allclose(ours(features(channels)), theirs(features(channels)), atol=1e-6)


def test_srm_is_its_formula() -> None:
    ours, x = drawn("srm", 6), features(6)
    ours.norm.running_mean.normal_()
    ours.norm.running_var.uniform_(0.5, 2)
    out = ours(x)
    for c in range(6):
        w, norm = ours.weight[c], ours.norm
        for b in range(3):
            plane = x[b, c]
            z = float(w[0] * plane.mean() + w[1] * (plane - plane.mean()).square().mean().sqrt())
            z = (z - float(norm.running_mean[c])) / math.sqrt(float(norm.running_var[c]) + norm.eps)
            gate = 1 / (1 + math.exp(-(z * float(norm.weight[c]) + float(norm.bias[c]))))
            assert torch.allclose(out[b, c], plane * gate, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_squeeze_alone_is_what_changes(kind: str, squeeze: str) -> None:
    """A map whose mean, maximum and minimum agree is gated alike whatever is squeezed."""
    flat = torch.randn(3, 32, 1, 1).expand(3, 32, 5, 8)
    assert torch.allclose(drawn(kind)(flat), drawn(kind, squeeze=squeeze)(flat), atol=1e-5)
    changed = (drawn(kind)(features()) - drawn(kind, squeeze=squeeze)(features())).abs().max()
    assert (changed < 1e-6) == (squeeze == "avg")


@pytest.mark.parametrize("kind", module.CHANNEL_ATTENTIONS)
def test_encoder_records_the_gates_and_tells_the_share_of_the_maximum(kind: str) -> None:
    def build(squeeze: str) -> object:
        torch.manual_seed(0)
        spec = EncoderSpec("resnet10t", "gap", 3, inside=kind, inside_options={"squeeze": squeeze})
        return spec.build(Facts("mine", size=64, classes=("a", "b", "c"))).eval()

    encoder = build("adaptive")
    squeezes = [m for m in encoder.backbone.modules() if isinstance(m, Squeeze)]
    assert len(squeezes) == 4  # one a block
    squeezes[1].p.data = torch.tensor([2.0, 1.0])
    recording = record(encoder, make_photo(), 64)
    profiles = gate_profiles(recording)
    assert [p.channels for p in profiles] == [64, 128, 256, 512] and len(gates_by_depth(recording)) == 4
    assert [p.share for p in profiles] == pytest.approx([0.5, 0.8, 0.5, 0.5])
    assert "squeezed with 0.80 of the maximum" in "\n".join(facts_of(recording).lines)
    assert [p.share for p in gate_profiles(record(build("avg"), make_photo(), 64))] == [None] * 4


def test_spe_tells_its_share_too() -> None:
    encoder = EncoderSpec("resnet10t", "gap", 3, inside="spe").build(Facts("mine", size=64, classes=("a", "b", "c")))
    next(m for m in encoder.backbone.modules() if isinstance(m, SPE)).p.data = torch.tensor([1.0, 2.0])
    assert [p.share for p in gate_profiles(record(encoder.eval(), make_photo(), 64))] == pytest.approx(
        [0.2, 0.5, 0.5, 0.5]
    )


def test_faults_are_sentences() -> None:
    with pytest.raises(CheckpointError, match=r"a squeeze is one of avg, max, min, max\+min, adaptive, not 'mean'"):
        Squeeze("mean")
    with pytest.raises(CheckpointError, match="at least 1, not 0"):
        module.SEGates(32, reduction=0)
    with pytest.raises(CheckpointError, match="ECA goes into the residual branches of a ResNet"):
        module.insert_eca(timm.create_model("vit_tiny_patch16_224", depth=1))
    with pytest.raises(CheckpointError, match="takes the place of another channel attention"):
        module.insert_se(timm.create_model("seresnet18"))
    spec = EncoderSpec("resnet10t", "gap", 3, inside="eca", inside_options={"reduction": 4})
    with pytest.raises(CheckpointError, match=r"inside_options do not fit eca.*reduction"):
        spec.build(Facts("mine"))
