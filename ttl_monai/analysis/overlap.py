"""How far a distribution of coefficients lies from its null: overlap, quartiles, excess area.

Coefficients and nulls are samples in [0, 1]; a null known by its law is given by evenly spaced quantiles
(`wachter_sample`). PAPER.md section 4 names the three statistics and what they are worth.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def overlap_coefficient(coefficients: ArrayLike, null: ArrayLike, *, bins: int = 50) -> float:
    """Common area of two histograms on [0, 1]: 0 apart, 1 the same.

    Args:
        coefficients: (K,) in [0, 1].
        null: (M,) in [0, 1], a sample or evenly spaced quantiles; M need not be K.
        bins: of equal width on [0, 1].

    Raises:
        ValueError: nothing to compare, values outside [0, 1], fewer than one bin.
    """
    first, second = _histograms(coefficients, null, bins)
    return float(np.minimum(first, second).sum())


def bhattacharyya(coefficients: ArrayLike, null: ArrayLike, *, bins: int = 50) -> float:
    """Bhattacharyya coefficient of two histograms on [0, 1], the sum of sqrt(f g): 0 apart, 1 the same.

    Args, Raises: as for `overlap_coefficient`.
    """
    first, second = _histograms(coefficients, null, bins)
    return float(min(np.sqrt(first * second).sum(), 1.0))


def quartile_rule(coefficients: ArrayLike, null: ArrayLike) -> bool:
    """Whether the boxes of a box plot touch: the first quartile is not above the null's third.

    Args, Raises: as for `overlap_coefficient`.
    """
    return bool(np.quantile(_checked("coefficients", coefficients), 0.25) <= np.quantile(_checked("null", null), 0.75))


def excess_area(coefficients: ArrayLike, null: ArrayLike) -> float:
    """How much of the way from the null to 1 the mean coefficient has gone: (mean - null's) / (1 - null's).

    Args, Raises: as for `overlap_coefficient`.

    Returns:
        1 for equal features, 0 for independent ones, NaN where the null is 1 itself.
    """
    mean, expected = _checked("coefficients", coefficients).mean(), _checked("null", null).mean()
    return float((mean - expected) / (1 - expected)) if expected < 1 else math.nan


def _histograms(coefficients: ArrayLike, null: ArrayLike, bins: int) -> tuple[Array, Array]:
    if bins < 1:
        raise ValueError(f"expected at least one bin, got bins={bins}.")
    samples = _checked("coefficients", coefficients), _checked("null", null)
    first, second = (np.histogram(sample, bins, (0, 1))[0] / sample.size for sample in samples)
    return first, second


def _checked(name: str, values: ArrayLike) -> Array:
    sample = np.asarray(values, np.float64).ravel()
    if sample.size == 0 or not np.all((sample >= 0) & (sample <= 1)):
        found = f"{sample.size} values" + (f" from {sample.min():.4g} to {sample.max():.4g}" if sample.size else "")
        raise ValueError(f"expected {name} to be numbers in [0, 1], got {found}.")
    return sample
