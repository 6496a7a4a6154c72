"""Masks of segmentation: the values that are stored, their classes, and whether they lie on their image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ttl_monai.data.dicom_seg import NoMaskError, read_on_image
from ttl_monai.data.reader import NotOneImageError, format_of, view_nifti

__all__ = ["check_geometry", "name_pair", "read_mask", "to_classes", "whole_numbers"]

_AFFINE_TOLERANCE = 1e-3  # mm; headers hold 32-bit numbers


def read_mask(path: str | Path, image: str | Path, *, overlapping: bool = False) -> np.ndarray:
    """Read the mask of a 2D image as the values that are stored, in the view that `XrayReader` gives of the image.

    PNG, TIFF and BMP may be grey, with a palette (its indices are the values) or RGB with three equal channels. A
    NIfTI mask is turned by its affine, as the image is. Of a DICOM segmentation (SEG) the frames that refer to the
    image are taken, the number of the segment being the value.

    Args:
        path: the mask.
        image: its image, needed to find the frames of a SEG.
        overlapping: give the segments of a SEG as bits, see `read_on_image`; other files store bits themselves.

    Returns:
        (rows, columns), of an integer type or bool.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read as one 2D mask of whole numbers, naming both files.
        ImportError: for a SEG, without highdicom.
    """
    path, image = Path(path), Path(image)
    kind = format_of(path)
    if kind is None:
        raise ValueError(f"{name_pair(image, path)}: a mask must be PNG, TIFF, BMP, NIfTI or a DICOM segmentation")
    try:
        if kind == "nifti":
            values = view_nifti(path)
        else:
            values = _read_pillow(path) if kind == "pillow" else read_on_image(path, image, overlapping=overlapping)
    except (FileNotFoundError, PermissionError, MemoryError, ImportError):
        raise
    except (NotOneImageError, NoMaskError) as error:
        raise ValueError(f"{name_pair(image, path)}: {error}") from None
    except Exception as error:
        # Parsers raise anything on damaged files; those of DICOM may quote tags, so that only the type is kept.
        raise ValueError(f"{name_pair(image, path)}: the mask cannot be read ({type(error).__name__})") from None
    return whole_numbers(values, name_pair(image, path))


def to_classes(
    values: np.ndarray,
    num_classes: int,
    *,
    mask_values: Sequence[int | Sequence[int]] | None = None,
    bits: Sequence[int | Sequence[int]] | None = None,
    where: str = "the mask",
) -> np.ndarray:
    """Stored values as classes.

    Args:
        values: (...), whole numbers.
        num_classes: number of classes C with the background; with `bits`, of structures that may overlap.
        mask_values: for each class the value, or the values, that stand for it; default 0, 1, ..., C - 1.
        bits: for each structure the bit, or the bits (any of them), that mark it; other bits are not looked at.
        where: what to call the mask in an error.

    Returns:
        uint8 (1, ...) index of the class; with `bits` (C, ...) of 0 and 1.

    Raises:
        ValueError: for values that stand for no class, or as many `mask_values` or `bits` as there are not classes.
    """
    table = [[each] if isinstance(each, int) else list(each) for each in bits or mask_values or range(num_classes)]
    if (bits and mask_values) or len(table) != num_classes:
        raise ValueError(
            f"expected mask_values or bits, for each of the {num_classes} classes, got mask_values={mask_values} and "
            f"bits={bits}"
        )
    if bits:
        masks = [sum(1 << bit for bit in each) for each in table]
        return np.stack([(values.astype(np.int64) & mask) > 0 for mask in masks]).astype(np.uint8)
    index = {value: number for number, each in enumerate(table) for value in each}
    found, places = np.unique(values, return_inverse=True)
    if unknown := [int(value) for value in found if int(value) not in index]:
        raise ValueError(
            f"{where}: the mask has the values {_some(unknown)}, which are no class: expected {_some(index)}; declare "
            "what each value means by mask_values (or bits, for structures that overlap)"
        )
    codes = np.array([index[int(value)] for value in found], dtype=np.uint8)
    return codes[places.reshape(values.shape)][None]


def check_geometry(
    image_shape: Sequence[int],
    mask_shape: Sequence[int],
    where: str,
    image_affine: np.ndarray | None = None,
    mask_affine: np.ndarray | None = None,
) -> None:
    """Compare where the pixels of image and mask lie.

    Args:
        image_shape: spatial shape.
        mask_shape: spatial shape.
        where: what to call the pair in an error.
        image_affine: (4, 4), None where it is not known.
        mask_affine: likewise.

    Raises:
        ValueError: if the shapes differ, or the affines by more than 0.001 mm.
    """
    if tuple(image_shape) != tuple(mask_shape):
        raise ValueError(
            f"{where}: the image has the shape {tuple(image_shape)}, the mask {tuple(mask_shape)}; expected one mask "
            "pixel for each of the image"
        )
    if image_affine is None or mask_affine is None:
        return
    difference = float(np.abs(np.asarray(image_affine) - np.asarray(mask_affine)).max())
    if not difference <= _AFFINE_TOLERANCE:
        raise ValueError(
            f"{where}: the affines differ by up to {difference:g}, so the mask lies elsewhere or is turned; resample "
            "it onto the image, or give it the image's affine if only the header is wrong"
        )


def name_pair(image: str | Path, mask: str | Path) -> str:
    """Both files in words, for an error."""
    return f"image {image} and mask {mask}"


def _some(values: Iterable[int], limit: int = 10) -> str:
    values = list(values)
    return ", ".join(map(str, values[:limit])) + (f" and {len(values) - limit} more" if len(values) > limit else "")


def whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Integers as they are, and floats that are whole as integers.

    Raises:
        ValueError: for other floats, as an interpolated mask has them.
    """
    if values.dtype.kind == "f":
        if not (values == np.round(values)).all():  # NaN, too, is not equal to itself
            raise ValueError(f"{where}: the mask has values that are no whole numbers; export it without interpolation")
        return values.astype(np.int64)
    return values


def _read_pillow(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise NoMaskError("a JPEG file changes the values that it stores; expected the mask as PNG or TIFF")
    with Image.open(path, formats=("PNG", "TIFF", "BMP")) as file:
        if getattr(file, "n_frames", 1) > 1:
            raise NoMaskError("the mask has several frames or pages, expected one")
        values = np.asarray(ImageOps.exif_transpose(file))  # of a palette, the indices
    if values.ndim == 3:
        colours = values[..., : 3 if values.shape[-1] > 2 else 1]  # without transparency
        if (colours != colours[..., :1]).any():
            raise NoMaskError("the mask has colours; expected one number a pixel: grey, or colours with a palette")
        values = colours[..., 0]
    return values
