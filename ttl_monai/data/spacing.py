"""Distances of the pixels of an image in millimetres, in the view in which it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue

from ttl_monai.data.reader import format_of
from ttl_monai.data.slices import FLAT, SLICE_AXCODES
from ttl_monai.data.volume_files import open_volume

__all__ = ["dicom_spacing", "pixel_spacing", "spacing_of", "turn_to_file", "with_spacing"]

SPACING_TAGS = ("PixelSpacing", "ImagerPixelSpacing")
_MM_OF = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}  # of NIfTI's units
_UNIT = "unit"  # key of the metadata; MONAI has none for it


def pixel_spacing(path: str | Path, axis: str = FLAT) -> tuple[float, ...] | None:
    """Distances of the pixels of an image along rows, columns and slices (1 where a file states none) in mm.

    Args:
        path: the image's file, or the folder of its slices.
        axis: across which a volume is cut; "flat" for a 2D image.

    Returns:
        Three distances; None where the file states none, as PNG and some radiographs. Those of a radiograph in DICOM
        are of the detector where the patient's are not stated.
    """
    path = Path(path)
    kind = "nifti" if path.is_dir() else format_of(path)
    if kind == "nifti":
        image: Any = nib.load(path) if axis == FLAT else open_volume(path)
        sizes = nib.affines.voxel_sizes(image.affine) * _MM_OF[image.header.get_xyzt_units()[0]]
        return tuple(float(sizes[int(to)]) for to, _ in turn_to_file(image, axis))
    if kind != "dicom":
        return None
    known = dicom_spacing(dcmread(path, specific_tags=list(SPACING_TAGS), stop_before_pixels=True))
    return None if known is None else (*known, 1.0)


def dicom_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Distances of rows and of columns in mm, None where no tag states any."""
    values = dataset.get(SPACING_TAGS[0]) or dataset.get(SPACING_TAGS[1])
    if not isinstance(values, MultiValue) or len(values) != 2 or not all(float(each) > 0 for each in values):
        return None
    return float(values[0]), float(values[1])


def turn_to_file(image: SpatialImage, axis: str) -> np.ndarray:
    """The turn from the view in which a NIfTI image is loaded to the axes of its file, as nibabel has it."""
    here = axcodes2ornt(SLICE_AXCODES[_flat_axis(image) if axis == FLAT else axis])
    return ornt_transform(here, io_orientation(image.affine))


def with_spacing(pixels: torch.Tensor, spacing: Sequence[float] | None) -> MetaTensor:
    """A tensor (C, rows, columns) that knows the distances of its pixels; MONAI's transforms keep them right.

    Args:
        pixels: of one image.
        spacing: as `pixel_spacing` has it; None leaves the pixel as the unit.
    """
    if spacing is None:
        return MetaTensor(pixels)
    return MetaTensor(pixels, affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)), meta={_UNIT: "mm"})


def spacing_of(pixels: Any) -> tuple[float, ...] | None:
    """Distances along the axes of a tensor (C, ...) in mm; None where they are not known (see `with_spacing`)."""
    if not isinstance(pixels, MetaTensor) or pixels.meta.get(_UNIT) != "mm":
        return None
    return tuple(float(size) for size in pixels.pixdim[: pixels.ndim - 1])


def _flat_axis(image: SpatialImage) -> str:
    """The axis of SLICE_AXCODES along which a 2D image has one pixel; `view_nifti` shows it in that view."""
    to_view = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPI"))
    shape = apply_orientation(np.empty((*image.shape, 1, 1)[:3], dtype=bool), to_view).shape
    flat = next(axis for axis in (2, 1, 0) if shape[axis] == 1)
    return {2: "axial", 1: "coronal", 0: "sagittal"}[flat]
