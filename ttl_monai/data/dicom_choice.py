"""Which series of a folder becomes the volume: by rule, never two series in one stack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ttl_monai.data.dicom_slices import Slice
from ttl_monai.data.volume import VolumeError, VolumeReport

__all__ = ["Series", "SeriesRules", "against_rules", "check_one_stack", "choose_series", "group_series"]

# Values of ImageType: planning images; projections and screenshots, which are no volume of what was measured.
_LOCALIZER, _PROJECTIONS = "LOCALIZER", frozenset({"PROJECTION IMAGE", "MIP", "MINIP", "SCREEN SAVE", "DOSE_INFO"})


@dataclass(frozen=True)
class SeriesRules:
    """What a series must be to be chosen.

    Args:
        modality: such as "CT"; None takes any.
        max_thickness_mm: thickest slice allowed; None takes any.
        min_slices: fewest slices; from fewer than three, equal gaps cannot be told.
        series_uid: SeriesInstanceUID of the series to take, whatever else is there; None chooses by the other rules.
    """

    modality: str | None = None
    max_thickness_mm: float | None = None
    min_slices: int = 3
    series_uid: str | None = None

    def __post_init__(self) -> None:
        if self.min_slices < 2:
            raise ValueError(f"min_slices must be at least 2, as one slice has no spacing, got {self.min_slices}")
        if self.max_thickness_mm is not None and self.max_thickness_mm <= 0:
            raise ValueError(f"max_thickness_mm must be positive or None, got {self.max_thickness_mm}")


@dataclass(frozen=True)
class Series:
    """Slices that say that they belong together.

    Attributes:
        slices: in the order of their files.
    """

    slices: tuple[Slice, ...]

    @property
    def files(self) -> list[Path]:
        """The files of the slices, each once."""
        return list(dict.fromkeys(each.path for each in self.slices))

    @property
    def thickness_mm(self) -> float | None:
        """The largest thickness in the headers."""
        return max((each.thickness for each in self.slices if each.thickness is not None), default=None)

    def report(self) -> VolumeReport:
        """A report with what the headers say, no check made yet."""
        first = self.slices[0]
        return VolumeReport(
            source="DICOM",
            series=hashlib.sha256(first.series.encode()).hexdigest()[:16] if first.series else "",
            modality=first.modality,
            image_type="\\".join(first.image_type),
            thickness_mm=self.thickness_mm,
            files=len(self.files),
            slices=len(self.slices),
        )

    def describe(self) -> str:
        """In a few words, without ids."""
        first = self.slices[0]
        number = "" if first.series_number is None else f" {first.series_number}"
        thickness = "" if self.thickness_mm is None else f", {self.thickness_mm:g} mm"
        kind = "\\".join(first.image_type) or "no ImageType"
        return f"series{number} ({first.modality or 'no modality'}, {kind}, {len(self.slices)} images{thickness})"


def group_series(slices: Sequence[Slice]) -> list[Series]:
    """Put slices together by study and SeriesInstanceUID, localizers apart.

    Where there is no SeriesInstanceUID, images belong together that agree in all that one stack has in common: series
    number, modality, frame of reference, orientation, size and spacing.
    """
    groups: dict[tuple[object, ...], list[Slice]] = {}
    for each in slices:
        key: tuple[object, ...] = (each.study, each.series, _LOCALIZER in each.image_type)
        if not each.series:
            key += (each.series_number, each.modality, each.frame_of_reference, *_stack_key(each))
        groups.setdefault(key, []).append(each)
    return [Series(tuple(group)) for group in groups.values()]


def _stack_key(each: Slice) -> tuple[object, ...]:
    """What the slices of one stack share, rounded, as headers do not repeat every digit."""
    orientation = None if each.orientation is None else tuple(np.round(each.orientation, 2) + 0.0)
    spacing = None if each.spacing is None else tuple(np.round(each.spacing, 3))
    return orientation, each.shape, spacing


def against_rules(series: Series, rules: SeriesRules) -> str | None:
    """Why the rules exclude a series; None when they do not."""
    first = series.slices[0]
    if _LOCALIZER in first.image_type:
        return "a localizer"
    if rules.series_uid is not None:
        return None if first.series == rules.series_uid else "not the series that series_uid names"
    if rules.modality is not None and first.modality != rules.modality:
        return f"modality {first.modality or 'missing'}, expected {rules.modality}"
    if projections := _PROJECTIONS & set(first.image_type):
        return f"no measured volume (ImageType {', '.join(sorted(projections))})"
    if len(series.slices) < rules.min_slices:
        return f"{len(series.slices)} images, expected at least {rules.min_slices}"
    thickness = series.thickness_mm
    if rules.max_thickness_mm is not None and (thickness is None or thickness > rules.max_thickness_mm):
        found = "unknown thickness" if thickness is None else f"{thickness:g} mm thick"
        return f"{found}, expected at most {rules.max_thickness_mm:g} mm"
    return None


def check_one_stack(series: Series, report: VolumeReport) -> bool:
    """Look whether all slices are of one kind, and note it; False where no geometry can follow from them."""
    slices = series.slices
    if lacking := sum(each.position is None or each.orientation is None or each.spacing is None for each in slices):
        detail = f"{lacking} of {len(slices)} images have no position, orientation or pixel spacing"
        report.note("one stack", "refused", detail)
        return False
    kinds = {
        "modalities": len({each.modality for each in slices}),
        "sizes": len({each.shape for each in slices}),
        "orientations": _count_kinds([each.orientation for each in slices], tolerance=1e-3),
        "pixel spacings": _count_kinds([each.spacing for each in slices], tolerance=1e-3),
        "frames of reference": len({each.frame_of_reference for each in slices}),
    }
    if mixed := [f"{count} {what}" for what, count in kinds.items() if count > 1]:
        report.note("one stack", "refused", f"the {len(slices)} images of one series have {', '.join(mixed)}")
        return False
    report.note("one stack", "passed", f"{len(slices)} images of one size, orientation and pixel spacing")
    return True


def _count_kinds(values: Sequence[tuple[float, ...] | None], *, tolerance: float) -> int:
    """How many values there are that differ by more than `tolerance` in a component."""
    kinds: list[np.ndarray] = []
    for value in map(np.asarray, values):
        if not any(np.abs(value - kind).max() <= tolerance for kind in kinds):
            kinds.append(value)
    return len(kinds)


def choose_series(slices: Sequence[Slice], rules: SeriesRules, where: Path | str) -> tuple[Series, VolumeReport]:
    """Choose by rule: of what the rules allow, original before derived images, then the most slices, then the thinnest.

    The chosen series is not checked here, and another one never takes its place when it has a fault.

    Args:
        slices: the headers of all images of a folder.
        rules: what a series must be.
        where: the folder, for messages.

    Returns:
        The series, and its report with the others and the reasons against them.

    Raises:
        VolumeError: images of several studies, or no series that the rules allow.
    """
    found = group_series(slices)
    if len(studies := {each.study for each in slices}) > 1 and rules.series_uid is None:
        report = VolumeReport(source="DICOM", files=len({each.path for each in slices}), slices=len(slices))
        report.note(
            "choice",
            "refused",
            f"{len(studies)} studies or patients in one folder; give the files of one (find_series lists them)",
        )
        report.raise_refusals(where)
    reasons = [against_rules(series, rules) for series in found]
    allowed = [series for series, reason in zip(found, reasons, strict=True) if reason is None]
    refused = [f"{each.describe()}: {why}" for each, why in zip(found, reasons, strict=True) if why is not None]
    if not allowed:
        report = VolumeReport(source="DICOM", slices=len(slices), not_chosen=refused)
        report.note("choice", "refused", "no series fits: " + ("; ".join(refused) or "no DICOM images at all"))
        raise VolumeError(f"{where}: no sound volume:\n- {report.refusals[0]}", report)
    best, *others = sorted(allowed, key=_rank)
    report = replace(best.report(), not_chosen=[*(f"{each.describe()}: ranks lower" for each in others), *refused])
    report.note("choice", "passed", f"{best.describe()}, one of {len(found)} series")
    return best, report


def _rank(series: Series) -> tuple[object, ...]:
    first = series.slices[0]
    number = float("inf") if first.series_number is None else first.series_number
    thickness = float("inf") if series.thickness_mm is None else series.thickness_mm
    return "ORIGINAL" not in first.image_type, -len(series.slices), thickness, number, first.series
