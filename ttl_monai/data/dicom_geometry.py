"""Where the slices of a stack lie: order, gaps and gantry tilt, and how to make the stack even and upright."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import shift

from ttl_monai.data.dicom_slices import Slice
from ttl_monai.data.volume import VolumeReport

__all__ = ["GAP_POLICIES", "TILT_POLICIES", "Geometry", "check_gaps", "check_tilt", "even_out", "measure", "untilt"]

GAP_POLICIES, TILT_POLICIES = ("refuse", "resample"), ("correct", "refuse")
# Gaps count as equal up to this share of the usual one, and up to the rounding of positions in headers.
_GAP_SHARE, _GAP_ROUNDING_MM = 0.01, 0.02
# Wider than this many usual gaps, and nothing says what lies between.
_WIDEST_RESAMPLED = 3.0


@dataclass(frozen=True)
class Geometry:
    """The slices of one stack in space. Lengths in mm; directions in the patient's LPS system.

    Attributes:
        order: for each slice from the first along the normal, its number in the series, shape (N,).
        heights: along the normal, from the patient system's origin, ascending, shape (N,).
        places: along the way from the first to the last slice, as the table moved; they differ from the heights where
            the gantry was tilted. Shape (N,).
        drift: how far each slice lies from the normal through the first slice's corner, along the directions of
            increasing column and row, shape (N, 2); not zero where the gantry was tilted.
        directions: unit vectors of increasing column, row and slice as columns, shape (3, 3).
        origin: the centre of the first slice's first pixel, shape (3,).
        pixel_mm: distances of columns and of rows.
    """

    order: np.ndarray
    heights: np.ndarray
    places: np.ndarray
    drift: np.ndarray
    directions: np.ndarray
    origin: np.ndarray
    pixel_mm: tuple[float, float]

    @property
    def gaps(self) -> np.ndarray:
        """Distances of neighbouring planes, shape (N - 1,)."""
        return np.diff(self.heights)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from the first to the last slice and the normal."""
        return float(np.degrees(np.arctan2(np.linalg.norm(self.drift[-1]), self.heights[-1] - self.heights[0])))

    @property
    def is_tilted(self) -> bool:
        """Whether some slice lies more than half a pixel off."""
        return bool((np.abs(self.drift) > 0.5 * np.array(self.pixel_mm)).any())

    def affine(self, spacing_mm: float, first_pixel: tuple[int, int] = (0, 0)) -> np.ndarray:
        """From (column, row, slice) to RAS of an even and upright stack.

        Args:
            spacing_mm: distance of its slices.
            first_pixel: column and row, in pixels of the first slice, where the stack begins.

        Returns:
            4 x 4.
        """
        columns, rows = self.pixel_mm
        affine = np.eye(4)
        affine[:3, :3] = self.directions * (columns, rows, spacing_mm)
        affine[:3, 3] = self.origin + affine[:3, :2] @ np.array(first_pixel, dtype=float)
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def measure(slices: Sequence[Slice]) -> Geometry:
    """Sort slices along their normal and measure them.

    Args:
        slices: of one orientation and pixel spacing, each with a position; the first one's orientation counts.

    Returns:
        Their geometry.
    """
    across, down = (np.array(slices[0].orientation).reshape(2, 3)[i] for i in range(2))  # column, row increasing
    across = across / np.linalg.norm(across)
    normal = np.cross(across, down / np.linalg.norm(down))
    normal /= np.linalg.norm(normal)
    down = np.cross(normal, across)
    positions = np.array([each.position for each in slices])  # (N, 3)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    positions, heights = positions[order], heights[order]
    away = positions - positions[0]
    length = np.linalg.norm(away[-1])
    table = away[-1] / length if length > 0 else normal
    rows_mm, columns_mm = slices[0].spacing or (1.0, 1.0)
    return Geometry(
        order=order,
        heights=heights,
        places=positions @ table,
        drift=np.stack([away @ across, away @ down], axis=1),
        directions=np.stack([across, down, normal], axis=1),
        origin=positions[0],
        pixel_mm=(columns_mm, rows_mm),
    )


def check_gaps(geometry: Geometry, report: VolumeReport, *, gaps: str) -> bool:
    """Look whether neighbours are equally far apart, and note it.

    Args:
        geometry: of slices at different places.
        report: gets the check "spacing".
        gaps: "refuse", or "resample" to let small irregularities be evened out.

    Returns:
        Whether the slices have to be resampled.
    """
    places = geometry.places
    found = np.diff(places)
    usual = float(np.median(found))
    tolerance = max(_GAP_SHARE * usual, _GAP_ROUNDING_MM)
    mean = float(found.mean())
    off_line = np.abs(places - places[0] - mean * np.arange(len(places))).max()
    odd = np.flatnonzero(np.abs(found - usual) > tolerance)
    if not len(odd) and off_line <= 0.1 * usual:
        report.note("spacing", "passed", f"{len(found)} equal gaps of {mean:.4g} mm")
        return False
    named = [
        f"{found[i]:.4g} mm between the slices at {places[i]:.6g} and {places[i + 1]:.6g} mm"
        + _missing(found[i], usual, tolerance)
        for i in odd[:5]
    ]
    named += [f"{len(odd) - 5} more"] if len(odd) > 5 else []
    detail = f"uneven, usual gap {usual:.4g} mm: {', '.join(named) or f'slices drift by up to {off_line:.3g} mm'}"
    if gaps == "refuse":
        report.note("spacing", "refused", f"{detail}; complete the series, or pass gaps='resample' to interpolate")
        return False
    if found.max() > _WIDEST_RESAMPLED * usual + tolerance:
        limit = f"{_WIDEST_RESAMPLED:g} usual gaps"
        report.note("spacing", "refused", f"{detail}; nothing is interpolated over more than {limit}")
        return False
    report.note("spacing", "corrected", f"{detail}; interpolated to equal gaps")
    return True


