"""A sweep of GGeM on frozen tokens: the exponent, and the number of channel groups that have one each.

With one exponent for all groups their number changes nothing, so each group is given its own: the one of the sweep with
which training photos classify each other best. Every vector comes from the same forward as those of single exponents,
since a channel's power mean depends on its own exponent alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.pooled_features import PooledFeatures, PoolingRequest, normed, parse_pooling
from simpool_viz.evaluation.representation import FeatureScores, FeatureSplits, feature_label, score_splits
from simpool_viz.scores.retrieval import NEIGHBOURS, TEMPERATURE, neighbour_votes

GROUPS_SWEPT, POWERS_SWEPT = (1, 2, 3, 6, 12), (1.0, 2.0, 3.0, 4.0, 6.0, 10.0)
CHOSEN_ON = 2000  # training photos, of which each is compared with each
_ROUNDS = 3  # through all groups, unless nothing changes before


@dataclass(frozen=True)
class ExponentSweep:
    """What is swept.

    Attributes:
        groups: numbers of channel groups.
        powers: exponents, of which each group gets one.

    Raises:
        OptionError: none of one of them, a group below 1 or a power below 1, which the learned exponents never are.
    """

    groups: tuple[int, ...] = GROUPS_SWEPT
    powers: tuple[float, ...] = POWERS_SWEPT

    def __post_init__(self) -> None:
        some = bool(self.groups and self.powers)
        if not some or min(self.groups) < 1 or min(self.powers) < 1 or max(self.powers) > 50:
            raise OptionError("a sweep needs numbers of groups of at least 1, and exponents of 1 to 50")

    @property
    def requests(self) -> list[PoolingRequest]:
        """The poolings that it is made of: GeM with each exponent."""
        return [parse_pooling(f"gem:p={power:g}") for power in self.powers]

    def check(self, width: int) -> None:
        """Make sure that so many channels split into each number of groups.

        Raises:
            OptionError: they do not.
        """
        wrong = [str(count) for count in self.groups if width % count]
        if wrong:
            raise OptionError(
                f"{width} channels do not split into {' or '.join(wrong)} groups; choose --groups that divide {width}"
            )


def choose_exponents(vectors: Mapping[float, np.ndarray], classes: np.ndarray, groups: int) -> tuple[float, ...]:
    """The exponent of each channel group with which photos classify each other best by k-NN, each left out in turn.

    It starts from the best exponent for all groups, then goes through the groups and gives each the exponent that is
    best beside those of the others, until none changes: never worse on these photos than one exponent.

    Args:
        vectors: by exponent (n, D), what its power mean gives.
        classes: (n,) of the photos.
        groups: number of contiguous channel groups of equal width; divides D.

    Returns:
        Of each group.
    """
    numbers = np.unique(classes, return_inverse=True)[1]
    powers, width = list(vectors), next(iter(vectors.values())).shape[1] // groups
    # Cosines are a sum over groups, divided by lengths whose squares are too.
    parts = [[vectors[p][:, g * width : (g + 1) * width].astype(np.float32) for g in range(groups)] for p in powers]

    def accuracy(dots: np.ndarray) -> float:
        lengths = np.sqrt(dots.diagonal().clip(min=1e-12))
        cosines = dots / lengths / lengths[:, None]
        np.fill_diagonal(cosines, -np.inf)
        return float((neighbour_votes(cosines, numbers, NEIGHBOURS, TEMPERATURE).argmax(1) == numbers).mean())

    common = [sum(part @ part.T for part in own) for own in parts]
    reached = [accuracy(np.asarray(dots)) for dots in common]
    start = int(np.argmax(reached))
    chosen, dots, best = [start] * groups, np.asarray(common[start]), reached[start]
    del common
    for _ in range(_ROUNDS if groups > 1 else 0):
        before = list(chosen)
        for group in range(groups):
            now = parts[chosen[group]][group]
            without = dots - now @ now.T
            for number in range(len(powers)):
                if number == chosen[group]:
                    continue
                one = parts[number][group]
                tried = without + one @ one.T
                if (score := accuracy(tried)) > best:
                    chosen[group], dots, best = number, tried, score
        if chosen == before:
            break
    return tuple(powers[number] for number in chosen)


def joined(vectors: Mapping[float, np.ndarray], exponents: Sequence[float]) -> np.ndarray:
    """The vectors (n, D) of a GGeM: of each channel group those of its own exponent.

    Args:
        vectors: by exponent (n, D).
        exponents: of each group, which are contiguous and equally wide.
    """
    width = next(iter(vectors.values())).shape[1] // len(exponents)
    parts = [vectors[p][:, g * width : (g + 1) * width] for g, p in enumerate(exponents)]
    return np.concatenate(parts, axis=1)


def score_sweep(
    train: PooledFeatures, val: PooledFeatures, sweep: ExponentSweep, scores: Sequence[str] = ()
) -> list[FeatureScores]:
    """Score the poolings of a sweep, after those that were asked for beside it.

    Args:
        train: of training photos, with the vectors of `sweep.requests`.
        val: of held-out photos, likewise.
        sweep: what is swept.
        scores: as in `score_splits`, and so are the errors.

    Returns:
        A row for each number of groups, with the exponents that were chosen on `CHOSEN_ON` training photos at most.

    Raises:
        OptionError: channels that do not split into the groups.
    """
    labels = {power: request.label for power, request in zip(sweep.powers, sweep.requests, strict=True)}
    known, asked = ({p: split.vectors[label] for p, label in labels.items()} for split in (train, val))
    sweep.check(next(iter(known.values())).shape[1])
    some = np.sort(np.random.default_rng(0).permutation(len(train.classes))[:CHOSEN_ON])
    rows = []
    for groups in sweep.groups:
        exponents = choose_exponents({p: own[some] for p, own in known.items()}, train.classes[some], groups)
        features = [normed(train.encoder, joined(vectors, exponents)) for vectors in (known, asked)]
        splits = FeatureSplits(features[0], train.classes, features[1], val.classes)
        label = feature_label(train, f"ggem:groups={groups}, p chosen")
        rows.append(score_splits(label, splits, scores, exponents=", ".join(f"{p:g}" for p in exponents)))
    return rows
