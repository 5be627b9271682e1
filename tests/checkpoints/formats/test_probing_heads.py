"""Every head of efficient-probing's code loads by its own names and gives what independent implementations give."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import AttentionPoolLatent
from timm.layers.attention_pool2d import AttentionPool2d
from timm.layers.cbam import CbamModule
from timm.models.cait import LayerScaleBlockClassAttn
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.load import load_with_report
from tests import made_files as made
from tests.helpers import State, make_photo, random_images, save_weights

DIM, GRID = 96, 4


class Head(nn.Module):
    """Modules under the names of the released code, and what they compute with x (B, N, D): vector and weights."""

    def __init__(self, run: Callable[[Any, Tensor], tuple[Tensor, Tensor | None]], **modules: Any) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = run

    def drawn(self) -> Head:
        generator = torch.Generator().manual_seed(3)
        for name, value in self.state_dict().items():
            if value.is_floating_point():
                scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
                drawn = torch.randn(value.shape, generator=generator) * scale
                value.copy_(
                    drawn.abs() + 0.5 if name.endswith(("running_var", "norm1.weight", "norm.weight")) else drawn
                )
        return self.eval()


def split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, d)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    weights = torch.einsum("bhid,bhjd->bhij", split(q, heads), split(k, heads)) * (q.shape[-1] // heads) ** -0.5
    weights = weights.softmax(-1)
    return (weights @ split(v, heads)).transpose(1, 2).flatten(2), weights[:, :, 0]


def siglip(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    pool = m.pool
    k = pool.kv(x)[..., :DIM]
    return pool(x), attend(pool.q(pool.latent).expand(len(x), -1, -1), k, k, 8)[1]


def jepa(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    block, u = m.cross_attention_block, m.query_tokens.expand(len(x), -1, -1)
    k, v = block.xattn.kv(block.norm1(x)).chunk(2, -1)
    z, weights = attend(block.xattn.q(u), k, v, 12)
    u = u + block.xattn.proj(z)
    return (u + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(u)))))[:, 0], weights


def cae(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    a = m.cross_attn
    z, weights = attend(a.q(m.norm1_q(m.query_token.expand(len(x), -1, -1))), a.k(m.norm1_k(x)), a.v(m.norm1_v(x)), 8)
    return a.proj(z)[:, 0], weights


def coca(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    u = F.layer_norm(m.img_queries, (DIM,), m.norm.gamma, m.norm.beta)
    q, (k, v) = m.to_q(u).unflatten(-1, (8, 64)), m.to_kv(x).chunk(2, -1)
    weights = (torch.einsum("nhd,bjd->bhnj", q, k) / 8).softmax(-1)
    z = torch.einsum("bhnj,bjd->bnhd", weights, v).flatten(2)
    return m.to_out(z)[:, 0], weights[:, :, 0]


def cait(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    u, block = m.cls_token.expand(len(x), -1, -1), m.blocks_token_only[0]
    normed = block.norm1(torch.cat([u, x], 1))
    weights = attend(block.attn.q(normed[:, :1]), block.attn.k(normed), normed, 4)[1]
    return m.norm(block(x, u))[:, 0], weights[..., 1:]


def clip(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    normed = m.norm(x)
    vector = m.pool(normed.transpose(1, 2).unflatten(2, (GRID, GRID)))
    q, k, v = m.pool.qkv(torch.cat([normed.mean(1, True), normed], 1) + m.pool.pos_embed).chunk(3, -1)
    return vector, attend(q[:, :1], k, v, 4)[1][..., 1:]


def esimpool(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    z, weights = attend(m.norm_patches(x.mean(1, True)), m.norm_patches(x), x, 12)
    return z[:, 0], weights


def cbam(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features, seen = x.transpose(1, 2).unflatten(2, (GRID, GRID)), []
    hook = m.pool.spatial.gate.register_forward_hook(lambda module, inputs, output: seen.append(output))
    vector = (m.pool(features.clone()) + features).relu().mean((2, 3))
    hook.remove()
    return vector, seen[0].flatten(2) / GRID**2


def dolg(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.bn(m.conv1(x.transpose(1, 2).unflatten(2, (GRID, GRID))))
    score = F.softplus(m.conv2(y.relu()))
    return (score * F.normalize(y, p=2, dim=1)).flatten(2).mean(2), score.flatten(2) / GRID**2


def dinovit(m: Any, x: Tensor) -> tuple[Tensor, None]:
    return m.dino_block(x).mean(1), None


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def linear(bias: bool = True, rows: int = DIM) -> nn.Linear:
    return nn.Linear(DIM, rows, bias=bias)


def made_head(name: str) -> Head:
    norms = [nn.LayerNorm(DIM) for _ in range(4)]
    if name == "siglip":
        return Head(siglip, pool=AttentionPoolLatent(DIM, num_heads=8))
    if name == "jepa":
        cross = nn.Module()
        cross.norm1, cross.norm2, cross.mlp, cross.xattn = norms[0], norms[1], nn.Module(), nn.Module()
        cross.mlp.fc1, cross.mlp.fc2 = linear(rows=4 * DIM), nn.Linear(4 * DIM, DIM)
        cross.xattn.q, cross.xattn.kv, cross.xattn.proj = linear(), linear(rows=2 * DIM), linear()
        return Head(jepa, query_tokens=zeros(1, 1, DIM), cross_attention_block=cross)
    if name == "cae":
        attn = nn.Module()
        attn.q, attn.k, attn.v, attn.proj = linear(False), linear(False), linear(False), linear()
        names = dict(zip(("norm1_q", "norm1_k", "norm1_v", "norm2_cross"), norms, strict=True))
        return Head(cae, query_token=zeros(1, 1, DIM), cross_attn=attn, **names)
    if name == "coca":
        norm = nn.Module()
        norm.gamma = zeros(DIM)
        norm.register_buffer("beta", torch.zeros(DIM))
        out = nn.Linear(512, DIM, bias=False)
        return Head(
            coca, norm=norm, img_queries=zeros(7, DIM), to_q=linear(False, 512), to_kv=linear(False, 128), to_out=out
        )
    if name == "cait":
        block = LayerScaleBlockClassAttn(DIM, 4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        block.attn.fused_attn = False
        return Head(cait, cls_token=zeros(1, 1, DIM), blocks_token_only=nn.ModuleList([block]), norm=norms[0])
    if name == "clip":
        pool = AttentionPool2d(DIM, feat_size=GRID, num_heads=4, pool_type="token")
        return Head(clip, pool=pool, norm=nn.LayerNorm(DIM, eps=1e-6))
    if name == "esimpool":
        return Head(esimpool, norm_patches=nn.LayerNorm(DIM, eps=1e-6))
    if name == "cbam":
        return Head(cbam, pool=CbamModule(DIM))
    if name == "dolg":
        return Head(dolg, conv1=nn.Conv2d(DIM, DIM, 1), bn=nn.BatchNorm2d(DIM), conv2=nn.Conv2d(DIM, 1, 1))
    return Head(dinovit, dino_block=Block(DIM, 8, norm_layer=nn.LayerNorm))


def backbone(folder: Path) -> Path:
    return save_weights(folder, made.vit(DIM, 2, grid=GRID), "backbone.pth")


def saved(folder: Path, head: Head, **args: Any) -> tuple[Path, State]:
    """The file of a head, with a norm and a classifier, and its state."""
    torch.manual_seed(1)
    state = {f"0.{key.removeprefix('pool.')}": value for key, value in head.state_dict().items()}
    state |= {"1.running_mean": torch.randn(DIM), "1.running_var": torch.rand(DIM) + 0.5}
    state |= {"1.num_batches_tracked": torch.tensor(9), "2.weight": torch.randn(6, DIM), "2.bias": torch.randn(6)}
    content = {"saved_module": "head", "model": state, "args": argparse.Namespace(model="vit_base_patch16", **args)}
    return save_weights(folder, content, "head.pth"), state


HEADS = ["siglip", "jepa", "cae", "coca", "cait", "clip", "esimpool", "cbam", "dolg", "dinovit"]


@pytest.mark.parametrize("name", [*HEADS, "siglip_all", "jepa_all", "cae_all", "coca_all", "cait_all", "esimpool_all"])
def test_head_loads_by_its_names_and_gives_its_vector_and_weights(tmp_path: Path, name: str) -> None:
    kind, everything = name.removesuffix("_all"), name.endswith("_all")
    head = made_head(kind).drawn()
    path, state = saved(tmp_path, head, cls_features=name, num_heads=12)
    base = load_checkpoint(backbone(tmp_path), device="cpu")
    encoder, report = load_with_report(path, device="cpu", backbone=str(backbone(tmp_path)))
    images, start = random_images(64, 64), 0 if everything else 1
    with torch.no_grad():
        x = base.begin(images, base.depth)[:, start:].double()  # before the norm, as its own ViT gives them
        vector, weights = head.double().run(head, x)
        logits = (vector - state["1.running_mean"]) / (state["1.running_var"] + 1e-6).sqrt()
        logits = logits @ state["2.weight"].double().T + state["2.bias"]
        found = encoder(images)
    assert (found.pooled.vector - vector).abs().max() < 1e-4 * vector.abs().max() and vector.std() > 1e-3
    assert (found.logits - logits).abs().max() < 1e-4 * logits.abs().max()
    assert not any("assumed" in note for note in report.notes)
    recording = record(encoder, make_photo(), 64)
    if weights is None:
        with pytest.raises(ValueError, match="does not weigh positions"):
            recording.map("pooling")
        return
    assert (found.pooled.weights - weights[..., 1 if everything else 0 :]).abs().max() < 1e-5
    shape = recording.map("pooling").weights.shape
    assert shape == (weights.shape[1], *recording.geometry.grid) and shape[1] != shape[2]


def test_cbams_gate_of_channels_is_that_of_its_layers(tmp_path: Path) -> None:
    head = made_head("cbam").drawn()
    path, _ = saved(tmp_path, head, cls_features="cbam")
    encoder = load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)))
    images, seen = random_images(64, 64), []
    head.pool.channel.gate.register_forward_hook(lambda module, inputs, output: seen.append(output.flatten(1)))
    with torch.no_grad():
        tokens = encoder.tokens(images)
        head.run(head, tokens.patches)
    assert torch.allclose(encoder.pooling.channel_gate(tokens), seen[0], atol=1e-6)


def test_vjepas_number_of_heads_is_said_where_it_is_assumed(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, made_head("jepa").drawn(), cls_features="jepa")
    _, report = load_with_report(path, device="cpu", backbone=str(backbone(tmp_path)))
    assert "12 heads are assumed, which no tensor determines; else say num_heads=" in report.notes


@pytest.mark.parametrize(("args", "averaged"), [({"model": "dinov2_vitb14_reg"}, False), ({"timm": True}, True)])
def test_all_tokens_of_a_backbone_with_registers_are_those_of_its_loader(
    tmp_path: Path, args: dict[str, Any], averaged: bool
) -> None:
    """The wrapper of torch.hub gives the class token and the patches, that of timm the mean of the prefix for it."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=DIM, reg_tokens=2, img_size=64, num_classes=0)
    nn.init.normal_(model.reg_token)
    base = save_weights(tmp_path, model.state_dict(), "backbone.pth")
    head = made_head("esimpool").drawn()
    path, _ = saved(tmp_path, head, cls_features="esimpool_all")
    content = torch.load(path, weights_only=False)
    content["args"] = argparse.Namespace(**{"model": "x", "cls_features": "esimpool_all"} | args)
    torch.save(content, path)
    encoder, report = load_with_report(path, device="cpu", backbone=f"{base}?num_heads=3")
    with torch.no_grad():
        tokens = encoder.tokens(random_images(64, 64))
        first = tokens.prefix.mean(1, keepdim=True) if averaged else tokens.prefix[:, :1]
        vector, _ = head.run(head, torch.cat([first, tokens.patches], 1))
        assert (encoder.read(tokens).pooled.vector - vector).abs().max() < 1e-5
    assert tokens.prefix.shape[1] == 3
    assert any(note.startswith("it reads the mean of") for note in report.notes) == averaged


