"""The vectors that several poolings make of the same tokens: one forward for each photo and checkpoint gives them all.

A photo's square centre goes through the backbone; the checkpoint's own pooling and others, which need no training, pool
the tokens that come out. What they give is kept in a file for each checkpoint, so that it is computed once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps

from simpool_viz.errors import DataError, MapError, OptionError
from simpool_viz.export import plain_name, weights_digest
from simpool_viz.images import fit, normalise
from simpool_viz.maps.registry import OWN
from simpool_viz.maps.request import option_text
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import Pooling, Tokens, create_pooling, poolings
from simpool_viz.modeling.sharing import forward_shared, sharing_groups
from simpool_viz.outputs import written_whole
from simpool_viz.settings import pairs_of, value_of
from simpool_viz.tensors import enough_memory

# As GGeM is compared (Ko et al., 2022): CLS where the backbone has a class token; untrained, GGeM is GeM.
COMPARED = (OWN, "cls", "gap", "max", "gem")
_WIDTH = 96  # that any pooling can be built for
_LABELS = "classes"  # the name of the photos' classes in a file


class LabelledPhotos(Protocol):
    """Photos with a class each, as `training.sources.open_source` opens them.

    Attributes:
        stamp: a text that changes when the photos do.
        dense: whether they have label maps in place of classes, which are refused.
    """

    stamp: str
    dense: bool

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Image.Image, Any]]: ...


# --- poolings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolingRequest:
    """A pooling of a checkpoint's tokens.

    Attributes:
        name: "own", or a name of `training_free_poolings`.
        options: of its class, such as p and groups of "ggem".
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The request as text, such as "ggem:groups=6,p=2", which `parse_pooling` reads."""
        options = ",".join(f"{key}={option_text(value)}" for key, value in self.options.items())
        return self.name + (f":{options}" if options else "")

    def build(self, encoder: Encoder) -> Pooling:
        """The pooling for a checkpoint's tokens.

        Raises:
            OptionError: an option that does not fit it, or the width of the tokens.
            MapError: the pooling reads a class token, and the checkpoint has none.
        """
        if self.name == OWN:
            return encoder.pooling
        pooling = create_pooling(self.name, encoder.dim, **self.options)
        if pooling.iterations == 0 and not encoder.has_class_token:
            raise MapError(f"{encoder.facts.name} has no class token, so {self.label} is left out")
        return pooling.eval().requires_grad_(False).to(next(encoder.parameters()).device)


def training_free_poolings() -> list[str]:
    """The names of the registered poolings that need no training: what they learn is at most the exponent of their
    mean, which an option sets."""
    names = []
    for name, kind in poolings().items():
        learned = [key for key, _ in kind(_WIDTH).named_parameters() if not key.startswith("mean.")]
        if not learned:
            names.append(name)
    return names


def parse_pooling(text: str) -> PoolingRequest:
    """The request of a pooling from text.

    Args:
        text: "own" or a name of `training_free_poolings`, then optionally a colon and options: "ggem:groups=6,p=2".

    Raises:
        OptionError: no such pooling, one that must be trained, or an option that is not key=value.
    """
    name, _, options = text.partition(":")
    known = [OWN, *training_free_poolings()]
    if name not in known:
        why = "must be trained first" if name in poolings() else "is no pooling"
        raise OptionError(f"{name!r} {why}; tokens of a checkpoint can be pooled by {', '.join(known)}")
    pairs = {key: value_of(value) for key, value in pairs_of(options, ",", "ggem:groups=6,p=2").items()}
    if pairs and name == OWN:
        raise OptionError(f"a checkpoint's own pooling takes no options, so {text!r} has none; write {OWN}")
    return PoolingRequest(name, pairs)


def fitting_poolings(encoder: Encoder, requests: Sequence[PoolingRequest]) -> tuple[dict[str, Pooling], list[str]]:
    """The poolings that a checkpoint's tokens can have, each once: "own" stands for the same pooling by its name.

    Args:
        encoder: the checkpoint.
        requests: in their order.

    Returns:
        The poolings by label, and why others are left out, in sentences.

    Raises:
        OptionError: as in `PoolingRequest.build`.
    """
    found: dict[str, Pooling] = {}
    notes = []
    twin = encoder.pooling.name if any(request.name == OWN for request in requests) else ""
    for request in requests:
        if request.name == twin and not request.options and not list(encoder.pooling.parameters()):
            continue  # what has no parameters is the same pooling
        try:
            found[request.label] = request.build(encoder)
        except MapError as error:
            notes.append(f"{error}.")
    return found, notes


# --- photos -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureSettings:
    """Which photos are pooled, and how.

    Attributes:
        size: side of the squares in pixels; each checkpoint's own where None.
        count: of photos, drawn without order; all where None.
        batch: photos of a forward pass.
        seed: of the draw.

    Raises:
        OptionError: a batch or a count below 1.
    """

    size: int | None = None
    count: int | None = None
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.count is not None and self.count < 1):
            raise OptionError("the batch must be positive, and the number of photos too")


@dataclass(frozen=True)
class PooledFeatures:
    """What the poolings of one checkpoint make of photos.

    Attributes:
        encoder: the checkpoint.
        vectors: by pooling (n, D) float32, as pooled, before the checkpoint's norm.
        classes: (n,) int64, of the photos.
        notes: which poolings are left out and why, in sentences.
    """

    encoder: Encoder
    vectors: dict[str, np.ndarray]
    classes: np.ndarray
    notes: list[str] = field(default_factory=list)

    def features(self, label: str) -> np.ndarray:
        """The features (n, D) float32 of a pooling: its vectors after `normed`."""
        return normed(self.encoder, self.vectors[label])


def normed(encoder: Encoder, vectors: np.ndarray) -> np.ndarray:
    """Pooled vectors (n, D) after the norm that stands between a checkpoint's own pooling and its head.

    Those of another width than its own pooling's stay as they are.
    """
    if vectors.shape[1] != encoder.pooling.out_dim:
        return vectors
    parameter = next(encoder.parameters())
    with torch.inference_mode():
        given = torch.from_numpy(vectors).to(parameter.device, parameter.dtype)
        after: np.ndarray = encoder.norm(given).float().cpu().numpy()
    return after


def drawn_places(total: int, settings: FeatureSettings) -> np.ndarray:
    """The numbers of the photos that are drawn, (n,) in ascending order."""
    if settings.count is None or settings.count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(settings.seed).choice(total, settings.count, replace=False))


def _batches(photos: LabelledPhotos, settings: FeatureSettings) -> Iterator[list[tuple[Image.Image, int]]]:
    wanted = set(drawn_places(len(photos), settings).tolist())
    chosen = ((image, int(label)) for place, (image, label) in enumerate(photos) if place in wanted)
    while batch := list(islice(chosen, settings.batch)):
        yield batch


def square_centre(image: Image.Image, side: tuple[int, int]) -> np.ndarray:
    """The largest square in the middle of a photo at a size (W, H) in pixels: (H, W, 3) uint8 RGB, bicubic."""
    return np.asarray(ImageOps.fit(image.convert("RGB"), side, Image.Resampling.BICUBIC))


def require_same_classes(train: LabelledPhotos, val: LabelledPhotos) -> None:
    """Make sure that two splits have a class for each photo, and number classes alike.

    Raises:
        DataError: they have not.
    """
    if train.dense or val.dense:
        raise DataError(
            "features are scored on photos with a class each, and these have label maps; name another folder"
        )
    names = [getattr(split, "classes", None) for split in (train, val)]
    if names[0] != names[1]:
        raise DataError(
            "train/ and val/ have other folders of classes, so that one number would stand for two classes; give both "
            "the same"
        )


# --- features ---------------------------------------------------------------------------------------------------------


def pool_photos(
    encoders: Sequence[Encoder],
    requests: Sequence[PoolingRequest],
    photos: LabelledPhotos,
    settings: FeatureSettings | None = None,
    cache: Path | None = None,
    progress: str = "",
) -> list[PooledFeatures]:
    """Pool the tokens of photos in several ways. Checkpoints that share a backbone or a trunk run it once.

    Args:
        encoders: checkpoints.
        requests: poolings of the tokens of each.
        photos: with their classes.
        settings: which photos, at which size; the default `FeatureSettings` where None.
        cache: folder in which the vectors are kept, by checkpoint, photos and settings; what it holds is not computed
            again. None keeps nothing.
        progress: what stands before a progress bar; "" shows none.

    Returns:
        For each checkpoint, in the order of the photos.

    Raises:
        DataError: a file of `cache` is damaged, or there is no photo.
        OptionError: a pooling that does not fit the tokens, or a size that does not.
        PictureError: a photo that cannot be read.
    """
    settings = settings or FeatureSettings()
    fitting = [fitting_poolings(encoder, requests) for encoder in encoders]
    files = [None if cache is None else cache / _file_name(encoder, photos, settings) for encoder in encoders]
    kept = [_read(file) for file in files]
    missing = [
        {label: pooling for label, pooling in own.items() if label not in there}
        for (own, _), there in zip(fitting, kept, strict=True)
    ]
    some = [number for number, poolings_missing in enumerate(missing) if poolings_missing]
    if some:
        made = _compute([encoders[i] for i in some], [missing[i] for i in some], photos, settings, progress)
        for number, own in zip(some, made, strict=True):
            kept[number] |= own
            _write(files[number], kept[number])
    return [
        PooledFeatures(encoder, {label: there[label] for label in own}, there[_LABELS], notes)
        for encoder, (own, notes), there in zip(encoders, fitting, kept, strict=True)
    ]


@enough_memory("take a smaller --batch")
@torch.inference_mode()
def _compute(
    encoders: Sequence[Encoder],
    wanted: Sequence[dict[str, Pooling]],
    photos: LabelledPhotos,
    settings: FeatureSettings,
    progress: str,
) -> list[dict[str, np.ndarray]]:
    from tqdm import tqdm

    found: list[dict[str, list[np.ndarray]]] = [{label: [] for label in own} for own in wanted]
    groups = [(members, _side(encoders[members[0]], settings)) for members in sharing_groups(encoders, settings.size)]
    classes: list[int] = []
    total = len(drawn_places(len(photos), settings))
    with tqdm(total=total, desc=progress, unit="photo", disable=not progress) as bar:
        for batch in _batches(photos, settings):
            classes += [label for _, label in batch]
            for members, side in groups:
                first = encoders[members[0]]
                pixels = np.stack([square_centre(image, side) for image, _ in batch])
                parameter = next(first.parameters())
                images = normalise(pixels, first.facts.mean, first.facts.std).to(parameter.device, parameter.dtype)
                outputs = forward_shared([encoders[m] for m in members], images)
                for member, output in zip(members, outputs, strict=True):
                    for label, pooling in wanted[member].items():
                        vector = output.pooled.vector if label == OWN else pooled_vector(pooling, output.tokens)
                        found[member][label].append(vector.float().cpu().numpy())
            bar.update(len(batch))
    if not classes:
        raise DataError("there is no photo to pool; the folder's split is empty")
    labels = np.array(classes, np.int64)
    return [{_LABELS: labels} | {label: np.concatenate(parts) for label, parts in own.items()} for own in found]


def pooled_vector(pooling: Pooling, tokens: Tokens) -> torch.Tensor:
    """The vector (B, D') of a pooling of a backbone's tokens."""
    vector: torch.Tensor = pooling(tokens).vector
    return vector


def _side(encoder: Encoder, settings: FeatureSettings) -> tuple[int, int]:
    """(W, H) of the square that a checkpoint sees."""
    size = settings.size or encoder.facts.size
    return fit((size, size), size, encoder.stride, encoder.multiple).input_size


# --- files ------------------------------------------------------------------------------------------------------------


def _file_name(encoder: Encoder, photos: LabelledPhotos, settings: FeatureSettings) -> str:
    of = [weights_digest(encoder), photos.stamp, settings.count, settings.seed, _side(encoder, settings)]
    digest = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]
    return f"{plain_name(encoder.facts.name)}-{digest}.safetensors"


def _read(file: Path | None) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if file is None or not file.is_file():
        return {}
    try:
        return load_file(file)
    except SafetensorError as error:
        raise DataError(f"{file} holds no readable features; delete it, and they are computed again") from error


def _write(file: Path | None, vectors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    if file is not None:
        with written_whole(file) as part:
            part.write_bytes(save({name: np.ascontiguousarray(values) for name, values in vectors.items()}))
