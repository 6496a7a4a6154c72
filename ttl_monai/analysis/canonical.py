"""Canonical correlations from covariances: what `CrossMoments` and the functions on arrays share."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

Array = NDArray[np.float64]

logger = logging.getLogger(__name__)

# A direction in which the standardised channels vary less than this share of the strongest one's variance counts as a
# linear dependence: a millionth in amplitude, which is what float32 rounding makes of an exact dependence.
RANK_TOLERANCE = 1e-12
# Above this reciprocal condition number a Cholesky factor of the correlation matrix is exact enough (about 1e-9).
WELL_CONDITIONED = 1e-7
# A channel whose standard deviation is below this share of its mean is a constant with rounding errors of float64.
DEAD_TOLERANCE = 1e-12


@dataclass(frozen=True)
class CcaResult:
    """Canonical correlations of two sets of features.

    Attributes:
        coefficients: (K,) correlations in [0, 1], descending; K is the smaller of `dims`.
        dims: dimensions of x and of y that were compared: what is left without constant channels, linear dependences
            and, for `svcca`, the directions beyond the share of variance. A null distribution must use these.
        n: number of samples.
        weights: (K,) of `pwcca`, summing to 1; None otherwise.
    """

    coefficients: Array
    dims: tuple[int, int]
    n: int
    weights: Array | None = None

    @property
    def mean(self) -> float:
        """Mean coefficient, weighted where there are weights."""
        return float(np.average(self.coefficients, weights=self.weights))


@dataclass(frozen=True)
class Covariances:
    """Covariances of centred x (p channels) and y (q channels), float64, on one device.

    Attributes:
        xx, yy, xy: (p, p), (q, q), (p, q).
        mean_x, mean_y: (p,), (q,); they tell a constant channel from a quiet one.
        n: number of samples.
    """

    xx: torch.Tensor
    yy: torch.Tensor
    xy: torch.Tensor
    mean_x: torch.Tensor
    mean_y: torch.Tensor
    n: int


@dataclass(frozen=True)
class _Whitener:
    """W with W^T cov W = 1 on the kept dimensions, as a triangular factor or as a basis."""

    alive: torch.Tensor  # indices of the channels that vary
    scale: torch.Tensor  # multiplies these channels first
    factor: torch.Tensor  # (d, d) lower triangular, or (d, kept) columns of the basis
    triangular: bool
    condition: float  # reciprocal condition number, 1 is best

    @property
    def dim(self) -> int:
        return self.factor.shape[1]

    def apply(self, matrix: torch.Tensor) -> torch.Tensor:
        """W^T matrix: (channels, k) -> (kept, k)."""
        scaled = self.scale[:, None] * matrix[self.alive]
        if self.triangular:
            return torch.linalg.solve_triangular(self.factor, scaled, upper=False)
        return self.factor.T @ scaled


def living_channels(name: str, variances: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Indices of the channels that vary.

    Args:
        name: "x" or "y", for the message.
        variances: (C,).
        means: (C,).

    Raises:
        ValueError: if no channel varies.
    """
    tiny = torch.finfo(torch.float64).tiny
    alive = torch.nonzero(variances > ((DEAD_TOLERANCE * means) ** 2).clamp(min=tiny)).flatten()
    if len(alive) == 0:
        raise ValueError(
            f"expected features that vary over the samples, but each of the {len(variances)} channels of {name} is "
            "constant: there is nothing to correlate. Leave this point out, or give it more samples."
        )
    return alive


def kept_directions(spectrum: torch.Tensor, variance: float | None) -> int:
    """How many leading directions are kept.

    Args:
        spectrum: (d,) variances along the directions (squared singular values), descending.
        variance: keep the fewest that hold this share of the total; None keeps all but linear dependences.
    """
    if variance is None or variance == 1:
        return int((spectrum > RANK_TOLERANCE * spectrum[0]).sum())
    share = torch.cumsum(spectrum, 0) / spectrum.sum()
    fewest = int((share < variance).sum()) + 1
    rounding = torch.finfo(torch.float64).eps * len(spectrum) * spectrum[0]
    return min(fewest, int((spectrum > rounding).sum()))


