"""Data sets of windows: random ones for training, all of them for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset

from ttl_monai.data.volume_cache import VolumeCache
from ttl_monai.data.windows import count_slices, cut_window, window_starts

__all__ = ["RandomWindowDataset", "WindowDataset"]


class WindowDataset(Dataset):
    """All windows of all series, one after the other, for evaluation and prediction.

    Items have `image` (1, size, J, I), int16 HU; `label`, 1 where at least `min_slices` slices of the window show the
    finding; `start`; `series`, the number of the series in `data`; and `series_label`, the label of the series.

    Note:
        In PENet's data, 162 positive series of validation and test have no slice labels, so that the labels of their
        windows are wrong: select by `series_scores` and `series_label`, never by a metric of windows.

    Args:
        data: items with `image`, and for labels `label` and `slices` (`Datalist.section`).
        cache: gives the volumes; the constructor prepares those that are not there yet.
        size: slices in a window.
        min_slices: fewest slices with the finding that make a window positive.
        workers: processes that prepare volumes.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        cache: VolumeCache,
        *,
        size: int = 24,
        min_slices: int = 4,
        workers: int = 0,
    ) -> None:
        _check_window(size, min_slices)
        self.data, self.cache, self.size, self.min_slices = data, cache, size, min_slices
        lengths = cache.prepare(data, workers=workers)
        self.windows = [(n, start) for n, length in enumerate(lengths) for start in window_starts(length, size)]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, start = self.windows[index]
        item = self.data[number]
        window = cut_window(self.cache.open(item).array, start, self.size)
        result: dict[str, Any] = {"image": torch.from_numpy(window)[None], "start": start, "series": number}
        if "label" in item:
            positive = count_slices(item.get("slices", ()), [start], self.size)[0] >= self.min_slices
            result |= {"label": int(positive), "series_label": int(item["label"])}
        return result


class RandomWindowDataset(Randomizable, Dataset):
    """One random window of a series at a time, for training.

    With probability `positive_fraction` the window comes from some positive series and has the finding: its centre
    is that of the slices with the finding, moved by up to `jitter` slices, as long as `min_slices` of them stay inside.
    Else it lies anywhere in the series that the index names. The label says what is inside. (PENet's training: one pass
    over the series, forced positive windows, jitter +-12.)

    Positive series without slice labels are left out, as nothing tells which of their windows are positive.

    Args:
        data: items with `image`, `label` and, for positive ones, `slices`.
        cache: gives the volumes.
        size: slices in a window.
        min_slices: fewest slices with the finding that make a window positive.
        positive_fraction: share of windows that are forced to be positive, in [0, 1].
        jitter: slices that a positive window moves at most.
        windows_per_series: length of an epoch, in windows for each series.

    Raises:
        ValueError: options out of range, no series left, or no positive one to take forced windows from.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        cache: VolumeCache,
        *,
        size: int = 24,
        min_slices: int = 4,
        positive_fraction: float = 0.5,
        jitter: int = 12,
        windows_per_series: int = 1,
    ) -> None:
        _check_window(size, min_slices)
        if not 0 <= positive_fraction <= 1 or jitter < 0 or windows_per_series < 1:
            raise ValueError(
                "expected positive_fraction in [0, 1], jitter >= 0 and windows_per_series >= 1, got "
                f"{positive_fraction}, {jitter}, {windows_per_series}"
            )
        self.data = [item for item in data if not item["label"] or item.get("slices")]
        self.positive = [item for item in self.data if len(item.get("slices", ())) >= min_slices]
        if not self.data or (positive_fraction > 0 and not self.positive):
            raise ValueError(
                f"{len(data)} series, {len(self.data)} negative or with slice labels, {len(self.positive)} with "
                f"at least {min_slices} positive slices: nothing to draw positive windows from; pass a list with "
                "'slices', or positive_fraction=0"
            )
        self.cache, self.size, self.min_slices = cache, size, min_slices
        self.positive_fraction, self.jitter, self.windows_per_series = positive_fraction, jitter, windows_per_series

    def __len__(self) -> int:
        return len(self.data) * self.windows_per_series

    def __getitem__(self, index: int) -> dict[str, Any]:
        forced = self.R.uniform() < self.positive_fraction
        item = self.positive[self.R.randint(len(self.positive))] if forced else self.data[index % len(self.data)]
        array, slices = self.cache.open(item).array, item.get("slices", ())
        start = self._start(len(array), slices, forced=forced)
        label = int(count_slices(slices, [start], self.size)[0] >= self.min_slices)
        window = cut_window(array, start, self.size)
        return {"image": torch.from_numpy(window)[None], "label": label, "start": start}

    def _start(self, num_slices: int, slices: Sequence[int], *, forced: bool) -> int:
        starts = np.arange(max(num_slices - self.size, 0) + 1)
        if not forced:
            return int(self.R.choice(starts))
        inside = starts[count_slices(slices, starts.tolist(), self.size) >= self.min_slices]
        if not len(inside):
            raise ValueError(f"no window of {self.size} slices holds {self.min_slices} of those with the finding")
        middle = (min(slices) + max(slices) + 1 - self.size) / 2
        near = inside[np.abs(inside - np.clip(middle, starts[0], starts[-1])) <= self.jitter]
        # A finding in two distant places has its middle between them, where no window is positive.
        return int(self.R.choice(near if len(near) else inside))


def _check_window(size: int, min_slices: int) -> None:
    if not 1 <= min_slices <= size:
        raise ValueError(f"expected 1 <= min_slices <= size, got min_slices={min_slices}, size={size}")
