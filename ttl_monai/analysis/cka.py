"""Centred kernel alignment with a linear kernel, debiased: one number for the similarity of two sets of features."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from ttl_monai.analysis.cca import as_matrix

logger = logging.getLogger(__name__)

ROUNDING = 1e-13


def linear_cka(x: Any, y: Any) -> float:
    """Debiased linear CKA: the ratio of unbiased HSIC estimates, about 0 for independent features whatever n and d.

    Kornblith et al., ICML 2019 (arXiv 1905.00414); the unbiased HSIC is that of Song et al., JMLR 2012. Of feature
    Gram matrices, so memory is O(d1 d2) where that is smaller than O(n^2).

    Args:
        x: (n, d1) features, an array or a tensor.
        y: (n, d2) features of the same samples.

    Returns:
        at most 1 (features equal up to rotation and one scale); slightly negative values are noise around 0. NaN (and
        a warning in the log) where all samples of one side are equally far apart: there is no structure to compare.

    Raises:
        TypeError, ValueError: as for `cca`; fewer than 4 samples.
    """
    left, right = (as_matrix(name, value).to(torch.float64) for name, value in (("x", x), ("y", y)))
    if len(left) != len(right):
        raise ValueError(f"expected as many samples in x as in y, got {len(left)} and {len(right)}.")
    if len(left) < 4:
        raise ValueError(f"debiased CKA needs at least 4 samples, got {len(left)}.")
    left, right = _centred("x", left), _centred("y", right)
    cross, own_x, own_y = _hsic(left, right), _hsic(left, left), _hsic(right, right)
    # Without structure what is left of the strength of a side (at most 1 here) is rounding.
    if min(own_x, own_y) <= ROUNDING:
        logger.warning("linear CKA is NaN: the %d samples of one side are all equally far apart", len(left))
        return math.nan
    return min(cross / math.sqrt(own_x * own_y), 1.0)


def _centred(name: str, matrix: torch.Tensor) -> torch.Tensor:
    centred = matrix - matrix.mean(0)
    if not torch.isfinite(centred).all():
        raise ValueError(f"expected finite features, but {name} holds NaN or infinity.")
    scale = centred.abs().max()
    if float(scale) == 0:
        raise ValueError(f"expected features that vary over the samples, but {name} is constant.")
    centred = centred / scale  # squares of squares would overflow
    return centred / centred.square().sum().sqrt()


def _hsic(left: torch.Tensor, right: torch.Tensor) -> float:
    """The unbiased estimate times n (n - 3), of centred features whose squares sum to 1."""
    n = len(left)
    if n < min(left.shape[1], right.shape[1]):
        dot = float(((left @ left.T) * (right @ right.T)).sum())
    else:
        dot = float((left.T @ right).square().sum())
    rows_x, rows_y = left.square().sum(1), right.square().sum(1)
    diagonal = float(rows_x @ rows_y)
    return dot - n / (n - 2) * diagonal + float(rows_x.sum() * rows_y.sum()) / ((n - 1) * (n - 2))
