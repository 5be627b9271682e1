"""Forward passes in float64 straight from the tensors of a file, written from the papers and sharing no code with the
package."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def layer_norm(x: Tensor, state: State, name: str, eps: float = 1e-6) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def simpool_map(x: Tensor, state: State, prefix: str = "", eps: float = 1e-6) -> Tensor:
    """Attention (N,) of one picture's tokens (N, D)."""
    query = state[f"{prefix}wq.weight"] @ x.mean(0)
    keys = layer_norm(x, state, f"{prefix}norm_patches", eps) @ state[f"{prefix}wk.weight"].T
    return (keys @ query / math.sqrt(len(query))).softmax(0)


def place_embedding(table: Tensor, height: int, width: int, cls: bool, quirk: bool) -> Tensor:
    """Position embedding (N, D) for a grid, as DINO's code resizes it (`quirk`) or as timm does: to a size,
    antialiased."""
    own = table[0, 1:] if cls else table[0]
    side = math.isqrt(len(own))
    if (not quirk or cls) and height == width == side:
        return own
    square = own.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if not quirk:
        return F.interpolate(square, size=(height, width), mode="bicubic", antialias=True)[0].flatten(1).T
    scale = ((height + 0.1) / math.sqrt(len(own)), (width + 0.1) / math.sqrt(len(own)))
    return F.interpolate(square, scale_factor=scale, mode="bicubic")[0].flatten(1).T


def life_qkv(x: Tensor, state: State, name: str, grid: tuple[int, int], prefix: int) -> Tensor:
    """LIFE as released: prefix tokens use the first scale's key for all three."""
    y1 = x @ state[f"{name}.scale1.weight"].T + state[f"{name}.scale1.bias"]
    ys = [y1]
    for scale in ("scale2", "scale3"):
        kernel, point = state[f"{name}.{scale}.depthwise.weight"], state[f"{name}.{scale}.pointwise.weight"][:, :, 0, 0]
        picture = ys[-1][prefix:].T.reshape(1, -1, *grid)
        filtered = F.conv2d(picture, kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))[0].flatten(1).T
        ys.append(torch.cat([ys[-1][:prefix], filtered]) @ point.T)
    third = y1.shape[1] // 3
    q, k, v = (torch.cat([y[:, i * third : (i + 1) * third] for y in ys], 1) for i in range(3))
    first = y1[:prefix, third : 2 * third]
    k = torch.cat([torch.cat([first] * 3, 1), k[prefix:]])
    return torch.cat([q, k, v], 1)


