"""Data sets of windows, random ones for training and all of them for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset

from ttl_monai.data.volume_cache import VolumeCache, raise_unusable
from ttl_monai.data.windows import WindowAugment, count_slices, cut_window, window_starts

__all__ = ["RandomWindowDataset", "WindowDataset", "cut_slices"]

_OF_SERIES = ("patient", "image_id")  # what a window has from its series
# Checks of the reader that, where it corrected something, put slices in or left some out (`check_gaps`, `check_stack`).
_RENUMBERING = ("spacing", "repeated slices")


class WindowDataset(Dataset):
    """All windows of all series, one after the other, for evaluation.

    Items have `image` (1, size, J, I); `patient` and `image_id` of their series; `start`; and where labels are known
    `label`, that of the series, and `window_label`, 1 where at least `min_slices` slices of the window show the
    finding. Handlers put the windows of one `image_id` together.

    Note:
        In PENet's data, 162 positive series of validation and test have no slice labels, so that the labels of their
        windows are wrong: select by the scores of series, never by a metric of windows.

    Args:
        data: items with `image`, and for labels `label` and `slices` (`Datalist.section`).
        cache: gives the volumes; the constructor prepares those that are not there yet.
        size: slices in a window.
        min_slices: fewest slices with the finding that make a window positive.
        spatial_size: crop the centre to this height and width, and bring HU to [0, 1] (`hu_to_unit`), as the network
            wants it; None leaves int16 HU.
        label: which label stands in `label`, "series" or "window"; the other one is then left out.
        workers: processes that prepare volumes.

    Raises:
        ValueError: options out of range, all volumes that the reader refuses, and all slice labels that do not fit
            their volume.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        cache: VolumeCache,
        *,
        size: int = 24,
        min_slices: int = 4,
        spatial_size: int | None = None,
        label: str = "series",
        workers: int = 0,
    ) -> None:
        _check_window(size, min_slices)
        if label not in ("series", "window"):
            raise ValueError(f"label must be 'series' or 'window', got {label!r}")
        self.cache, self.size, self.min_slices = cache, size, min_slices
        self.spatial_size, self.label = spatial_size, label
        lengths = _prepare(data, cache, workers=workers)
        # One description a window, without its image: for whoever wants to know what is in the data set.
        self.data = [
            self._describe(item, start)
            for item, length in zip(data, lengths, strict=True)
            for start in window_starts(length, size)
        ]

    def prepare(self, items: Sequence[Mapping[str, Any]], *, workers: int = 0) -> None:
        """Prepare the volumes of items, not only of the data set's own, in so many processes.

        Where the cache is a temporary one, nothing is done: it goes before others could use it.
        """
        if self.cache.is_kept:
            self.cache.prepare(items, workers=workers)

    def _describe(self, item: Mapping[str, Any], start: int) -> dict[str, Any]:
        described = {"image": item["image"], "start": start}
        described |= {name: item[name] for name in _OF_SERIES if name in item}
        if "label" in item:
            positive = int(count_slices(item.get("slices", ()), [start], self.size)[0] >= self.min_slices)
            labels = {"label": int(item["label"]), "window_label": positive}
            described |= labels if self.label == "series" else {"label": positive}
        return described

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        described = self.data[index]
        array = self.cache.open(described).array
        return {**described, "image": cut_slices(array, described["start"], self.size, self.spatial_size)}


