"""Whole CT series, to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ttl_monai.data.volume import refusal_of
from ttl_monai.data.volume_cache import VolumeCache
from ttl_monai.data.window_datasets import cut_slices

__all__ = ["SeriesDataset"]


class SeriesDataset(Dataset):
    """Whole series, one an item, to predict; those that the reader refuses are set aside.

    Items have `image` (1, K', spatial_size, spatial_size) in [0, 1], padded with air to a multiple of `size`, so that
    windows without overlap are those of `WindowDataset`; `affine` (4, 4), from its (i, j, k) to mm in RAS; `slice_mm`
    (K,), how far the middle of each slice lies towards the head (K <= K': none for the padding); and `image_id`.

    Attributes:
        data: the series that are sound.
        refused: `image_id` and `report` of the others.

    Args:
        data: items with `image` and `image_id`.
        cache: gives the volumes; the constructor prepares those that are not there yet.
        size: slices in a window.
        spatial_size: see `WindowDataset`.
        threads: that read and prepare, each one series at a time, so that memory holds so many of them; 0 is one, too.

    Raises:
        ValueError: a negative number of threads.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], cache: VolumeCache, *, size: int, spatial_size: int, threads: int = 1
    ) -> None:
        if threads < 0:
            raise ValueError(f"threads must be at least 0, got {threads}")
        self.cache, self.size, self.spatial_size = cache, size, spatial_size
        with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="series") as pool:
            reports = list(pool.map(self._refusal, data))
        judged = list(zip(data, reports, strict=True))
        self.data = [item for item, report in judged if report is None]
        self.refused = [
            {"image_id": item["image_id"], "report": report} for item, report in judged if report is not None
        ]

    def _refusal(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """Prepare a series; the reader's report where it refuses it."""
        try:
            self.cache.open(item)
        except (RuntimeError, ValueError) as error:
            return dict(refusal_of(error).report.to_dict())
        return None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.data[index]
        volume = self.cache.open(item)
        slices, rows, columns = volume.array.shape
        image = cut_slices(volume.array, 0, -(-slices // self.size) * self.size, self.spatial_size)
        affine, numbers = volume.affine.copy(), np.arange(slices)
        middle = affine[2] @ [(columns - 1) / 2, (rows - 1) / 2, 0, 1]
        slice_mm = middle + affine[2, 2] * numbers
        affine[:3, 3] += affine[:3, :2] @ [(full - self.spatial_size) // 2 for full in (columns, rows)]  # of the crop
        return {"image_id": item["image_id"], "image": image, "affine": affine, "slice_mm": slice_mm}
