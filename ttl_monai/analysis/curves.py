"""ROC and precision-recall curves with their bands, calibration, and operating points at a wanted sensitivity.

A score at or above a threshold is called positive. Bands and intervals are those of the bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

from ttl_monai.analysis.bootstrap import RESAMPLES, Intervals, _check, _intervals, _mean
from ttl_monai.analysis.statistics import _binary

Array = NDArray[np.float64]

GRID = 101  # places of a band
BINS = 10  # of equal width, of a reliability diagram


@dataclass(frozen=True)
class Band:
    """Where a curve lies with 95 % of the resamples at each place.

    Attributes:
        x: places, (G,).
        low: lower end at each, (G,); NaN where no resample has the curve.
        high: upper end, likewise.
    """

    x: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Reliability:
    """How often what was predicted came true, by the bins of the predicted probability.

    Attributes:
        predicted: mean probability of each bin that holds anything, (B,).
        observed: share of positives in it, (B,).
        counts: images in it, (B,).
        brier: Brier score (`sklearn.metrics.brier_score_loss`).
        ece: expected calibration error, the mean of |observed - predicted| weighted by the counts (Guo et al., On
            Calibration of Modern Neural Networks, ICML 2017).
    """

    predicted: Array
    observed: Array
    counts: NDArray[np.int64]
    brier: float
    ece: float


def curve_bands(
    labels: ArrayLike, scores: ArrayLike, patients: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Band, Band]:
    """Bands of the ROC curve (sensitivity by false positive rate) and of the precision-recall curve.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,), higher means more likely.
        patients: whom each row is of, (N,).
        resamples: number of draws of patients.
        seed: of the draw.

    Raises:
        ValueError: no row, or other than one patient a row.
    """
    truth, values = _binary(labels, scores)
    _check(len(truth), patients)
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # equal scores are called together
    grid = np.linspace(0, 1, GRID)

    def measure(weights: Array) -> dict[str, Array]:
        weights = weights[:, order]
        true, called = (np.cumsum(each, axis=1)[:, ends] for each in (weights * truth[order], weights))
        false = called - true
        with np.errstate(invalid="ignore", divide="ignore"):
            sensitivity, false_rate = true / true[:, -1:], false / false[:, -1:]
            precision = np.where(called > 0, true / called, 1)
        roc, pr = (np.full((len(weights), GRID), np.nan) for _ in range(2))
        for row in np.flatnonzero(np.isfinite(sensitivity[:, -1] + false_rate[:, -1])):
            roc[row] = np.interp(grid, [0, *false_rate[row]], [0, *sensitivity[row]])
            # Steps: the precision of the first threshold that reaches the recall.
            pr[row] = precision[row, np.searchsorted(sensitivity[row], grid - 1e-9)]
        named = zip(("roc", "pr"), (roc, pr), strict=True)
        return {f"{name} {place}": values[:, place] for name, values in named for place in range(GRID)}

    found = _intervals(measure, patients, resamples, seed).intervals
    nothing = (float("nan"), float("nan"))
    ends_of = {
        name: np.array([found[f"{name} {place}"] or nothing for place in range(GRID)]).T for name in ("roc", "pr")
    }
    return Band(grid, *ends_of["roc"]), Band(grid, *ends_of["pr"])


def reliability(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = BINS) -> Reliability:
    """The reliability diagram's points, the Brier score and the expected calibration error.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of the positive class.
        bins: of equal width.

    Raises:
        ValueError: a probability outside of 0 to 1, or no row.
    """
    truth, values = _binary(labels, probabilities)
    if not truth.size or values.min() < 0 or values.max() > 1:
        raise ValueError("reliability needs probabilities from 0 to 1 of at least one row")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], values)
    counts = np.bincount(bin_of, minlength=bins)
    some = counts > 0
    predicted, observed = (
        np.bincount(bin_of, weights=each, minlength=bins)[some] / counts[some] for each in (values, truth)
    )
    return Reliability(
        predicted=predicted,
        observed=observed,
        counts=counts[some],
        brier=float(metrics.brier_score_loss(truth, values)),
        ece=float((counts[some] * np.abs(observed - predicted)).sum() / truth.size),
    )


def threshold_at_sensitivity(labels: ArrayLike, scores: ArrayLike, sensitivity: float) -> float:
    """The highest threshold of at least this sensitivity: to be chosen on validation and then held fixed.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) of the positive class, or (N, 2).
        sensitivity: wanted, above 0 and at most 1.

    Raises:
        ValueError: a sensitivity outside of that, or no positive.
    """
    truth, values = _binary(labels, scores)
    if not 0 < sensitivity <= 1:
        raise ValueError(f"a sensitivity must be above 0 and at most 1, got {sensitivity}")
    positives = np.sort(values[truth == 1])[::-1]
    if not positives.size:
        raise ValueError("a threshold for a sensitivity needs positives, and the labels hold none")
    return float(positives[int(np.ceil(sensitivity * positives.size - 1e-9)) - 1])


def operating_intervals(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[Hashable],
    threshold: float,
    prevalence: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, float], Intervals]:
    """Sensitivity, specificity and predictive values at a threshold, with intervals.

    The predictive values are Bayes' for a prevalence, not that of the data: those of a test set say little about a
    place where the finding is rarer. It counts as known.

    Args:
        labels: (N,) of 0 and 1.
        scores: (N,) of the positive class, or (N, 2).
        patients: whom each row is of, (N,).
        threshold: chosen on other data.
        prevalence: share of positives where it is to be used, between 0 and 1.
        resamples: number of draws of patients.
        seed: of the draw.

    Returns:
        Values and intervals of `sensitivity`, `specificity`, `ppv` and `npv`.

    Raises:
        ValueError: a prevalence that is no share, no row, or other than one patient a row.
    """
    truth, values = _binary(labels, scores)
    _check(len(truth), patients)
    if not 0 < prevalence < 1:
        raise ValueError(f"a prevalence must lie between 0 and 1, got {prevalence}")
    called = (values >= threshold)[:, None]

    def measure(weights: Array) -> dict[str, Array]:
        sensitivity = _mean(called, weights * truth)[:, 0]
        specificity = _mean(~called, weights * (1 - truth))[:, 0]
        true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        left, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {"ppv": true / (true + false), "npv": left / (left + missed)}
        return {"sensitivity": sensitivity, "specificity": specificity, **values}

    whole = {name: float(value[0]) for name, value in measure(np.ones((1, len(truth)))).items()}
    return whole, _intervals(measure, patients, resamples, seed)
