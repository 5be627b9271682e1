"""Row by row of the framework's table: HOW, groups 2 to 4 and the probes equal their float64 references, and refuse
what they cannot do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from simpool_viz.modeling.pooling import Pooling, Tokens, create_pooling
from tests.oracles import clustering
from tests.oracles import pooling as oracle
from tests.test_pooling import GRID, D, assert_equal, each, make_pooling, make_tokens

ROW = 1e-10  # how close a row is to its reference


def state_of(pooling: Pooling) -> oracle.State:
    return {key: tensor.detach().numpy().copy() for key, tensor in pooling.state_dict().items()}


def assert_row(pooling: Pooling, tokens: Tokens, results: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The vectors and the weights, (N,) or (M, N), of every picture."""
    pooled = pooling(tokens)
    assert pooled.weights is not None
    assert_equal(pooled.vector, [vector for vector, _ in results], ROW)
    assert_equal(pooled.weights, [np.atleast_2d(weights) for _, weights in results], ROW)


# --- group 1
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["squared", "norm"])
def test_how_equals_its_definition(weight: str):
    tokens, pooling = make_tokens(), make_pooling("how", weight=weight, out_dim=5)
    assert pooling.out_dim == 5
    assert_row(pooling, tokens, [oracle.how(x, GRID, state_of(pooling), weight == "squared") for x in each(tokens)])


def test_how_does_not_overflow_in_half_precision():
    tokens, pooling = make_tokens(), make_pooling("how")
    large = Tokens(tokens.patches.half() * 100, GRID, tokens.prefix.half())
    expected = pooling(Tokens(large.patches.double(), GRID, large.prefix.double())).vector
    torch.testing.assert_close(pooling.half()(large).vector.double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("weight", ["squared", "norm"])
def test_how_gives_zeros_and_finite_gradients_where_there_is_no_feature(weight: str):
    x = torch.zeros(1, 15, D, requires_grad=True)
    pooling = create_pooling("how", D, weight=weight)
    pooled = pooling(Tokens(x, GRID, x[:, :0]))
    if weight == "squared":
        assert (pooled.vector == 0).all()
    (pooled.vector * torch.arange(D)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())


# --- group 2
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "eps", "sinkhorn"), [(4, 0.1, 100), (1, 0.5, 3), (3, 2.0, 7)])
def test_otk_equals_its_definition(k: int, eps: float, sinkhorn: int):
    tokens, pooling = make_tokens(), make_pooling("otk", k=k, eps=eps, sinkhorn=sinkhorn)
    assert_row(pooling, tokens, [clustering.otk(x, state_of(pooling), eps, sinkhorn) for x in each(tokens)])


def test_otk_plans_have_their_marginals_and_solve_the_regularised_problem():
    """A plan with these marginals whose logarithm is S / eps plus something of each row and column is the only
    solution."""
    tokens, pooling = make_tokens(), make_pooling("otk")
    moderate = Tokens(tokens.patches * 0.1, GRID, tokens.prefix)
    with torch.no_grad():
        pooling.references.mul_(0.1)
    pooled = pooling(moderate)
    plan = pooled.weights.detach()
    torch.testing.assert_close(plan.sum(2), torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(plan.sum(1), torch.full((3, 15), 4 / 15, dtype=torch.float64), rtol=0, atol=1e-6)
    rest = plan.log() - pooled.scores.detach() / 0.1
    centred = rest - rest.mean(1, keepdim=True) - rest.mean(2, keepdim=True) + rest.mean((1, 2), keepdim=True)
    assert float(centred.abs().max()) < 1e-10
    converged = [clustering.otk(x, state_of(pooling), 0.1, 20000)[1] for x in each(moderate)]
    np.testing.assert_allclose(plan.numpy(), np.stack(converged), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [10.0, 1000.0])
def test_otk_references_sum_to_one_and_all_is_finite_at_large_spread(dtype: torch.dtype, spread: float):
    tokens = make_tokens(dtype=dtype)
    x = (tokens.patches * spread).requires_grad_()
    pooling = make_pooling("otk", dtype)
    pooled = pooling(Tokens(x, GRID, tokens.prefix))
    torch.testing.assert_close(pooled.weights.sum(2), torch.ones(3, 4, dtype=dtype), rtol=0, atol=1e-6)
    pooled.vector.sum().backward()
    assert torch.isfinite(pooled.vector).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())


