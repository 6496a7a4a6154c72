"""Intervals of an evaluation by the bootstrap over patients: all images of a patient are drawn together.

Percentile intervals: with few patients they are somewhat too narrow, and nothing in them speaks of another hospital.
Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl_monai.analysis.statistics import _columns

Array = NDArray[np.float64]
Measure = Callable[[Array], dict[str, Array]]

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Intervals:
    """Intervals of some metrics over the same resamples.

    Attributes:
        intervals: (lower, upper) of each metric, None where no resample has it.
        patients: how many were drawn from, and in each resample.
        resamples: how many were drawn.
        left_out: how many of them lack a metric, such as those without one of the classes; they count for none.
        level: share of the resamples between the two ends.
        seed: of the draw.
    """

    intervals: Mapping[str, tuple[float, float] | None]
    patients: int
    resamples: int
    left_out: int
    level: float
    seed: int

    def to_dict(self, prefix: str) -> dict[str, Any]:
        """Plain values for JSON: `<prefix>_<metric>_interval`, and under `bootstrap` how they were made."""
        facts = {name: value for name, value in asdict(self).items() if name != "intervals"}
        named = {f"{prefix}_{name}_interval": pair and list(pair) for name, pair in self.intervals.items()}
        return {**named, "bootstrap": {"unit": "patient", "method": "percentile", **facts}}

    def describe(self, values: Mapping[str, float | None]) -> str:
        """The metrics that are defined, with their intervals in words, for a log."""
        parts = [
            f"{name} {values[name]:.3f} ({f'{pair[0]:.3f} to {pair[1]:.3f}' if pair else 'no interval'})"
            for name, pair in self.intervals.items()
            if values[name] is not None
        ]
        return f"{', '.join(parts) or 'no metric is defined'}; {self.level:.0%} intervals over {self.patients} patients"


def classification_measure(labels: ArrayLike, scores: ArrayLike, *, threshold: float | None = None) -> Measure:
    """`auroc` and `auprc` of weighted rows, and with a threshold `sensitivity` and `specificity`.

    Args:
        labels: (N,) or (N, C), as for `auroc`.
        scores: (N,) or (N, C), higher means more likely.
        threshold: operating point of a binary task; `score >= threshold` is positive.

    Returns:
        A function from weights of the rows (R, N) to the metrics by name, (R,) each, NaN where one is undefined.

    Raises:
        ValueError: as for `auroc`, or a threshold with several classes.
    """
    columns = _columns(labels, scores)
    if threshold is not None and len(columns) > 1:
        raise ValueError(f"a threshold decides about one class, but there are {len(columns)}; leave it None")
    truths = np.asarray(labels, dtype=np.float64)
    known = list(~np.isnan(truths.reshape(len(truths), -1).T))  # the rows that `_columns` takes
    known *= len(columns) // len(known)

    def measure(weights: Array) -> dict[str, Array]:
        areas = [
            _areas(truth, values, weights[:, rows])
            for (truth, values), rows in zip(columns, known, strict=True)
            if 0 < truth.sum() < truth.size  # as in `auroc`: the mean over the classes that are defined
        ]
        found = np.mean(areas, axis=0) if areas else np.full((2, len(weights)), np.nan)
        measured = dict(zip(("auroc", "auprc"), found, strict=True))
        if threshold is not None and not math.isnan(threshold):
            (truth, values), weights = columns[0], weights[:, known[0]]
            called = values >= threshold
            measured["sensitivity"] = _mean(called[:, None], weights * truth)[:, 0]
            measured["specificity"] = _mean(~called[:, None], weights * (1 - truth))[:, 0]
        return measured

    return measure


def classification_intervals(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[Hashable],
    *,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Intervals of `auroc` and `auprc`, and with a threshold of `sensitivity` and `specificity`.

    Args:
        labels: (N,) or (N, C), as for `auroc`.
        scores: (N,) or (N, C), higher means more likely.
        patients: whom each row is of, (N,).
        threshold: operating point of a binary task; `score >= threshold` is positive.
        resamples: number of draws of as many patients as there are, with replacement.
        seed: of the draw.

    Returns:
        The intervals. A resample where a metric is undefined, for want of one class, is left out and counted.

    Raises:
        ValueError: as for `auroc`, no row, other than one patient a row, or a threshold with several classes.
    """
    _check(len(np.asarray(labels)), patients)
    return _intervals(classification_measure(labels, scores, threshold=threshold), patients, resamples, seed)


