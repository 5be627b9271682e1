"""What a frozen encoder makes of one crop of every photo: computed once, kept in a memory-mapped file, read by
index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from simpool_viz.checkpoints.bundle import digest_of
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import Tokens
from simpool_viz.modeling.sharing import is_of_trunk
from simpool_viz.outputs import written_whole
from simpool_viz.tensors import computes_bfloat16
from simpool_viz.training.data import Crops, Photos, centre_crops, random_crops

CHUNK = 64  # photos whose crops are drawn, and whose features are computed, together


@dataclass(frozen=True)
class CropPlan:
    """One crop of each photo, the same whenever it is asked for.

    size: crops are size x size pixels. smallest: least share of the photo's area, None for the central square.
    seed: of the draw.
    """

    size: int
    smallest: float | None
    seed: int = 0

    def crops(self, aspect: np.ndarray) -> Crops:
        """The crops of photos of these proportions (n,), width / height."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = [self._draw(torch.tensor(aspect[i : i + CHUNK]), generator) for i in range(0, len(aspect), CHUNK)]
        return Crops(*(torch.cat([getattr(part, name) for part in parts]) for name in ("width", "height", "x", "y")))

    def _draw(self, aspect: Tensor, generator: torch.Generator) -> Crops:
        return centre_crops(aspect) if self.smallest is None else random_crops(aspect, self.smallest, generator)


@dataclass(frozen=True)
class Features:
    """tokens: (n, P + N, D) float16, memory-mapped, P prefix tokens first; grid: (h, w), with N = h w, or (0, 0) where
    prefix tokens alone are kept."""

    tokens: np.ndarray
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, index: np.ndarray | slice, device: torch.device | str = "cpu") -> Tokens:
        """Tokens of some photos in float32."""
        tokens = self.sequence(index, device)
        return Tokens.from_sequence(tokens, self.grid, tokens.shape[1] - self.grid[0] * self.grid[1])

    def sequence(self, index: np.ndarray | slice, device: torch.device | str = "cpu") -> Tensor:
        """Tokens (B, P + N, D) of some photos in float32, as a transformer's block takes them."""
        return torch.tensor(self.tokens[index]).to(device).float()

    def statistics(self, count: int = 2000) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of each channel over the tokens of the first `count` photos, float32."""
        tokens = torch.from_numpy(np.asarray(self.tokens[:count], np.float32)).flatten(0, 1)
        return tokens.mean(0), tokens.std(0).clamp(min=1e-6)


def tokens_at(encoder: Encoder, images: Tensor, block: int | None = None) -> Tokens:
    """The tokens of normalised images (B, 3, H, W) after a block, negative from the last; None for the final norm."""
    if block is None:
        return encoder.tokens(images)
    if encoder.has_trunk:
        hidden = encoder.begin(images, block % encoder.depth + 1)
        return Tokens.from_sequence(hidden, encoder.grid_of(images), encoder.num_prefix_tokens)
    outputs: list[Tensor] = []
    hook = encoder.blocks[block].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        grid = encoder.tokens(images).grid
    finally:
        hook.remove()
    return Tokens.from_sequence(outputs[0], grid, encoder.num_prefix_tokens)


def keep_features(
    encoder: Encoder,
    photos: Photos,
    plan: CropPlan,
    cache: Path,
    *,
    block: int | None = None,
    patches: bool = True,
    label: str = "photos",
) -> Features:
    """The features of every photo's crop, from the cache where they have been computed before.

    Args:
        encoder: in evaluation mode, on its device; H and W of a crop are multiples of its stride.
        cache: where the file is kept, by a digest of the weights that make them, the photos and the plan.
        block: as in `tokens_at`.
        patches: whether the patch tokens are kept; False for the prefix tokens alone.
        label: of the progress bar.
    """
    blocks = encoder.depth if block is None or not encoder.has_trunk else block % encoder.depth + 1
    state = {
        key: value.half()
        for key, value in encoder.state_dict().items()
        if value.is_floating_point()
        and (is_of_trunk(key, blocks) if blocks < encoder.depth else key.startswith("backbone."))
    }
    of = [digest_of(state), photos.key, plan.size, plan.smallest, plan.seed, block, patches]
    path = cache / f"features-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]}.npy"
    grid = (plan.size // encoder.stride, plan.size // encoder.stride)
    if not path.is_file():
        shape = (len(photos), encoder.num_prefix_tokens + (grid[0] * grid[1] if patches else 0), encoder.dim)
        chunks = (tokens[:, : shape[1]] for tokens in _compute(encoder, photos, plan, block))
        with written_whole(path) as part, part.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            for tokens in tqdm(chunks, desc=f"features of {label}", total=-(-len(photos) // CHUNK), mininterval=5):
                file.write(tokens.tobytes())
    return Features(np.load(path, mmap_mode="r"), grid if patches else (0, 0))


def _compute(encoder: Encoder, photos: Photos, plan: CropPlan, block: int | None) -> Iterator[np.ndarray]:
    """Tokens (b, P + N, D) float16 of `CHUNK` photos after the other."""
    device, crops = next(encoder.parameters()).device, plan.crops(photos.aspect)
    for start in range(0, len(photos), CHUNK):
        rows = slice(start, start + CHUNK)
        x = crops.of(rows).images(torch.tensor(photos.images[rows]).to(device), plan.size)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, computes_bfloat16(device)):
            tokens = tokens_at(encoder, x.to(memory_format=torch.channels_last), block)
        yield torch.cat([tokens.prefix, tokens.patches], 1).half().cpu().numpy()
