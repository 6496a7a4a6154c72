"""2D slices of volumes (NIfTI, or a folder with a DICOM series): which there are, and how they are turned."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Orientationd
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage

from ttl_monai.data.dicom import scale_to_unit
from ttl_monai.data.dicom_series import read_series
from ttl_monai.data.reader import format_of

__all__ = [
    "FLAT",
    "SLICE_AXCODES",
    "SelectSliced",
    "SliceOrientationd",
    "is_volume",
    "open_volume",
    "read_slice",
    "read_unit_slice",
    "segmentation_items",
    "slice_items",
]

logger = logging.getLogger(__name__)

# Where rows, columns and slices run to, as a radiologist views a slice: the patient's left at the right, anterior
# (axial) or superior at the top; in sagittal slices anterior at the left.
SLICE_AXCODES = {"axial": "PLS", "coronal": "ILP", "sagittal": "IPL"}
FLAT = "flat"  # in place of an axis, where the image is no volume


def slice_items(
    items: Sequence[Mapping[str, Any]],
    axis: str = "axial",
    *,
    foreground_only: bool = False,
    image_key: str = "image",
    mask_key: str = "label",
) -> list[dict[str, Any]]:
    """One item a slice in place of one a volume.

    Args:
        items: each with the path of a volume, see `open_volume`, and, for `foreground_only`, of its mask.
        axis: across which the slices are cut: axial, coronal or sagittal.
        foreground_only: keep only slices whose mask is not all 0; for training, as a validation without empty slices
            is too good.
        image_key: key of the image.
        mask_key: key of the mask.

    Returns:
        The items with `slice`, the number of the slice (from 0, along the last axis after `SliceOrientationd`), and,
        where they have one, their `image_id` with that number.

    Raises:
        ValueError: an unknown axis, a file that is no 3D volume, or no slice left.

    Example:
        ``"data": "$ttl_monai.data.slice_items(@data.section('training'), 'axial', foreground_only=True)"``
    """
    _check_axis(axis)
    slices: list[dict[str, Any]] = []
    total = 0
    for item in items:
        count = _turned_shape(open_volume(item[image_key]), axis)[2]
        kept = list(range(count))
        if foreground_only:
            kept = np.flatnonzero(_turned(open_volume(item[mask_key]), axis).any(axis=(0, 1))).tolist()
        total += count
        for number in kept:
            named = {"image_id": f"{item['image_id']}#{number}"} if "image_id" in item else {}
            slices.append({**item, **named, "slice": number})
    if not slices:
        raise ValueError(
            f"expected at least one {axis} slice, got none of {len(items)} volumes; do the masks mark any?"
        )
    logger.info("%d of %d %s slices of %d volumes", len(slices), total, axis, len(items))
    return slices


def segmentation_items(
    items: Sequence[Mapping[str, Any]], axis: str | None = None, *, foreground_only: bool = False
) -> list[dict[str, Any]]:
    """Items as `LoadPaird` takes them: 2D images as they are, volumes slice by slice.

    Args:
        items: each with the path of an `image` and, but for predictions, of its mask, `label`.
        axis: across which volumes are cut: axial, coronal or sagittal; None takes 2D images alone.
        foreground_only: leave out the slices of volumes whose mask is all 0.

    Returns:
        2D images first, then the slices. Each item has `axis` ("flat" for a 2D image) and `slice`, and the paths once
        more as `image_file` and `label_file`, which are still there when the images are loaded.

    Raises:
        ValueError: an unknown axis, or a volume where no axis is given.
    """
    named = [{**item, **{f"{key}_file": item[key] for key in ("image", "label") if key in item}} for item in items]
    flat = [{**item, "slice": 0, "axis": FLAT} for item in named if not is_volume(item["image"])]
    volumes = [item for item in named if is_volume(item["image"])]
    if not volumes:
        return flat
    if axis is None:
        raise ValueError(
            f"{volumes[0]['image']}: expected a 2D image, got a volume; say by --axis (axial, coronal or sagittal) "
            "how volumes are cut into slices"
        )
    cut = slice_items(volumes, axis, foreground_only=foreground_only)
    return [*flat, *({**item, "axis": axis} for item in cut)]


def is_volume(path: str | Path) -> bool:
    """Whether a path is a folder (of DICOM slices), or a NIfTI image with more than one slice.

    Raises:
        ValueError: a NIfTI file that cannot be read.
    """
    if Path(path).is_dir():
        return True
    if format_of(Path(path)) != "nifti":
        return False
    try:
        shape = getattr(nib.load(path), "shape", ())
    except FileNotFoundError:
        raise
    except Exception as error:  # parsers raise anything on damaged files
        raise ValueError(f"{path}: expected a NIfTI image, but it cannot be read ({error})") from error
    return sum(length > 1 for length in shape) > 2


def read_slice(path: str | Path, axis: str, number: int) -> np.ndarray:
    """The values of one slice of a volume as they are stored, (rows, columns) in the view of `SliceOrientationd`.

    Raises:
        ValueError: an unknown axis, no 3D volume, or no such slice.
    """
    volume = _read_turned(str(path), Path(path).stat().st_mtime_ns, axis)
    if not 0 <= number < volume.shape[2]:
        raise ValueError(f"{path}: expected a slice of 0 to {volume.shape[2] - 1} ({axis}), got {number}")
    return volume[..., number]


def read_unit_slice(path: str | Path, axis: str, number: int, window: Sequence[float] | None = None) -> np.ndarray:
    """One slice of a volume as an image.

    Args:
        path: the volume.
        axis: see `slice_items`.
        number: of the slice.
        window: values that become 0 and 1, such as (-160, 240) HU; None: those of 8 bits by 255, others by the range
            of the whole volume.

    Returns:
        (rows, columns) float32 in [0, 1].

    Raises:
        ValueError: as `read_slice`; NaN or infinite values; a window out of order.
    """
    read_slice(path, axis, number)  # is there such a slice?
    return _read_unit(
        str(path), Path(path).stat().st_mtime_ns, axis, None if window is None else (window[0], window[1])
    )[..., number]


class SliceOrientationd(Orientationd):
    """Turn volumes so that the slices lie along the last axis, each as a radiologist views it; it can be inverted.

    MONAI's `Orientationd` with the codes of `SLICE_AXCODES`. For the whole volume use it with MONAI's
    `SliceInferer(spatial_dim=2)` and `Invertd`, which puts the slices together in the orientation of the file.

    Args:
        keys: the items to turn, (C, X, Y, Z).
        axis: across which the slices are cut: axial, coronal or sagittal.
        allow_missing_keys: skip keys that an item does not have instead of raising.

    Raises:
        ValueError: an unknown axis.
    """

    def __init__(self, keys: KeysCollection, axis: str = "axial", allow_missing_keys: bool = False) -> None:
        _check_axis(axis)
        super().__init__(keys, axcodes=SLICE_AXCODES[axis], labels=None, allow_missing_keys=allow_missing_keys)


class SelectSliced(MapTransform):
    """Take one slice of volumes, the one that the item names: (C, H, W, slices) -> (C, H, W).

    Args:
        keys: the items to take it of, after `SliceOrientationd`.
        number_key: key of the slice's number, as `slice_items` writes it.
        allow_missing_keys: skip keys that an item does not have instead of raising.

    Raises:
        ValueError: at a call, for a slice that is not there.
    """

    def __init__(self, keys: KeysCollection, number_key: str = "slice", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.number_key = number_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each key's volume by a plain tensor: the affine of a volume does not fit one slice."""
        selected = dict(data)
        number = selected[self.number_key]
        for key in self.key_iterator(selected):
            volume = selected[key]
            if volume.ndim != 4 or not 0 <= number < volume.shape[3]:
                raise ValueError(
                    f"'{key}' must be (C, H, W, slices) with a slice {number}, got shape {tuple(volume.shape)}; "
                    "SliceOrientationd must have the axis that slice_items had"
                )
            selected[key] = torch.as_tensor(volume).as_subclass(torch.Tensor)[..., number].contiguous()
        return selected


