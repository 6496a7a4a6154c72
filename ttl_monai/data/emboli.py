"""Synthetic emboli: filling defects made in the arteries of one real CT angiography, at places that sections share out.

Artificial, of one patient: they show that a training works, and say nothing about patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.ndimage import affine_transform, distance_transform_edt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from sklearn.cluster import KMeans

from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.phantom_ct import EMBOLUS_HU, CtScan, positive_slices

__all__ = ["Blob", "Site", "check_apart", "draw_scan", "partition_arteries", "surroundings", "vessels_beside"]

DIAMETERS_MM = (8.0, 16.0)
EDGE_MM = 2.0  # over which a blob fades out, as partial volume does
_TRIES = 30  # places that one shape is tried at
_SHAPES = 100  # shapes that are tried before a site counts as too small
# How scans differ, as ranges that are drawn from uniformly.
_GAIN, _SCALE, _NOISE_HU = (0.75, 1.1), (0.94, 1.06), (10, 30)
_SHIFT_MM = (6.0, 4.0, 4.0)
_GAIN_FROM_HU = 100.0  # above it is contrast medium


@dataclass(frozen=True)
class Blob:
    """An ellipsoid of one density with a soft edge. All along slices, rows and columns.

    Attributes:
        centre_mm: from the first voxel's middle.
        half_axes_mm: to where it covers half of a voxel.
        rotation: 3 x 3, of its axes.
        hu: density.
    """

    centre_mm: np.ndarray
    half_axes_mm: np.ndarray
    rotation: np.ndarray
    hu: float

    def cover(
        self, shape: Sequence[int], spacing_mm: Sequence[float] | np.ndarray
    ) -> tuple[tuple[slice, ...], np.ndarray]:
        """How much of each voxel it covers.

        Args:
            shape: of the volume.
            spacing_mm: of the volume.

        Returns:
            A box of the volume, and the cover of its voxels, 1 inside and 0 outside.
        """
        reach = self.half_axes_mm.max() + EDGE_MM
        low = np.maximum(np.floor((self.centre_mm - reach) / spacing_mm), 0).astype(int)
        high = np.minimum(np.ceil((self.centre_mm + reach) / spacing_mm) + 1, shape).astype(int)
        box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        grid = np.moveaxis(np.mgrid[box] * np.reshape(spacing_mm, (3, 1, 1, 1)), 0, -1)  # (K, J, I, 3)
        radius = np.linalg.norm((grid - self.centre_mm) @ self.rotation / self.half_axes_mm, axis=-1)
        return box, np.clip((1 - radius) * self.half_axes_mm.min() / EDGE_MM + 0.5, 0, 1)


class Site:
    """Where blobs may lie: they stay inside of it whole, their soft edges included.

    Args:
        inside: bool (slices, rows, columns).
        spacing_mm: distances of slices, rows and columns.
        near: where their middles may lie, of the same shape; None: anywhere inside.
    """

    def __init__(self, inside: np.ndarray, spacing_mm: Sequence[float], near: np.ndarray | None = None) -> None:
        self.inside, self.spacing_mm = inside, np.asarray(spacing_mm, dtype=float)
        room = distance_transform_edt(inside, sampling=self.spacing_mm)
        self.centres = np.argwhere((room >= DIAMETERS_MM[0] / 2) & (True if near is None else near))

    def place(self, rng: np.random.Generator, diameters_mm: tuple[float, float] = DIAMETERS_MM) -> Blob:
        """Draw a blob: round or up to twice as long as wide, its diameters in these limits, turned at random.

        Raises:
            ValueError: the site has no room.
        """
        low, high = diameters_mm
        for _ in range(_SHAPES if len(self.centres) else 0):
            longest = rng.uniform(low, high)
            axes = np.array([longest, *rng.uniform(max(low, longest / 2), longest, 2)]) / 2
            rotation, hu = Rotation.random(random_state=rng).as_matrix(), rng.uniform(*EMBOLUS_HU)
            for centre in rng.choice(self.centres, _TRIES):
                blob = Blob((centre + rng.uniform(-0.5, 0.5, 3)) * self.spacing_mm, axes, rotation, float(hu))
                box, cover = blob.cover(self.inside.shape, self.spacing_mm)
                if self.inside[box][cover > 0].all():
                    return blob
        raise ValueError(
            f"no place was found for a blob of {low:g} to {high:g} mm and its edge among {int(self.inside.sum())} "
            "voxels; take smaller diameters, fewer blocks, or a smaller margin"
        )


def partition_arteries(
    arteries: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    blocks: Mapping[str, int],
    margin_mm: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Share the arteries out among the sections, in compact blocks (k-means on the places of the voxels).

    Voxels less than `margin_mm` from another section's blocks belong to none.

    Args:
        arteries: bool (slices, rows, columns).
        spacing_mm: distances of slices, rows and columns.
        blocks: number of blocks of each section.
        margin_mm: least distance of sections.
        seed: decides the blocks and whose they are.

    Returns:
        The part of each section, bool (slices, rows, columns).

    Raises:
        ValueError: other than the three sections, or a section with nothing left.
    """
    if set(blocks) != set(SECTIONS) or min(blocks.values()) < 1:
        raise ValueError(f"blocks must be a number, at least 1, for each of {', '.join(SECTIONS)}, got {dict(blocks)}")
    places = np.argwhere(arteries) * np.asarray(spacing_mm)
    count = sum(blocks.values())
    if len(places) < count:
        raise ValueError(f"expected arteries of at least {count} voxels, one a block, got {len(places)}")
    owners = np.random.default_rng(seed).permutation([section for section in SECTIONS for _ in range(blocks[section])])
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(places)
    parts = {}
    for section in SECTIONS:
        own = owners[found] == section
        parts[section] = np.zeros(arteries.shape, dtype=bool)
        parts[section][tuple(np.argwhere(arteries)[own][_away(places[own], places[~own]) >= margin_mm].T)] = True
    if empty := [section for section, part in parts.items() if not part.any()]:
        raise ValueError(f"nothing is left for {', '.join(empty)} with margins of {margin_mm:g} mm; take fewer blocks")
    check_apart(parts, spacing_mm, margin_mm)
    return parts


