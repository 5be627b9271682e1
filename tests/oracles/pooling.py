"""Poolings in plain float64 NumPy, one picture at a time: x (N, D) -> vector (D,), and weights (N,) or (M, N) where
there are any.

Those of group 2 (OTK, k-means, Slot) stand in `clustering`. A `State` holds a pooling's tensors under their names.
"""

from __future__ import annotations

import math

import numpy as np

State = dict[str, np.ndarray]


def softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight + bias


def gap(x: np.ndarray) -> np.ndarray:
    return x.sum(0) / len(x)


def maximum(x: np.ndarray) -> np.ndarray:
    return np.array([max(x[:, c]) for c in range(x.shape[1])])


def gem(x: np.ndarray, p: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """p: (D,), one exponent per channel."""
    y = np.maximum(x, eps)
    return np.array([np.mean(y[:, c] ** p[c]) ** (1 / p[c]) for c in range(x.shape[1])])


def lse(x: np.ndarray, r: float) -> np.ndarray:
    peak = x.max(0)
    return peak + np.log(np.mean(np.exp(r * (x - peak)), axis=0)) / r


def simpool(
    x: np.ndarray,
    norm: tuple[np.ndarray, np.ndarray],
    wq: np.ndarray,
    wk: np.ndarray,
    gamma: float | None,
    beta: float | None,
    per_channel: bool = False,
    eps: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """(vector, map), line by line as in methods: SimPool, exactly."""
    u0 = x.mean(0)
    v = layer_norm(x, *norm, eps)
    a = softmax((v @ wk.T) @ (wq @ u0) / np.sqrt(x.shape[1]))
    if gamma is None:
        z = a @ v
    else:
        floor = v.min(0) if per_channel else v.min()
        z = (a @ (v - floor + 1e-6) ** gamma) ** (1 / gamma)
    return z + (beta or 0.0), a


def sigmoid(s: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-s))


def gelu(s: np.ndarray) -> np.ndarray:
    return np.array([t * 0.5 * (1 + math.erf(t / math.sqrt(2))) for t in s.ravel()]).reshape(s.shape)


def linear(state: State, name: str, x: np.ndarray) -> np.ndarray:
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def named_norm(state: State, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    return layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"], eps)


def how(x: np.ndarray, grid: tuple[int, int], state: State, squared: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tolias et al., section 3: strengths times smoothed, projected descriptors, summed and l2-normalised."""
    h, w = grid
    weights = np.array([row @ row if squared else math.sqrt(row @ row) + 1e-10 for row in x])
    total = 0.0
    for r in range(h):
        for c in range(w):
            near = [x[i * w + j] for i in range(h) for j in range(w) if abs(i - r) <= 1 and abs(j - c) <= 1]
            total = total + weights[r * w + c] * linear(state, "fc", np.mean(near, axis=0))
    return total / np.sqrt(np.sum(total**2)), weights


def channel_gate(x: np.ndarray, state: State) -> np.ndarray:
    return sigmoid(linear(state, "gate.fc2", np.maximum(linear(state, "gate.fc1", gap(x)), 0)))


def se(x: np.ndarray, state: State) -> np.ndarray:
    return gap(x * channel_gate(x, state))


def cbam(x: np.ndarray, grid: tuple[int, int], state: State) -> tuple[np.ndarray, np.ndarray]:
    """(vector, gates of positions / N)."""
    h, w = grid
    gated = x * channel_gate(x, state)
    means, kernel = gated.mean(1).reshape(h, w), state["conv.weight"][0, 0]
    reach = len(kernel) // 2
    a = np.zeros((h, w))
    for r in range(h):
        for c in range(w):
            for i in range(h):
                for j in range(w):
                    if abs(i - r) <= reach and abs(j - c) <= reach:
                        a[r, c] += kernel[i - r + reach, j - c + reach] * means[i, j]
    weights = sigmoid(a).ravel() / (h * w)
    return weights @ gated, weights


def ge(x: np.ndarray, grid: tuple[int, int], extent: int) -> np.ndarray:
    """Hu et al., section 3: gather over windows of 2 e - 1 around every e-th position (0: over all), gate with the
    sigmoid."""
    if extent == 0:
        return gap(x * sigmoid(gap(x)))
    h, w = grid
    gated = np.zeros_like(x)
    for r in range(h):
        for c in range(w):
            top, left = r // extent * extent, c // extent * extent
            near = [
                x[i * w + j] for i in range(h) for j in range(w) if abs(i - top) < extent and abs(j - left) < extent
            ]
            gated[r * w + c] = x[r * w + c] * sigmoid(np.mean(near, axis=0))
    return gap(gated)


def head_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """One query (D,) over keys and values (N, D): (D,) and weights (H, N)."""
    width = len(q) // heads
    parts = [slice(h * width, (h + 1) * width) for h in range(heads)]
    weights = np.stack([softmax(k[:, part] @ q[part] / np.sqrt(width)) for part in parts])
    return np.concatenate([a @ v[:, part] for a, part in zip(weights, parts, strict=True)]), weights


def cait(x: np.ndarray, state: State, heads: int, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Touvron et al., eq. 5 to 8 with LayerScale, the class vector no key: (vector, weights of the last layer)."""
    u, weights = state["cls_token"][0, 0], np.zeros(0)
    for layer in range(layers):
        name = f"layers.{layer}"
        keys, query = named_norm(state, f"{name}.norm1", x, 1e-6), named_norm(state, f"{name}.norm1", u, 1e-6)
        q, k, v = linear(state, f"{name}.q", query), linear(state, f"{name}.k", keys), linear(state, f"{name}.v", keys)
        z, weights = head_attention(q, k, v, heads)
        u = u + state[f"{name}.gamma_1"] * linear(state, f"{name}.proj", z)
        hidden = gelu(linear(state, f"{name}.mlp.0", named_norm(state, f"{name}.norm2", u, 1e-6)))
        u = u + state[f"{name}.gamma_2"] * linear(state, f"{name}.mlp.2", hidden)
    return named_norm(state, "norm", u, 1e-6), weights


def ep(x: np.ndarray, state: State) -> tuple[np.ndarray, np.ndarray]:
    queries, values = state["cls_token"][0], linear(state, "v", x)
    weights = np.stack([softmax(x @ u / np.sqrt(x.shape[1])) for u in queries])
    width = values.shape[1] // len(queries)
    return np.concatenate([a @ values[:, m * width : (m + 1) * width] for m, a in enumerate(weights)]), weights


def aim(x: np.ndarray, state: State, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """With the running statistics, as a trained probe is used."""
    y = (x - state["bn.running_mean"]) / np.sqrt(state["bn.running_var"] + 1e-6)
    return head_attention(state["cls_token"][0, 0], linear(state, "k", y), linear(state, "v", y), heads)


def abmilp(x: np.ndarray, state: State, depth: int, relu: bool) -> tuple[np.ndarray, np.ndarray]:
    y = x
    for layer in range(depth):
        y = linear(state, f"attention_pred.{2 * layer}", y)
        if layer < depth - 1:
            y = np.maximum(y, 0) if relu else np.tanh(y)
    weights = softmax(y[:, 0])
    return weights @ x, weights