def test_tokens_of_open_clip_with_its_summary_are_refused(tmp_path: Path) -> None:
    head = made_head("esimpool").drawn()
    path, _ = saved(tmp_path, head, cls_features="esimpool_all", openclip=True)
    with pytest.raises(ValueError, match=r"head\.pth reads tokens that open_clip or RADIO projects"):
        load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)))


@pytest.mark.parametrize("features", ["cls", "pos"])
def test_linear_probe_of_class_token_or_mean(tmp_path: Path, features: str) -> None:
    torch.manual_seed(1)
    state = {"0.running_mean": torch.randn(DIM), "0.running_var": torch.rand(DIM) + 0.5}
    state |= {"0.num_batches_tracked": torch.tensor(9), "1.weight": torch.randn(6, DIM), "1.bias": torch.randn(6)}
    meta = {"model": "vit_base_patch16", "cls_features": features}
    path = save_weights(tmp_path, {"state_dict": state, "meta": meta}, "head.pth")
    encoder = load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)))
    base = load_checkpoint(backbone(tmp_path), device="cpu")
    with torch.no_grad():
        hidden = base.begin(random_images(64, 64), base.depth)
        x = hidden[:, 0] if features == "cls" else hidden[:, 1:].mean(1)
        x = (x - state["0.running_mean"]) / (state["0.running_var"] + 1e-6).sqrt()
        wanted = x @ state["1.weight"].T + state["1.bias"]
        found = encoder(random_images(64, 64)).logits
    assert (found - wanted).abs().max() < 1e-4
    odd = save_weights(tmp_path, {"state_dict": state, "meta": {**meta, "cls_features": "cp2"}}, "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth is a linear probe of cp2; those of the class token"):
        load_checkpoint(odd, device="cpu", backbone=str(backbone(tmp_path)))


def test_abmilp_with_places_is_refused_in_a_sentence(tmp_path: Path) -> None:
    state = {"attention_predictor.0.weight": torch.zeros(1, DIM), "attention_predictor.0.bias": torch.zeros(1)}
    _, whole = saved(tmp_path, made_head("esimpool"), cls_features="abmilp")
    whole = {key: value for key, value in whole.items() if not key.startswith("0.")}
    whole |= {f"0.{key}": value for key, value in state.items()} | {"0.pos_embed": torch.zeros(1, 16, DIM)}
    content = {"saved_module": "head", "model": whole, "args": argparse.Namespace(model="vit", cls_features="abmilp")}
    with pytest.raises(ValueError, match="adds places to its scores"):
        load_checkpoint(save_weights(tmp_path, content, "head.pth"), device="cpu", backbone=str(backbone(tmp_path)))
