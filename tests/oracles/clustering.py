"""Group 2 of the framework's table (OTK, k-means, Slot Attention) in plain float64 NumPy, one picture x (N, D) at a
time."""

from __future__ import annotations

import numpy as np

from tests.oracles.pooling import State, linear, named_norm, sigmoid


def squared_distances(u: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.array([[np.sum((a - b) ** 2) for b in x] for a in u])


def sinkhorn(kernel: np.ndarray, iterations: int) -> np.ndarray:
    """Plan of a positive kernel (k, N) with sums 1 over positions and k / N over references, in the plain domain.

    Each round scales the columns, then the rows: the plan ends on the rows' sums.
    """
    k, n = kernel.shape
    plan = kernel.copy()
    for _ in range(iterations):
        plan = plan * (k / n) / plan.sum(axis=0, keepdims=True)
        plan = plan / plan.sum(axis=1, keepdims=True)
    return plan


def otk(x: np.ndarray, state: State, eps: float, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """(vector, plan). Distances count from the nearest reference of a position: a column's scale changes no plan."""
    distances = squared_distances(state["references"][0], x)
    plan = sinkhorn(np.exp(-(distances - distances.min(axis=0)) / eps), iterations)
    return (plan @ linear(state, "psi", x)).max(axis=0), plan


def kmeans(x: np.ndarray, start: list[int], steps: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Lloyd's algorithm from the tokens `start`: (vector, weights of the last step, objective before every step and at
    the end)."""
    centres, objective = x[start].copy(), []
    weights = np.zeros((len(start), len(x)))
    for _ in range(steps):
        distances = squared_distances(centres, x)
        objective.append(float(distances.min(axis=0).sum()))
        owner = [int(np.argmin(column)) for column in distances.T]
        weights = np.zeros_like(distances)
        for j in range(len(centres)):
            members = [i for i, o in enumerate(owner) if o == j]
            if members:
                weights[j, members] = 1 / len(members)
                centres[j] = np.mean(x[members], axis=0)
    objective.append(float(squared_distances(centres, x).min(axis=0).sum()))
    return centres.max(axis=0), weights, objective


def gru(z: np.ndarray, u: np.ndarray, state: State) -> np.ndarray:
    """Cho et al., 2014, with gates stacked as reset, update, candidate: the new state (k, D)."""
    given = z @ state["gru.weight_ih"].T + state["gru.bias_ih"]
    kept = u @ state["gru.weight_hh"].T + state["gru.bias_hh"]
    (ir, iu, ic), (hr, hu, hc) = np.split(given, 3, axis=1), np.split(kept, 3, axis=1)
    candidate = np.tanh(ic + sigmoid(ir + hr) * hc)
    gate = sigmoid(iu + hu)
    return (1 - gate) * candidate + gate * u


def slot(x: np.ndarray, state: State, draw: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Locatello et al., algorithm 1: (vector, weights of the last step)."""
    y = named_norm(state, "norm_input", x, 1e-5)
    k, v = linear(state, "wk", y), linear(state, "wv", y)
    u = state["mu"][0] + np.exp(state["log_sigma"][0]) * draw
    weights = np.zeros((len(u), len(x)))
    for _ in range(steps):
        q = linear(state, "wq", named_norm(state, "norm_slots", u, 1e-5))
        for i in range(len(x)):
            e = np.array([np.exp(q[j] @ k[i] / np.sqrt(x.shape[1])) for j in range(len(u))])
            weights[:, i] = e / e.sum() + 1e-8
        weights = weights / weights.sum(axis=1, keepdims=True)
        u = gru(weights @ v, u, state)
        u = u + linear(state, "mlp.2", np.maximum(linear(state, "mlp.0", named_norm(state, "norm_mlp", u, 1e-5)), 0))
    return u.max(axis=0), weights
