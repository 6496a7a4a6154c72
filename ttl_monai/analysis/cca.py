"""Canonical correlation analysis of two sets of features on the same samples: CCA, SVCCA, PWCCA.

Raghu et al., SVCCA, NeurIPS 2017 (arXiv 1706.05806); Morcos et al., Insights on representational similarity with
canonical correlation (PWCCA), NeurIPS 2018 (arXiv 1806.05759). All functions compute in float64, centre the features
first, leave out constant channels and linear dependences, and report how many dimensions are left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ttl_monai.analysis.canonical import (
    WELL_CONDITIONED,
    CcaResult,
    check_variance,
    correlate,
    finish,
    kept_directions,
    living_channels,
)
from ttl_monai.analysis.moments import CrossMoments


def cca(x: Any, y: Any) -> CcaResult:
    """Canonical correlations of all directions that vary.

    They change neither with the scale of a channel nor with any invertible linear map of either side.

    Args:
        x: (n, d1) features, an array or a tensor: samples first.
        y: (n, d2) features of the same samples.

    Returns:
        K = min(dims) coefficients in [0, 1], descending. With no more samples than dimensions they are all 1 whatever
        the features (a warning in the log says so).

    Raises:
        TypeError: something that is no array of real numbers.
        ValueError: not two-dimensional, another number of samples, fewer than two of them, values that are not
            finite, or a side on which no channel varies.
    """
    return _analyse(x, y, None, False)


def svcca(x: Any, y: Any, *, variance: float | None = 0.99) -> CcaResult:
    """CCA of the leading principal directions of either side.

    Args:
        x: (n, d1) features, an array or a tensor.
        y: (n, d2) features of the same samples.
        variance: the fewest directions are kept that hold this share of the variance (of the squared singular values
            of the centred features). By its definition it looks at the channels as loud as they are: one that is
            1,000 times louder than the rest may be all that is kept, and `dims` says so. None (or 1) keeps all, as
            the paper's random baseline implies (PAPER.md section 4), and no channel is too quiet then.

    Returns:
        coefficients of the kept directions; `dims` are their numbers, to be used for the null distribution.

    Raises:
        TypeError, ValueError: as for `cca`, and a share outside (0, 1].
    """
    return _analyse(x, y, variance, False)


def pwcca(x: Any, y: Any) -> CcaResult:
    """CCA whose mean counts a direction by how much of x it accounts for.

    The weight of coefficient i is the sum over the channels j of x of |<h_i, x_j>|, h_i being the i-th canonical
    direction of x on the samples; not symmetric in x and y.

    Args, Raises: as for `cca`.

    Returns:
        coefficients with `weights` that sum to 1; `mean` is the weighted mean.
    """
    return _analyse(x, y, None, True)


def _analyse(x: Any, y: Any, variance: float | None, weighted: bool) -> CcaResult:
    check_variance(variance)
    left, right = as_matrix("x", x), as_matrix("y", y)
    if len(left) != len(right):
        raise ValueError(f"expected as many samples in x as in y, got {len(left)} and {len(right)}.")
    if len(left) < 2:
        raise ValueError(f"expected at least 2 samples, got {len(left)}.")
    if len(left) > max(left.shape[1], right.shape[1]):
        moments = CrossMoments(left.shape[1], right.shape[1], device=left.device)
        moments.update(left, right)
        result, condition = correlate(moments.covariances(), variance=variance, weighted=weighted)
        if condition > WELL_CONDITIONED:
            return result
    # Squaring the condition number, as covariances do, costs digits here; and there may be fewer samples than channels.
    return _from_singular_vectors(left, right, variance, weighted)


def _from_singular_vectors(
    left: torch.Tensor, right: torch.Tensor, variance: float | None, weighted: bool
) -> CcaResult:
    basis_x, centred = _basis("x", left, variance)
    basis_y, _ = _basis("y", right, variance)
    loadings = basis_x.T @ centred if weighted else None
    return finish(basis_x.T @ basis_y, (basis_x.shape[1], basis_y.shape[1]), len(left), loadings)


def _basis(name: str, matrix: torch.Tensor, variance: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """An orthonormal basis (n, kept) of the centred channels, and these channels (n, d)."""
    centred = matrix.to(torch.float64)
    mean = centred.mean(0)
    if not torch.isfinite(mean).all():
        bad = int((~torch.isfinite(mean)).sum())
        raise ValueError(f"expected finite features, but {bad} channels of {name} hold NaN or infinity.")
    centred = centred - mean
    variances = centred.square().mean(0)
    alive = living_channels(name, variances, mean)
    centred = centred[:, alive]
    cut = variance is not None and variance < 1
    scaled = centred if cut else centred * variances[alive].rsqrt()
    vectors, values, _ = torch.linalg.svd(scaled, full_matrices=False)
    return vectors[:, : kept_directions(values.square(), variance)], centred


def as_matrix(name: str, value: Any) -> torch.Tensor:
    """An array or tensor as a tensor of samples and features, not copied where that can be avoided.

    Raises:
        TypeError: something that is no array of real numbers.
        ValueError: not two-dimensional, or without features.
    """
    if not isinstance(value, torch.Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"expected {name} to be an array of real numbers, got {type(value).__name__} of {array.dtype}."
            )
        value = torch.from_numpy(
            np.ascontiguousarray(
                array, dtype=None if array.dtype.kind == "f" and array.itemsize in (4, 8) else np.float64
            )
        )
    if value.is_complex():
        raise TypeError(f"expected {name} to be a tensor of real numbers, got {value.dtype}.")
    if value.dim() != 2 or value.shape[1] == 0:
        raise ValueError(
            f"expected {name} of shape (samples, features), got {tuple(value.shape)}. Feature maps (N, C, *spatial) "
            "become samples by as_samples."
        )
    return value.detach()