def cut_slices(array: np.ndarray, start: int, size: int, spatial_size: int | None) -> torch.Tensor:
    """Some slices (1, size, J, I); with `spatial_size` their centre as the network takes it, (1, size, S, S)."""
    image = torch.from_numpy(cut_window(array, start, size))[None]
    if spatial_size is None:
        return image
    height, width = array.shape[1:]
    if height != width:
        raise ValueError(
            f"spatial_size crops square slices, got slices of {height} x {width}; add CenterSquareCropd or Resized to "
            "the transforms of the volume"
        )
    return WindowAugment(spatial_size, crop_from=height, training=False, mean=0)(image[None])[0]


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
        fixed: give all windows as they lie instead, like `WindowDataset` with their own labels: for features that are
            computed once.
        spatial_size: see `WindowDataset`; for fixed windows alone, as random ones are cropped by `WindowAugment`.

    Raises:
        ValueError: options out of range, no series left, or no positive one to take forced windows from; when a window
            is drawn, slice labels that do not fit its volume.
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
        fixed: bool = False,
        spatial_size: int | None = None,
    ) -> None:
        _check_window(size, min_slices)
        if not 0 <= positive_fraction <= 1 or jitter < 0 or windows_per_series < 1:
            raise ValueError(
                "expected positive_fraction in [0, 1], jitter >= 0 and windows_per_series >= 1, got "
                f"{positive_fraction}, {jitter}, {windows_per_series}"
            )
        self.data: list[Any] = _with_known_windows(data)
        self.positive = [item for item in self.data if len(item.get("slices", ())) >= min_slices]
        if not self.data or (positive_fraction > 0 and not self.positive):
            raise ValueError(
                f"{len(data)} series, {len(self.data)} negative or with slice labels, {len(self.positive)} with "
                f"at least {min_slices} positive slices: nothing to draw positive windows from; pass a list with "
                "'slices', or positive_fraction=0"
            )
        self.cache, self.size, self.min_slices = cache, size, min_slices
        self.positive_fraction, self.jitter, self.windows_per_series = positive_fraction, jitter, windows_per_series
        options: dict[str, Any] = {"size": size, "min_slices": min_slices, "spatial_size": spatial_size}
        self.windows = WindowDataset(self.data, cache, label="window", **options) if fixed else None
        if self.windows is not None:
            self.data = self.windows.data
        else:
            _prepare(self.data, cache)  # what cannot be used is named before an epoch begins, all of it

    def prepare(self, items: Sequence[Mapping[str, Any]], *, workers: int = 0) -> None:
        """As `WindowDataset.prepare`, for those of the items that windows can be drawn from."""
        if self.cache.is_kept:
            self.cache.prepare(_with_known_windows(items), workers=workers)

    def __len__(self) -> int:
        return len(self.data) * (1 if self.windows is not None else self.windows_per_series)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.windows is not None:
            return self.windows[index]
        forced = self.R.uniform() < self.positive_fraction
        item = self.positive[self.R.randint(len(self.positive))] if forced else self.data[index % len(self.data)]
        array, slices = self.cache.open(item).array, item.get("slices", ())
        start = self._start(len(array), slices, forced=forced)
        label = int(count_slices(slices, [start], self.size)[0] >= self.min_slices)
        window = cut_window(array, start, self.size)
        of_series = {name: item[name] for name in _OF_SERIES if name in item}
        return {"image": torch.from_numpy(window)[None], "label": label, "start": start, **of_series}

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


def _prepare(items: Sequence[Mapping[str, Any]], cache: VolumeCache, *, workers: int = 0) -> list[int]:
    """Prepare the volumes and check their slice labels; the number of slices of each."""
    lengths = cache.prepare(items, workers=workers)
    raise_unusable(items, [_against_slices(item, cache) for item in items])
    return lengths


def _against_slices(item: Mapping[str, Any], cache: VolumeCache) -> str:
    if not item.get("slices"):
        return ""
    volume = cache.open(item)
    return against_slices(item["slices"], len(volume.array), volume.report)


def against_slices(slices: Sequence[int], count: int, report: Mapping[str, Any] | None) -> str:
    """Why slice labels do not fit a volume of `count` slices with this report of its reader; "" where they do."""
    for check in (report or {}).get("checks", ()) if slices else ():
        if check["name"] in _RENUMBERING and check["outcome"] == "corrected":
            return (
                f"'slices' do not fit, as the reader changed the slices ({check['name']}: {check['detail']}); label "
                "those of a mended series"
            )
    if outside := [number for number in slices if not 0 <= number < count]:
        return f"'slices' names {outside[0]}, but the volume has {count} slices: they count from 0 at the feet"
    return ""


def _with_known_windows(data: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Series of which it is known which windows are positive."""
    return [item for item in data if not item["label"] or item.get("slices")]


def _check_window(size: int, min_slices: int) -> None:
    if not 1 <= min_slices <= size:
        raise ValueError(f"expected 1 <= min_slices <= size, got min_slices={min_slices}, size={size}")
