"""Each row of the framework's table beyond the means and SimPool: vector and weights against an independent reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz.pooling import Pooling, Tokens, create_pooling, poolings
from tests.oracles import rows as oracle
from tests.test_pooling import GRID, OPTIONS, D, each, make_pooling, make_tokens

NAMES = list(poolings())


def parameters(pooling: Pooling) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in pooling.state_dict().items()}


def places(pooling: Pooling, x: np.ndarray) -> np.ndarray:
    return np.stack([x[int(share * len(x))] for share in pooling.places])  # type: ignore[union-attr, operator]


ROWS: dict[str, tuple[str, dict[str, Any], Callable[[np.ndarray, dict[str, np.ndarray], Any], Any]]] = {
    "HOW": ("how", {}, lambda x, p, m: oracle.how(x, p, GRID)),
    "HOW by the norm": ("how", {"weight": "norm", "out_dim": 7}, lambda x, p, m: oracle.how(x, p, GRID, squared=False)),
    "OTK": ("otk", {"eps": 8.0, "k": 3}, lambda x, p, m: oracle.otk(x, p, 8.0, 100)),
    "k-means": ("kmeans", {"k": 3, "steps": 6}, lambda x, p, m: oracle.kmeans(x, places(m, x), 6)[:2]),
    "Slot": ("slot", {"k": 3}, lambda x, p, m: oracle.slot(x, p, m.draw[0].numpy(), 3)),
    "SE": ("se", {"reduction": 4}, lambda x, p, m: oracle.se(x, p)),
    "CBAM": ("cbam", {"reduction": 4}, lambda x, p, m: oracle.cbam(x, p, GRID)),
    "GE": ("ge", {}, lambda x, p, m: (oracle.gather_excite(x, GRID, 0), None)),
    "GE of extent 2": ("ge", {"extent": 2}, lambda x, p, m: (oracle.gather_excite(x, GRID, 2), None)),
    "CaiT": ("cait", {"num_heads": 3}, lambda x, p, m: oracle.cait(x, p, 3, 2)),
    "EP": ("ep", {"num_queries": 3, "d_out": 2}, lambda x, p, m: oracle.ep(x, p)),
    "AIM": ("aim", {"num_heads": 3}, lambda x, p, m: oracle.aim(x, p, 3)),
    "ABMILP": ("abmilp", {}, lambda x, p, m: oracle.abmilp(x, p)),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_equals_its_reference(row: str):
    name, options, reference = ROWS[row]
    tokens, pooling = make_tokens(), make_pooling(name, **options)
    if name == "otk":
        pooling.references.data *= 0.3  # type: ignore[union-attr, operator]  # plain Sinkhorn must not underflow
    if name == "aim":
        pooling.bn.running_mean += 0.3  # type: ignore[union-attr, operator]
        pooling.bn.running_var *= 1.7  # type: ignore[union-attr, operator]
    pooled, p = pooling(tokens), parameters(pooling)
    for i, x in enumerate(each(tokens)):
        vector, weights = reference(x, p, pooling)
        np.testing.assert_allclose(pooled.vector[i].detach().numpy(), vector, rtol=1e-9, atol=1e-11)
        if weights is not None:
            np.testing.assert_allclose(pooled.weights[i].detach().numpy(), weights, rtol=1e-9, atol=1e-11)


def test_otks_plan_has_its_marginals_and_stays_finite_at_any_spread():
    tokens = make_tokens()
    plan = create_pooling("otk", D, eps=20.0).double()(tokens).weights
    torch.testing.assert_close(plan.sum(2), torch.ones(3, 4, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), torch.full((3, 15), 4 / 15, dtype=torch.float64), rtol=1e-6, atol=0)
    far = create_pooling("otk", D)(Tokens(tokens.patches.float() * 100, GRID, tokens.prefix.float()))
    assert torch.isfinite(far.vector).all()
    torch.testing.assert_close(far.weights.sum(2), torch.ones(3, 4))


def test_kmeans_objective_never_rises():
    for i, x in enumerate(each(make_tokens(seed=3))):
        objectives = []
        for steps in range(1, 9):
            pooling = create_pooling("kmeans", D, k=3, steps=steps)
            pooled = pooling(make_tokens(seed=3))
            distances = -pooled.scores[i].numpy()  # to the centres before the last step
            objectives.append(distances.min(0).sum())
        assert all(b <= a + 1e-9 for a, b in itertools.pairwise(objectives)) and objectives[-1] < objectives[0]
        assert objectives == pytest.approx(oracle.kmeans(x, places(pooling, x), 8)[2])


def test_an_empty_cluster_keeps_its_centre():
    x = torch.zeros(1, 6, 2)
    x[:, 3:] = 5.0
    pooling = create_pooling("kmeans", 2, k=4)
    pooled = pooling(Tokens(x, (2, 3), x[:, :0]))
    assert (pooled.weights.sum(2) == 0).any(), "four centres on two points leave two empty"
    assert pooled.vector.tolist() == [[5.0, 5.0]]


def test_random_states_depend_on_the_seed_alone():
    tokens = make_tokens(dtype=torch.float32)
    for name in ("slot", "kmeans"):
        torch.manual_seed(0)
        one = create_pooling(name, D, k=3, seed=4)
        torch.manual_seed(0)
        two, other = create_pooling(name, D, k=3, seed=4), create_pooling(name, D, k=3, seed=5)
        assert torch.equal(one(tokens).weights, two(tokens).weights)
        assert not torch.equal(one(tokens).weights, other(tokens).weights)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 2), (16, 16)])
@pytest.mark.parametrize("name", NAMES)
def test_any_grid_and_any_prefix(name: str, grid: tuple[int, int]):
    pooling = make_pooling(name, dtype=torch.float32, **OPTIONS.get(name, {}))
    features = torch.randn(2, D, *grid, generator=torch.Generator().manual_seed(2))
    plain = Tokens.from_feature_map(features)
    for prefix in (0, 1, 5):
        if name in ("cls", "latent") and prefix == 0:
            continue
        sequence = torch.cat([torch.ones(2, prefix, D), plain.patches], 1)
        pooled = pooling(Tokens.from_sequence(sequence, grid, prefix))
        assert pooled.vector.shape == (2, pooling.out_dim) and torch.isfinite(pooled.vector).all()
        if pooled.weights is not None:
            assert pooled.weights.shape == (2, pooled.weights.shape[1], grid[0] * grid[1]) and pooled.weights.dtype == torch.float32
        if name not in ("cls", "latent"):
            torch.testing.assert_close(pooled.vector, pooling(plain).vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_as_one_graph(name: str):
    options = OPTIONS.get(name, {}) | ({"sinkhorn": 5} if name == "otk" else {})
    tokens, pooling = make_tokens(), make_pooling(name, **options)

    def run(patches: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        return pooling(Tokens(patches, GRID, prefix)).vector

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens.patches, tokens.prefix), run(tokens.patches, tokens.prefix))


@pytest.mark.parametrize("name", [n for n in NAMES if poolings()[n].attentive and n != "latent"])
def test_learned_says_whether_the_weights_depend_on_parameters(name: str):
    tokens, pooling = make_tokens(), make_pooling(name)
    before = pooling(tokens).weights
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(before, pooling(tokens).weights) != poolings()[name].learned


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("cls", "latent")])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_gradients_stay_finite(name: str, scale: float):
    pooling = make_pooling(name, dtype=torch.float32, **OPTIONS.get(name, {}))
    tokens = make_tokens(dtype=torch.float32)
    patches = (tokens.patches * scale).requires_grad_()
    pooling(Tokens(patches, GRID, tokens.prefix)).vector.sum().backward()
    gradients = [patches.grad, *(p.grad for p in pooling.parameters())]
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("how", {"weight": "cubed"}, "'squared' or 'norm'"),
        ("otk", {"eps": 0.0}, "eps is positive"),
        ("otk", {"k": 0}, "number of references, at least 1"),
        ("kmeans", {"steps": 0}, "steps is at least 1"),
        ("slot", {"steps": 0}, "steps is at least 1"),
        ("se", {"reduction": 0}, "at least 1"),
        ("cbam", {"kernel": 4}, "an odd side"),
        ("ge", {"extent": -1}, "extent is 0"),
        ("cait", {"num_heads": 5}, "do not split into 5 heads"),
        ("cait", {"layers": 0}, "layers is at least 1"),
        ("ep", {"num_queries": 5}, "do not split into 5 slices"),
        ("ep", {"d_out": 5}, "d_out divides the width"),
        ("aim", {"num_heads": 5}, "do not split into 5 heads"),
        ("abmilp", {"activation": "sine"}, "one of tanh, relu"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        create_pooling(name, D, **options)