def _missing(gap: float, usual: float, tolerance: float) -> str:
    """How many slices would fill a gap, where a whole number does."""
    count = round(gap / usual) - 1
    if count < 1 or abs(gap - (count + 1) * usual) > (count + 1) * tolerance:
        return ""
    return f" ({count} slice{'s' if count > 1 else ''} missing)"


def check_tilt(geometry: Geometry, report: VolumeReport, *, tilt: str, header_degrees: float) -> bool:
    """Look whether the slices stand upright above each other, and note it.

    Args:
        geometry: of the stack.
        report: gets the check "gantry tilt".
        tilt: "correct" or "refuse".
        header_degrees: GantryDetectorTilt, 0 where absent.

    Returns:
        Whether the stack has to be made upright.
    """
    span = geometry.heights - geometry.heights[0]
    line = np.outer(span / span[-1], geometry.drift[-1])  # (N, 2): where a steady tilt puts the slices
    if (np.abs(geometry.drift - line) > 0.5 * np.array(geometry.pixel_mm)).any():
        off = float(np.abs(geometry.drift - line).max())
        report.note("gantry tilt", "refused", f"slices are shifted sideways against each other by up to {off:.3g} mm")
        return False
    degrees = geometry.tilt_degrees
    if not geometry.is_tilted:
        if abs(header_degrees) > 0.5:
            detail = f"the header says {header_degrees:g} degrees, the positions stand upright: taken as corrected"
            report.note("gantry tilt", "warned", detail)
        else:
            report.note("gantry tilt", "passed", "none")
        return False
    if tilt == "refuse":
        remedy = "pass tilt='correct' to shift the slices upright"
        report.note("gantry tilt", "refused", f"{degrees:.1f} degrees; {remedy}")
        return False
    report.note("gantry tilt", "corrected", f"{degrees:.1f} degrees; slices shifted in their planes, interpolated")
    return True


def untilt(array: np.ndarray, geometry: Geometry, *, fill: float, order: int = 1) -> tuple[np.ndarray, tuple[int, int]]:
    """Shift each slice in its plane so that they stand upright above each other.

    Args:
        array: (columns, rows, slices).
        geometry: of these slices.
        fill: value outside of the slices.
        order: 1 is linear in between, 0 takes the nearest pixel, as masks need it.

    Returns:
        Float32 (columns + c, rows + r, slices), large enough for all slices; and the column and row, in pixels of the
        first slice, where it begins.
    """
    moves = geometry.drift / np.array(geometry.pixel_mm)  # (N, 2) in pixels
    low, high = np.floor(moves.min(axis=0) + 1e-6).astype(int), np.ceil(moves.max(axis=0) - 1e-6).astype(int)
    columns, rows, count = array.shape
    canvas = np.full((columns + high[0] - low[0], rows + high[1] - low[1]), fill, dtype=np.float32)
    upright = np.empty((*canvas.shape, count), dtype=np.float32)
    for k in range(count):
        canvas[:] = fill
        canvas[-low[0] : columns - low[0], -low[1] : rows - low[1]] = array[:, :, k]
        shift(canvas, moves[k], order=order, mode="constant", cval=fill, output=upright[:, :, k])
    return upright, (int(low[0]), int(low[1]))


def even_out(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, float]:
    """Interpolate linearly between slices so that all gaps are equal.

    Args:
        array: (columns, rows, slices).
        geometry: of these slices.

    Returns:
        Float32 (columns, rows, slices'), the first and the last slice unmoved, and the gap in mm, as near to the usual
        one as that allows.
    """
    usual = float(np.median(geometry.gaps))
    places = geometry.heights - geometry.heights[0]  # from here on distances of planes count
    count = round(places[-1] / usual) + 1
    wanted = np.linspace(0, places[-1], count)
    above = np.clip(np.searchsorted(places, wanted, side="right"), 1, len(places) - 1)
    share = ((wanted - places[above - 1]) / (places[above] - places[above - 1])).astype(np.float32)
    even = np.empty((*array.shape[:2], count), dtype=np.float32)
    for k in range(count):
        even[:, :, k] = (1 - share[k]) * array[:, :, above[k] - 1] + share[k] * array[:, :, above[k]]
    return even, float(wanted[1])
