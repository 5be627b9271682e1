"""Checkpoint files with the exact names and containers of the released training codes, of any width, with random
weights."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def draw(generator: torch.Generator, *shape: int, scale: float | None = None) -> Tensor:
    """Weights large enough that maps are far from uniform."""
    fan = max(1, int(np.prod(shape[1:])))
    return torch.randn(*shape, generator=generator) * (fan**-0.5 if scale is None else scale)


def _pair(state: State, generator: torch.Generator, name: str, *shape: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = draw(generator, *shape), draw(generator, shape[0], scale=0.1)


def _norm(state: State, generator: torch.Generator, name: str, dim: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = (
        1 + draw(generator, dim, scale=0.1),
        draw(generator, dim, scale=0.1),
    )


def _batch_norm(state: State, generator: torch.Generator, name: str, dim: int) -> None:
    _norm(state, generator, name, dim)
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = (
        draw(generator, dim, scale=0.1),
        torch.rand(dim, generator=generator) + 0.5,
    )
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def simpool(dim: int, prefix: str, beta: bool = False, seed: int = 9) -> State:
    g, state = torch.Generator().manual_seed(seed), {}
    _norm(state, g, f"{prefix}norm_patches", dim)
    state[f"{prefix}wq.weight"], state[f"{prefix}wk.weight"] = (2 * draw(g, dim, dim) for _ in range(2))
    if beta:
        state[f"{prefix}beta"] = torch.tensor([0.3])
    return state


def vit(
    dim: int = 128,
    depth: int = 3,
    grid: int = 14,
    patch: int = 16,
    cls: bool = True,
    classes: int = 0,
    life: bool = False,
    seed: int = 0,
) -> State:
    """A ViT in DINO's and DeiT's naming."""
    g, state = torch.Generator().manual_seed(seed), {}
    if cls:
        state["cls_token"] = draw(g, 1, 1, dim, scale=1.0)
    state["pos_embed"] = draw(g, 1, grid * grid + cls, dim, scale=0.5)
    _pair(state, g, "patch_embed.proj", dim, 3, patch, patch)
    for i in range(depth):
        _norm(state, g, f"blocks.{i}.norm1", dim)
        if life:
            _pair(state, g, f"blocks.{i}.attn.qkv.scale1", dim, dim)
            for n, kernel in ((2, 3), (3, 5)):
                state[f"blocks.{i}.attn.qkv.scale{n}.depthwise.weight"] = draw(g, dim, 1, kernel, kernel)
                state[f"blocks.{i}.attn.qkv.scale{n}.pointwise.weight"] = draw(g, dim, dim, 1, 1)
        else:
            _pair(state, g, f"blocks.{i}.attn.qkv", 3 * dim, dim)
        _pair(state, g, f"blocks.{i}.attn.proj", dim, dim)
        _norm(state, g, f"blocks.{i}.norm2", dim)
        _pair(state, g, f"blocks.{i}.mlp.fc1", 4 * dim, dim)
        _pair(state, g, f"blocks.{i}.mlp.fc2", dim, 4 * dim)
    _norm(state, g, "norm", dim)
    if classes:
        _pair(state, g, "head", classes, dim)
    return state


def resnet(
    layers: tuple[int, ...] = (1, 1, 1, 1),
    width: int = 16,
    bottleneck: bool = True,
    spe: bool = False,
    classes: int = 0,
    stem: tuple[int, int] = (64, 7),
) -> State:
    """A ResNet in torchvision's naming; stem: its channels and the side of its kernel, (16, 3) for CIFAR's."""
    g, state = torch.Generator().manual_seed(0), {}
    state["conv1.weight"] = draw(g, stem[0], 3, stem[1], stem[1])
    _batch_norm(state, g, "bn1", stem[0])
    inside, expansion = stem[0], 4 if bottleneck else 1
    for i, depth in enumerate(layers, 1):
        planes = width * 2 ** (i - 1)
        for j in range(depth):
            name, kernels = f"layer{i}.{j}", (1, 3, 1) if bottleneck else (3, 3)
            sizes = [inside, *[planes] * (len(kernels) - 1), planes * expansion]
            for n, kernel in enumerate(kernels, 1):
                state[f"{name}.conv{n}.weight"] = draw(g, sizes[n], sizes[n - 1], kernel, kernel)
                _batch_norm(state, g, f"{name}.bn{n}", sizes[n])
            if spe:
                for part in ("w1", "b1", "w2", "b2"):
                    state[f"{name}.{part}"] = draw(g, 1, planes * expansion, 1, 1, scale=1.0)
                state[f"{name}.p"] = torch.tensor([0.4, 0.7])
            if j == 0 and (inside != planes * expansion or i > 1):
                state[f"{name}.downsample.0.weight"] = draw(g, planes * expansion, inside, 1, 1)
                _batch_norm(state, g, f"{name}.downsample.1", planes * expansion)
            inside = planes * expansion
    if classes:
        _pair(state, g, "fc", classes, inside)
    return state


def convnext(
    depths: tuple[int, ...] = (1, 1, 2, 1),
    dims: tuple[int, ...] = (16, 24, 32, 40),
    norm: str = "norm",
    classes: int = 0,
) -> State:
    """A ConvNeXt in the original's naming."""
    g, state = torch.Generator().manual_seed(0), {}
    _pair(state, g, "downsample_layers.0.0", dims[0], 3, 4, 4)
    _norm(state, g, "downsample_layers.0.1", dims[0])
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if i:
            _norm(state, g, f"downsample_layers.{i}.0", dims[i - 1])
            _pair(state, g, f"downsample_layers.{i}.1", dim, dims[i - 1], 2, 2)
        for j in range(depth):
            name = f"stages.{i}.{j}"
            state[f"{name}.gamma"] = draw(g, dim, scale=0.5)
            _pair(state, g, f"{name}.dwconv", dim, 1, 7, 7)
            _norm(state, g, f"{name}.norm", dim)
            _pair(state, g, f"{name}.pwconv1", 4 * dim, dim)
            _pair(state, g, f"{name}.pwconv2", dim, 4 * dim)
    if norm:
        _norm(state, g, norm, dims[-1])
    if classes:
        _pair(state, g, "head", classes, dims[-1])
    return state


