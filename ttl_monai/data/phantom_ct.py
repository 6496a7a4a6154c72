"""The scan of the 3D phantom: a made CT pulmonary angiography, with or without emboli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["EMBOLUS_HU", "FIELD_MM", "CtScan", "draw_ct", "positive_slices"]

# Height, depth and width of what the scan shows.
FIELD_MM = (240.0, 346.0, 346.0)
_ARTERY_HU, EMBOLUS_HU, _NODE_HU = (300, 500), (30, 80), (20, 80)
_NOISE_HU = (10, 30)
_MIN_POSITIVE_SLICES = 4  # a positive window of the PENet protocol has as many
_MIN_VOXELS = 2  # of an embolus in a slice that counts as positive

# In mm from the middle, along left, posterior and superior (LPS).
_TRUNK, _FORK = (8, -38, -28), (0, -12, 0)
_MAINS = (
    # main artery's end and radius; lower and upper artery's end and radius
    ((-42, 6, -4), 11.0, (-56, 14, -48), 8.5, (-58, -6, 46), 6.5),
    ((38, 10, 6), 10.5, (54, 20, -44), 8.0, (52, -10, 50), 6.5),
)


@dataclass(frozen=True)
class CtScan:
    """One made scan. Axes: slices from feet to head, rows from front to back, columns from right to left.

    Attributes:
        hu: int16 (slices, rows, columns).
        spacing_mm: distances of slices, rows and columns.
        emboli: bool (slices, rows, columns); empty in negative scans.
        arteries: bool (slices, rows, columns), emboli included.
        slices: numbers of the slices that show an embolus, ascending.
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    emboli: np.ndarray
    arteries: np.ndarray
    slices: tuple[int, ...]


