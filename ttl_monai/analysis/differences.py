"""Two networks on the same test images: how much better one is, and how sure that is.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13; Student's paired t-test.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from ttl_monai.analysis.bootstrap import LEVEL, RESAMPLES, Measure

Array = NDArray[np.float64]

_BYTES = 2**25  # of the weights of one part of the resamples


@dataclass(frozen=True)
class PairedScores:
    """Two networks on the test images of one repeat, image by image.

    Attributes:
        patients: whom each image is of, (N,).
        first: metrics of the first network from weights of the images (`classification_measure`, `mean_measure`).
        second: likewise, of the second network on the same images in the same order.
    """

    patients: Sequence[Hashable]
    first: Measure
    second: Measure


@dataclass(frozen=True)
class Difference:
    """First minus second, in one metric.

    Attributes:
        mean: mean over the repeats of the difference on all images; NaN where one repeat lacks it.
        low: lower end of the 95 % interval; NaN where there is none.
        high: its upper end.
        n: number of repeats.
        p: two-sided p value of the paired t-test over the repeats; NaN for fewer than two, or equal differences.
        patients: how many different ones were drawn from.
        left_out: resamples in which the metric is undefined; they count for none.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float
    patients: int
    left_out: int


def paired_differences(
    repeats: Sequence[PairedScores], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Differences of two networks over the test sets of several repeats, with intervals and a test.

    The interval is about the patients: in each resample as many patients as there are in all test sets together are
    drawn with replacement, with all their images, in each test set in which they are; the metrics of both networks are
    computed anew on each test set, and their difference is averaged over the repeats. A patient who is in several test
    sets, as splits drawn anew overlap, is drawn for all of them at once: as independent they would make the interval
    too narrow. It ends at the 2.5 and 97.5 percentiles. The trainings are held fixed.

    The p value is about the repeats: Student's paired t-test of the metrics of each repeat, splits and trainings
    varying, the patients held fixed. As training sets overlap, it is somewhat too small; with three repeats it can tell
    large differences only.

    Args:
        repeats: the two networks on the test set of each repeat.
        resamples: number of draws.
        seed: of the draw.

    Returns:
        The difference of each metric.

    Raises:
        ValueError: no repeat, one without images, or networks that do not have the same metrics.
    """
    if not repeats or not all(len(each.patients) for each in repeats):
        raise ValueError("paired_differences needs at least one repeat, each with at least one image")
    whole = [_measure(each, np.ones((1, len(each.patients)))) for each in repeats]
    names = list(whole[0])
    if any(list(each) != names for each in whole):
        raise ValueError(f"the repeats do not have the same metrics: {[list(each) for each in whole]}")
    drawn = _draw(repeats, resamples, seed)
    differences = {}
    for name in names:
        values = np.concatenate([each[name] for each in whole], axis=1)  # (2, repeats)
        found = drawn[name][np.isfinite(drawn[name])]
        enough = found.size > 0 and np.isfinite(values).all()
        low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if enough else (math.nan, math.nan)
        differences[name] = Difference(
            mean=float((values[0] - values[1]).mean()),
            low=float(low),
            high=float(high),
            n=len(repeats),
            p=t_test(values[0], values[1]),
            patients=len({patient for each in repeats for patient in each.patients}),
            left_out=resamples - found.size,
        )
    return differences


def t_test(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Two-sided p value of Student's paired t-test; NaN for fewer than two pairs, or where all differences are equal.

    Args:
        first: (n,), one value a repeat.
        second: likewise.
    """
    gaps = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if gaps.size < 2 or not np.isfinite(gaps).all() or np.allclose(gaps, gaps[0], rtol=0, atol=1e-12):
        return math.nan
    return float(ttest_rel(first, second).pvalue)


def _measure(repeat: PairedScores, weights: Array) -> dict[str, Array]:
    """Both networks' metrics, (2, R) each."""
    first, second = repeat.first(weights), repeat.second(weights)
    if first.keys() != second.keys():
        raise ValueError(f"the two networks do not have the same metrics: {list(first)} and {list(second)}")
    return {name: np.stack([first[name], second[name]]) for name in first}


def _draw(repeats: Sequence[PairedScores], resamples: int, seed: int) -> dict[str, Array]:
    """The mean difference over the repeats of each resample, (R,) for each metric."""
    number = {patient: index for index, patient in enumerate(dict.fromkeys(p for r in repeats for p in r.patients))}
    rows = [np.array([number[patient] for patient in each.patients]) for each in repeats]
    generator, count = np.random.default_rng(seed), len(number)
    largest = max(len(number), *(len(each) for each in rows))
    parts: list[dict[str, Array]] = []
    for part in np.array_split(np.arange(resamples), -(-resamples * largest * 8 // _BYTES)):
        weights = generator.multinomial(count, np.full(count, 1 / count), size=len(part)).astype(np.float64)
        measured = [_measure(each, weights[:, places]) for each, places in zip(repeats, rows, strict=True)]
        parts.append({name: np.mean([m[name][0] - m[name][1] for m in measured], axis=0) for name in measured[0]})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
