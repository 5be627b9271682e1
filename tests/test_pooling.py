"""Poolings against independent float64 references, and the properties that the framework promises for every one of
them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from simpool_viz.modeling.pooling import Pooled, Pooling, Tokens, create_pooling, poolings, register_pooling
from simpool_viz.modeling.pooling.means import PowerMean
from tests.oracles import pooling as oracle

D, GRID = 12, (3, 5)


def make_tokens(batch: int = 3, prefix: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    sequence = torch.randn(batch, prefix + GRID[0] * GRID[1], D, generator=generator, dtype=torch.float64) * 1.5
    return Tokens.from_sequence(sequence.to(dtype), GRID, prefix)


def make_pooling(
    name: str, dtype: torch.dtype = torch.float64, dim: int = D, seed: int = 1, **options: object
) -> Pooling:
    """A pooling with parameters and running statistics away from their initial values."""
    torch.manual_seed(seed)
    pooling = create_pooling(name, dim, **options).to(dtype).eval()
    statistics = [buffer for key, buffer in pooling.named_buffers() if key.endswith(("running_mean", "running_var"))]
    with torch.no_grad():
        for tensor in [*pooling.parameters(), *statistics]:
            tensor.add_(torch.rand_like(tensor) * 0.5)
    return pooling


def each(tokens: Tokens) -> list[np.ndarray]:
    return [x.numpy() for x in tokens.patches]


def assert_equal(found: torch.Tensor, expected: list[np.ndarray], tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), rtol=tolerance, atol=tolerance)


def test_gap_is_the_mean():
    tokens = make_tokens()
    assert_equal(make_pooling("gap")(tokens).vector, [oracle.gap(x) for x in each(tokens)])


def test_max_is_the_maximum():
    tokens = make_tokens()
    assert_equal(make_pooling("max")(tokens).vector, [oracle.maximum(x) for x in each(tokens)])


def test_gem_is_the_power_mean_of_the_clamped_values():
    tokens, pooling = make_tokens(), make_pooling("gem")
    p = np.full(D, float(pooling.mean.p.detach()))
    assert_equal(pooling(tokens).vector, [oracle.gem(x, p) for x in each(tokens)])


def test_ggem_has_one_exponent_per_contiguous_group():
    tokens, pooling = make_tokens(), make_pooling("ggem", groups=3)
    p = np.repeat(pooling.mean.p.detach().numpy(), D // 3)
    assert len(set(p)) == 3
    assert_equal(pooling(tokens).vector, [oracle.gem(x, p) for x in each(tokens)])


def test_ggem_of_one_group_is_gem():
    tokens = make_tokens()
    assert torch.equal(make_pooling("ggem", groups=1)(tokens).vector, make_pooling("gem")(tokens).vector)


def test_ggem_refuses_groups_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="do not split into 5 groups"):
        create_pooling("ggem", D, groups=5)


def test_gem_at_one_is_gap_of_the_clamped_input_and_at_large_p_tends_to_the_maximum():
    tokens = make_tokens()
    clamped = Tokens(tokens.patches.clamp(min=1e-6), tokens.grid, tokens.prefix)
    one, large = create_pooling("gem", D, p=1.0).double(), create_pooling("gem", D, p=50.0).double()
    torch.testing.assert_close(one(tokens).vector, create_pooling("gap", D)(clamped).vector)
    torch.testing.assert_close(large(tokens).vector, clamped.patches.amax(1), rtol=0.06, atol=0)
    assert (large(tokens).vector < clamped.patches.amax(1)).all()


def test_gem_clamps_its_exponent_to_1_and_50():
    low, high = PowerMean(1, -3.0), PowerMean(1, 400.0)
    assert low.exponents(4).tolist() == [1.0] * 4
    assert high.exponents(4).tolist() == [50.0] * 4


def test_gem_is_stable_in_float32_where_powers_overflow():
    tokens = make_tokens()
    huge = Tokens(tokens.patches * 1e4, tokens.grid, tokens.prefix)
    pooling = create_pooling("gem", D, p=30.0)
    expected = [oracle.gem(x / 1e4, np.full(D, 30.0)) * 1e4 for x in each(huge)]  # 1e4^30 itself overflows float32
    found = pooling(Tokens(huge.patches.float(), huge.grid, huge.prefix.float())).vector
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), rtol=1e-4)


def test_lse_is_the_log_mean_exp():
    tokens, pooling = make_tokens(), make_pooling("lse")
    assert_equal(pooling(tokens).vector, [oracle.lse(x, float(pooling.mean.r.detach())) for x in each(tokens)])


def test_lse_tends_to_gap_and_is_gap_below_a_millionth():
    tokens = make_tokens()
    gap = create_pooling("gap", D)(tokens).vector
    torch.testing.assert_close(create_pooling("lse", D, r=1e-5).double()(tokens).vector, gap, rtol=0, atol=1e-4)
    torch.testing.assert_close(create_pooling("lse", D, r=1e-7).double()(tokens).vector, gap)


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
        for x in each(tokens)
    ]
    pooled = pooling(tokens)
    assert_equal(pooled.vector, [vector for vector, _ in results])
    assert pooled.weights is not None and pooled.weights.shape == (3, 1, 15)
    assert_equal(pooled.weights[:, 0], [weights for _, weights in results])


def test_simpool_has_the_tensors_of_published_files_and_no_more():
    assert set(create_pooling("simpool", D, gamma=2.0).state_dict()) == {
        "norm_patches.weight",
        "norm_patches.bias",
        "wq.weight",
        "wk.weight",
    }
    assert create_pooling("simpool", D, gamma=1.25, beta=True).state_dict()["beta"].shape == (1,)


def test_simpool_refuses_unknown_options():
    with pytest.raises(ValueError, match="'image' or 'channel'"):
        create_pooling("simpool", D, min="batch")
    for gamma in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            create_pooling("simpool", D, gamma=gamma)
    with pytest.raises(ValueError, match="does not take these options"):
        create_pooling("simpool", D, heads=3)


def test_cls_reads_the_class_token_and_refuses_where_there_is_none():
    tokens = make_tokens(prefix=2)
    assert torch.equal(create_pooling("cls", D)(tokens).vector, tokens.prefix[:, 0])
    with pytest.raises(ValueError, match="class token"):
        create_pooling("cls", D)(make_tokens(prefix=0))


def test_cls_is_the_framework_with_one_step_per_block():
    """A ViT's last block moves the class token by one framework step: q from U, k and v from X, softmax over
    positions."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=D, depth=2, num_heads=3, num_classes=0).double().eval()
    x = vit.patch_embed(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    x = vit.blocks[0](vit.norm_pre(vit.patch_drop(vit._pos_embed(x))))
    block = vit.blocks[1]
    expected = block(x)[:, 0].detach().numpy()
    xn = block.norm1(x)
    q, k, v = (t.detach().numpy() for t in block.attn.qkv(xn).chunk(3, dim=-1))
    z = np.zeros((2, D))
    for picture in range(2):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            a = oracle.softmax(q[picture, 0, part] @ k[picture, :, part].T / 2.0)
            z[picture, part] = a @ v[picture, :, part]
    u = x[:, 0] + block.attn.proj(torch.from_numpy(z))
    u = u + block.mlp(block.norm2(u))
    np.testing.assert_allclose(u.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


# --- for every pooling ------------------------------------------------------------------------------------------------

OPTIONS = {"simpool": {"gamma": 1.25, "beta": True}, "ggem": {"groups": 3}, "latent": {"num_heads": 3}}
NAMES = list(poolings())


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_pictures_alone(name: str):
    tokens, pooling = make_tokens(batch=4), make_pooling(name, **OPTIONS.get(name, {}))
    together = pooling(tokens)
    for i in range(4):
        alone = pooling(Tokens(tokens.patches[i : i + 1], GRID, tokens.prefix[i : i + 1]))
        torch.testing.assert_close(alone.vector[0], together.vector[i], rtol=1e-12, atol=1e-12)
        if together.weights is not None:
            torch.testing.assert_close(alone.weights[0], together.weights[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_close(name: str):
    tokens, pooling = make_tokens(), make_pooling(name, **OPTIONS.get(name, {}))
    half = Tokens(tokens.patches.half(), GRID, tokens.prefix.half())
    wide = Tokens(half.patches.double(), GRID, half.prefix.double())
    expected = pooling(wide).vector
    found = pooling.half()(half).vector
    assert found.dtype == torch.float16
    scale = float(expected.detach().abs().max())
    assert float((found.double() - expected).abs().max()) < 0.01 * scale


@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_follows_the_whole_of_it(name: str):
    """In one graph, with its gradients; `aot_eager` runs the graph without generating code, which would take
    minutes."""
    short = {"otk": {"sinkhorn": 2}, "kmeans": {"steps": 2}, "slot": {"steps": 1}, "cait": {"layers": 1}}
    tokens, pooling = make_tokens(), make_pooling(name, **{**OPTIONS, **short}.get(name, {}))
    wanted, wanted_gradient = vector_and_gradient(pooling, tokens)
    torch.compiler.reset()
    found, gradient = vector_and_gradient(torch.compile(pooling, backend="aot_eager", fullgraph=True), tokens)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)


def vector_and_gradient(pooling: Callable[[Tokens], Pooled], tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    sequence = torch.cat([tokens.prefix, tokens.patches], dim=1).requires_grad_()
    vector = pooling(Tokens.from_sequence(sequence, GRID, tokens.prefix.shape[1])).vector
    (vector * torch.arange(vector.shape[1])).sum().backward()
    return vector.detach(), sequence.grad


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right(name: str):
    pooling = make_pooling(name, **OPTIONS.get(name, {}))
    base = make_tokens(batch=2)

    def run(patches: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        return pooling(Tokens(patches, GRID, prefix)).vector

    inputs = base.patches.clone().requires_grad_(), base.prefix.clone().requires_grad_()
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_weights_sum_to_one_over_positions(name: str):
    weights = make_pooling(name, **OPTIONS.get(name, {}))(make_tokens()).weights
    if weights is None:
        assert name in ("cls", "latent"), "only poolings whose weights a recording holds return none"
    elif poolings()[name].unit == "mean":
        assert name in ("how", "cbam") and (weights > 0).all()
    else:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, weights.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("name", [n for n in NAMES if poolings()[n].additive])
def test_contributions_sum_to_the_vector(name: str):
    tokens, pooling = make_tokens(), make_pooling(name, **OPTIONS.get(name, {}))
    pooled = pooling(tokens)
    given = pooling.contribution(tokens, pooled)
    assert given.shape == (3, 15, D)
    torch.testing.assert_close(given.sum(1) + pooling.offset(), pooled.vector, rtol=1e-10, atol=1e-10)


def test_contributions_of_max_are_shared_by_ties():
    x = torch.tensor([[[1.0], [3.0], [3.0], [2.0]]])
    pooling = create_pooling("max", 1)
    tokens = Tokens(x, (2, 2), x[:, :0])
    assert pooling.contribution(tokens, pooling(tokens))[0, :, 0].tolist() == [0.0, 1.5, 1.5, 0.0]


def test_the_named_poolings_are_additive():
    additive = {n for n in NAMES if poolings()[n].additive}
    assert additive == {"gap", "max", "gem", "ggem", "lse", "se", "cbam", "ge", "simpool", "ep", "aim", "abmilp"}


@pytest.mark.parametrize("name", [n for n in NAMES if not poolings()[n].additive])
def test_contributions_are_refused_where_the_vector_is_no_sum(name: str):
    tokens, pooling = make_tokens(), make_pooling(name, **OPTIONS.get(name, {}))
    with pytest.raises(ValueError, match="no contribution"):
        pooling.contribution(tokens, pooling(tokens))


def test_contributions_of_generalised_means_follow_their_formulas():
    tokens = make_tokens(batch=1)
    x = tokens.patches[0].numpy()
    gem, lse = create_pooling("gem", D, p=3.0).double(), create_pooling("lse", D, r=2.0).double()
    y = np.maximum(x, 1e-6) ** 3
    f = oracle.gem(x, np.full(D, 3.0))
    np.testing.assert_allclose(
        gem.contribution(tokens, gem(tokens))[0].detach().numpy(), f * y / y.sum(0), rtol=1e-6, atol=1e-12
    )
    e = np.exp(2 * x)
    np.testing.assert_allclose(
        lse.contribution(tokens, lse(tokens))[0].detach().numpy(), oracle.lse(x, 2.0) * e / e.sum(0), rtol=1e-6
    )


def test_feature_maps_are_flattened_by_rows_and_keep_a_batch_of_one():
    features = torch.arange(2 * 6, dtype=torch.float32).reshape(1, 2, 2, 3)
    tokens = Tokens.from_feature_map(features)
    assert tokens.grid == (2, 3) and tokens.patches.shape == (1, 6, 2) and tokens.prefix.shape == (1, 0, 2)
    assert tokens.patches[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_sequences_that_do_not_fit_their_grid_are_refused():
    with pytest.raises(ValueError, match="2 prefix tokens and a grid of 3 x 5 make 17"):
        Tokens.from_sequence(torch.zeros(1, 16, D), GRID, 2)


def test_a_new_pooling_is_one_class_and_one_line():
    from simpool_viz.modeling.pooling.create import _POOLINGS as registered

    class Median(Pooling):
        name, title = "toy_median", "Median"

        def readout(self, u: torch.Tensor) -> torch.Tensor:
            return u[:, 0]

    register_pooling(Median)
    try:
        assert isinstance(create_pooling("toy_median", D), Median)
        with pytest.raises(ValueError, match="name of its own"):
            register_pooling(Median)
    finally:
        registered.pop("toy_median")
    with pytest.raises(ValueError, match="no pooling is called"):
        create_pooling("toy_median", D)


@pytest.mark.parametrize("r", [1e-5, -1e-5, 1e-4, 1e-3, 0.03, 0.2, 5.0])
def test_lse_is_exact_in_float32_at_any_sharpness(r: float):
    tokens = make_tokens()
    expected = np.stack([oracle.lse(x, r) for x in each(tokens)])
    found = create_pooling("lse", D, r=r)(Tokens(tokens.patches.float(), GRID, tokens.prefix.float())).vector
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-6)


def test_gradients_stay_finite_where_the_softmax_underflows():
    pooling = create_pooling("simpool", D, gamma=2.0)
    with torch.no_grad():
        pooling.wq.weight.mul_(2000)
    tokens = make_tokens(dtype=torch.float32)
    pooled = pooling(tokens)
    assert (pooled.weights == 0).any()
    pooled.vector.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())


def test_simpools_map_is_float32_also_in_half_precision():
    pooling = create_pooling("simpool", D, gamma=2.0).half()
    tokens = make_tokens(dtype=torch.float16)
    pooled = pooling(tokens)
    assert pooled.weights.dtype == torch.float32 and pooled.vector.dtype == torch.float16