@dataclass(frozen=True)
class _Tube:
    """A piece of vessel between two points, with its radius at both ends; all in mm."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    end_radius: float


def draw_ct(
    seed: int | tuple[int, ...],
    *,
    positive: bool,
    number: int = 0,
    shape: tuple[int, int, int] = (48, 96, 96),
    clots: tuple[int, int] = (3, 5),
    smallest_mm: float = 4.5,
) -> CtScan:
    """Draw one scan of a patient.

    Lungs, mediastinum, heart, aorta, spine and ribs; a branching tree of arteries full of contrast medium (300 to 500
    HU); lymph nodes beside the large ones, as dark as clot but outside. A positive scan has emboli, filling defects of
    30 to 80 HU inside of arteries. Scans drawn from equal arguments but `positive` differ in these only.

    Args:
        seed: decides the patient.
        positive: whether there are emboli.
        number: of the scan among those of the patient; decides position, contrast, noise and places of the emboli.
        shape: slices, rows and columns; the field of view stays.
        clots: fewest and most of them in a positive scan; there are more where too few slices would show one.
        smallest_mm: radius of the smallest arteries with clots, at most 8.

    Returns:
        The scan with its masks.

    Raises:
        ValueError: a shape too coarse for arteries to show, or clots that are out of range.
    """
    if shape[0] < 24 or min(shape[1:]) < 64:
        raise ValueError(f"shape must be at least 24 x 64 x 64 voxels for arteries to show, got {shape}")
    if not 1 <= clots[0] <= clots[1]:
        raise ValueError(f"clots must be the fewest and the most, each at least 1, got {clots}")
    if not 0 <= smallest_mm <= 8:
        raise ValueError(f"smallest_mm must be from 0 to 8, the radius of arteries that all have, got {smallest_mm}")
    rng = np.random.default_rng(seed)
    scan_rng, clot_rng = (np.random.default_rng((*np.atleast_1d(seed), number, part)) for part in range(2))
    canvas = _Canvas(shape, shift=scan_rng.uniform(-6, 6, 3), scale=rng.uniform(0.92, 1.06))
    _draw_chest(canvas, rng)
    tree = _grow_arteries(rng)
    arteries = canvas.mask(tree)
    canvas.paint(arteries, scan_rng.uniform(*_ARTERY_HU))
    large = [tube for tube in tree if tube.radius > 6]
    for _ in range(rng.integers(1, 4)):
        tube = large[rng.integers(len(large))]
        beside = tube.start + (tube.radius + 5) * _unit(rng.standard_normal(3))
        node = canvas.mask([_Tube(beside, beside + rng.uniform(2, 8, 3), rng.uniform(3, 5), 3)])
        canvas.paint(node * (1 - arteries), rng.uniform(*_NODE_HU))
    emboli = np.zeros(shape, dtype=np.float32)
    if positive:
        wide = [tube for tube in tree[1:] if tube.end_radius >= smallest_mm]
        emboli = _draw_emboli(canvas, wide, arteries, clot_rng, clots)
    canvas.paint(emboli, clot_rng.uniform(*EMBOLUS_HU))
    noise = gaussian_filter(scan_rng.standard_normal(shape, dtype=np.float32), 0.6)
    canvas.hu += noise * np.float32(scan_rng.uniform(*_NOISE_HU) / noise.std())
    shown = emboli > 0.5
    return CtScan(
        hu=np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16),
        spacing_mm=canvas.spacing_mm,
        emboli=shown,
        arteries=arteries > 0.5,
        slices=positive_slices(shown),
    )


class _Canvas:
    """A volume that shapes are painted onto, and the place of its voxels in the body."""

    def __init__(self, shape: tuple[int, int, int], *, shift: np.ndarray, scale: float) -> None:
        dz, dy, dx = (round(field / n, 4) for field, n in zip(FIELD_MM, shape, strict=True))
        self.spacing_mm = (dz, dy, dx)
        self.hu = np.full(shape, -1000, dtype=np.float32)
        # Shapes that broadcast: slices along the first axis, rows along the second, columns along the third.
        axes = [
            ((np.arange(n) - (n - 1) / 2) * mm).astype(np.float32) for n, mm in zip(shape, self.spacing_mm, strict=True)
        ]
        self.z, self.y, self.x = np.ix_(*axes)
        self.z, self.y, self.x = (
            (axis - np.float32(move)) / np.float32(scale)
            for axis, move in zip((self.z, self.y, self.x), shift, strict=True)
        )

    def paint(self, cover: np.ndarray, hu: float) -> None:
        """Mix a tissue in where it covers the voxels."""
        self.hu += cover * (np.float32(hu) - self.hu)

    def ellipsoid(self, centre: tuple[float, ...], axes: tuple[float, ...]) -> np.ndarray:
        """How much of each voxel it covers; centre and half axes along x, y, z in mm."""
        x, y, z = ((g - c) / a for g, c, a in zip((self.x, self.y, self.z), centre, axes, strict=True))
        inside = (1 - np.sqrt(x**2 + y**2 + z**2)) * min(axes)
        return np.clip(inside / self.spacing_mm[2] + 0.5, 0, 1)

    def mask(self, tubes: list[_Tube]) -> np.ndarray:
        """How much of each voxel tubes cover."""
        cover = np.zeros(self.hu.shape, dtype=np.float32)
        for tube in tubes:
            reach = max(tube.radius, tube.end_radius) + self.spacing_mm[0]
            low, high = np.minimum(tube.start, tube.end) - reach, np.maximum(tube.start, tube.end) + reach
            box = tuple(
                slice(*np.searchsorted(axis.ravel(), (low[i], high[i])))
                for axis, i in ((self.z, 2), (self.y, 1), (self.x, 0))
            )
            x, y, z = self.x[:, :, box[2]], self.y[:, box[1]], self.z[box[0]]
            cover[box] = np.maximum(cover[box], self._tube_cover(tube, x, y, z))
        return cover

    def _tube_cover(self, tube: _Tube, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        way = tube.end - tube.start
        away = [grid - np.float32(start) for grid, start in zip((x, y, z), tube.start, strict=True)]
        along = sum(a * np.float32(w) for a, w in zip(away, way, strict=True)) / np.float32(way @ way)
        along = np.clip(along, 0, 1)
        off = np.sqrt(sum((a - along * np.float32(w)) ** 2 for a, w in zip(away, way, strict=True)))
        radius = tube.radius + along * np.float32(tube.end_radius - tube.radius)
        return np.clip((radius - off) / self.spacing_mm[2] + 0.5, 0, 1)


def _chain(points: Sequence[tuple[float, float, float]], radius: float) -> list[_Tube]:
    """Tubes of one radius from point to point."""
    places = [np.array(point, dtype=float) for point in points]
    return [_Tube(start, end, radius, radius) for start, end in pairwise(places)]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _draw_chest(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Everything but the arteries."""
    trunk = 1.5e3  # the body leaves the field at both ends
    canvas.paint(canvas.ellipsoid((0, 0, 0), (158, 112, trunk)), -90)
    canvas.paint(canvas.ellipsoid((0, 0, 0), (148, 102, trunk)), 45)
    lungs = np.maximum(*(canvas.ellipsoid((side * 68, 0, 5), (54, 80, 125)) for side in (-1, 1)))
    gradient = np.float32(rng.uniform(0.2, 0.6)) * canvas.y  # the lower part of a lying patient is denser
    canvas.hu += lungs * (np.float32(rng.uniform(-870, -800)) + gradient - canvas.hu)
    canvas.paint(canvas.ellipsoid((0, 5, 0), (30, 75, trunk)), rng.uniform(20, 50))
    blood = rng.uniform(150, 400)
    canvas.paint(canvas.ellipsoid((22, -28, -75), (58, 42, 48)), rng.uniform(150, 300))  # heart
    aorta = [(-8, -25, -20), (-14, -25, 35), (8, 10, 58), (22, 48, 45), (22, 48, -150)]
    canvas.paint(canvas.mask(_chain(aorta, 13)), blood)
    canvas.paint(canvas.mask(_chain([(-26, -18, -30), (-26, -18, 130)], 8)), rng.uniform(300, 700))  # vena cava
    canvas.paint(canvas.mask(_chain([(0, 18, 25), (0, 20, 130)], 8)), -950)  # trachea
    canvas.paint(canvas.ellipsoid((0, 75, 0), (19, 17, trunk)), 220)
    phase = rng.uniform(0, 24)
    cage = canvas.ellipsoid((0, 0, 0), (136, 96, trunk)) - canvas.ellipsoid((0, 0, 0), (124, 86, trunk))
    bars = np.abs(np.mod(canvas.z + 0.35 * canvas.y + np.float32(phase), 24) - 12) < 5
    canvas.paint(np.clip(cage, 0, 1) * bars, 350)


