"""Images with their masks: loaded in one view and checked against each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys

from ttl_monai.data.masks import check_geometry, name_pair, read_mask, to_classes
from ttl_monai.data.reader import XrayReader, format_of
from ttl_monai.data.slices import FLAT, read_mask_slice, read_unit_slice
from ttl_monai.data.spacing import pixel_spacing, with_spacing

__all__ = ["LoadPaird"]


class LoadPaird(MapTransform):
    """Load a 2D image and its mask, in one view and checked against each other.

    The image is read as `XrayReader` does, the mask by `read_mask`, then turned into classes by `to_classes`. Of an
    item that names an `axis` and a `slice` (see `segmentation_items`), that slice of both volumes is read. The mask
    knows the distances of its pixels where the image's file states them (see `spacing_of`).

    Args:
        keys: the image's and the mask's.
        num_classes: number of classes with the background; with `bits`, of structures that may overlap.
        channels: of the image, 1 or 3.
        window: of volumes, see `read_unit_slice`.
        mask_values: as in `to_classes`; a mask of 0 and 255 has `[0, 255]`.
        bits: as in `to_classes`.
        allow_missing_keys: load the image alone where an item has no mask.

    Raises:
        ValueError: at a call, for files that cannot be read or do not fit each other, naming both.

    Example:
        ``{"_target_": "ttl_monai.data.LoadPaird", "keys": ["image", "label"], "num_classes": 2, "mask_values":
        [0, 255]}``
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        *,
        num_classes: int,
        channels: int = 1,
        window: Sequence[float] | None = None,
        mask_values: Sequence[int | Sequence[int]] | None = None,
        bits: Sequence[int | Sequence[int]] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 2:
            raise ValueError(f"keys must be those of the image and of the mask, got {self.keys}")
        self.num_classes = num_classes
        self.mask_values = mask_values
        self.bits = bits
        self.overlapping = bits is not None
        self.reader = XrayReader(channels)
        self.channels = channels
        self.window = window
        self.encode(np.zeros(0, np.uint8), "the mask")  # refuse a table that does not fit before any file is read

    def encode(self, values: np.ndarray, where: str) -> torch.Tensor:
        """Stored values (...) -> classes (1 or C, ...), uint8."""
        return torch.from_numpy(
            to_classes(values, self.num_classes, mask_values=self.mask_values, bits=self.bits, where=where)
        )

    def slice_classes(self, image: str | Path, mask: str | Path, axis: str, number: int) -> torch.Tensor:
        """Classes of one slice of the mask of a volume, (1 or C, rows, columns) uint8; see `read_mask_slice`."""
        values = read_mask_slice(mask, image, axis, number, overlapping=self.overlapping)
        return self.encode(values, name_pair(image, mask))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the paths by the image, (channels, H, W) float32 in [0, 1], and the mask, (1 or C, H, W) uint8."""
        loaded = dict(data)
        image_key, mask_key = self.keys
        path, axis, number = Path(loaded[image_key]), loaded.get("axis", FLAT), loaded.get("slice", 0)
        image = self._read_image(path, axis, number)
        meta = {MetaKeys.SPATIAL_SHAPE: image.shape[1:], MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
        loaded[image_key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(image)), meta=meta)
        if mask_key in loaded or not self.allow_missing_keys:
            mask = Path(loaded[mask_key])
            if axis == FLAT:
                where, values = name_pair(path, mask), read_mask(mask, path, overlapping=self.overlapping)
                check_geometry(image.shape[1:], values.shape, where, _affine_of(path), _affine_of(mask))
                classes = self.encode(values, where)
            else:
                classes = self.slice_classes(path, mask, axis, number)
            loaded[mask_key] = with_spacing(classes, pixel_spacing(path, axis))
        return loaded

    def _read_image(self, path: Path, axis: str, number: int) -> np.ndarray:
        """(channels, rows, columns)."""
        if axis != FLAT:
            return np.repeat(read_unit_slice(path, axis, number, self.window)[None], self.channels, axis=0)
        image, _ = self.reader.get_data(self.reader.read(path))
        return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)  # (H, W[, 3]) -> (C, H, W)


def _affine_of(path: Path) -> np.ndarray | None:
    """None where the format has none."""
    return np.asarray(getattr(nib.load(path), "affine", None)) if format_of(path) == "nifti" else None
