"""Predicted masks as NIfTI files that lie on their image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation
from pydicom import dcmread

from ttl_monai.data.reader import format_of
from ttl_monai.data.slices import FLAT
from ttl_monai.data.spacing import SPACING_TAGS, dicom_spacing, turn_to_file
from ttl_monai.data.volume_files import open_volume

__all__ = ["write_mask"]

_DICOM_PLACE = (*SPACING_TAGS, "ImageOrientationPatient", "ImagePositionPatient")


def write_mask(classes: np.ndarray, image: str | Path, axis: str, path: str | Path) -> None:
    """Write the mask of an image.

    The mask of a NIfTI file has its shape and affine, that of a folder of DICOM slices those of the volume that
    `read_series` makes of it (axes columns, rows, slices). That of any other picture has the axes columns, rows and 1,
    and the affine that the DICOM file states; where it states only the distances of pixels (or nothing: 1), that of a
    frontal view, columns towards the patient's left and rows downwards.

    Args:
        classes: (rows, columns, slices) index of the class, in the view in which the image was loaded.
        image: the image's file, or the folder of its slices. No text of its header is copied, since such fields may
            name a patient.
        axis: across which a volume was cut; "flat" for a 2D image.
        path: the NIfTI file; its folder is made.

    Raises:
        ValueError: the mask does not have the shape of the image.
    """
    image, path = Path(image), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = format_of(image)
    if kind == "nifti" or image.is_dir():
        _write_beside(classes, image, axis, path)
        return
    affine, known = _dicom_affine(image) if kind == "dicom" else (_frontal(1.0, 1.0), False)
    mask = nib.Nifti1Image(np.ascontiguousarray(classes.transpose(1, 0, 2), dtype=np.uint8), affine)
    if known:
        mask.header.set_xyzt_units("mm")
    nib.save(mask, path)


def _write_beside(classes: np.ndarray, image: Path, axis: str, path: Path) -> None:
    original: Any = nib.load(image) if axis == FLAT else open_volume(image)
    shape = (*original.shape, 1, 1)[:3]
    turned = apply_orientation(classes, turn_to_file(original, axis))
    if turned.shape != shape:
        raise ValueError(f"{image}: the mask has the shape {turned.shape}, expected that of the image, {shape}")
    mask = type(original)(turned.reshape(original.shape).astype(np.uint8), original.affine)
    mask.header.set_xyzt_units(original.header.get_xyzt_units()[0])
    mask.set_qform(*original.get_qform(coded=True))
    mask.set_sform(*original.get_sform(coded=True))
    nib.save(mask, path)


def _dicom_affine(path: Path) -> tuple[np.ndarray, bool]:
    """From (column, row, 0) to RAS, and whether the distances are known."""
    dataset = dcmread(path, specific_tags=list(_DICOM_PLACE), stop_before_pixels=True)
    spacing = dicom_spacing(dataset)
    if spacing is None:
        return _frontal(1.0, 1.0), False
    rows, columns = spacing
    directions, place = dataset.get("ImageOrientationPatient"), dataset.get("ImagePositionPatient")
    if not directions or not place:
        return _frontal(rows, columns), True
    across, down = np.array(directions, dtype=float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * columns, down * rows, np.cross(across, down)], axis=1)
    affine[:3, 3] = np.array(place, dtype=float)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, True


def _frontal(rows: float, columns: float) -> np.ndarray:
    """Columns towards the left, rows downwards, in RAS."""
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = -columns, -rows, -1.0, 1.0
    return affine