def _grow_arteries(rng: np.random.Generator) -> list[_Tube]:
    """The tree: trunk, both main arteries, lower and upper ones, and three generations of branches."""

    def near(point: tuple[float, float, float]) -> np.ndarray:
        return np.array(point, dtype=float) + rng.uniform(-4, 4, 3)

    fork = near(_FORK)
    tree = [_Tube(near(_TRUNK), fork, 14, 13)]
    for end, radius, lower, lower_radius, upper, upper_radius in _MAINS:
        hilum = near(end)
        tree.append(_Tube(fork, hilum, radius, radius - 1))
        for tip, tip_radius in ((lower, lower_radius), (upper, upper_radius)):
            tree.append(_Tube(hilum, near(tip), tip_radius, 0.8 * tip_radius))
            tree += _branches(tree[-1], np.sign(end[0]), rng, generations=3)
    return tree


def _branches(parent: _Tube, side: float, rng: np.random.Generator, *, generations: int) -> list[_Tube]:
    """Two or three branches at the end of a tube, each with its own, outwards."""
    if generations == 0:
        return []
    way, grown = _unit(parent.end - parent.start), []
    for _ in range(rng.integers(2, 4)):
        direction = _unit(way + 0.9 * _unit(rng.standard_normal(3)) + np.array([0.35 * side, 0, 0]))
        radius = parent.end_radius * rng.uniform(0.6, 0.8)
        tube = _Tube(parent.end, parent.end + direction * rng.uniform(14, 30), radius, 0.8 * radius)
        grown += [tube, *_branches(tube, side, rng, generations=generations - 1)]
    return grown


def _draw_emboli(
    canvas: _Canvas, wide: list[_Tube], arteries: np.ndarray, rng: np.random.Generator, clots: tuple[int, int]
) -> np.ndarray:
    """Clots along some of these arteries, until enough slices show one; how much of each voxel they cover."""
    emboli = np.zeros_like(arteries)
    wanted = int(rng.integers(clots[0], clots[1] + 1))
    number = 0
    while number < wanted or len(positive_slices(emboli > 0.5)) < _MIN_POSITIVE_SLICES:
        tube = wide[rng.integers(len(wide))]
        first, last = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
        aside = 0.25 * tube.end_radius * _unit(rng.standard_normal(3))
        start, end = (tube.start + share * (tube.end - tube.start) + aside for share in (first, last))
        width = rng.uniform(0.6, 0.85)
        clot = canvas.mask([_Tube(start, end, width * tube.radius, width * tube.end_radius)])
        emboli = np.maximum(emboli, np.minimum(clot, arteries))
        number += 1
    return emboli


def positive_slices(emboli: np.ndarray) -> tuple[int, ...]:
    """Numbers of the slices that show enough of an embolus to count as positive."""
    return tuple(int(k) for k in np.flatnonzero(emboli.sum(axis=(1, 2)) >= _MIN_VOXELS))
