"""Attentive poolings against independent float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz.modeling.pooling import create_pooling
from tests.helpers import CHANNELS, assert_row, assert_vectors, each_picture, make_pooling, make_tokens, state_of
from tests.oracles import pooling as oracle


@pytest.mark.parametrize("gamma", [None, 1.25, 2.0])
@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("minimum", ["image", "channel"])
def test_simpool_equals_its_definition(gamma: float | None, beta: bool, minimum: str):
    tokens, pooling = make_tokens(), make_pooling("simpool", gamma=gamma, beta=beta, min=minimum)
    state = {k: v.detach().numpy() for k, v in pooling.state_dict().items()}
    norm = state["norm_patches.weight"], state["norm_patches.bias"]
    shift = float(state["beta"][0]) if beta else None
    results = [
        oracle.simpool(x, norm, state["wq.weight"], state["wk.weight"], gamma, shift, minimum == "channel")
        for x in each_picture(tokens)
    ]
    pooled = pooling(tokens)
    assert_vectors(pooled.vector, [vector for vector, _ in results])
    assert pooled.weights is not None and pooled.weights.shape == (3, 1, 15)
    assert_vectors(pooled.weights[:, 0], [weights for _, weights in results])


def test_simpool_has_the_tensors_of_published_files_and_no_more():
    assert set(create_pooling("simpool", CHANNELS, gamma=2.0).state_dict()) == {
        "norm_patches.weight",
        "norm_patches.bias",
        "wq.weight",
        "wk.weight",
    }
    assert create_pooling("simpool", CHANNELS, gamma=1.25, beta=True).state_dict()["beta"].shape == (1,)


def test_simpool_refuses_unknown_options():
    with pytest.raises(ValueError, match="'image' or 'channel'"):
        create_pooling("simpool", CHANNELS, min="batch")
    for gamma in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            create_pooling("simpool", CHANNELS, gamma=gamma)
    with pytest.raises(ValueError, match="unexpected keyword argument 'heads'; it takes gamma, beta, min, eps"):
        create_pooling("simpool", CHANNELS, heads=3)


def test_cls_reads_the_class_token_and_refuses_where_there_is_none():
    tokens = make_tokens(prefix=2)
    assert torch.equal(create_pooling("cls", CHANNELS)(tokens).vector, tokens.prefix[:, 0])
    with pytest.raises(ValueError, match="class token"):
        create_pooling("cls", CHANNELS)(make_tokens(prefix=0))


def test_cls_is_the_framework_with_one_step_per_block():
    """A ViT's last block moves the class token by one framework step: q from U, k and v from X, softmax over
    positions."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    vit = (
        VisionTransformer(img_size=32, patch_size=8, embed_dim=CHANNELS, depth=2, num_heads=3, num_classes=0)
        .double()
        .eval()
    )
    x = vit.patch_embed(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    x = vit.blocks[0](vit.norm_pre(vit.patch_drop(vit._pos_embed(x))))
    block = vit.blocks[1]
    expected = block(x)[:, 0].detach().numpy()
    xn = block.norm1(x)
    q, k, v = (t.detach().numpy() for t in block.attn.qkv(xn).chunk(3, dim=-1))
    z = np.zeros((2, CHANNELS))
    for picture in range(2):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            a = oracle.softmax(q[picture, 0, part] @ k[picture, :, part].T / 2.0)
            z[picture, part] = a @ v[picture, :, part]
    u = x[:, 0] + block.attn.proj(torch.from_numpy(z))
    u = u + block.mlp(block.norm2(u))
    np.testing.assert_allclose(u.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_gradients_stay_finite_where_the_softmax_underflows():
    pooling = create_pooling("simpool", CHANNELS, gamma=2.0)
    with torch.no_grad():
        pooling.wq.weight.mul_(2000)
    tokens = make_tokens(dtype=torch.float32)
    pooled = pooling(tokens)
    assert (pooled.weights == 0).any()
    pooled.vector.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())


def test_simpools_map_is_float32_also_in_half_precision():
    pooling = create_pooling("simpool", CHANNELS, gamma=2.0).half()
    tokens = make_tokens(dtype=torch.float16)
    pooled = pooling(tokens)
    assert pooled.weights.dtype == torch.float32 and pooled.vector.dtype == torch.float16


@pytest.mark.parametrize(("heads", "layers"), [(3, 2), (1, 1), (4, 3)])
def test_cait_equals_its_definition(heads: int, layers: int):
    tokens, pooling = make_tokens(), make_pooling("cait", num_heads=heads, layers=layers)
    assert_row(pooling, tokens, [oracle.cait(x, state_of(pooling), heads, layers) for x in each_picture(tokens)])