def starts(pooling: Pooling, count: int) -> list[int]:
    return [math.floor(place * count) for place in pooling.places]  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(("k", "steps"), [(4, 10), (3, 1), (1, 2), (7, 4)])
def test_kmeans_equals_its_definition(k: int, steps: int):
    tokens, pooling = make_tokens(), make_pooling("kmeans", k=k, steps=steps)
    assert not list(pooling.parameters())
    assert_row(pooling, tokens, [clustering.kmeans(x, starts(pooling, 15), steps)[:2] for x in each(tokens)])


def test_kmeans_starts_on_one_token_of_every_stretch():
    for seed in range(20):
        pooling = create_pooling("kmeans", D, k=4, seed=seed)
        assert [start // 4 for start in starts(pooling, 16)] == [0, 1, 2, 3]


def test_kmeans_objective_never_rises():
    grid = (8, 8)
    for seed in range(5):
        x = torch.randn(3, 64, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tokens = Tokens(x, grid, x[:, :0])
        pooling = create_pooling("kmeans", 5, k=5, seed=seed)
        raw, u, objective = tokens.patches, pooling.init(tokens), []
        for _ in range(11):
            raw, u, _, scores = pooling.step(raw, u, grid)
            assert scores is not None
            objective.append(-scores.amax(1).sum(1))  # of the centres before the step
        course = torch.stack(objective)
        assert (course[1:] <= course[:-1] + 1e-12).all() and (course[-1] < course[0]).all()
        expected = [clustering.kmeans(picture, starts(pooling, 64), 10)[2] for picture in x.numpy()]
        np.testing.assert_allclose(course.T.numpy(), expected, rtol=1e-12)


def test_an_empty_cluster_of_kmeans_keeps_its_centre():
    """Two centres start on equal tokens: the first takes all of them, the second stays where it is, and the map of none
    is empty."""
    x = torch.tensor([[[0.0], [0.0], [1.0], [0.0], [9.0], [9.0]]], dtype=torch.float64)
    tokens = Tokens(x, (2, 3), x[:, :0])
    pooling = create_pooling("kmeans", 1, k=3, steps=4)
    pooling.places = [0.0, 1 / 6 + 0.01, 4 / 6 + 0.01]
    raw, u = x, pooling.init(tokens)
    assert u[0, :, 0].tolist() == [0.0, 0.0, 9.0]
    raw, u, weights, _ = pooling.step(raw, u, (2, 3))
    assert weights[0, 1].tolist() == [0.0] * 6
    assert u[0, :, 0].tolist() == [0.25, 0.0, 9.0]  # the second is now the nearest of the zeros
    vector, final, _ = clustering.kmeans(x[0].numpy(), [0, 1, 4], 4)
    pooled = pooling(tokens)
    assert_equal(pooled.vector, [vector], ROW)
    assert_equal(pooled.weights, [final], ROW)


@pytest.mark.parametrize("name", ["kmeans", "otk", "slot"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (1, 3)])
def test_fewer_tokens_than_clusters_are_pooled(name: str, grid: tuple[int, int]):
    x = make_tokens().patches[:, : grid[1]]
    pooling = make_pooling(name)
    pooled = pooling(Tokens(x, grid, x[:, :0]))
    assert pooled.weights.shape == (3, 4, grid[1]) and torch.isfinite(pooled.vector).all()
    if name == "kmeans":
        results = [clustering.kmeans(picture.numpy(), starts(pooling, grid[1]), 10)[:2] for picture in x]
        assert_row(pooling, Tokens(x, grid, x[:, :0]), results)


@pytest.mark.parametrize(("k", "steps"), [(4, 3), (1, 1), (6, 2)])
def test_slot_attention_equals_its_definition(k: int, steps: int):
    tokens, pooling = make_tokens(), make_pooling("slot", k=k, steps=steps)
    draw = pooling.draw[0].numpy()
    assert_row(pooling, tokens, [clustering.slot(x, state_of(pooling), draw, steps) for x in each(tokens)])


@pytest.mark.parametrize("name", ["slot", "kmeans"])
def test_draws_are_the_same_for_every_picture_and_every_instance_of_a_seed(name: str):
    x = make_tokens(batch=1).patches.expand(3, -1, -1)
    tokens = Tokens(x, GRID, x[:, :0])

    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(int(seed == 5))  # the global generator has no say
        pooling = create_pooling(name, D, k=4, seed=seed).double()
        return pooling.draw.clone() if name == "slot" else pooling.init(tokens)

    same = make_pooling(name).init(tokens)
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    assert torch.equal(first(5), first(5)) and not torch.equal(first(5), first(6))
    assert not torch.equal(first(0), first(1))


# --- group 3
# ------------------------------------------------------------------------------------------------------------


def test_squeeze_and_excitation_equals_its_definition():
    tokens, pooling = make_tokens(), make_pooling("se", reduction=3)
    state = state_of(pooling)
    assert state["gate.fc1.weight"].shape == (4, D)
    assert_equal(pooling(tokens).vector, [oracle.se(x, state) for x in each(tokens)], ROW)
    assert_equal(pooling.channel_gate(tokens), [oracle.channel_gate(x, state) for x in each(tokens)], ROW)


@pytest.mark.parametrize("kernel", [7, 3, 1])
def test_cbam_equals_its_definition(kernel: int):
    tokens, pooling = make_tokens(), make_pooling("cbam", reduction=3, kernel=kernel)
    state = state_of(pooling)
    assert_row(pooling, tokens, [oracle.cbam(x, GRID, state) for x in each(tokens)])
    assert_equal(pooling.channel_gate(tokens), [oracle.channel_gate(x, state) for x in each(tokens)], ROW)


@pytest.mark.parametrize(
    ("extent", "grid"), [(0, (3, 5)), (1, (3, 5)), (2, (3, 5)), (2, (4, 6)), (3, (7, 7)), (4, (3, 5)), (9, (2, 3))]
)
def test_gather_excite_equals_its_definition(extent: int, grid: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, grid[0] * grid[1], D, generator=generator, dtype=torch.float64)
    tokens, pooling = Tokens(x, grid, x[:, :0]), create_pooling("ge", D, extent=extent)
    assert_equal(pooling(tokens).vector, [oracle.ge(picture, grid, extent) for picture in x.numpy()], ROW)
    assert (pooling.channel_gate(tokens) is None) == (extent > 0)


def test_gather_excite_gates_channels_by_their_own_means():
    tokens = make_tokens()
    gate = create_pooling("ge", D).channel_gate(tokens)
    assert gate is not None
    assert_equal(gate, [oracle.sigmoid(oracle.gap(x)) for x in each(tokens)], ROW)


# --- group 4 and the probes
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "layers"), [(3, 2), (1, 1), (4, 3)])
def test_cait_equals_its_definition(heads: int, layers: int):
    tokens, pooling = make_tokens(), make_pooling("cait", num_heads=heads, layers=layers)
    assert_row(pooling, tokens, [oracle.cait(x, state_of(pooling), heads, layers) for x in each(tokens)])