def vit_tokens(
    image: Tensor, state: State, heads: int, quirk: bool, no_skip: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """(tokens (P + N, D) before the final norm, attention (H, P + N, P + N) of every block) of an image (3, H, W)."""
    weight = state["patch_embed.proj.weight"]
    patch = weight.shape[-1]
    picture = F.conv2d(image[None], weight, state["patch_embed.proj.bias"], stride=patch)[0]
    grid = (picture.shape[1], picture.shape[2])
    cls = "cls_token" in state
    x = picture.flatten(1).T + place_embedding(state["pos_embed"], *grid, cls=cls, quirk=quirk)
    if cls:
        x = torch.cat([state["cls_token"][0] + state["pos_embed"][0, :1], x])
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    attentions = []
    for i in range(depth):
        name = f"blocks.{i}"
        y = layer_norm(x, state, f"{name}.norm1")
        if f"{name}.attn.qkv.weight" in state:
            qkv = y @ state[f"{name}.attn.qkv.weight"].T + state[f"{name}.attn.qkv.bias"]
        else:
            qkv = life_qkv(y, state, f"{name}.attn.qkv", grid, int(cls))
        q, k, v = (t.reshape(len(x), heads, -1).transpose(0, 1) for t in qkv.chunk(3, 1))  # (H, N, d)
        attention = (q @ k.transpose(1, 2) / math.sqrt(q.shape[2])).softmax(2)
        attentions.append(attention)
        z = (attention @ v).transpose(0, 1).reshape(len(x), -1)
        z = z @ state[f"{name}.attn.proj.weight"].T + state[f"{name}.attn.proj.bias"]
        last = no_skip and i == depth - 1
        x = z if last else x + z
        y = x if last else layer_norm(x, state, f"{name}.norm2")
        y = F.gelu(y @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"])
        x = x + y @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]
    return x, attentions


def convnext_features(image: Tensor, state: State) -> Tensor:
    """Feature map (D, h, w) of an image (3, H, W), by the original's names."""

    def norm_channels(x: Tensor, name: str) -> Tensor:
        return layer_norm(x.permute(0, 2, 3, 1), state, name).permute(0, 3, 1, 2)

    x = image[None]
    stages = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("stages."))
    for i in range(stages):
        name, stride = f"downsample_layers.{i}", 4 if i == 0 else 2
        if i == 0:
            x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], stride=stride)
            x = norm_channels(x, f"{name}.1")
        else:
            x = F.conv2d(
                norm_channels(x, f"{name}.0"), state[f"{name}.1.weight"], state[f"{name}.1.bias"], stride=stride
            )
        depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith(f"stages.{i}."))
        for j in range(depth):
            block = f"stages.{i}.{j}"
            y = F.conv2d(
                x, state[f"{block}.dwconv.weight"], state[f"{block}.dwconv.bias"], padding=3, groups=x.shape[1]
            )
            y = layer_norm(y.permute(0, 2, 3, 1), state, f"{block}.norm")
            y = F.gelu(y @ state[f"{block}.pwconv1.weight"].T + state[f"{block}.pwconv1.bias"])
            y = state[f"{block}.gamma"] * (y @ state[f"{block}.pwconv2.weight"].T + state[f"{block}.pwconv2.bias"])
            x = x + y.permute(0, 3, 1, 2)
    return x[0]


def resnet_features(image: Tensor, state: State) -> Tensor:
    """Feature map (D, h, w) of an image (3, H, W), by torchvision's names, with SPE ("official") where there is any."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (state[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
        weight, bias = (state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    if state["conv1.weight"].shape[-1] == 3:  # CIFAR's
        x = norm(F.conv2d(image[None], state["conv1.weight"], padding=1), "bn1").relu()
    else:
        x = norm(F.conv2d(image[None], state["conv1.weight"], stride=2, padding=3), "bn1").relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for i in range(1, 5 if any(key.startswith("layer4.") for key in state) else 4):
        depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith(f"layer{i}."))
        for j in range(depth):
            block, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            deep = f"{block}.conv3.weight" in state
            y = F.conv2d(x, state[f"{block}.conv1.weight"], stride=1 if deep else stride, padding=0 if deep else 1)
            y = norm(y, f"{block}.bn1").relu()
            y = F.conv2d(y, state[f"{block}.conv2.weight"], stride=stride if deep else 1, padding=1)
            y = norm(y, f"{block}.bn2")
            if deep:
                y = norm(F.conv2d(y.relu(), state[f"{block}.conv3.weight"]), f"{block}.bn3")
            if f"{block}.p" in state:
                y = _spe(y, state, block)
            if f"{block}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride), f"{block}.downsample.1")
            x = (x + y).relu()
    return x[0]


def _spe(x: Tensor, state: State, block: str) -> Tensor:
    w1, b1, w2, b2, p = (state[f"{block}.{part}"] for part in ("w1", "b1", "w2", "b2", "p"))
    high, low = x.amax((2, 3), keepdim=True), x.amin((2, 3), keepdim=True)
    share = p[0] ** 2 / (p[0] ** 2 + p[1] ** 2)
    r = (w2 * high + b2 + w2 * low + b2).sigmoid()
    e = w1 * (share * (w2 * high + b2) + (1 - share) * (w2 * low + b2)) + b1
    return x * r * e.sigmoid()
