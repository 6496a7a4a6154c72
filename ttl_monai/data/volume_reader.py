"""Readers of checked volumes for MONAI's `LoadImage`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from pydicom.misc import is_dicom

from ttl_monai.data.dicom_choice import SeriesRules
from ttl_monai.data.dicom_series import check_options, read_series
from ttl_monai.data.hdf5 import read_hdf5, split_entry
from ttl_monai.data.nifti import read_nifti
from ttl_monai.data.volume import Volume

__all__ = ["REPORT_KEY", "DicomSeriesReader", "VolumeReader"]

REPORT_KEY = "volume_report"
_NIFTI_SUFFIXES = (".nii", ".nii.gz")


class DicomSeriesReader(ImageReader):
    """Read a folder of DICOM as one checked volume (I, J, K), or refuse it with the reasons.

    See `read_series` for what is checked. The metadata has the affine (RAS), the shape, and under "volume_report" the
    report as a JSON text, which survives collation; no tag of a patient.

    Example:
        ``{"_target_": "LoadImaged", "keys": "image", "reader": "ttl_monai.data.DicomSeriesReader", "modality": "CT"}``

    Args:
        modality: take series of this modality only, such as "CT"; None takes any.
        max_thickness_mm: thickest slice allowed; None takes any.
        min_slices: fewest slices.
        series_uid: take this series; None chooses by rule.
        gaps: "refuse" unequal gaps, or "resample".
        tilt: "correct" a gantry tilt, or "refuse" it.
        axcodes: where the array's axes lead; None keeps (column, row, slice).
        check_hu_range: refuse a CT whose values cannot be HU.
    """

    def __init__(
        self,
        modality: str | None = None,
        max_thickness_mm: float | None = None,
        min_slices: int = 3,
        series_uid: str | None = None,
        gaps: str = "refuse",
        tilt: str = "correct",
        axcodes: str | None = "LPS",
        check_hu_range: bool = True,
    ) -> None:
        check_options(gaps=gaps, tilt=tilt, axcodes=axcodes)
        self.rules = SeriesRules(modality, max_thickness_mm, min_slices, series_uid)
        self.gaps, self.tilt, self.axcodes, self.check_hu_range = gaps, tilt, axcodes, check_hu_range

    def verify_suffix(self, filename: Sequence[str | PathLike] | str | PathLike) -> bool:
        """Whether all are folders or DICOM files."""
        return all(Path(name).is_dir() or (Path(name).is_file() and is_dicom(name)) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | PathLike] | str | PathLike, **_: object) -> tuple[Path, ...]:
        """Give the paths on to `get_data`, unread.

        MONAI's loader tries the other readers after any error raised here, and they would read in silence what this
        one refuses; an error in `get_data` reaches the user.
        """
        return tuple(Path(name) for name in ensure_tuple(data))

    def get_data(self, img: tuple[Path, ...]) -> tuple[np.ndarray, dict]:
        """Read the volume.

        Args:
            img: the folder, or the files of one series, as `read` returns them.

        Returns:
            The array (I, J, K), int16 or float32, and the metadata.

        Raises:
            FileNotFoundError: when there is no such file or folder.
            ValueError: a `VolumeError` when no sound volume comes out.
        """
        volume = self._read(img)
        return volume.array, {
            MetaKeys.AFFINE: volume.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(volume.array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
            REPORT_KEY: json.dumps(volume.report.to_dict()),
        }

    def _read(self, paths: tuple[Path, ...]) -> Volume:
        return read_series(
            paths,
            rules=self.rules,
            gaps=self.gaps,
            tilt=self.tilt,
            axcodes=self.axcodes,
            check_hu_range=self.check_hu_range,
        )


class VolumeReader(DicomSeriesReader):
    """The same for NIfTI files and `FILE.hdf5#KEY` too, so that a datalist can mix them: one orientation, one scale.

    See `read_nifti` and `read_hdf5`; `check_hu_range` holds for all of them, as they do not say their modality, and
    the rules of series do not apply.

    Example:
        ``{"_target_": "LoadImaged", "keys": "image", "reader": "ttl_monai.data.VolumeReader", "modality": "CT"}``
    """

    def verify_suffix(self, filename: Sequence[str | PathLike] | str | PathLike) -> bool:
        """Whether it is one NIfTI file, one series in an HDF5 file, or DICOM."""
        names = ensure_tuple(filename)
        single = len(names) == 1 and (_is_nifti(names[0]) or split_entry(names[0]) is not None)
        return single or super().verify_suffix(filename)

    def _read(self, paths: tuple[Path, ...]) -> Volume:
        if len(paths) == 1 and _is_nifti(paths[0]):
            return read_nifti(paths[0], axcodes=self.axcodes, check_hu_range=self.check_hu_range)
        if len(paths) == 1 and split_entry(paths[0]):
            return read_hdf5(paths[0], axcodes=self.axcodes, check_hu_range=self.check_hu_range)
        return super()._read(paths)


def _is_nifti(name: str | PathLike) -> bool:
    return Path(name).name.lower().endswith(_NIFTI_SUFFIXES)
