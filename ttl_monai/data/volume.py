"""A volume with its place in the patient, and the report of what was checked, corrected and refused on the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

__all__ = [
    "Check",
    "Volume",
    "VolumeError",
    "VolumeReport",
    "check_axcodes",
    "check_hu",
    "compact",
    "finish",
    "orient",
    "refusal_of",
]

OUTCOMES = ("passed", "corrected", "warned", "refused")
# Every CT shows air somewhere (-1000 HU) and tissue (around 0 HU); dense metal ends near 31,000 HU in scanners with
# an extended scale. What lies outside was never rescaled, was scaled to something else, or has lost its sign.
_AIR_HU, _TISSUE_HU, _HIGHEST_HU, _LOWEST_HU = -500.0, -200.0, 32_000.0, -10_000.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what, such as "spacing".
        outcome: one of `OUTCOMES`.
        detail: what was found, with positions in mm; no patient, no path, no UID.
    """

    name: str
    outcome: str
    detail: str


@dataclass
class VolumeReport:
    """What was checked, chosen, corrected and refused for one volume; safe to write beside a prediction.

    Attributes:
        source: "DICOM", "NIfTI" or "HDF5".
        series: 16 digits that tell series apart (a hash), "" where there is no id.
        modality: such as "CT", "" where the format does not say.
        image_type: the values of ImageType, joined by a backslash as DICOM does.
        thickness_mm: of a slice as the header has it, None where absent.
        files: number of files that the volume was made from.
        slices: number of slices that they hold.
        shape: of the array, None as long as no volume was made.
        spacing_mm: along the axes of the array, None as long as no volume was made.
        axcodes: where the array's axes lead, such as "LPS".
        checks: all checks, in the order in which they were made.
        not_chosen: the other series of the folder in words, each with the reason.
    """

    source: str
    series: str = ""
    modality: str = ""
    image_type: str = ""
    thickness_mm: float | None = None
    files: int = 0
    slices: int = 0
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    axcodes: str = ""
    checks: list[Check] = field(default_factory=list)
    not_chosen: list[str] = field(default_factory=list)

    def note(self, name: str, outcome: str, detail: str) -> None:
        """Add a check."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, got {outcome!r}")
        self.checks.append(Check(name, outcome, detail))

    @property
    def refusals(self) -> list[str]:
        """The reasons against this volume, in words; none when it is suitable."""
        return [f"{check.name}: {check.detail}" for check in self.checks if check.outcome == "refused"]

    @property
    def suitable(self) -> bool:
        """Whether nothing was refused."""
        return not self.refusals

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values, ready for JSON."""
        return {"suitable": self.suitable, **asdict(self)}

    def raise_refusals(self, where: Path | str) -> None:
        """Raise a `VolumeError` that lists all refusals of this report; return when there are none."""
        if refusals := self.refusals:
            raise VolumeError(f"{where}: no sound volume:\n" + "\n".join(f"- {each}" for each in refusals), self)


class VolumeError(ValueError):
    """A folder or file that gives no sound volume.

    Attributes:
        report: what was checked until then; its refusals say why.
    """

    def __init__(self, message: str, report: VolumeReport) -> None:
        super().__init__(message)
        self.report = report


def refusal_of(error: BaseException) -> VolumeError:
    """The refusal of a reader under what MONAI wraps around it; raises `error` again where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, VolumeError):
        cause = cause.__cause__
    if cause is None:
        raise error
    return cause


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        array: (I, J, K), int16 where that holds all values exactly, else float32; HU for CT.
        affine: 4 x 4, from voxel indices to mm in the patient's RAS system, as nibabel and MONAI have it.
        report: how it came about.
    """

    array: np.ndarray
    affine: np.ndarray
    report: VolumeReport


def check_axcodes(axcodes: str | None) -> None:
    """Raise ValueError unless it names three different axes, such as "LPS", or is None."""
    axes = {code: axis for axis, pair in enumerate(("LR", "PA", "SI")) for code in pair}
    if axcodes is not None and sorted(axes.get(code, -1) for code in axcodes) != [0, 1, 2]:
        raise ValueError(
            f"axcodes must name one of L or R, one of P or A, one of S or I, such as 'LPS', got {axcodes!r}; "
            "None keeps the axes of the file"
        )


def orient(array: np.ndarray, affine: np.ndarray, axcodes: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Turn the axes to the nearest of the wanted directions, without resampling.

    Args:
        array: (I, J, K).
        affine: its 4 x 4 affine, RAS.
        axcodes: where the axes shall lead, such as "LPS"; None changes nothing.

    Returns:
        A view of the array, and its affine.
    """
    if axcodes is None:
        return array, affine
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
    return apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)


def finish(array: np.ndarray, affine: np.ndarray, axcodes: str | None, report: VolumeReport) -> Volume:
    """Orient a checked volume and write its geometry into the report."""
    array, affine = orient(array, affine, axcodes)
    report.shape = tuple(int(n) for n in array.shape)
    report.spacing_mm = tuple(round(float(s), 6) for s in np.linalg.norm(affine[:3, :3], axis=0))
    report.axcodes = "".join(aff2axcodes(affine))
    if min(array.strides) < 0:  # PyTorch takes no negative strides; the order of the axes in memory stays
        array = array.copy(order="K")
    return Volume(array, affine, report)


def compact(array: np.ndarray) -> np.ndarray:
    """The same values as int16 where that is exact, else as float32."""
    if array.dtype == np.int16:
        return array
    limits = np.iinfo(np.int16)
    if array.size and limits.min <= array.min() and array.max() <= limits.max:
        whole = array.astype(np.int16)
        if np.array_equal(whole, array):
            return whole
    return array.astype(np.float32)


def check_hu(array: np.ndarray, report: VolumeReport) -> None:
    """Look whether the values can be the Hounsfield units of a CT, and note it in the report.

    Args:
        array: any shape, finite.
        report: gets the check "HU range".
    """
    low, high = float(array.min()), float(array.max())
    found = f"{low:g} to {high:g}"
    if low > _AIR_HU:
        detail = f"no air: expected a minimum of {_AIR_HU:g} HU or less"
    elif high < _TISSUE_HU:
        detail = f"no tissue: expected a maximum of {_TISSUE_HU:g} HU or more"
    elif high > _HIGHEST_HU:
        detail = f"expected at most {_HIGHEST_HU:g} HU; signed values may have been read as unsigned"
    elif low < _LOWEST_HU:
        detail = f"expected at least {_LOWEST_HU:g} HU"
    else:
        report.note("HU range", "passed", found)
        return
    remedy = "rescale the image to HU, or pass check_hu_range=False for other values"
    report.note("HU range", "refused", f"{detail}, found {found}; {remedy}")
