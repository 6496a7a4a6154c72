"""Classification metrics that survive a fold of one class, the operating point, mean and spread over repeats.

All metrics take the same arrays. Binary: labels (N,) of 0 and 1, scores (N,) of the positive class or (N, 2).
Multi-class: labels (N,) of class numbers, scores (N, C). Multi-label: labels (N, C) of 0, 1 and NaN (unknown,
left out), scores (N, C). With several classes a metric is the mean over those classes where it is defined.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

Array = NDArray[np.float64]

logger = logging.getLogger(__name__)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, one class against the rest.

    Args:
        labels: (N,) or (N, C), see the module's head.
        scores: (N,) or (N, C), higher means more likely.

    Returns:
        The area, the mean over the defined classes, or NaN (and one warning in the log) where no class is defined.

    Raises:
        ValueError: shapes that do not fit, labels that are no class, scores that are not finite.
    """
    return _macro("auroc", metrics.roc_auc_score, labels, scores)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve as a step function: what `val_auprc` and `test_auprc` mean everywhere.

    Args, Returns and Raises are those of `auroc`.
    """
    return _macro("auprc", metrics.average_precision_score, labels, scores)


def auprc_trapezoid(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve by the trapezoid rule, as the paper's published values were computed.

    Joining the points by straight lines is optimistic, hence only beside published values.
    Args, Returns and Raises are those of `auroc`.
    """
    return _macro("auprc_trapezoid", _trapezoid, labels, scores)


def operating_point(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold of maximal Youden index (sensitivity + specificity - 1); `score >= threshold` is positive.

    It is to be chosen on validation and then held fixed. It lies halfway between the lowest score called positive
    and the next one below, so that rounding on another device does not move a sample across it. Of equally good
    thresholds the lowest is taken, that of the highest sensitivity.

    Args:
        labels: (N,) of 0 and 1; NaN is unknown and left out.
        scores: (N,) of the positive class, or (N, 2).

    Returns:
        The threshold, NaN (and one warning in the log) when there is one class only.

    Raises:
        ValueError: as for `auroc`, or more than one class to decide about.
    """
    truth, values = _binary(labels, scores)
    positives, negatives = int(truth.sum()), int((1 - truth).sum())
    if positives == 0 or negatives == 0:
        logger.warning("operating point is NaN: the labels hold one class only (n = %d)", truth.size)
        return math.nan
    false_rate, true_rate, thresholds = metrics.roc_curve(truth, values, drop_intermediate=False)
    # Counts instead of rates: equally good thresholds are then exactly equal.
    youden = np.rint(true_rate * positives) * negatives - np.rint(false_rate * negatives) * positives
    best = int(np.flatnonzero(youden[1:] == youden[1:].max())[-1]) + 1  # the first threshold is infinite
    upper = float(thresholds[best])
    if best + 1 == len(thresholds):
        return upper
    middle = (upper + float(thresholds[best + 1])) / 2
    return middle if middle > thresholds[best + 1] else upper


def sensitivity_specificity(labels: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity where `score >= threshold` is called positive.

    Args:
        labels: (N,) of 0 and 1; NaN is unknown and left out.
        scores: (N,) of the positive class, or (N, 2).
        threshold: the operating point; NaN gives two NaN.

    Returns:
        (sensitivity, specificity); NaN for the one whose class is absent.

    Raises:
        ValueError: as for `operating_point`.
    """
    truth, values = _binary(labels, scores)
    if math.isnan(threshold):
        return math.nan, math.nan
    called = values >= threshold
    positive = truth == 1
    sensitivity = float(called[positive].mean()) if positive.any() else math.nan
    specificity = float((~called[~positive]).mean()) if (~positive).any() else math.nan
    return sensitivity, specificity


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1) over repeats.

    Args:
        values: one value a repeat. A NaN makes both results NaN; it is not dropped in silence.

    Returns:
        (mean, standard deviation), the latter NaN for a single repeat.

    Raises:
        ValueError: no value at all.
    """
    if len(values) == 0:
        raise ValueError("mean_std needs the value of at least one repeat, got none")
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan


def _trapezoid(truth: Array, values: Array) -> float:
    precision, recall, _ = metrics.precision_recall_curve(truth, values)
    return float(metrics.auc(recall, precision))


def _macro(name: str, metric: Callable[[Array, Array], float], labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean of a binary metric over the classes that have both positives and negatives."""
    columns = _columns(labels, scores)
    defined = [(truth, values) for truth, values in columns if 0 < truth.sum() < truth.size]
    if len(defined) < len(columns):
        missing = [number for number, (truth, _) in enumerate(columns) if not 0 < truth.sum() < truth.size]
        what = f"undefined for {missing} of {len(columns)} classes" if defined else "NaN"
        logger.warning("%s is %s: the labels hold one class only", name, what)
    return float(np.mean([metric(truth, values) for truth, values in defined])) if defined else math.nan


def _binary(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    columns = _columns(labels, scores)
    if len(columns) != 1:
        raise ValueError(f"expected the scores of one class, (N,) or (N, 2), got {len(columns)} classes; pass one")
    return columns[0]


def _columns(labels: ArrayLike, scores: ArrayLike) -> list[tuple[Array, Array]]:
    """One pair of labels (0 or 1) and scores a class, unknown labels left out."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape and not (truth.ndim == 1 and values.ndim == 2 and len(truth) == len(values)):
        raise ValueError(f"labels {truth.shape} and scores {values.shape} must be (N,) or (N, C) of equal N")
    if not np.isfinite(values).all():
        raise ValueError(
            f"scores must be finite, got {int((~np.isfinite(values)).sum())} NaN or infinite of {values.size}"
        )
    classes = 2 if values.ndim == 1 or truth.ndim == 2 else values.shape[1]
    known = ~np.isnan(truth)
    strange = sorted(set(truth[known].tolist()) - set(range(classes)))
    if strange:
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, got {strange[:5]}")
    if truth.ndim == 1 and values.ndim == 2:
        numbers = [1] if classes == 2 else list(range(classes))
        return [((truth[known] == number).astype(np.float64), values[known, number]) for number in numbers]
    truth, values, known = (array.reshape(len(array), -1) for array in (truth, values, known))
    return [(truth[known[:, k], k], values[known[:, k], k]) for k in range(truth.shape[1])]
