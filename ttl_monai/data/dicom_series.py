"""One folder of DICOM to one checked volume, and the list of all series of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from ttl_monai.data.dicom_choice import Series, SeriesRules, against_rules, choose_series, group_series
from ttl_monai.data.dicom_file import Refused
from ttl_monai.data.dicom_geometry import GAP_POLICIES, TILT_POLICIES, Geometry, even_out, measure, untilt
from ttl_monai.data.dicom_slices import Slice, list_files, read_slices
from ttl_monai.data.dicom_stack import PADDING_HU, check_geometry, check_stack, decode_stack
from ttl_monai.data.volume import Volume, VolumeError, VolumeReport, check_axcodes, check_hu, compact, finish, orient

__all__ = ["FoundSeries", "Stack", "find_series", "open_stack", "read_series"]


@dataclass(frozen=True)
class FoundSeries:
    """One series of a tree.

    Attributes:
        files: its files.
        series_uid: its SeriesInstanceUID, "" where it has none; not for logs or outputs.
        study: hash of its study and patient.
        report: whether it is suitable, and what is against it; `report.to_dict()` is safe to write.
        from_feet: the file of each slice in the order in which `read_series` gives the slices with axes "LPS", from
            the feet to the head; empty where it is not suitable, or where its slices are not axial.
    """

    files: list[Path]
    series_uid: str
    study: str
    report: VolumeReport
    from_feet: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Stack:
    """The series that was chosen, checked by its headers.

    Attributes:
        where: its folder or files, for errors.
        slices: in the order of their places along the normal.
        geometry: of the series.
        report: of what was checked until then.
        tilted: whether the slices have to be shifted upright.
        uneven: whether they have to be interpolated to equal gaps.
    """

    where: str
    slices: list[Slice]
    geometry: Geometry
    report: VolumeReport
    tilted: bool
    uneven: bool

    def place(self, array: np.ndarray, *, fill: float, order: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Make values of the slices upright and even.

        Args:
            array: (columns, rows, slices).
            fill: value outside of the slices, where they are shifted.
            order: of the shift, see `untilt`.

        Returns:
            (columns', rows', slices') and their affine.
        """
        first_pixel, spacing = (0, 0), float(self.geometry.gaps.mean())
        if self.tilted:
            array, first_pixel = untilt(array, self.geometry, fill=fill, order=order)
        if self.uneven:
            array, spacing = even_out(array, self.geometry)
        return array, self.geometry.affine(spacing, first_pixel)


def read_series(
    source: str | PathLike | Sequence[str | PathLike],
    *,
    rules: SeriesRules | None = None,
    gaps: str = "refuse",
    tilt: str = "correct",
    axcodes: str | None = "LPS",
    check_hu_range: bool = True,
) -> Volume:
    """Read one volume: choose the series by rule, check it, decode it.

    Checked, each with an entry in the report: one study; one kind of slices in the series; every file read; repeated
    slices (left out where their pixels are the same, refused where not); equal gaps; gantry tilt; for CT the rescale
    to HU and its range. CT padding (PixelPaddingValue) becomes -1024 HU. Enhanced multi-frame files and all
    compressions that `read_dicom` knows are read.

    Args:
        source: a folder (its subfolders belong to it), one multi-frame file, or the files of a series.
        rules: what the series must be.
        gaps: "refuse" unequal gaps and missing slices, or "resample" to interpolate over up to three usual gaps.
        tilt: "correct" a gantry tilt by shifting the slices in their planes, or "refuse" it.
        axcodes: where the axes of the array shall lead, such as "LPS" (axial slices as DICOM stores them, from feet to
            head); None keeps (column, row, slice along the normal).
        check_hu_range: refuse a CT whose values cannot be HU.

    Returns:
        The volume, RAS affine as nibabel's, with its report.

    Raises:
        FileNotFoundError: no such file or folder.
        VolumeError: when no sound volume comes out; the message lists the reasons, `.report` has all checks.
        ValueError: unknown options.
    """
    check_options(axcodes=axcodes)
    stack = open_stack(source, rules=rules, gaps=gaps, tilt=tilt, check_hu_range=check_hu_range)
    report = stack.report
    try:
        array = decode_stack(stack.slices, report)
    except Refused as refusal:
        raise _as_error(refusal, report) from None
    if not np.isfinite(array).all():
        report.note("values", "refused", "NaN or infinite pixels")
    elif report.modality == "CT" and check_hu_range:
        check_hu(array, report)
    report.raise_refusals(stack.where)
    array, affine = stack.place(array, fill=PADDING_HU if report.modality == "CT" else float(array.min()))
    return finish(compact(array), affine, axcodes, report)


