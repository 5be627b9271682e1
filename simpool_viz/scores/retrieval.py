"""Scores of frozen features: k-NN and linear classification, and retrieval among photos of the same classes.

Neighbours are by cosine similarity. Each score has one value per photo, so that its mean has an interval and two kinds
of features are compared photo by photo.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.errors import DataError, needs_packages

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of DINO's k-NN classification
RANKS = (1, 5, 10)  # of recall@k
# Weights of the loss against half the squared norm of the probe, as scikit-learn's C.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT = 5  # every fifth training photo chooses among them
_CHUNK = 512  # photos whose similarities to all others are in memory at a time
_STEPS = 500  # of L-BFGS


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1.

    Args:
        vectors: (n, D).

    Returns:
        (n, D) float32; a vector of zeros stays one.
    """
    values = vectors.astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-12)


def neighbour_votes(similarity: np.ndarray, numbers: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """The votes of the k most similar photos for their classes, weighted by exp(similarity / temperature).

    Source: DINO (Caron et al., ICCV 2021, arXiv 2104.14294, appendix F.1), after Wu et al. (CVPR 2018).

    Args:
        similarity: (m, n) of queries to known photos, cosines in [-1, 1]; -inf for one that has no vote.
        numbers: (n,) classes of the known photos, from 0 to K - 1, each of which occurs.
        k: how many neighbours vote; all of them where there are fewer.
        temperature: above 0; the smaller it is, the more the nearest decide.

    Returns:
        (m, K) float64, at least 0.
    """
    k = min(k, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    cosines = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
    votes = np.zeros((len(similarity), int(numbers.max()) + 1))
    np.add.at(votes, (np.arange(len(votes))[:, None], numbers[nearest]), np.exp(cosines / temperature))
    return votes


def classify_by_neighbours(
    known: np.ndarray,
    classes: np.ndarray,
    queries: np.ndarray,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Classify features by a weighted vote of their nearest neighbours, as of `neighbour_votes`.

    Args:
        known: (n, D), features of photos whose classes are known.
        classes: (n,) of these.
        queries: (m, D).
        k: how many neighbours vote.
        temperature: of their weights.

    Returns:
        (m,) classes; the smallest number of those with equal votes.

    Raises:
        DataError: no photo is known.

    Examples:
        >>> import numpy as np
        >>> from simpool_viz.scores.retrieval import classify_by_neighbours
        >>> known = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> classify_by_neighbours(known, np.array([3, 3, 7]), np.array([[1.0, 0.2], [0.1, 1.0]]), k=1)
        array([3, 7])
    """
    if not len(known):
        raise DataError("k-NN classification needs training photos, and there is none; take a larger --train")
    names, numbers = np.unique(classes, return_inverse=True)
    bank, asked = unit_vectors(known), unit_vectors(queries)
    found = [
        names[neighbour_votes(asked[rows] @ bank.T, numbers, k, temperature).argmax(1)] for rows in _chunks(len(asked))
    ]
    return np.concatenate(found) if found else names[:0]


def _chunks(count: int) -> Iterator[slice]:
    return (slice(first, first + _CHUNK) for first in range(0, count, _CHUNK))


# --- retrieval --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieved:
    """How well each photo finds the others of its class among all others.

    Attributes:
        average_precision: (n,) in [0, 1], over the whole ranking; NaN where no other photo has the class.
        recall: by k, (n,) 1 where one of the k most similar photos has the class, else 0; NaN likewise.
    """

    average_precision: np.ndarray
    recall: dict[int, np.ndarray]


def retrieve_each(vectors: np.ndarray, classes: np.ndarray, ranks: Sequence[int] = RANKS, seed: int = 0) -> Retrieved:
    """Rank for each photo all others by cosine similarity, and score the ranking; those of its class are relevant.

    The mean of `average_precision` is mAP@all, that of `recall[k]` recall@k (Jégou et al., TPAMI 2011; Oh Song et al.,
    CVPR 2016), the figures of image retrieval in GGeM (Ko et al., 2022, arXiv 2212.04114).

    Args:
        vectors: (n, D), the features of photos.
        classes: (n,) of these.
        ranks: the k of recall@k.
        seed: of the order in which equally similar photos are ranked, so that the order of the photos, mostly by class,
            does not matter.

    Raises:
        DataError: no class has two photos.
    """
    count, place = len(vectors), np.random.default_rng(seed).permutation(len(vectors))
    units, numbers = unit_vectors(vectors)[place], np.asarray(classes)[place]
    precision, recall = np.full(count, np.nan), {k: np.full(count, np.nan) for k in ranks}
    for rows in _chunks(count):
        similarity = units[rows] @ units.T
        own = np.arange(rows.start, rows.start + len(similarity))
        similarity[np.arange(len(own)), own] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]  # the query itself is the last
        hits = numbers[order] == numbers[own][:, None]
        there = hits.any(1)
        hits, own = hits[there], own[there]
        reached = hits.cumsum(1) / np.arange(1, count)  # the precision at each rank
        precision[place[own]] = (reached * hits).sum(1) / hits.sum(1)
        for k in ranks:
            recall[k][place[own]] = hits[:, :k].any(1)
    if np.isnan(precision).all():
        raise DataError("retrieval needs two photos of some class, and each class has one; take more photos")
    return Retrieved(precision, recall)


# --- linear probe -----------------------------------------------------------------------------------------------------


def classify_by_probe(
    known: np.ndarray, classes: np.ndarray, queries: np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> tuple[np.ndarray, float]:
    """Classify features by multinomial logistic regression on features of photos whose classes are known.

    Features are standardised by the mean and the standard deviation of each channel over the known photos. The weight
    of the loss (scikit-learn's C) is the one with the best accuracy on every fifth known photo, in a drawn order, after
    a fit on the others; the probe is then fitted on all.

    Args:
        known: (n, D), features.
        classes: (n,) of these.
        queries: (m, D).
        strengths: weights of the loss to choose among, of which the smallest wins where several are equally good.

    Returns:
        (m,) classes, and the weight that was chosen.

    Raises:
        DataError: the known photos are of fewer than two classes.
        MissingPackageError: scikit-learn is not installed.
    """
    with needs_packages("a linear probe", "sklearn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    order = np.random.default_rng(0).permutation(len(known))
    chosen = np.arange(len(known)) % HELD_OUT == HELD_OUT - 1
    fitted, asked = order[~chosen], order[chosen]
    if len(np.unique(classes[fitted])) < 2:
        raise DataError("a linear probe needs training photos of two classes at least; take more photos")
    mean, deviation = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
    scaled, others = (((one - mean) / deviation.clip(min=1e-6)).astype(np.float32) for one in (known, queries))
    # Each fit begins where the one before ended, which changes nothing but the time: the loss has one minimum.
    probe = LogisticRegression(max_iter=_STEPS, warm_start=True)
    best, right = float(strengths[0]), -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for strength in sorted(strengths) if len(asked) else ():
            probe.set_params(C=strength).fit(scaled[fitted], classes[fitted])
            accuracy = float((probe.predict(scaled[asked]) == classes[asked]).mean())
            if accuracy > right:
                best, right = float(strength), accuracy
        final = LogisticRegression(C=best, max_iter=_STEPS).fit(scaled, classes)
    return final.predict(others), best
