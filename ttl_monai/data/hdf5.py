"""Volumes in an HDF5 file, one data set a series, named by `FILE.hdf5#KEY`: the layout of PENet's published data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ttl_monai.data.volume import Volume, VolumeError, VolumeReport, check_axcodes, check_hu, compact, finish

if TYPE_CHECKING:
    import h5py

__all__ = ["SLICE_MM", "dataset_length", "dataset_sha256", "read_hdf5", "split_entry"]

# The file says nothing of geometry. All of PENet's series have slices of 1.25 mm; the size of a pixel is not told.
SLICE_MM, _PIXEL_MM = 1.25, 1.0
_ENTRY = re.compile(r"(.+\.(?:hdf5|h5))#([^#/\\]+)")
_SLICES_AT_ONCE = 64


def split_entry(path: str | PathLike) -> tuple[Path, str] | None:
    """The file and the key of `FILE.hdf5#KEY`; None for any other path.

    Example:
        >>> split_entry("penet/data.hdf5#12")[1]
        '12'
        >>> split_entry("scan#1.nii.gz")
    """
    match = _ENTRY.fullmatch(str(path))
    return (Path(match[1]), match[2]) if match else None


@contextmanager
def _open(path: str | PathLike) -> Iterator[h5py.Dataset]:
    """The data set of an entry.

    Raises:
        FileNotFoundError: no such file, or none of that key in it.
        OSError: no HDF5 file, or a damaged one.
    """
    import h5py  # when a file is opened: most data sets have none

    entry = split_entry(path)
    if entry is None:
        raise FileNotFoundError(f"{path}: expected FILE.hdf5#KEY")
    with h5py.File(entry[0], "r") as file:
        # Links lead out of the file, to whatever is named there: what is published has none.
        link = file.get(entry[1], getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(file[entry[1]], h5py.Dataset):
            raise FileNotFoundError(f"{entry[0]} has no data set {entry[1]!r}")
        yield file[entry[1]]


def dataset_length(path: str | PathLike) -> int | None:
    """Number of slices of an entry, from the header of its data set; None where it is not there or no volume.

    Raises:
        OSError: no HDF5 file, or a damaged one.
    """
    try:
        with _open(path) as found:
            return int(found.shape[0]) if len(found.shape) == 3 and min(found.shape) > 0 else None
    except FileNotFoundError:
        return None


def dataset_sha256(path: str | PathLike) -> str:
    """SHA-256 of the type, the shape and the values of an entry, a few slices in memory at a time.

    Raises:
        OSError: when it cannot be read.
    """
    with _open(path) as found:
        digest = hashlib.sha256(f"{found.dtype.str} {found.shape}".encode())
        for start in range(0, found.shape[0] if found.shape else 0, _SLICES_AT_ONCE):
            digest.update(found[start : start + _SLICES_AT_ONCE].tobytes())
    return digest.hexdigest()


def read_hdf5(path: str | PathLike, *, axcodes: str | None = "LPS", check_hu_range: bool = True) -> Volume:
    """Read one series of HU (slices, rows, columns).

    Source: PENet's data (Huang et al., npj Digital Medicine 3:61, 2020), as its data set code reads it: one data set a
    study, its key the study's number, int16 HU.

    Note:
        The file states no geometry, so the affine is assumed, and the report warns of it: slices 1.25 mm apart, as in
        all of PENet's series; pixels of 1 mm, as their size is not published; rows from front to back and columns from
        right to left, as in any axial slice that DICOM stores; slice 0 at the feet, as PENet's code sorts slices of
        DICOM (`util/single_study_util.py`, by ImagePositionPatient). Numbers of slices mean the same either way.

    Args:
        path: `FILE.hdf5#KEY`.
        axcodes: where the axes of the array shall lead, such as "LPS"; None keeps (column, row, slice).
        check_hu_range: refuse values that cannot be HU.

    Returns:
        The volume (columns, rows, slices) with its report.

    Raises:
        FileNotFoundError: no such file, or none of that key in it.
        VolumeError: when it gives no sound volume; the message lists the reasons.
        ValueError: unknown axcodes.
    """
    check_axcodes(axcodes)
    where = str(path)
    report = VolumeReport(source="HDF5", modality="CT", thickness_mm=SLICE_MM, files=1)
    try:
        with _open(path) as found:
            if len(found.shape) != 3 or min(found.shape) < 1 or found.dtype.kind not in "iuf":
                detail = f"expected numbers (slices, rows, columns), got {found.dtype} of shape {tuple(found.shape)}"
                report.note("dimensions", "refused", detail)
                report.raise_refusals(where)
            array = found[()]
    except (VolumeError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # parsers raise anything on damaged files
        report.note("file", "refused", f"damaged, or not HDF5 ({type(error).__name__})")
        report.raise_refusals(where)
    if not np.isfinite(array).all():
        report.note("values", "refused", "NaN or infinite voxels")
    elif check_hu_range:
        check_hu(array, report)
    report.raise_refusals(where)
    report.slices = len(array)
    report.note(
        "geometry",
        "warned",
        f"the file states none; assumed: slices {SLICE_MM:g} mm apart, the first at the feet, pixels of {_PIXEL_MM:g} "
        "mm, rows from the front, columns from the right",
    )
    affine = np.diag([-_PIXEL_MM, -_PIXEL_MM, SLICE_MM, 1.0])
    return finish(compact(array.transpose(2, 1, 0)), affine, axcodes, report)