def check_variance(variance: float | None) -> None:
    """Refuse a share of variance outside (0, 1].

    Raises:
        ValueError: then.
    """
    if variance is not None and not 0 < variance <= 1:
        raise ValueError(f"variance must be a share in (0, 1], or None for no cut, got {variance!r}.")


def _reciprocal_condition(factor: torch.Tensor, correlation: torch.Tensor) -> float:
    """Estimate from a Cholesky factor, in the 1-norm, without another factorisation."""
    norm = float(correlation.abs().sum(0).max())
    value, info = lapack.dpocon(factor.T.cpu().numpy(), norm, uplo="U")
    return float(value) if info == 0 else 0.0


def _whiten(name: str, covariance: torch.Tensor, mean: torch.Tensor, variance: float | None) -> _Whitener:
    variances = covariance.diagonal()
    alive = living_channels(name, variances, mean)
    kept = covariance if len(alive) == len(mean) else covariance[alive][:, alive]
    cut = variance is not None and variance < 1
    # Standardised, so that neither the condition nor a tolerance depends on how loud a channel is; canonical
    # correlations do not either. Shares of variance do: there the channels stay as they are.
    scale = torch.ones_like(variances[alive]) if cut else variances[alive].rsqrt()
    matrix = kept if cut else scale[:, None] * kept * scale
    if not cut:
        factor, info = torch.linalg.cholesky_ex(matrix)
        condition = _reciprocal_condition(factor, matrix) if int(info) == 0 else 0.0
        if condition > WELL_CONDITIONED:
            return _Whitener(alive, scale, factor, True, condition)
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    count = kept_directions(values, variance)
    basis = vectors[:, :count] * values[:count].rsqrt()
    return _Whitener(alive, scale, basis, False, float(values[count - 1] / values[0]))


def correlate(covariances: Covariances, *, variance: float | None, weighted: bool = False) -> tuple[CcaResult, float]:
    """Canonical correlations, and how well conditioned the problem was.

    Cholesky factors of the two correlation matrices whiten the cross-covariance, whose singular values are the
    coefficients. Where a matrix is singular or nearly so, or a share of variance is asked for, its eigenvectors do.

    Args:
        covariances: of both sides.
        variance: share of the variance to keep on each side; None for all.
        weighted: add the weights of PWCCA.

    Returns:
        the result, and the smaller reciprocal condition number of the two sides: below `WELL_CONDITIONED` the
        coefficients that hang on the weakest directions have few correct digits.

    Raises:
        ValueError: if a side has no channel that varies, or the sums are not finite.
    """
    check_variance(variance)
    for matrix in (covariances.xx, covariances.yy, covariances.xy):
        if not torch.isfinite(matrix).all():
            raise ValueError("expected finite second moments, but they overflowed: scale the features down.")
    left = _whiten("x", covariances.xx, covariances.mean_x, variance)
    right = _whiten("y", covariances.yy, covariances.mean_y, variance)
    # (p', q')
    white = right.apply(left.apply(covariances.xy).T).T
    loadings = left.apply(covariances.xx) if weighted else None
    result = finish(white, (left.dim, right.dim), covariances.n, loadings)
    return result, min(left.condition, right.condition)


def finish(white: torch.Tensor, dims: tuple[int, int], n: int, loadings: torch.Tensor | None = None) -> CcaResult:
    """From the whitened cross-covariance to the result.

    Args:
        white: (p', q').
        dims: (p', q').
        n: number of samples.
        loadings: (p', p) products of the whitened x with the channels of x; makes the weights of PWCCA.
    """
    if max(dims) >= n - 1:
        logger.warning(
            "CCA of %d samples in %d and %d dimensions: every coefficient is 1 by counting alone, whatever the "
            "features. Use more samples than dimensions (ten times as many), or a lower share of variance.",
            n,
            *dims,
        )
    if loadings is None:
        values, weights = torch.linalg.svdvals(white), None
    else:
        basis, values, _ = torch.linalg.svd(white, full_matrices=False)
        sizes = (basis.T @ loadings).abs().sum(1)
        weights = (sizes / sizes.sum()).cpu().numpy()
    coefficients = values.clamp(0, 1).cpu().numpy()
    if not all(math.isfinite(value) for value in (coefficients[0], coefficients[-1])):
        raise ValueError("expected finite canonical correlations, but rounding errors left none: check the features.")
    return CcaResult(coefficients, dims, n, weights)
