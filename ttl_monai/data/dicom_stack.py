"""One series as one stack: what must hold before it is decoded, and its decoded values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ttl_monai.data.dicom_choice import Series, check_one_stack
from ttl_monai.data.dicom_file import IMAGE_TAGS, Refused, check_pixels, decode, open_dicom, padding_mask, refusing
from ttl_monai.data.dicom_geometry import Geometry, check_gaps, check_tilt, measure
from ttl_monai.data.dicom_slices import Slice
from ttl_monai.data.volume import VolumeReport, compact

__all__ = ["PADDING_HU", "check_geometry", "check_stack", "decode_stack"]

PADDING_HU = -1024.0
# Slices nearer than this lie at one place.
_SAME_PLACE_MM = 0.01
# Units that RescaleType may name (PS3.3 C.11.1.1.2) beside HU; others are not quoted.
_OTHER_UNITS = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})


def check_stack(series: Series, report: VolumeReport, where: Path | str) -> Series:
    """The series without repeated slices; raises where the slices are no single stack."""
    if not check_one_stack(series, report):
        report.raise_refusals(where)
    kept, repeated, differ = _drop_repeats(series.slices)
    if differ:
        places = ", ".join(f"{height:.6g}" for height in differ[:5]) + (" ..." if len(differ) > 5 else "")
        detail = f"{len(differ)} places have several different images (phases or echoes in one series?): {places} mm"
        report.note("repeated slices", "refused", f"{detail}; give the files of one")
    elif repeated:
        places = ", ".join(f"{height:.6g}" for height in repeated[:5]) + (" ..." if len(repeated) > 5 else "")
        detail = f"{len(repeated)} with the same pixels as their twin left out, at {places} mm"
        report.note("repeated slices", "corrected", detail)
    else:
        report.note("repeated slices", "passed", "none")
    if not differ and len(kept) < 2:
        report.note("repeated slices", "refused", "all images lie at one place")
    report.raise_refusals(where)
    return replace(series, slices=kept)


def check_geometry(
    series: Series, geometry: Geometry, report: VolumeReport, *, gaps: str, tilt: str, need_hu: bool
) -> tuple[bool, bool]:
    """Note gaps, tilt, rescale and number of slices; say whether to resample and to make upright."""
    uneven = check_gaps(geometry, report, gaps=gaps)
    header_degrees = max((each.tilt for each in series.slices), key=abs)
    tilted = check_tilt(geometry, report, tilt=tilt, header_degrees=header_degrees)
    if report.modality == "CT" and need_hu:
        lacking = sum(each.slope is None or each.intercept is None for each in series.slices)
        if lacking:
            detail = f"{lacking} images have no rescale slope and intercept, so that their HU are not known"
            report.note("rescale", "refused", detail)
        elif units := {each.rescale_type for each in series.slices} - {"HU", "", "US"}:
            kind = units.pop() if len(units) == 1 and units <= _OTHER_UNITS else "another unit"
            report.note("rescale", "refused", f"expected HU, the header says {kind}")
        elif any(each.rescale_type == "US" for each in series.slices):  # what GDCM writes into any CT that it saves
            report.note("rescale", "warned", "the unit is not specified, taken as HU")
        else:
            report.note("rescale", "passed", "HU")
    expected = max((each.expected for each in series.slices if each.expected is not None), default=None)
    if expected is not None and expected > report.slices:
        detail = f"{report.slices} found, the header counts {expected} in the acquisition"
        report.note("number of slices", "warned", detail)
    return uneven, tilted


def _open_pixels(path: Path) -> Dataset:
    dataset = open_dicom(path, IMAGE_TAGS)
    check_pixels(dataset, path)
    return dataset


def _values(each: Slice, dataset: Dataset) -> np.ndarray:
    """Rescaled values of one slice, (rows, columns), int16 where exact, else float32."""
    with refusing(dataset, each.path):
        stored = decode(dataset, each.path, frame=each.frame)
        if stored.shape != each.shape:
            raise Refused(f"expected a grey image of {each.shape}, found pixels of {stored.shape}", each.path)
        slope, intercept = each.slope if each.slope is not None else 1.0, each.intercept or 0.0
        values: np.ndarray
        if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
            values = stored.astype(np.int64) * int(slope) + int(intercept)
        else:
            values = stored * np.float64(slope) + np.float64(intercept)
        padding = padding_mask(stored, dataset)
        if each.modality == "CT" and padding is not None:
            values[padding] = PADDING_HU
    return compact(values)


def decode_stack(slices: Sequence[Slice], report: VolumeReport) -> np.ndarray:
    """The values of all slices, (columns, rows, slices); each file is opened once for its frames in a row."""
    rows, columns = slices[0].shape
    array = np.empty((len(slices), rows, columns), dtype=np.int16)
    last: tuple[Path, Dataset] | None = None
    for k, each in enumerate(slices):
        if last is None or last[0] != each.path:
            last = (each.path, _open_pixels(each.path))
        values = _values(each, last[1])
        if values.dtype != array.dtype and array.dtype == np.int16:
            array = array.astype(np.float32)
        array[k] = values
    report.note("slices read", "passed", f"{len(slices)} from {report.files} files")
    return array.T


def _drop_repeats(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], list[float], list[float]]:
    """Slices at different places; the places of repeated slices, and those where the pixels differ."""
    geometry = measure(slices)
    kept, repeated, differ = [slices[geometry.order[0]]], [], []
    for k in range(1, len(slices)):
        candidate, height = slices[geometry.order[k]], float(geometry.heights[k])
        moved = np.abs(geometry.drift[k] - geometry.drift[k - 1]).max()
        if height - geometry.heights[k - 1] > _SAME_PLACE_MM:
            kept.append(candidate)
        elif moved <= _SAME_PLACE_MM and _digest(candidate) == _digest(kept[-1]):
            repeated.append(height)
        else:
            differ.append(height)
    return tuple(kept), repeated, list(dict.fromkeys(round(height, 3) for height in differ))


def _digest(each: Slice) -> str:
    """Hash of a slice's values."""
    dataset = _open_pixels(each.path)
    return hashlib.sha256(_values(each, dataset).tobytes()).hexdigest()
