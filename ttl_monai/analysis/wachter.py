"""Canonical correlations of independent features in closed form: the null that needs no simulation.

The coefficients of two independent sets of p and q features of n samples follow the law of Wachter (Ann. Statist. 8,
1980) as n grows with p / n and q / n fixed. It gives the random baseline of the paper's Fig. 7 to the printed precision
(PAPER.md section 4). With p + q > n the two subspaces must intersect: p + q - n coefficients are exactly 1.

Features that were centred have one sample less to vary with; it matters only for small n, where n - 1 may be given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def wachter_edges(p: int, q: int, n: int) -> tuple[float, float]:
    """Smallest and largest coefficient of the continuous part.

    Args:
        p: features of x (dimensions that were kept).
        q: features of y.
        n: samples.

    Returns:
        |sqrt(c2 (1 - c1)) -+ sqrt(c1 (1 - c2))| with c = p / n and q / n; (1, 1) where every coefficient is 1.

    Raises:
        ValueError: numbers below 1.
    """
    c1, c2 = _ratios(p, q, n)
    if c2 >= 1:
        return 1.0, 1.0
    first, second = np.sqrt(c2 * (1 - c1)), np.sqrt(c1 * (1 - c2))
    return float(abs(first - second)), float(min(first + second, 1.0))


def wachter_atom(p: int, q: int, n: int) -> float:
    """Share of the coefficients that are exactly 1, because p + q > n.

    Args, Raises: as for `wachter_edges`.
    """
    c1, c2 = _ratios(p, q, n)
    return float(np.clip((c1 + c2 - 1) / c1, 0, 1))


def wachter_density(p: int, q: int, n: int, values: ArrayLike) -> Array:
    """Density of the continuous part, which integrates to 1 less `wachter_atom`.

    Args:
        p: features of x.
        q: features of y.
        n: samples.
        values: coefficients, of any shape.

    Returns:
        density at `values`, 0 outside the edges; of the same shape.

    Raises:
        ValueError: numbers below 1.
    """
    c1, c2 = _ratios(p, q, n)
    rho = np.asarray(values, np.float64)
    density = np.zeros_like(rho)
    if c2 >= 1:
        return density
    low, high = wachter_edges(p, q, n)
    # At p = q the lower edge is 0, where rho cancels.
    inside = (rho > low) & (rho < high) if low > 0 else (rho >= 0) & (rho < high)
    at = rho[inside]
    ratio = np.sqrt((at - low) * (at + low)) / at if low > 0 else np.ones_like(at)
    density[inside] = ratio * np.sqrt((high - at) * (high + at)) / (np.pi * c1 * (1 - at**2))
    return density


def wachter_cdf(p: int, q: int, n: int, values: ArrayLike) -> Array:
    """Share of the coefficients up to `values`, the ones at 1 included.

    Args, Raises: as for `wachter_density`.

    Returns:
        of the shape of `values`.
    """
    c1, c2 = _ratios(p, q, n)
    rho = np.asarray(values, np.float64)
    if c2 >= 1:
        return (rho >= 1).astype(np.float64)
    low, high = wachter_edges(p, q, n)
    angle = _angle(np.clip(rho, low, high) ** 2, low**2, high**2)
    share = _share(angle, low**2, high**2, c1)
    return np.where(rho >= 1, 1.0, np.minimum(share, 1 - wachter_atom(p, q, n)))


def wachter_quantiles(p: int, q: int, n: int, probabilities: ArrayLike) -> Array:
    """Coefficients below which the given shares lie.

    Args:
        p: features of x.
        q: features of y.
        n: samples.
        probabilities: in [0, 1], of any shape.

    Returns:
        of the shape of `probabilities`; 1 for those within the share that is exactly 1.

    Raises:
        ValueError: numbers below 1, probabilities outside [0, 1].
    """
    c1, c2 = _ratios(p, q, n)
    shares = np.asarray(probabilities, np.float64)
    if not np.all((shares >= 0) & (shares <= 1)):
        raise ValueError(f"expected probabilities in [0, 1], got {probabilities!r}.")
    if c2 >= 1:
        return np.ones_like(shares)
    low, high = wachter_edges(p, q, n)
    lower, upper = np.zeros_like(shares), np.full_like(shares, np.pi)
    for _ in range(60):  # halves of an interval of length pi down to the precision of float64
        middle = (lower + upper) / 2
        above = _share(middle, low**2, high**2, c1) > shares
        lower, upper = np.where(above, lower, middle), np.where(above, middle, upper)
    squared = (low**2 + high**2) / 2 - (high**2 - low**2) / 2 * np.cos(upper)
    atom = wachter_atom(p, q, n)
    return np.where((atom > 0) & (shares > 1 - atom), 1.0, np.sqrt(squared))


def wachter_sample(p: int, q: int, n: int, count: int = 1000) -> Array:
    """`count` evenly spaced quantiles: a null sample without randomness.

    Args:
        p: features of x.
        q: features of y.
        n: samples.
        count: how many.

    Raises:
        ValueError: numbers below 1.
    """
    if count < 1:
        raise ValueError(f"expected at least one quantile, got count={count}.")
    return wachter_quantiles(p, q, n, (np.arange(count) + 0.5) / count)


def _ratios(p: int, q: int, n: int) -> tuple[float, float]:
    if min(p, q, n) < 1:
        raise ValueError(f"expected at least one feature on each side and one sample, got p={p}, q={q}, n={n}.")
    return min(p, q) / n, max(p, q) / n


def _angle(squared: Array, low: float, high: float) -> Array:
    """The theta in [0, pi] with squared = (low + high) / 2 - (high - low) / 2 cos(theta)."""
    return np.arccos(np.clip((low + high - 2 * squared) / (high - low), -1, 1))


def _share(angle: Array, low: float, high: float, c1: float) -> Array:
    """Integral of the density of the squared coefficient r up to an angle.

    The density is sqrt((r - low) (high - r)) / (2 pi c1 r (1 - r)), and 1 / (r (1 - r)) = 1 / r + 1 / (1 - r). Either
    term is the integral over theta of half^2 sin^2 / (centre -+ half cos), which is elementary.
    """
    half = (high - low) / 2

    def part(centre: float, sign: float, theta: Array) -> Array:
        # half^2 sin^2 / (centre -+ half cos) = centre +- half cos - root^2 / (centre -+ half cos),
        # with root^2 = centre^2 - half^2.
        root = np.sqrt(max((centre - half) * (centre + half), 0.0))
        tangent = np.sqrt((centre + sign * half) / max(centre - sign * half, 1e-300)) if root > 0 else 0.0
        # The half-angle form keeps the branch on [0, pi].
        turn = 2 * np.arctan2(tangent * np.sin(theta / 2), np.cos(theta / 2)) if root > 0 else 0.0
        return centre * theta + sign * half * np.sin(theta) - root * turn

    centre = (low + high) / 2
    return (part(centre, 1.0, angle) + part(1 - centre, -1.0, angle)) / (2 * np.pi * c1)
