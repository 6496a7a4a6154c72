"""How a map lies on a mask, and how far it spreads. A map that is the same everywhere scores what the mask's area is.

Maps of different networks are to be brought to one size before: a finer one is more local by its size alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from ttl_monai.analysis.statistics import auroc

__all__ = ["Extent", "Localisation", "localise", "rank_correlation", "spread_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Localisation:
    """A map against a mask; all but `area` are NaN of a map of zeros.

    Attributes:
        share: of the map's mass inside of the mask.
        area: share of the pixels that the mask has: what `share` and `pointing` of a uniform map are.
        pointing: 1 where the highest pixel lies inside, else 0 (of several highest ones the share inside). Source:
            Zhang et al., Top-down Neural Attention, ECCV 2016 (https://arxiv.org/abs/1608.00507).
        auroc: of the pixels, the map being the score; 0.5 for a uniform map, NaN where the mask is empty or full.
    """

    share: float
    area: float
    pointing: float
    auroc: float


@dataclass(frozen=True)
class Extent:
    """How far a map spreads; NaN of a map of zeros.

    Attributes:
        half_area: least share of the pixels that hold half of the mass; 0.5 for a uniform map.
        entropy: of the mass over the pixels, over that of a uniform map: 1 there, 0 for a single pixel.
    """

    half_area: float
    entropy: float


def localise(heat: ArrayLike, mask: ArrayLike) -> Localisation:
    """Score a map against a mask.

    Args:
        heat: (...), not negative.
        mask: (...), bool.

    Raises:
        ValueError: other shapes, a negative or undefined value, a mask that is not bool.
    """
    values, inside = _checked(heat), np.asarray(mask)
    if inside.dtype != np.bool_ or inside.shape != values.shape:
        raise ValueError(f"expected a mask of bool of the shape {values.shape}, got {inside.dtype} {inside.shape}")
    area = float(inside.mean())
    if not values.any():
        return Localisation(math.nan, area, math.nan, math.nan)
    return Localisation(
        share=float(values[inside].sum() / values.sum()),
        area=area,
        pointing=float(inside[values == values.max()].mean()),
        auroc=float(auroc(inside.ravel().astype(int), values.ravel())) if 0 < area < 1 else math.nan,
    )


def spread_of(heat: ArrayLike) -> Extent:
    """How far a map spreads.

    Args:
        heat: (...), not negative.

    Raises:
        ValueError: a negative or undefined value, or fewer than two pixels.
    """
    values = _checked(heat).ravel()
    if values.size < 2:
        raise ValueError(f"expected at least two pixels, got {values.size}")
    if not values.any():
        return Extent(math.nan, math.nan)
    shares = np.sort(values)[::-1] / values.sum()
    pixels = np.arange(values.size + 1) / values.size
    held = shares[shares > 0]
    return Extent(
        half_area=float(np.interp(0.5, np.append(0, np.cumsum(shares)), pixels)),
        entropy=float(-(held * np.log(held)).sum() / math.log(values.size)) + 0.0,  # no -0.0
    )


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation of the pixels of two maps; NaN where one of them is the same everywhere.

    Args:
        first: (...), not negative.
        second: likewise.

    Raises:
        ValueError: other shapes, or a negative or undefined value.
    """
    one, other = _checked(first), _checked(second)
    if one.shape != other.shape:
        raise ValueError(f"expected two maps of one shape, got {one.shape} and {other.shape}")
    if one.min() == one.max() or other.min() == other.max():
        return math.nan
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def _checked(heat: ArrayLike) -> Array:
    values = np.asarray(heat, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"expected a map of finite values, none negative, got {values.shape} with others or none")
    return values
