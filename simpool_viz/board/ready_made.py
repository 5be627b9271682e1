"""Ready-made comparisons: questions, and the checkpoints and maps whose comparison answers them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from simpool_viz.errors import CheckpointError, OptionError


@dataclass(frozen=True)
class Comparison:
    """A question, and what is compared to answer it.

    Attributes:
        name: on the command line.
        title: in the page.
        question: a sentence.
        checkpoints: names of bundled checkpoints.
        maps: as `parse_map` reads them.
    """

    name: str
    title: str
    question: str
    checkpoints: tuple[str, ...]
    maps: tuple[str, ...]


COMPARISONS = (
    Comparison(
        "vit_poolings",
        "Same ViT: CLS, GAP, GGeM, SimPool",
        "What does the pooling alone change, the backbone and its training being the same?",
        ("vit_cls", "vit_gap", "vit_ggem", "vit_simpool"),
        ("own",),
    ),
    Comparison(
        "without_labels",
        "CLS and SimPool, trained without labels",
        "Where does a pooling look that never saw a label, and what did its start show already?",
        ("vit_ssl_cls", "vit_ssl_simpool", "vit_thin"),
        ("own",),
    ),
    Comparison(
        "life",
        "ViT with and without LIFE",
        "Do queries and keys made from a token's neighbourhood give more coherent maps?",
        ("vit_cls", "vit_life_cls", "vit_simpool", "vit_life_simpool"),
        ("own", "rollout"),
    ),
    Comparison(
        "spatial_entropy",
        "ViT with and without spatial entropy",
        "Does the spatial entropy loss concentrate the class token's attention in fewer connected regions?",
        ("vit_cls", "vit_cls_sar"),
        ("cls", "rollout"),
    ),
    Comparison(
        "street_scenes",
        "Dense models on street scenes, with and without LIFE",
        "Where do the tokens of a class take their information from? Drop a street scene: these two know road, car, "
        "building and the like.",
        ("camvid_vit", "camvid_vit_life"),
        ("dense_rollout", "class_logits", "rollout"),
    ),
    Comparison(
        "resnet_poolings",
        "ResNet: GAP, GeM, SPE, SimPool",
        "What do a pooling and a channel gate change in the same ResNet?",
        ("resnet_gap", "resnet_gem", "resnet_spe_gap", "resnet_simpool"),
        ("own", "gates"),
    ),
    Comparison(
        "trained_or_probed",
        "SimPool trained with the ResNet, and put on a frozen one",
        "How much of a SimPool map is the pooling, and how much is a backbone that was trained with it?",
        ("resnet_simpool", "resnet_gap+simpool", "resnet_gap"),
        ("pooling", "contribution"),
    ),
    Comparison(
        "frozen_heads",
        "One frozen ResNet, attentive heads",
        "Where do heads attend that were trained on exactly the same features?",
        tuple(f"resnet_gap+{head}" for head in ("simpool", "cait", "ep", "aim", "slot", "otk", "cbam")),
        ("pooling",),
    ),
    Comparison(
        "frozen_means",
        "One frozen ResNet, kinds of mean",
        "Which positions contribute to a class when the features are averaged, raised to a power or maximised?",
        ("resnet_gap", *(f"resnet_gap+{head}" for head in ("gem", "ggem", "lse", "max"))),
        ("contribution",),
    ),
)


def available() -> set[str]:
    """Names of the bundled checkpoints whose weights are here."""
    from simpool_viz.checkpoints.catalogue import catalogue

    return {name for name, entry in catalogue().items() if entry.available}


def comparisons(having: Container[str] | None = None) -> dict[str, Comparison]:
    """The ready-made comparisons by name.

    Args:
        having: names of checkpoints; only comparisons that need no others are returned. None: all comparisons.
    """
    return {c.name: c for c in COMPARISONS if having is None or all(name in having for name in c.checkpoints)}


def find_comparison(name: str, having: Container[str]) -> Comparison:
    """A comparison by name.

    Args:
        name: of a ready-made comparison.
        having: names of the checkpoints that are here.

    Raises:
        OptionError: there is no such comparison.
        CheckpointError: some of its checkpoints are missing here.
    """
    known = comparisons()
    if name not in known:
        raise OptionError(f"no ready-made comparison is called {name!r}; there are {', '.join(comparisons(having))}")
    missing = [checkpoint for checkpoint in known[name].checkpoints if checkpoint not in having]
    if missing:
        raise CheckpointError(
            f"the comparison {name!r} needs {', '.join(missing)}, which this installation does not have"
        )
    return known[name]
