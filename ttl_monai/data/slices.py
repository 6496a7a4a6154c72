"""2D slices of volumes (NIfTI, or a folder with a DICOM series) and of their masks: which there are, how they turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage

from ttl_monai.data.dicom import scale_to_unit
from ttl_monai.data.masks import name_pair, whole_numbers
from ttl_monai.data.volume_files import is_volume, modified, open_pair, open_volume

__all__ = [
    "FLAT",
    "SLICE_AXCODES",
    "read_mask_slice",
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
    classes_of: Callable[[str, str, str, int], Any] | None = None,
    image_key: str = "image",
    mask_key: str = "label",
) -> list[dict[str, Any]]:
    """One item a slice in place of one a volume.

    Args:
        items: each with the path of a volume, see `open_volume`, and, for `classes_of`, of its mask, see `open_pair`.
        axis: across which the slices are cut: axial, coronal or sagittal.
        classes_of: gives the classes of a slice of a mask from the paths of the volume and of the mask, `axis` and the
            number, such as `LoadPaird.slice_classes`; keep only slices in which a class other than the background is
            drawn. For training, as a validation without empty slices is too good.
        image_key: key of the image.
        mask_key: key of the mask.

    Returns:
        The items with `slice`, the number of the slice (from 0, see `read_slice`), and,
        where they have one, their `image_id` with that number.

    Raises:
        ValueError: an unknown axis, a file that is no 3D volume, a mask that does not fit it, or no slice left.
    """
    _check_axis(axis)
    slices: list[dict[str, Any]] = []
    total = 0
    for item in items:
        count = _turned_shape(open_volume(item[image_key]), axis)[2]
        total += count
        for number in range(count):
            if classes_of is not None and not classes_of(item[image_key], item[mask_key], axis, number).any():
                continue
            named = {"image_id": f"{item['image_id']}#{number}"} if "image_id" in item else {}
            slices.append({**item, **named, "slice": number})
    if not slices:
        raise ValueError(
            f"expected at least one {axis} slice, got none of {len(items)} volumes; do the masks mark any?"
        )
    logger.info("%d of %d %s slices of %d volumes", len(slices), total, axis, len(items))
    return slices


def segmentation_items(
    items: Sequence[Mapping[str, Any]],
    axis: str | None = None,
    *,
    classes_of: Callable[[str, str, str, int], Any] | None = None,
) -> list[dict[str, Any]]:
    """Items as `LoadPaird` takes them: 2D images as they are, volumes slice by slice.

    Args:
        items: each with the path of an `image` and, but for predictions, of its mask, `label`.
        axis: across which volumes are cut: axial, coronal or sagittal; None takes 2D images alone.
        classes_of: leave out the slices of volumes in which no class is drawn, see `slice_items`.

    Returns:
        2D images first, then the slices. Each item has `axis` ("flat" for a 2D image) and `slice`, and the paths once
        more as `image_file` and `label_file`, which are still there when the images are loaded.

    Raises:
        ValueError: as `slice_items`; a volume where no axis is given.
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
    cut = slice_items(volumes, axis, classes_of=classes_of)
    return [*flat, *({**item, "axis": axis} for item in cut)]


def read_slice(path: str | Path, axis: str, number: int) -> np.ndarray:
    """The values of one slice of a volume as they are stored, (rows, columns) in the view of `SLICE_AXCODES`.

    Args:
        path: the volume.
        axis: see `slice_items`.
        number: of the slice.

    Raises:
        ValueError: an unknown axis, no 3D volume, or no such slice.
    """
    volume = _read_turned(str(path), modified(path), axis)
    if not 0 <= number < volume.shape[2]:
        raise ValueError(f"{path}: expected a slice of 0 to {volume.shape[2] - 1} ({axis}), got {number}")
    return volume[..., number]


def read_mask_slice(
    mask: str | Path, image: str | Path, axis: str, number: int, *, overlapping: bool = False
) -> np.ndarray:
    """One slice of the mask of a volume, as `read_slice` gives that of the volume.

    Args:
        mask: see `open_pair`.
        image: the volume.
        axis: see `slice_items`.
        number: of the slice, one that the volume has.
        overlapping: see `open_pair`.

    Returns:
        (rows, columns) whole numbers.

    Raises:
        ValueError: as `open_pair`; values that are no whole numbers.
        ImportError: as `open_pair`.
    """
    return _read_mask(str(mask), modified(mask), str(image), modified(image), axis, overlapping)[..., number]


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
    return _read_unit(str(path), modified(path), axis, None if window is None else (window[0], window[1]))[..., number]


def _check_axis(axis: str) -> None:
    if axis not in SLICE_AXCODES:
        raise ValueError(f"axis must be one of {', '.join(SLICE_AXCODES)}, got {axis!r}")


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


# The last volumes are kept, since a volume's slices are asked for one after the other.
@lru_cache(maxsize=2)
def _read_turned(path: str, _time: int, axis: str) -> np.ndarray:
    _check_axis(axis)
    return _turned(open_volume(path), axis)


@lru_cache(maxsize=2)
def _read_mask(mask: str, _time: int, image: str, _image_time: int, axis: str, overlapping: bool) -> np.ndarray:
    _check_axis(axis)
    _, drawn = open_pair(image, mask, overlapping=overlapping)
    return whole_numbers(_turned(drawn, axis), name_pair(image, mask))


@lru_cache(maxsize=1)
def _read_unit(path: str, time: int, axis: str, window: tuple[float, float] | None) -> np.ndarray:
    volume = _read_turned(path, time, axis)
    if not np.isfinite(volume).all():
        raise ValueError(f"{path}: NaN or infinite pixels")
    if window is not None:
        low, high = window
        if not low < high:
            raise ValueError(f"window must be two numbers, the lower first, got {window}")
        return np.clip((volume.astype(np.float32) - low) / (high - low), 0, 1)
    return volume.astype(np.float32) / 255 if volume.dtype == np.uint8 else scale_to_unit(volume)