def check_apart(parts: Mapping[str, np.ndarray], spacing_mm: Sequence[float], margin_mm: float) -> None:
    """Raise where two parts lie nearer to each other than the margin.

    Args:
        parts: bool (slices, rows, columns) each.
        spacing_mm: distances of slices, rows and columns.
        margin_mm: least distance of the middles of their voxels.

    Raises:
        ValueError: with the two nearest parts and their distance.
    """
    places = {name: np.argwhere(part) * np.asarray(spacing_mm) for name, part in parts.items()}
    gaps = {pair: float(_away(*(places[name] for name in pair)).min()) for pair in combinations(places, 2)}
    pair = min(gaps, key=lambda each: gaps[each])
    if gaps[pair] < margin_mm:
        raise ValueError(
            f"expected parts at least {margin_mm:g} mm apart, but {' and '.join(pair)} are {gaps[pair]:.2f} mm apart"
        )


def _away(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far each place (N, 3) lies from the nearest of the others (M, 3)."""
    return np.asarray(cKDTree(others).query(places)[0])


def surroundings(hu: np.ndarray, arteries: np.ndarray, spacing_mm: Sequence[float]) -> Site:
    """Soft tissue and lung within 15 mm of the arteries, where blobs are no filling defects.

    Args:
        hu: (slices, rows, columns).
        arteries: bool, of the same shape.
        spacing_mm: distances of slices, rows and columns.
    """
    away = distance_transform_edt(~arteries, sampling=spacing_mm)
    return Site((away > EDGE_MM) & (hu < _GAIN_FROM_HU), spacing_mm, away < 15)


def vessels_beside(hu: np.ndarray, arteries: np.ndarray, spacing_mm: Sequence[float]) -> Site:
    """What else is full of contrast medium within 30 mm of the arteries (veins, heart, aorta): defects, but elsewhere.

    Args:
        hu: (slices, rows, columns).
        arteries: bool, of the same shape.
        spacing_mm: distances of slices, rows and columns.
    """
    away = distance_transform_edt(~arteries, sampling=spacing_mm)
    return Site((away > 2 * EDGE_MM) & (hu > 300), spacing_mm, away < 30)


def draw_scan(
    hu: np.ndarray,
    arteries: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    emboli: Sequence[Blob],
    others: Sequence[Blob],
    shape: Sequence[int],
    seed: int | tuple[int, ...],
    noise: bool = True,
) -> CtScan:
    """A new scan of the same chest, with blobs in it.

    Contrast, in-plane size, place and noise vary with the seed alone: scans drawn with and without `emboli` differ in
    these only.

    Args:
        hu: the real scan (slices, rows, columns).
        arteries: bool, of the same shape.
        spacing_mm: distances of slices, rows and columns.
        emboli: blobs inside of the arteries.
        others: blobs outside of them.
        shape: slices, rows and columns of the result, about the middle of the arteries.
        seed: decides the variation.
        noise: whether to add noise.

    Returns:
        The scan, with the masks of arteries and emboli and the numbers of the slices that show one.
    """
    rng = np.random.default_rng(seed)
    canvas = hu.astype(np.float32)
    canvas += np.maximum(canvas - _GAIN_FROM_HU, 0) * np.float32(rng.uniform(*_GAIN) - 1)
    shown = np.zeros(hu.shape, dtype=np.float32)
    for blob in (*emboli, *others):
        box, cover = blob.cover(hu.shape, spacing_mm)
        canvas[box] += cover * (blob.hu - canvas[box])
    for blob in emboli:
        box, cover = blob.cover(hu.shape, spacing_mm)
        shown[box] = np.maximum(shown[box], cover)
    places = np.argwhere(arteries)
    zoom = np.array([1.0, *np.repeat(rng.uniform(*_SCALE), 2)])
    middle = (places.min(axis=0) + places.max(axis=0)) / 2 + rng.uniform(-1, 1, 3) * _SHIFT_MM / np.asarray(spacing_mm)
    offset = middle - (np.asarray(shape) - 1) / 2 / zoom
    canvas, shown, inside = (
        affine_transform(each, 1 / zoom, offset, output_shape=tuple(shape), order=1, mode="nearest")
        for each in (canvas, shown, arteries.astype(np.float32))
    )
    if noise:
        canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(*_NOISE_HU))
    return CtScan(
        hu=np.clip(np.rint(canvas), -1024, 3071).astype(np.int16),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        emboli=shown > 0.5,
        arteries=inside > 0.5,
        slices=positive_slices(shown > 0.5),
    )