def open_stack(
    source: str | PathLike | Sequence[str | PathLike],
    *,
    rules: SeriesRules | None = None,
    gaps: str = "refuse",
    tilt: str = "correct",
    check_hu_range: bool = True,
) -> Stack:
    """Choose and check the series that `read_series` reads, by its headers alone; arguments and errors as there."""
    check_options(gaps=gaps, tilt=tilt)
    paths = [Path(source)] if isinstance(source, (str, PathLike)) else [Path(one) for one in source]
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
    report = VolumeReport(source="DICOM")
    try:
        slices, others = read_slices(list_files(paths))
        series, report = choose_series(slices, rules or SeriesRules(), where)
        report.note("files", "passed", f"all read; {others} that are no acquired images left out")
        series = check_stack(series, report, where)
        geometry = measure(series.slices)
        uneven, tilted = check_geometry(series, geometry, report, gaps=gaps, tilt=tilt, need_hu=check_hu_range)
        report.raise_refusals(where)
    except Refused as refusal:
        raise _as_error(refusal, report) from None
    return Stack(where, [series.slices[i] for i in geometry.order], geometry, report, tilted, uneven)


def _as_error(refusal: Refused, report: VolumeReport) -> VolumeError:
    report.note("files", "refused", refusal.reason)
    return VolumeError(str(refusal), report)


def find_series(root: str | PathLike, *, rules: SeriesRules | None = None, gaps: str = "refuse") -> list[FoundSeries]:
    """All series in a tree of any number of studies, each with what speaks for and against it.

    Only headers are read, and the pixels of slices that lie at the same place. Files that cannot be read come as
    entries of their own, one a folder, with the reason.

    Args:
        root: a folder.
        rules: what a suitable series must be.
        gaps: as for `read_series`.

    Returns:
        The series in the order of their first file.

    Raises:
        FileNotFoundError: no such folder.
    """
    rules = rules or SeriesRules()
    check_options(gaps=gaps)
    unreadable: dict[Path, list[tuple[Path, Refused]]] = {}
    slices, _ = read_slices(
        list_files([Path(root)]),
        on_refusal=lambda file, why: unreadable.setdefault(file.parent, []).append((file, why)),
    )
    found = [_judge(series, rules, gaps, unreadable) for series in group_series(slices)]
    for failures in unreadable.values():
        report = VolumeReport(source="DICOM", files=len(failures))
        report.note("files", "refused", f"{len(failures)} unreadable, the first: {failures[0][1].reason}")
        found.append(FoundSeries([file for file, _ in failures], "", "", report))
    return sorted(found, key=lambda each: each.files[0])


def check_options(*, gaps: str = "refuse", tilt: str = "correct", axcodes: str | None = None) -> None:
    """Raise ValueError for an option that `read_series` does not know."""
    for name, value, known in (("gaps", gaps, GAP_POLICIES), ("tilt", tilt, TILT_POLICIES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    check_axcodes(axcodes)


def _judge(
    series: Series, rules: SeriesRules, gaps: str, unreadable: dict[Path, list[tuple[Path, Refused]]]
) -> FoundSeries:
    """A series with its report, from headers."""
    report = series.report()
    first, from_feet = series.slices[0], []
    if (reason := against_rules(series, rules)) is not None:
        report.note("choice", "refused", reason)
    elif broken := sum(len(unreadable.get(folder, ())) for folder in {file.parent for file in series.files}):
        report.note("files", "refused", f"{broken} files beside it cannot be read and may belong to it")
    else:
        try:
            series = check_stack(series, report, "")
            geometry = measure(series.slices)
            check_geometry(series, geometry, report, gaps=gaps, tilt="correct", need_hu=True)
            from_feet = _from_feet(series, geometry) if report.suitable else []
        except VolumeError:
            pass  # the report says why
        except Refused as refusal:
            report.note("files", "refused", refusal.reason)
    return FoundSeries(series.files, first.series, first.study, report, from_feet)


def _from_feet(series: Series, geometry: Geometry) -> list[Path]:
    """The files in the order of the slices: their numbers, turned like the volume."""
    numbers, _ = orient(geometry.order[None, None], geometry.affine(1.0), "LPS")
    axial = numbers.shape[:2] == (1, 1)
    return [series.slices[number].path for number in numbers[0, 0]] if axial else []