@pytest.mark.parametrize(("queries", "d_out"), [(4, 1), (3, 2), (1, 1), (12, 1)])
def test_efficient_probing_equals_its_definition(queries: int, d_out: int):
    tokens, pooling = make_tokens(), make_pooling("ep", num_queries=queries, d_out=d_out)
    assert pooling.out_dim == D // d_out
    assert_row(pooling, tokens, [oracle.ep(x, state_of(pooling)) for x in each(tokens)])


@pytest.mark.parametrize("heads", [3, 1, 12])
def test_aim_equals_its_definition(heads: int):
    tokens, pooling = make_tokens(), make_pooling("aim", num_heads=heads)
    assert float(pooling.bn.running_mean.abs().min()) > 0
    assert_row(pooling, tokens, [oracle.aim(x, state_of(pooling), heads) for x in each(tokens)])


def test_aim_learns_the_statistics_of_its_tokens():
    tokens, pooling = make_tokens(), create_pooling("aim", D).double().train()
    for _ in range(200):
        pooling(tokens)
    torch.testing.assert_close(pooling.bn.running_mean, tokens.patches.mean((0, 1)))
    torch.testing.assert_close(pooling.bn.running_var, tokens.patches.var((0, 1)))


@pytest.mark.parametrize(("depth", "activation"), [(2, "tanh"), (2, "relu"), (1, "tanh"), (3, "relu")])
def test_abmilp_equals_its_definition(depth: int, activation: str):
    tokens, pooling = make_tokens(), make_pooling("abmilp", depth=depth, activation=activation)
    assert_row(
        pooling, tokens, [oracle.abmilp(x, state_of(pooling), depth, activation == "relu") for x in each(tokens)]
    )


