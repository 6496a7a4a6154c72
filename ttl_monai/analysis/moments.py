"""Second moments of two sets of features, gathered batch by batch: memory does not grow with the number of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import blas
from torch.nn import functional

from ttl_monai.analysis.canonical import CcaResult, Covariances, correlate

CHUNK = 1024  # samples turned to float64 at a time: they stay in the processor's cache until they are summed


class CrossMoments:
    """Means and centred second moments of x and y over batches, from which canonical correlations follow.

    Holds (p + q + 1) (p + q) numbers in float64 whatever the number of samples. Each batch is centred by its own mean
    before it is added, so that a mean that is large beside the spread costs no digits. Sets can be added (groups,
    processes) and subtracted (leave one group out).

    Args:
        p: channels of x.
        q: channels of y.
        device: where the sums are held and computed.

    Raises:
        ValueError: if p or q is below 1.

    Example:
        >>> moments = CrossMoments(64, 64)
        >>> for images in batches:
        ...     moments.update(as_samples(before(images)), as_samples(after(images)))
        >>> moments.cca().coefficients  # (64,)
    """

    def __init__(self, p: int, q: int, *, device: str | torch.device = "cpu") -> None:
        if p < 1 or q < 1:
            raise ValueError(f"expected at least one channel on each side, got p={p}, q={q}.")
        self.p, self.q, self.n = p, q, 0
        zeros = functools.partial(torch.zeros, dtype=torch.float64, device=torch.device(device))
        # Of x and y side by side: one symmetric product, which BLAS deals out to threads better than three smaller
        # ones. Only the lower triangle is kept up to date.
        self._mean, self._products = zeros(p + q), zeros(p + q, p + q)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._products.device

    @torch.no_grad()
    def update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a batch of samples.

        Args:
            x: (n, p), any real type.
            y: (n, q).

        Raises:
            ValueError: shapes that do not fit, another number of samples in x than in y, or values that are not
                finite. Nothing is added then.
        """
        for name, value, channels in (("x", x, self.p), ("y", y, self.q)):
            if value.dim() != 2 or value.shape[1] != channels:
                raise ValueError(f"expected {name} of shape (n, {channels}), got {tuple(value.shape)}.")
        if len(x) != len(y):
            raise ValueError(f"expected as many samples in x as in y, got {len(x)} and {len(y)}.")
        for name, value in (("x", x), ("y", y)):
            if not _is_finite(value):
                bad = int((~torch.isfinite(value)).any(0).sum())
                raise ValueError(f"expected finite features, but {bad} channels of {name} hold NaN or infinity.")
        if len(x) == 0:
            return
        for left, right in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            mean = _add_centred(self._products, left, right)
            self._shift_and_count(mean, len(left))

    def _shift_and_count(self, mean: torch.Tensor, n: int) -> None:
        """Move the mean after centred products of n samples (negative: taken away) were added."""
        total = self.n + n
        delta = mean - self._mean
        _add_outer(self._products, delta, self.n * n / total)
        self._mean += delta * (n / total)
        self.n = total

    def _combine(self, other: CrossMoments, sign: int) -> CrossMoments:
        if (self.p, self.q) != (other.p, other.q):
            raise ValueError(f"expected moments of {self.p} and {self.q} channels, got {other.p} and {other.q}.")
        result = self.to(self.device)
        if sign < 0 and other.n >= self.n:
            raise ValueError(f"cannot take {other.n} samples from {self.n}: a part must be smaller than the whole.")
        if other.n:
            part = other.to(self.device)
            result._products.add_(part._products, alpha=sign)
            result._shift_and_count(part._mean, sign * part.n)
        return result

    def __add__(self, other: CrossMoments) -> CrossMoments:
        return self._combine(other, 1)

    def __sub__(self, other: CrossMoments) -> CrossMoments:
        return self._combine(other, -1)

    def to(self, device: str | torch.device) -> CrossMoments:
        """A copy on another device."""
        copied = CrossMoments(self.p, self.q, device=device)
        copied.n = self.n
        copied._mean.copy_(self._mean)
        copied._products.copy_(self._products)
        return copied

    def sum_over(self, all_reduce: Callable[[torch.Tensor], Any]) -> CrossMoments:
        """The moments of all processes together, without loss of digits; every process must call it.

        Args:
            all_reduce: returns the sum of a tensor over the processes, as `ignite.distributed.all_reduce` does.
        """
        total = CrossMoments(self.p, self.q, device=self.device)
        total.n = round(float(all_reduce(torch.tensor(float(self.n), dtype=torch.float64, device=self.device))))
        # Copied into the sums' own memory, whose order BLAS relies on.
        total._mean.copy_(all_reduce(self.n * self._mean) / max(total.n, 1))
        # About the common mean: about zero, a mean that is large beside the spread would cost digits.
        delta = self._mean - total._mean
        total._products.copy_(all_reduce(self._products + self.n * torch.outer(delta, delta)))
        return total

    def covariances(self) -> Covariances:
        """Means and covariances (divided by n).

        Raises:
            ValueError: without at least two samples.
        """
        if self.n < 2:
            raise ValueError(f"expected at least 2 samples, got {self.n}: update the moments with features first.")
        lower, p = self._products / self.n, self.p
        xx, yy = (_whole(part) for part in (lower[:p, :p], lower[p:, p:]))
        return Covariances(xx, yy, lower[p:, :p].T, self._mean[:p], self._mean[p:], self.n)

    def cca(self, variance: float | None = None, *, weighted: bool = False) -> CcaResult:
        """Canonical correlations of what was added.

        Args:
            variance: keep on each side the fewest principal directions with this share of the variance (SVCCA);
                None keeps all (CCA, as the paper's null implies, PAPER.md section 4).
            weighted: add the weights of PWCCA.

        Raises:
            ValueError: fewer than two samples, no channel that varies, a share outside (0, 1].
        """
        return correlate(self.covariances(), variance=variance, weighted=weighted)[0]