def mean_measure(values: Mapping[str, ArrayLike]) -> Measure:
    """Means of weighted rows and then over the columns, such as Dice by structure.

    Args:
        values: for each metric (N, K), NaN where a row has none. A column of NaN alone is left out.

    Returns:
        A function as that of `classification_measure`.
    """
    arrays = {name: np.asarray(array, dtype=np.float64) for name, array in values.items()}
    defined = {name: array[:, ~np.isnan(array).all(axis=0)] for name, array in arrays.items()}

    def measure(weights: Array) -> dict[str, Array]:
        none = np.full(len(weights), np.nan)
        return {name: _mean(array, weights).mean(axis=1) if array.size else none for name, array in defined.items()}

    return measure


def mean_intervals(
    values: Mapping[str, ArrayLike], patients: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """Intervals of means over the rows and then over the columns, such as Dice by structure.

    Args:
        values: for each metric (N, K), NaN where a row has none. A column of NaN alone is left out.
        patients: whom each row is of, (N,).
        resamples: see `classification_intervals`.
        seed: of the draw.

    Returns:
        The intervals. A resample in which a column has no value is left out and counted.

    Raises:
        ValueError: no row, or other than one patient a row.
    """
    for array in values.values():
        _check(len(np.asarray(array)), patients)
    return _intervals(mean_measure(values), patients, resamples, seed)


def _check(rows: int, patients: Sequence[Hashable]) -> None:
    if not rows or rows != len(patients):
        raise ValueError(f"expected one patient for each of at least one row, got {len(patients)} for {rows} rows")


def _intervals(measure: Measure, patients: Sequence[Hashable], resamples: int, seed: int) -> Intervals:
    number = {patient: index for index, patient in enumerate(dict.fromkeys(patients))}
    rows, count = np.array([number[patient] for patient in patients]), len(number)
    generator = np.random.default_rng(seed)
    parts: list[dict[str, Array]] = []
    # How often each patient is drawn, (R, patients), in parts of bounded memory; then the same for the rows, (R, N).
    for part in np.array_split(np.arange(resamples), -(-resamples * len(rows) // 2**22)):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=len(part))
        parts.append(measure(drawn[:, rows].astype(np.float64)))
    measured = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    usable = np.isfinite(list(measured.values())).all(axis=0)  # (R,)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    intervals = {
        name: tuple(float(end) for end in np.quantile(values[usable], tails)) if usable.any() and count > 1 else None
        for name, values in measured.items()
    }
    return Intervals(intervals, count, resamples, int((~usable).sum()), LEVEL, seed)  # type: ignore[arg-type]


def _areas(truth: Array, values: Array, weights: Array) -> Array:
    """AUROC and average precision for each row of weights (R, N), shape (2, R); NaN where a class has no weight."""
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # equal scores are called together
    weights = weights[:, order]
    true, called = (np.cumsum(each, axis=1)[:, ends] for each in (weights * truth[order], weights))
    false = called - true
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, false_rate = true / true[:, -1:], false / false[:, -1:]
        precision = np.where(called > 0, true / called, 0)
        gained = np.diff(sensitivity, axis=1, prepend=0)
        area = (np.diff(false_rate, axis=1, prepend=0) * (sensitivity - gained / 2)).sum(axis=1)
        average = (gained * precision).sum(axis=1)
    return np.stack([area, np.where(np.isfinite(area), average, np.nan)])


def _mean(values: ArrayLike, weights: Array) -> Array:
    """Weighted mean of each column of values (N, K) without its NaN, for each row of weights (R, N): (R, K)."""
    array = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(array)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(known, array, 0)) / (weights @ known.astype(np.float64))
