"""Object discovery from tokens alone: LOST and TokenCut, and their seeded forms, where another map says where to start.

Both find one object of a photo without labels. Their maps are 0 outside the object that the papers draw, so that object
is the mask at the whole mass (mass:1); other rules cut into it.

Both tell tokens apart by whether they are alike. The tokens of many backbones share a large part, DINOv2's keys among
them, so that all are alike: LOST's degrees are then all the same, and TokenCut's graph is complete, whose second
eigenvector is arbitrary. There the mean over the patches is taken off first. [ours]

Sources: Siméoni et al., Localizing objects with self-supervised transformers and no labels, BMVC 2021, equations 1 to
4; Wang et al., Self-supervised transformers for unsupervised object discovery using normalized cut, CVPR 2022,
equations 1 to 5.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import MapError, OptionError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import make_rows, one_block
from simpool_viz.maps.make import make_map
from simpool_viz.maps.registry import map_methods, register_map
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import wide

DENSE = 1500  # tokens; up to here the eigenvector comes from a dense solver, beyond from Lanczos iterations
CHUNK = 2048  # rows of the affinities that are computed together
NEARLY_ALL = 0.95  # share of the pairs that are alike above which the papers' criteria tell nothing apart
EPSILON = 1e-5  # TokenCut's affinity of tokens that do not resemble one another


def _why_not(encoder: Encoder) -> str | None:
    return None


def _blocks(depth: int, options: dict[str, Any]) -> Collection[int]:
    """The block whose keys are taken, and those of the map that chooses the seed."""
    own = set(one_block(depth, options)) if depth and options.get("features", "") != "tokens" else set()
    seed = map_methods().get(str(options.get("seed", "")))
    return own | set(seed.blocks(depth, {})) if seed else own


@register_map(
    "lost",
    "LOST",
    "One object without labels: it grows from the patch that resembles the fewest others, or from the peak of another "
    "map. It assumes that the object covers less of the photo than the background, and that the background resembles "
    "itself.",
    formula="p* = argmin_p |{q : f_p·f_q > 0}|, S = {q of the k lowest : f_q·f_p* > 0}, w_q = max(0, f_q·Σ_{s∈S} f_s)",
    paper="Siméoni et al., BMVC 2021",
    why_not=_why_not,
    blocks=_blocks,
)
def lost(
    recording: Recorded, features: str = "", block: int = -1, k: int = 100, seed: str = "", centre: str = ""
) -> AttentionMap:
    """LOST's correlation with the seed and the patches like it, on the connected part that holds the seed: (1, h, w).

    Args:
        recording: of any checkpoint.
        features: "keys" of an attention block, "tokens" for the backbone's features, "" for keys where there are any.
        block: of the keys; negative from the last.
        k: how many of the patches of lowest degree may join the seed.
        seed: another map of the checkpoint, whose peak is the seed; "" for the patch of lowest degree.
        centre: whether the mean over the patches is taken off: "always", "never" (the paper), or "" where nearly all
            pairs are alike.

    Raises:
        OptionError: unknown features or centre, no such block or map, or a k below 1.
        MapError: keys of a CNN, a block that was not kept, or a map that the checkpoint has not.
    """
    if k < 1:
        raise OptionError(f"LOST expands its seed to k patches, at least 1, not {k}")
    f, grid = _features(recording, features, block), recording.geometry.grid
    f, centred = _centred(f, centre, 0.0)
    order = torch.sort(_degrees(f), stable=True).indices[:k]
    start = int(order[0]) if not seed else _peak(recording, seed)
    joined = torch.cat([order[(f[order] @ f[start]) > 0], torch.tensor([start], device=f.device)]).unique()
    correlation = f @ f[joined].sum(0)
    return _on_component(recording, "lost", correlation.cpu().numpy().reshape(grid), start, _origin(seed, centred))


@register_map(
    "tokencut",
    "TokenCut",
    "One object without labels: the photo's tokens, as a graph of those alike, are cut in two where they hang together "
    "least. It assumes that the object is the part with the most extreme token, or the part that holds another map's "
    "peak.",
    formula="(D − W) v = λ D v, W_ij = 1 where cos(f_i, f_j) > τ, else ε; w = max(0, v₂ − mean v₂)",
    paper="Wang et al., CVPR 2022",
    why_not=_why_not,
    blocks=_blocks,
)
def tokencut(
    recording: Recorded, features: str = "", block: int = -1, tau: float = 0.2, seed: str = "", centre: str = ""
) -> AttentionMap:
    """The second eigenvector of the normalised cut, on the connected part that holds the seed: (1, h, w).

    Args:
        recording: of any checkpoint.
        features: as for LOST.
        block: as for LOST.
        tau: cosine above which two tokens are alike, in [-1, 1].
        seed: another map of the checkpoint, whose peak lies in the object; "" for the most extreme token.
        centre: as for LOST.

    Raises:
        OptionError: unknown features or centre, no such block or map, or a tau outside [-1, 1].
        MapError: as for LOST.
    """
    if not -1 <= tau <= 1:
        raise OptionError(f"tau is a cosine in [-1, 1], not {tau:g}")
    f, grid = _features(recording, features, block), recording.geometry.grid
    f, centred = _centred(f, centre, tau)
    vector = second_eigenvector(torch.nn.functional.normalize(f, dim=1), tau)
    start = int(np.abs(vector).argmax()) if not seed else _peak(recording, seed)
    split = vector - vector.mean()
    if split[start] < 0:
        split = -split
    return _on_component(recording, "tokencut", split.reshape(grid), start, _origin(seed, centred))


def second_eigenvector(f: Tensor, tau: float) -> np.ndarray:
    """v of (D - W) v = lambda D v for the second smallest lambda; its sign is arbitrary.

    Args:
        f: (N, D), unit vectors.
        tau: cosine above which W is 1; elsewhere it is `EPSILON`.

    Returns:
        (N,) float64.
    """
    from scipy.linalg import eigh
    from scipy.sparse.linalg import LinearOperator, eigsh

    count = len(f)
    if count < 3:
        return np.arange(count, dtype=np.float64)
    alike = torch.cat([(rows @ f.T) > tau for rows in f.split(CHUNK)])  # (N, N) bool
    degree = (1 - EPSILON) * alike.sum(1).double().cpu().numpy() + EPSILON * count
    scale = degree**-0.5
    if count <= DENSE:
        affinity = np.where(alike.cpu().numpy(), 1.0, EPSILON) * scale[:, None] * scale
        _, vectors = eigh(affinity, subset_by_index=[count - 2, count - 2])
        return np.asarray(scale * vectors[:, 0])

    def product(x: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(scale * x.ravel()).to(f.device)
        near = torch.cat([rows.double() @ y for rows in alike.split(CHUNK)]).cpu().numpy()
        return np.asarray(scale * ((1 - EPSILON) * near + EPSILON * float(y.sum())))

    start = np.random.default_rng(0).standard_normal(count)  # so that the same photo gives the same map
    _, vectors = eigsh(LinearOperator((count, count), product, dtype=np.float64), k=2, which="LA", v0=start)
    return np.asarray(scale * vectors[:, 0])


def _features(recording: Recorded, features: str, block: int) -> Tensor:
    """(N, D) of the patches, float32 (float64 of a float64 model)."""
    if features not in ("", "keys", "tokens"):
        raise OptionError(f"the features are keys or tokens, not {features!r}")
    encoder = recording.encoder
    if features == "keys" and not encoder.depth:
        kind = "is a CNN, which has no keys" if "CNN" in encoder.lacks_matrices else "has no keys of single tokens"
        raise MapError(f"its backbone {kind}; choose features=tokens")
    if features == "tokens" or not encoder.depth:
        return wide(recording.tokens.patches[0])
    _, attention = recording.block(block)
    return wide(attention.key[:, encoder.num_prefix_tokens :]).transpose(0, 1).flatten(1)  # (H, N, d) -> (N, H d)


def _degrees(f: Tensor) -> Tensor:
    """(N,) int64, how many others each patch resembles: f_p f_q > 0."""
    counts = torch.cat([((rows @ f.T) > 0).sum(1) for rows in f.split(CHUNK)])
    return counts - ((f * f).sum(1) > 0).long()  # itself


def _peak(recording: Recorded, seed: str) -> int:
    """The patch at which another map is largest."""
    return int(make_map(recording, seed).fused().argmax())


def _centred(f: Tensor, centre: str, tau: float) -> tuple[Tensor, bool]:
    """The features (N, D), and whether their mean is taken off; tau is the cosine above which two are alike."""
    if centre not in ("", "always", "never"):
        raise OptionError(f"centre is always, never, or left out, not {centre!r}")
    if not centre:
        unit = torch.nn.functional.normalize(f, dim=1)
        alike = sum(int(((rows @ unit.T) > tau).sum()) for rows in unit.split(CHUNK))
        others = len(f) * (len(f) - 1)  # all but each with itself
        centre = "always" if others and alike - len(f) > NEARLY_ALL * others else "never"
    return (f - f.mean(0), True) if centre == "always" else (f, False)


def _origin(seed: str, centred: bool) -> str:
    origin = f"the object that holds the peak of {seed}" if seed else "one object, found without labels"
    return f"{origin}; all patches are alike, so their mean is taken off first" if centred else origin


def _on_component(recording: Recorded, method: str, values: np.ndarray, start: int, note: str) -> AttentionMap:
    """A map of the positive values (h, w) on the 4-connected part that holds the token `start`, scaled to sum 1."""
    from scipy.ndimage import label

    parts, _ = label(values > 0)
    place = np.unravel_index(start, values.shape)
    inside = parts == parts[place] if parts[place] else np.zeros(values.shape, bool)
    inside[place] = True
    weights = np.where(inside, np.maximum(values, np.finfo(np.float32).tiny), 0.0)
    rows = torch.from_numpy((weights / weights.sum()).astype(np.float32).reshape(1, -1))
    return make_rows(recording, method, rows, ("object",), note=note)
