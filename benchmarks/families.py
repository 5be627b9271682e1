"""Every timm model that the page offers: it is built, and every map that it is said to have is made.

    python benchmarks/families.py                       # one model of each family, the one with the fewest weights
    python benchmarks/families.py --every --most 30     # all of up to 30 million weights
    python benchmarks/families.py --outlines            # all of them, without weights: which maps each has, and why not

Weights are random. A line for each model: its class, size, maps, and how far its logits are from the model's own. The
end status is 1 where one of them fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import timm
import torch

from simpool_viz import record
from simpool_viz.checkpoints.formats.timm import encoder_from_timm, load_timm
from simpool_viz.checkpoints.published import timm_tags
from simpool_viz.errors import SimpoolError
from simpool_viz.images import preprocess
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import create_backbone

SQUARE = ("Beit", "Cait", "Eva", "SwinTransformer", "SwinTransformerV2", "VisionTransformerSAM")  # take one size alone


def architectures() -> list[str]:
    """The models that `timm_tags` offers, each once."""
    return list(dict.fromkeys(name.removeprefix("timm:").partition(".")[0] for name in timm_tags()))


def outline(name: str) -> Encoder:
    """A model without weights, on PyTorch's "meta" device.

    Raises:
        SimpoolError: it is no encoder here, though it is offered.
    """
    with torch.device("meta"):
        return encoder_from_timm(create_backbone(name, pretrained=False), Facts(name))


def outlines(names: list[str]) -> Iterator[tuple[str, Encoder | str]]:
    """Each model without weights, or what is wrong with it."""
    for name in names:
        try:
            yield name, outline(name)
        except Exception as error:  # whatever a builder raises is what is looked for here
            yield name, f"{type(error).__name__}: {error}"


def smallest(names: list[str]) -> list[str]:
    """The model with the fewest weights of each class of timm."""
    found: dict[str, tuple[int, str]] = {}
    for name, encoder in outlines(names):
        if isinstance(encoder, Encoder):
            size = sum(parameter.numel() for parameter in encoder.parameters())
            family = type(encoder.backbone).__name__
            found[family] = min(found.get(family, (size, name)), (size, name))
    return [name for _, name in found.values()]


def try_maps(name: str) -> str:
    """Build a model with random weights, record a picture and make each of its maps.

    Returns:
        A line on what was made.

    Raises:
        SimpoolError: a map that is offered cannot be made.
        AssertionError: a map is not finite, or the logits are not the model's own.
    """
    torch.manual_seed(0)
    encoder = load_timm(name, pretrained=False)
    family = type(encoder.backbone).__name__
    side = encoder.stride * encoder.multiple
    picture = np.random.default_rng(0).integers(256, size=(4 * side, 6 * side, 3), dtype=np.uint8)
    recording = record(encoder, picture, size=max(4 * side, 64))
    made = [method for method, why in maps_of(encoder).items() if why is None]
    for method in made:
        assert np.isfinite(recording.map(method).weights).all(), f"{name}: {method} is not finite"
    far = 0.0
    if recording.logits is not None and family not in SQUARE:
        x = preprocess(recording.picture, recording.geometry, encoder.facts.mean, encoder.facts.std)[None]
        with torch.inference_mode():
            own = encoder.backbone(x)[0]
        far = float((recording.logits - own).abs().max() / own.abs().max().clamp_min(1e-6))
        assert far < 1e-3, f"{name}: logits are {far:.1e} from the model's own"
    weights = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    return f"{name:45} {family:28} {weights:6.1f} M  {len(made):2} maps  logits {far:.1e}  {', '.join(made)}"


def main() -> int:
    """Run the chosen models; the number of those that fail is the end status, 1 at most."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", action="store_true", help="all models, not one of each family")
    parser.add_argument("--outlines", action="store_true", help="without weights: which maps each has")
    parser.add_argument("--most", type=float, default=60, help="million weights of a model (default: %(default)s)")
    parser.add_argument("names", nargs="*", help="these alone")
    asked = parser.parse_args()
    names, failed = asked.names or architectures(), 0
    if asked.outlines:
        for name, encoder in outlines(names):
            bad = isinstance(encoder, str)
            failed += bad
            maps = (
                encoder if isinstance(encoder, str) else ", ".join(m for m, why in maps_of(encoder).items() if not why)
            )
            print(f"{name:45} {'FAILS ' if bad else ''}{maps}", flush=True)
        return int(failed > 0)
    for name in names if asked.every or asked.names else smallest(names):
        try:
            weights = sum(parameter.numel() for parameter in outline(name).parameters())
            print(
                try_maps(name) if weights <= asked.most * 1e6 else f"{name:45} left out: {weights:,} weights",
                flush=True,
            )
        except (SimpoolError, AssertionError, RuntimeError, ValueError, TypeError) as error:
            failed += 1
            print(f"{name:45} FAILS {type(error).__name__}: {error}", flush=True)
    print(f"{failed} of {timm.__version__}'s models fail" if failed else "all are as they are said to be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
