"""Poolings in plain float64 NumPy, one picture at a time: x (N, D) -> vector (D,), and weights (N,) where there are any."""

from __future__ import annotations

import numpy as np


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
