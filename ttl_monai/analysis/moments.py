"""Second moments of two sets of features, gathered batch by batch: memory does not grow with the number of images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
        self._mean_x, self._mean_y = zeros(p), zeros(q)
        # Of xx and yy only the lower triangle is kept up to date.
        self._xx, self._yy, self._xy = zeros(p, p), zeros(q, q), zeros(p, q)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._xx.device

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
        if len(x) == 0:
            return
        for name, value in (("x", x), ("y", y)):
            if not _is_finite(value):
                bad = int((~torch.isfinite(value)).any(0).sum())
                raise ValueError(f"expected finite features, but {bad} channels of {name} hold NaN or infinity.")
        for left, right in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            # Copies, so that neither the caller's features change nor float32 enters a sum.
            x_part, mean_x = _centred(left, self.device)
            y_part, mean_y = _centred(right, self.device)
            _add_products(self._xx, self._yy, self._xy, x_part, y_part)
            self._shift_and_count(mean_x, mean_y, len(x_part))

    def _shift_and_count(self, mean_x: torch.Tensor, mean_y: torch.Tensor, n: int) -> None:
        """Move the common mean after centred sums of n samples (negative: taken away) were added."""
        total = self.n + n
        delta_x, delta_y = mean_x - self._mean_x, mean_y - self._mean_y
        _add_outer(self._xx, self._yy, self._xy, delta_x, delta_y, self.n * n / total)
        self._mean_x += delta_x * (n / total)
        self._mean_y += delta_y * (n / total)
        self.n = total

    def _combine(self, other: CrossMoments, sign: int) -> CrossMoments:
        if (self.p, self.q) != (other.p, other.q):
            raise ValueError(f"expected moments of {self.p} and {self.q} channels, got {other.p} and {other.q}.")
        result = self.to(self.device)
        if sign < 0 and other.n >= self.n:
            raise ValueError(f"cannot take {other.n} samples from {self.n}: a part must be smaller than the whole.")
        if other.n:
            part = other.to(self.device)
            for mine, theirs in zip((result._xx, result._yy, result._xy), (part._xx, part._yy, part._xy), strict=True):
                mine.add_(theirs, alpha=sign)
            result._shift_and_count(part._mean_x, part._mean_y, sign * part.n)
        return result

    def __add__(self, other: CrossMoments) -> CrossMoments:
        return self._combine(other, 1)

    def __sub__(self, other: CrossMoments) -> CrossMoments:
        return self._combine(other, -1)

    def to(self, device: str | torch.device) -> CrossMoments:
        """A copy on another device."""
        copied = CrossMoments(self.p, self.q, device=device)
        copied.n = self.n
        for name in ("_mean_x", "_mean_y", "_xx", "_yy", "_xy"):
            getattr(copied, name).copy_(getattr(self, name))
        return copied

    def tensors(self, shift: tuple[torch.Tensor, torch.Tensor] | None = None) -> tuple[torch.Tensor, ...]:
        """Plain sums, which may be added over processes: count, sums of x, y and of the products xx, yy, xy.

        Args:
            shift: ((p,), (q,)) subtracted from every sample first, the same in all processes; zeros by default,
                which costs digits where means are large beside the spread (`sum_over` takes the common mean).
        """
        mean_x, mean_y = (
            (self._mean_x, self._mean_y) if shift is None else (self._mean_x - shift[0], self._mean_y - shift[1])
        )
        count = torch.tensor(float(self.n), dtype=torch.float64, device=self.device)
        return (
            count,
            self.n * mean_x,
            self.n * mean_y,
            _whole(self._xx) + self.n * torch.outer(mean_x, mean_x),
            _whole(self._yy) + self.n * torch.outer(mean_y, mean_y),
            self._xy + self.n * torch.outer(mean_x, mean_y),
        )

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[torch.Tensor], shift: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> CrossMoments:
        """The moments whose `tensors(shift)` these are."""
        count, sum_x, sum_y, xx, yy, xy = tensors
        moments = cls(len(sum_x), len(sum_y), device=xx.device)
        moments.n = round(float(count))
        n = max(moments.n, 1)
        # Copied into the sums' own memory, whose order BLAS relies on.
        moments._mean_x.copy_(sum_x / n if shift is None else sum_x / n + shift[0])
        moments._mean_y.copy_(sum_y / n if shift is None else sum_y / n + shift[1])
        moments._xx.copy_(xx - torch.outer(sum_x, sum_x) / n)
        moments._yy.copy_(yy - torch.outer(sum_y, sum_y) / n)
        moments._xy.copy_(xy - torch.outer(sum_x, sum_y) / n)
        return moments

    def sum_over(self, all_reduce: Callable[[torch.Tensor], Any]) -> CrossMoments:
        """The moments of all processes together, without loss of digits; every process must call it.

        Args:
            all_reduce: returns the sum of a tensor over the processes, as `ignite.distributed.all_reduce` does.
        """
        count = all_reduce(torch.tensor(float(self.n), dtype=torch.float64, device=self.device))
        n = max(float(count), 1.0)
        shift = (all_reduce(self.n * self._mean_x) / n, all_reduce(self.n * self._mean_y) / n)
        return self.from_tensors([all_reduce(each) for each in self.tensors(shift)], shift)

    def covariances(self) -> Covariances:
        """Means and covariances (divided by n).

        Raises:
            ValueError: without at least two samples.
        """
        if self.n < 2:
            raise ValueError(f"expected at least 2 samples, got {self.n}: update the moments with features first.")
        xx, yy, xy = (each / self.n for each in (_whole(self._xx), _whole(self._yy), self._xy))
        return Covariances(xx, yy, xy, self._mean_x, self._mean_y, self.n)

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


def _centred(part: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples (n, d) in float64 less their mean, and the mean (d,)."""
    if device.type != "cpu":
        values = part.to(device, torch.float64)
        average = values.mean(0)
        return values - average, average
    # NumPy, whose sums take one thread: PyTorch's threads go on spinning for a while after each parallel step, on the
    # cores that the BLAS products need (on two cores these then take three times as long).
    array = _array(part).astype(np.float64)
    mean = array.mean(0)
    array -= mean
    return torch.from_numpy(array), torch.from_numpy(mean)