# --- what they refuse
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("how", {"weight": "cubed"}, "HOW: weight is 'squared' or 'norm', not 'cubed'"),
        ("otk", {"k": 0}, "OTK: k is the number of references, at least 1, not 0"),
        ("otk", {"eps": 0.0}, "OTK: eps is positive and sinkhorn at least 1, not 0.0 and 100"),
        ("otk", {"sinkhorn": 0}, "OTK: eps is positive and sinkhorn at least 1, not 0.1 and 0"),
        ("kmeans", {"k": 0}, "k-means: k is the number of centres, at least 1, not 0"),
        ("kmeans", {"steps": 0}, "k-means: steps is at least 1, not 0"),
        ("slot", {"k": -1}, "Slot Attention: k is the number of slots, at least 1, not -1"),
        ("slot", {"steps": 0}, "Slot Attention: steps is at least 1, not 0"),
        ("se", {"reduction": 0}, "the reduction of a gate's hidden layer is at least 1, not 0"),
        ("cbam", {"reduction": 0}, "the reduction of a gate's hidden layer is at least 1, not 0"),
        ("cbam", {"kernel": 4}, "CBAM: kernel is an odd side of a square of positions, not 4"),
        ("cbam", {"kernel": -1}, "CBAM: kernel is an odd side of a square of positions, not -1"),
        ("ge", {"extent": -1}, "Gather-Excite: extent is 0 for the whole picture or a number of positions, not -1"),
        ("cait", {"num_heads": 5}, "CaiT: 12 channels do not split into 5 heads; choose num_heads to divide 12"),
        ("cait", {"num_heads": 0}, "CaiT: 12 channels do not split into 0 heads; choose num_heads to divide 12"),
        ("cait", {"layers": 0}, "CaiT: layers is at least 1, not 0"),
        ("ep", {"d_out": 5}, "efficient probing: d_out divides the width 12, which 5 does not"),
        ("ep", {"d_out": 0}, "efficient probing: d_out divides the width 12, which 0 does not"),
        (
            "ep",
            {"num_queries": 5},
            "efficient probing: 12 values do not split into 5 slices; choose num_queries to divide them",
        ),
        (
            "ep",
            {"num_queries": 4, "d_out": 2},
            "efficient probing: 6 values do not split into 4 slices; choose num_queries to divide them",
        ),
        ("aim", {"num_heads": 7}, "AIM: 12 channels do not split into 7 heads; choose num_heads to divide 12"),
        ("abmilp", {"depth": 0}, "ABMILP: depth is at least 1 and activation one of tanh, relu, not 0 and 'tanh'"),
        (
            "abmilp",
            {"activation": "gelu"},
            "ABMILP: depth is at least 1 and activation one of tanh, relu, not 2 and 'gelu'",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_sentence(name: str, options: dict[str, object], sentence: str):
    with pytest.raises(ValueError) as refusal:
        create_pooling(name, D, **options)
    assert str(refusal.value) == sentence