def _check_axis(axis: str) -> None:
    if axis not in SLICE_AXCODES:
        raise ValueError(f"axis must be one of {', '.join(SLICE_AXCODES)}, got {axis!r}")


def open_volume(path: str | Path) -> SpatialImage:
    """A volume as nibabel has it: a NIfTI file, its pixels not yet read, or a folder with one series of DICOM.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no 3D volume, or no sound or more than one series (see `read_series`).
    """
    if Path(path).is_dir():
        return _read_folder(str(path), Path(path).stat().st_mtime_ns)
    try:
        image = nib.load(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # parsers raise anything on damaged files
        raise ValueError(f"{path}: expected a NIfTI volume, but it cannot be read ({error})") from error
    shape = getattr(image, "shape", ())
    if not isinstance(image, SpatialImage) or len(shape) != 3:
        raise ValueError(
            f"{path}: expected a 3D volume, got shape {tuple(shape)}; split several channels or times first"
        )
    return image


def _turn(image: SpatialImage, axis: str) -> np.ndarray:
    return ornt_transform(io_orientation(image.affine), axcodes2ornt(SLICE_AXCODES[axis]))


def _turned_shape(image: SpatialImage, axis: str) -> tuple[int, ...]:
    shape = [0, 0, 0]
    for old, (new, _) in enumerate(_turn(image, axis)):
        shape[int(new)] = image.shape[old]
    return tuple(shape)


def _turned(image: SpatialImage, axis: str) -> np.ndarray:
    """The pixels, (rows, columns, slices)."""
    return apply_orientation(np.asanyarray(image.dataobj), _turn(image, axis))


# The last volumes are kept, since a volume's slices are asked for one after the other; the time of the file is in the
# key, so that a file that was changed is read anew.
@lru_cache(maxsize=2)
def _read_folder(path: str, _modified: int) -> SpatialImage:
    volume = read_series(path, axcodes=None)
    if others := volume.report.not_chosen:
        raise ValueError(f"{path}: expected one series of slices, got {1 + len(others)}; give each a folder of its own")
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm")
    return image


@lru_cache(maxsize=2)
def _read_turned(path: str, _modified: int, axis: str) -> np.ndarray:
    _check_axis(axis)
    return _turned(open_volume(path), axis)


@lru_cache(maxsize=1)
def _read_unit(path: str, modified: int, axis: str, window: tuple[float, float] | None) -> np.ndarray:
    volume = _read_turned(path, modified, axis)
    if not np.isfinite(volume).all():
        raise ValueError(f"{path}: NaN or infinite pixels")
    if window is not None:
        low, high = window
        if not low < high:
            raise ValueError(f"window must be two numbers, the lower first, got {window}")
        return np.clip((volume.astype(np.float32) - low) / (high - low), 0, 1)
    return volume.astype(np.float32) / 255 if volume.dtype == np.uint8 else scale_to_unit(volume)
