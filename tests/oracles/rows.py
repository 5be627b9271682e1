"""More rows of the framework's table in plain float64 NumPy: x (N, D), parameters by name -> (vector, weights (M, N))."""

from __future__ import annotations

import numpy as np

from tests.oracles.pooling import layer_norm, softmax

P = dict[str, np.ndarray]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def linear(x: np.ndarray, p: P, name: str) -> np.ndarray:
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def norm(x: np.ndarray, p: P, name: str, eps: float) -> np.ndarray:
    return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], eps)


def windows(x: np.ndarray, grid: tuple[int, int], reach: int, row: int, column: int) -> np.ndarray:
    """The features of the positions at most `reach` away that exist: (n, D)."""
    h, w = grid
    near = [r * w + c for r in range(row - reach, row + reach + 1) for c in range(column - reach, column + reach + 1)
            if 0 <= r < h and 0 <= c < w]  # fmt: skip
    return x[near]


def how(x: np.ndarray, p: P, grid: tuple[int, int], squared: bool = True) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([np.dot(t, t) if squared else np.linalg.norm(t) + 1e-10 for t in x])
    smooth = np.array([windows(x, grid, 1, i // grid[1], i % grid[1]).mean(0) for i in range(len(x))])
    z = sum(a[i] * linear(smooth[i], p, "fc") for i in range(len(x)))
    return z / np.linalg.norm(z), a[None]


def otk(x: np.ndarray, p: P, eps: float, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Sinkhorn on the kernel itself: rows (references) to sum 1, columns (positions) to k / N."""
    u = p["references"][0]
    plan = np.exp(np.array([[-((t - c) ** 2).sum() / eps for t in x] for c in u]))
    for _ in range(rounds):
        plan = plan / plan.sum(0) * (len(u) / len(x))
        plan = plan / plan.sum(1, keepdims=True)
    return (plan @ linear(x, p, "psi")).max(0), plan


def kmeans(x: np.ndarray, centres: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Also the objective before each step."""
    u, objective = centres.copy(), []
    for _ in range(steps):
        distance = np.array([[((t - c) ** 2).sum() for c in u] for t in x])
        objective.append(float(distance.min(1).sum()))
        nearest = distance.argmin(1)
        a = np.array([(nearest == j) / max(1, (nearest == j).sum()) for j in range(len(u))])
        u = np.array([x[nearest == j].mean(0) if (nearest == j).any() else u[j] for j in range(len(u))])
    return u.max(0), a, objective


def gru(z: np.ndarray, u: np.ndarray, p: P) -> np.ndarray:
    i = np.split(z @ p["gru.weight_ih"].T + p["gru.bias_ih"], 3, axis=-1)
    h = np.split(u @ p["gru.weight_hh"].T + p["gru.bias_hh"], 3, axis=-1)
    reset, keep = sigmoid(i[0] + h[0]), sigmoid(i[1] + h[1])
    return (1 - keep) * np.tanh(i[2] + reset * h[2]) + keep * u


def slot(x: np.ndarray, p: P, draw: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    u = p["mu"][0] + np.exp(p["log_sigma"][0]) * draw
    xn = norm(x, p, "norm_input", 1e-5)
    for _ in range(steps):
        s = linear(norm(u, p, "norm_slots", 1e-5), p, "wq") @ linear(xn, p, "wk").T / np.sqrt(x.shape[1])
        a = softmax(s.T).T + 1e-8
        a = a / a.sum(1, keepdims=True)
        u = gru(a @ linear(xn, p, "wv"), u, p)
        u = u + linear(np.maximum(linear(norm(u, p, "norm_mlp", 1e-5), p, "mlp.0"), 0), p, "mlp.2")
    return u.max(0), a


def channel_gate(x: np.ndarray, p: P) -> np.ndarray:
    return sigmoid(linear(np.maximum(linear(x.mean(0), p, "gate.fc1"), 0), p, "gate.fc2"))


def se(x: np.ndarray, p: P) -> tuple[np.ndarray, np.ndarray]:
    return (x * channel_gate(x, p)).mean(0), np.full((1, len(x)), 1 / len(x))


def cbam(x: np.ndarray, p: P, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    (h, w), kernel = grid, p["conv.weight"][0, 0]
    gated, reach = x * channel_gate(x, p), len(p["conv.weight"][0, 0]) // 2
    s = np.pad(gated.mean(1).reshape(grid), reach)
    side = 2 * reach + 1
    a = np.array([sigmoid((s[r : r + side, c : c + side] * kernel).sum()) for r in range(h) for c in range(w)]) / len(x)
    return a @ gated, a[None]


def gather_excite(x: np.ndarray, grid: tuple[int, int], extent: int) -> np.ndarray:
    if not extent:
        return (x * sigmoid(x.mean(0))).mean(0)
    h, w = grid
    rows, columns = (h - 1) // extent + 1, (w - 1) // extent + 1
    near = np.array([[windows(x, grid, extent - 1, r * extent, c * extent).mean(0) for c in range(columns)] for r in range(rows)])
    gates = np.array([sigmoid(near[r * rows // h, c * columns // w]) for r in range(h) for c in range(w)])
    return (x * gates).mean(0)


def heads_of(u: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [slice(m * len(u) // heads, (m + 1) * len(u) // heads) for m in range(heads)]
    a = np.array([softmax(k[:, s] @ u[s] / np.sqrt(len(u) / heads)) for s in parts])
    return np.concatenate([a[m] @ v[:, s] for m, s in enumerate(parts)]), a


def gelu(z: np.ndarray) -> np.ndarray:
    from math import erf

    return z * 0.5 * (1 + np.vectorize(erf)(z / np.sqrt(2)))


def cait(x: np.ndarray, p: P, heads: int, layers: int) -> tuple[np.ndarray, np.ndarray]:
    u = p["cls_token"][0, 0]
    for n in range(layers):
        q = {k.removeprefix(f"layers.{n}."): v for k, v in p.items() if k.startswith(f"layers.{n}.")}
        xn = norm(x, q, "norm1", 1e-6)
        z, a = heads_of(linear(norm(u, q, "norm1", 1e-6), q, "q"), linear(xn, q, "k"), linear(xn, q, "v"), heads)
        u = u + q["gamma_1"] * linear(z, q, "proj")
        u = u + q["gamma_2"] * linear(gelu(linear(norm(u, q, "norm2", 1e-6), q, "mlp.0")), q, "mlp.2")
    return norm(u, p, "norm", 1e-6), a


def ep(x: np.ndarray, p: P) -> tuple[np.ndarray, np.ndarray]:
    queries, v = p["cls_token"][0], linear(x, p, "v")
    a = np.array([softmax(x @ u / np.sqrt(x.shape[1])) for u in queries])
    width = v.shape[1] // len(queries)
    return np.concatenate([a[m] @ v[:, m * width : (m + 1) * width] for m in range(len(queries))]), a


def aim(x: np.ndarray, p: P, heads: int) -> tuple[np.ndarray, np.ndarray]:
    xn = (x - p["bn.running_mean"]) / np.sqrt(p["bn.running_var"] + 1e-6)
    return heads_of(p["cls_token"][0, 0], linear(xn, p, "k"), linear(xn, p, "v"), heads)


def abmilp(x: np.ndarray, p: P) -> tuple[np.ndarray, np.ndarray]:
    a = softmax(linear(np.tanh(linear(x, p, "attention_pred.0")), p, "attention_pred.2")[:, 0])
    return a @ x, a[None]