def self_supervised(backbone: State, mode: str = "simpool", **args: Any) -> dict[str, Any]:
    """The container of SimPool's and DINO's self-supervised training; the student is another draw than the teacher."""
    dim = next(iter(backbone.values())).shape[-1]
    width = max(8, sum(v.numel() for v in backbone.values()) // (2 * dim))  # the real one is as large as the backbone
    head = {
        "head.mlp.0.weight": torch.ones(width, dim),
        "head.mlp.0.bias": torch.ones(8),
        "head.last_layer.weight_g": torch.ones(5, 1),
    }
    head["head.last_layer.weight_v"] = torch.ones(5, 8)
    student = {k: v * 1.5 if v.is_floating_point() else v for k, v in backbone.items()}
    whole = {"module." + ("backbone." if not k.startswith("head.") else "") + k: v for k, v in (student | head).items()}
    moments = {i: {"step": 5, "exp_avg": v.clone(), "exp_avg_sq": v.clone()} for i, v in enumerate(whole.values())}
    return {
        "student": whole,
        "teacher": {("" if k.startswith("head.") else "backbone.") + k: v for k, v in (backbone | head).items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": np.float64(1e-4), "params": list(moments)}]},
        "epoch": 100,
        "args": argparse.Namespace(mode=mode, lr=0.0005, momentum_teacher=np.float32(0.996), seed=np.int64(0), **args),
        "dino_loss": {"center": torch.zeros(1, 5)},
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }


def supervised(state: State, ema: bool = True, **args: Any) -> dict[str, Any]:
    """The container of the supervised training, by timm's trainer."""
    wrapped = {f"module.{k}": v for k, v in state.items()}
    wrapped |= {f"{k.rpartition('.')[0]}.aux_bn.0.weight": v for k, v in wrapped.items() if k.endswith("bn1.weight")}
    other = {k: v + 1 if v.is_floating_point() else v for k, v in wrapped.items()}
    container = {
        "epoch": 99,
        "arch": "vit_small_patch16_224",
        "state_dict": other if ema else wrapped,
        "optimizer": {"state": {}},
    }
    container |= {
        "version": 2,
        "args": argparse.Namespace(**args),
        "amp_scaler": {"scale": 1.0},
        "metric": np.float64(74.2),
    }
    return container | ({"state_dict_ema": wrapped} if ema else {})


def with_numpy_1_names(source: Path, target: Path) -> Path:
    """The same file as numpy 1 would have written it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            new.writestr(zipfile.ZipInfo(entry.filename), data)
    return target