def _add_products(
    xx: torch.Tensor, yy: torch.Tensor, xy: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> None:
    """Add left^T left, right^T right (their lower triangles at least) and left^T right in place."""
    if xx.device.type != "cpu":
        xx.addmm_(left.T, left)
        yy.addmm_(right.T, right)
        xy.addmm_(left.T, right)
        return
    # BLAS reads columns first, which is why everything is transposed here: `upper` there is the lower triangle here.
    # PyTorch has no symmetric product, which takes half the multiplications.
    columns = {"beta": 1.0, "overwrite_c": 1}
    x, y = left.numpy().T, right.numpy().T
    blas.dsyrk(1.0, x, c=xx.numpy().T, lower=0, **columns)
    blas.dsyrk(1.0, y, c=yy.numpy().T, lower=0, **columns)
    blas.dgemm(1.0, y, x, c=xy.numpy().T, trans_b=1, **columns)


def _add_outer(
    xx: torch.Tensor, yy: torch.Tensor, xy: torch.Tensor, left: torch.Tensor, right: torch.Tensor, weight: float
) -> None:
    """Add the outer products of two vectors, times a weight, to the sums of products in place."""
    if xx.device.type != "cpu":
        xx.addr_(left, left, alpha=weight)
        yy.addr_(right, right, alpha=weight)
        xy.addr_(left, right, alpha=weight)
        return
    x, y = left.numpy(), right.numpy()
    blas.dsyr(weight, x, a=xx.numpy().T, lower=0, overwrite_a=1)
    blas.dsyr(weight, y, a=yy.numpy().T, lower=0, overwrite_a=1)
    blas.dger(weight, y, x, a=xy.numpy().T, overwrite_a=1)


def _whole(lower: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix whose lower triangle is given."""
    return lower.tril() + lower.tril(-1).T