def as_samples(features: torch.Tensor) -> torch.Tensor:
    """Feature maps as samples: every position of every image is a sample, every channel a feature.

    Args:
        features: (N, C, *spatial), or (N, C) which is returned as it is.

    Returns:
        (N * positions, C).

    Raises:
        ValueError: fewer than two dimensions.
    """
    if features.dim() < 2:
        raise ValueError(f"expected features of shape (N, C, *spatial), got {tuple(features.shape)}.")
    return features.movedim(1, -1).reshape(-1, features.shape[1])


def match_grids(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average-pool two feature maps of the same images to one grid, the smaller size along each axis.

    Args:
        x: (N, C1, *spatial), 2D or 3D.
        y: (N, C2, *spatial).

    Returns:
        x and y on the same grid; unchanged where they are already.

    Raises:
        ValueError: another number of images or of axes, or neither 2D nor 3D.
    """
    if x.dim() != y.dim() or len(x) != len(y) or x.dim() not in (4, 5):
        raise ValueError(
            "expected two feature maps (N, C, *spatial) of the same images, both 2D or both 3D, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    grid = tuple(min(sizes) for sizes in zip(x.shape[2:], y.shape[2:], strict=True))
    pool: Callable[..., torch.Tensor] = (
        functional.adaptive_avg_pool2d if len(grid) == 2 else functional.adaptive_avg_pool3d
    )
    left, right = (value if tuple(value.shape[2:]) == grid else pool(value, grid) for value in (x, y))
    return left, right


def _array(value: torch.Tensor) -> np.ndarray:
    """The values as NumPy sees them, which knows no bfloat16."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _is_finite(value: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; one pass over them, and a second only if their sum is not finite."""
    if value.device.type == "cpu":  # see _centred
        array = _array(value)
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(array.sum()) or np.isfinite(array).all())
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def _add_centred(products: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Add the products of samples side by side, less their mean, to the lower triangle in place.

    Args:
        products: (p + q, p + q) float64, of C order.
        left: (n, p).
        right: (n, q).

    Returns:
        Their mean, (p + q,).
    """
    if products.device.type != "cpu":
        values = torch.cat([each.to(products.device, torch.float64) for each in (left, right)], 1)
        average = values.mean(0)
        values -= average
        products.addmm_(values.T, values)
        return average
    # NumPy, whose sums take one thread: PyTorch's threads go on spinning for a while after each parallel step, on the
    # cores that the BLAS product needs (on two cores it then takes three times as long).
    array = np.empty((len(left), len(products)))
    array[:, : left.shape[1]], array[:, left.shape[1] :] = _array(left), _array(right)
    mean = array.mean(0)
    array -= mean
    # BLAS reads columns first, which is why all is transposed: `upper` there is the lower triangle here. PyTorch has
    # no symmetric product, which takes half the multiplications.
    blas.dsyrk(1.0, array.T, beta=1.0, c=products.numpy().T, lower=0, overwrite_c=1)
    return torch.from_numpy(mean)


def _add_outer(products: torch.Tensor, vector: torch.Tensor, weight: float) -> None:
    """Add the outer product of a vector with itself, times a weight, to the lower triangle in place."""
    if products.device.type != "cpu":
        products.addr_(vector, vector, alpha=weight)
    else:
        blas.dsyr(weight, vector.numpy(), a=products.numpy().T, lower=0, overwrite_a=1)


def _whole(lower: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix whose lower triangle is given."""
    return lower.tril() + lower.tril(-1).T
