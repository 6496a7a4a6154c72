"""Files and folders as volumes in nibabel's form, and volumes with their masks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import nibabel as nib
from nibabel.spatialimages import SpatialImage

from ttl_monai.data.dicom_seg import NoMaskError, read_on_series
from ttl_monai.data.dicom_series import read_series
from ttl_monai.data.masks import check_geometry, name_pair
from ttl_monai.data.reader import format_of

__all__ = ["is_volume", "modified", "open_pair", "open_volume"]


def is_volume(path: str | Path) -> bool:
    """Whether a path is a folder (of DICOM slices), or a NIfTI image with more than one slice.

    Raises:
        ValueError: a damaged NIfTI file.
        OSError: one that is not there, or may not be read.
    """
    if Path(path).is_dir():
        return True
    if format_of(Path(path)) != "nifti":
        return False
    try:
        shape = getattr(nib.load(path), "shape", ())
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # parsers raise anything on damaged files
        raise ValueError(f"{path}: expected a NIfTI image, but it cannot be read ({error})") from error
    return sum(length > 1 for length in shape) > 2


def open_volume(path: str | Path) -> SpatialImage:
    """A volume as nibabel has it: a NIfTI file, its pixels not yet read, or a folder with one series of DICOM.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no 3D volume, or no sound or more than one series (see `read_series`).
    """
    if Path(path).is_dir():
        return _read_folder(str(path), modified(path))
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


def open_pair(image: str | Path, mask: str | Path, *, overlapping: bool = False) -> tuple[SpatialImage, SpatialImage]:
    """A volume and its mask, which lies on it.

    Args:
        image: the volume, see `open_volume`.
        mask: a volume likewise, or, of a folder of DICOM slices, a DICOM segmentation (SEG).
        overlapping: give the segments of a SEG as bits, see `read_on_image`.

    Returns:
        Both, of one shape and affine.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an image that is no 3D volume; a mask that is none, or does not lie on it, naming both.
        ImportError: for a SEG, without highdicom.
    """
    volume, where = open_volume(image), name_pair(image, mask)
    try:
        drawn = _open_mask(Path(mask), Path(image), overlapping)
    except (FileNotFoundError, PermissionError, MemoryError, ImportError):
        raise
    except NoMaskError as error:
        raise ValueError(f"{where}: {error}") from None
    except Exception as error:  # those of DICOM may quote tags, so that only the type is kept
        raise ValueError(f"{where}: the mask cannot be read ({type(error).__name__})") from None
    check_geometry(volume.shape, drawn.shape, where, volume.affine, drawn.affine)
    return volume, drawn


def modified(path: str | Path) -> int:
    """The time of a file in ns: in the key of what is kept of it, so that a file that was changed is read anew."""
    return Path(path).stat().st_mtime_ns


def _open_mask(mask: Path, image: Path, overlapping: bool) -> SpatialImage:
    kind = format_of(mask)
    if mask.is_dir() or kind == "nifti":
        try:
            return open_volume(mask)
        except ValueError as error:
            raise NoMaskError(str(error).removeprefix(f"{mask}: ")) from None
    if kind != "dicom":
        raise NoMaskError(
            "the mask of a volume must be a NIfTI volume, a folder of DICOM slices or, of such a folder, a DICOM "
            "segmentation"
        )
    if not image.is_dir():
        raise NoMaskError("a DICOM segmentation refers to DICOM slices, but the image is no folder of them")
    array, affine = read_on_series(mask, image, overlapping=overlapping)
    return nib.Nifti1Image(array, affine, dtype=array.dtype)  # NIfTI wants to be asked for int64


@lru_cache(maxsize=2)
def _read_folder(path: str, _modified: int) -> SpatialImage:
    volume = read_series(path, axcodes=None)
    if others := volume.report.not_chosen:
        raise ValueError(f"{path}: expected one series of slices, got {1 + len(others)}; give each a folder of its own")
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm")
    return image
