"""Windows of slices, PENet's protocol: cut from volumes, augmented, and their scores put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ttl_monai.data.transforms import BatchAugment

__all__ = [
    "AIR_HU",
    "HU_WINDOW",
    "WindowAugment",
    "count_slices",
    "cut_window",
    "hu_to_unit",
    "series_scores",
    "window_starts",
]

AIR_HU = -1000.0
# PENet's window of a contrast-filled artery: -100 to 900 HU to [0, 1]; and the published mean of its training voxels.
HU_WINDOW, PENET_MEAN = (-100.0, 900.0), 0.15897


def hu_to_unit(hu: torch.Tensor, mean: float = PENET_MEAN) -> torch.Tensor:
    """HU as the network wants them: (HU + 100) / 1000, clipped to [0, 1], minus the mean.

    Source: PENet's data set code; its standard deviation is defined there and not used.

    Args:
        hu: any shape.
        mean: what is taken off; 0 leaves [0, 1].

    Returns:
        Float tensor of the same shape.
    """
    low, high = HU_WINDOW
    return ((hu.float() - low) / (high - low)).clamp(0, 1) - mean


def window_starts(num_slices: int, size: int) -> list[int]:
    """First slices of the windows that cover a series without overlap; the last one may run beyond its end.

    Example:
        >>> window_starts(50, 24)
        [0, 24, 48]
    """
    if num_slices < 1 or size < 1:
        raise ValueError(f"expected at least one slice and windows of at least one, got {num_slices} and {size}")
    return list(range(0, num_slices, size))


def cut_window(array: np.ndarray, start: int, size: int) -> np.ndarray:
    """Copy a window out of a volume; beyond its end is air.

    Args:
        array: (K, J, I), may be mapped from disk.
        start: first slice.
        size: number of slices.

    Returns:
        (size, J, I) of the same type.
    """
    window = np.full((size, *array.shape[1:]), AIR_HU, dtype=array.dtype)
    part = array[start : start + size]
    window[: len(part)] = part
    return window


def count_slices(slices: Sequence[int], starts: Sequence[int], size: int) -> np.ndarray:
    """How many of the slices with a finding lie in each window, shape (len(starts),)."""
    found, first = np.asarray(slices, dtype=int), np.asarray(starts, dtype=int)[:, None]
    return ((found >= first) & (found < first + size)).sum(axis=1)


def series_scores(
    scores: Sequence[float], series: Sequence[Any], *, method: str = "max", k: int = 3
) -> dict[Any, float]:
    """One score a series from the scores of its windows.

    Args:
        scores: of the windows, higher is more likely positive, shape (N,).
        series: which series each window belongs to, shape (N,).
        method: "max" (PENet's), "mean", or "top-k", the mean of the k highest.
        k: for "top-k"; a series with fewer windows takes all it has.

    Returns:
        The score of each series, in the order of their first windows.

    Raises:
        ValueError: an unknown method, lengths that differ, or scores that are not finite.
    """
    if method not in ("max", "mean", "top-k"):
        raise ValueError(f"method must be one of max, mean, top-k, got {method!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(scores) != len(series):
        raise ValueError(f"expected one series for each score, got {len(scores)} scores and {len(series)} series")
    if not np.isfinite(np.asarray(scores, dtype=float)).all():
        raise ValueError("expected finite scores, got NaN or infinite ones")
    groups: dict[Any, list[float]] = {}
    for score, name in zip(scores, series, strict=True):
        groups.setdefault(name, []).append(float(score))
    count = {"max": 1, "mean": len(scores), "top-k": k}[method]
    return {name: float(np.mean(sorted(values, reverse=True)[:count])) for name, values in groups.items()}


class WindowAugment:
    """Crop, flip, turn and scale a batch of windows for the network, all slices of a window alike.

    In HU first, then `hu_to_unit`: places beyond the image are air (-1000 HU), as in PENet's code. For training give it
    to `PrepareBatch`; for evaluation with `training=False`: the centre is cropped, nothing is drawn.

    Args:
        spatial_size: height and width of the result.
        crop_from: height and width of the windows.
        rotate_degrees: angles are uniform in [-rotate_degrees, rotate_degrees].
        flip: mirror left and right with probability 1/2.
        training: whether to draw at random.
        mean: see `hu_to_unit`.
    """

    def __init__(
        self,
        spatial_size: int = 192,
        *,
        crop_from: int = 208,
        rotate_degrees: float = 15.0,
        flip: bool = True,
        training: bool = True,
        mean: float = PENET_MEAN,
    ) -> None:
        self.augment = BatchAugment(spatial_size, crop_from=crop_from, rotate_degrees=rotate_degrees, flip=flip)
        self.training, self.mean = training, mean

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: HU (B, 1, D, H, W), of any type, with H, W = crop_from.

        Returns:
            Float (B, 1, D, h, w) with h, w = spatial_size.

        Raises:
            ValueError: for another shape.
        """
        if images.ndim != 5 or images.shape[1] != 1 or tuple(images.shape[3:]) != self.augment.crop_from:
            height, width = self.augment.crop_from
            raise ValueError(
                f"images must be (B, 1, D, {height}, {width}) as crop_from says, got {tuple(images.shape)}"
            )
        above_air = images[:, 0].as_subclass(torch.Tensor).float() - AIR_HU  # zero is what lies beyond the image
        if self.training:
            return hu_to_unit(self.augment(above_air)[:, None] + AIR_HU, self.mean)
        (height, width), full = self.augment.spatial_size, self.augment.crop_from
        top, left = (full[0] - height) // 2, (full[1] - width) // 2
        return hu_to_unit(images[..., top : top + height, left : left + width].as_subclass(torch.Tensor), self.mean)
