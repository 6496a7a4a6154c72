"""The picture of the tissue phantom: nuclei, fibres and gaps as amounts of two dyes, shown by the law of absorption."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

CLASS_NAMES = ["lymphoid", "tumour", "mitosis"]
# Absorption of red, green and blue by haematoxylin and eosin: Macenko et al., ISBI 2009, doi 10.1109/ISBI.2009.5193250.
_HAEMATOXYLIN, _EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)
_SPACING = {"lymphoid": 13.5, "tumour": 25.0}  # pixels between nuclei, so that both classes hold as much dye
_RADIUS = {"lymphoid": (3.6, 5.0), "tumour": (7.0, 11.5)}


@dataclass(frozen=True)
class Stain:
    """How a patient's slide was stained and scanned, the same in all patches.

    Attributes:
        vectors: absorption of red, green and blue by a unit of haematoxylin and of eosin, shape (2, 3).
        strength: factors on the amounts of both.
        light: red, green and blue of the empty slide, in [0, 1].
        blur: of the scanner, sigma in pixels.
    """

    vectors: np.ndarray
    strength: tuple[float, float]
    light: tuple[float, float, float]
    blur: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Stain:
        """A slide at random."""
        vectors = np.array([_HAEMATOXYLIN, _EOSIN]) + rng.normal(0, 0.035, (2, 3))
        strength = (float(rng.uniform(0.8, 1.3)), float(rng.uniform(0.7, 1.4)))
        red, green, blue = (float(value) for value in rng.uniform(0.92, 0.99, 3))
        return cls(vectors.clip(0.02), strength, (red, green, blue), float(rng.uniform(0.5, 0.9)))

    def show(self, haematoxylin: np.ndarray, eosin: np.ndarray) -> np.ndarray:
        """The picture of amounts of dye, (H, W) each, by Beer and Lambert's law: (H, W, 3) in [0, 1]."""
        dyes = np.stack([haematoxylin * self.strength[0], eosin * self.strength[1]], axis=-1)  # (H, W, 2)
        return self.light * np.exp(-dyes @ self.vectors)


def draw_tissue(stain: Stain, rng: np.random.Generator, *, label: int, size: int) -> np.ndarray:
    """Draw one patch.

    Dividing cells are ragged dark plates without a rim in a cleared cell. Dead cells, which are as dark but round and
    smooth, lie in all classes, so that darkness alone tells nothing; nor does the mean colour, which is the slide's.

    Args:
        stain: the patient's slide.
        rng: decides places, shapes and noise.
        label: index in `CLASS_NAMES`.
        size: height and width in pixels.

    Returns:
        RGB, uint8, (size, size, 3).

    Raises:
        ValueError: a patch too small to hold a few nuclei.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels for the nuclei to show, got {size}")
    kind = CLASS_NAMES[min(label, 1)]
    chromatin = _noise(rng, size, 1.2)
    eosin = 0.5 + 0.1 * _noise(rng, size, 12) + 0.08 * _fibres(rng, size)
    haematoxylin = 0.18 + 0.04 * _noise(rng, size, 6) + 0.03 * chromatin
    gap = _step((_noise(rng, size, 9) - rng.uniform(1.6, 2.6)) * 4)  # where the section is torn or empty
    places = _places(rng, size, _SPACING[kind])
    order = rng.permutation(len(places))
    inner = [k for k in order if np.all((places[k] > 14) & (places[k] < size - 14)) and gap[_pixel(places[k])] < 0.3]
    dividing = inner[: int(rng.integers(1, 4))] if CLASS_NAMES[label] == "mitosis" else []
    dead = inner[len(dividing) : len(dividing) + int(rng.integers(0, 5))]
    for k in order:
        if gap[_pixel(places[k])] > 0.5:
            continue
        if k in dividing:
            _draw_division(haematoxylin, eosin, places[k], rng)
        elif k in dead:
            _draw_dead(haematoxylin, eosin, places[k], rng)
        else:
            _draw_nucleus(haematoxylin, chromatin, places[k], rng, kind)
    tissue = 1 - gap
    image = stain.show(*(np.clip(dye, 0, 2.6) * tissue for dye in (haematoxylin, eosin)))
    image = gaussian_filter(image, (stain.blur, stain.blur, 0)) + rng.normal(0, 0.012, image.shape)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _noise(rng: np.random.Generator, size: int, sigma: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1, (size, size)."""
    noise = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _fibres(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wavy fibres in one direction: fine noise looked up along bent lines."""
    rows, columns = np.indices((size, size))
    angle = rng.uniform(0, math.pi)
    across = rows * math.cos(angle) + columns * math.sin(angle) + 4 * _noise(rng, size, 14)
    profile = gaussian_filter(rng.standard_normal(1024), 1.3, mode="wrap")
    return np.interp(across % 1024, np.arange(1024), profile / profile.std())


def _step(value: np.ndarray) -> np.ndarray:
    """0 below -1/2, 1 above 1/2, smooth between."""
    step = np.clip(value + 0.5, 0, 1)
    return step * step * (3 - 2 * step)


def _places(rng: np.random.Generator, size: int, spacing: float) -> np.ndarray:
    """Middles of nuclei, (N, 2) rows and columns: a turned hexagonal lattice, shaken and with holes."""
    count = int(1.5 * size / spacing) + 2
    i, j = np.meshgrid(np.arange(-count, count), np.arange(-count, count))
    lattice = np.stack([(i + j / 2).ravel(), (j * math.sqrt(3) / 2).ravel()], axis=1)
    lattice = (lattice + rng.normal(0, 0.16, lattice.shape)) * spacing
    angle = rng.uniform(0, math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    places = lattice @ turn + size / 2 + rng.uniform(-spacing, spacing, 2)
    inside = np.all((places > 0) & (places < size - 1), axis=1) & (rng.random(len(places)) > 0.12)
    return places[inside]


def _pixel(place: np.ndarray) -> tuple[int, int]:
    return int(place[0]), int(place[1])


def _window(
    shape: tuple[int, ...], place: np.ndarray, reach: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The part of a picture near a place, and the distances of its pixels from the place: down and right."""
    low = [max(0, math.floor(value - reach)) for value in place]
    high = [min(full, math.ceil(value + reach) + 1) for full, value in zip(shape, place, strict=True)]
    down, right = np.ogrid[low[0] : high[0], low[1] : high[1]]
    return (slice(low[0], high[0]), slice(low[1], high[1])), down - place[0], right - place[1]


def _depth(
    down: np.ndarray, right: np.ndarray, rng: np.random.Generator, radii: tuple[float, float], ragged: float, waves: int
) -> np.ndarray:
    """About the distance to the rim of a turned ellipse in pixels, positive inside, its rim bent by some waves."""
    angle = rng.uniform(0, 2 * math.pi)
    along = (down * math.cos(angle) + right * math.sin(angle)) / radii[0]
    aside = (right * math.cos(angle) - down * math.sin(angle)) / radii[1]
    around = np.arctan2(aside, along)
    rim = 1 + sum(rng.normal(0, ragged) * np.cos(k * around + rng.uniform(0, 7)) for k in range(2, 2 + waves))
    return (rim - np.hypot(along, aside)) * min(radii)


def _draw_nucleus(
    haematoxylin: np.ndarray, chromatin: np.ndarray, place: np.ndarray, rng: np.random.Generator, kind: str
) -> None:
    radius = rng.uniform(*_RADIUS[kind])
    window, down, right = _window(haematoxylin.shape, place, 1.7 * radius)
    depth = _depth(down, right, rng, (radius * rng.uniform(1, 1.25), radius * rng.uniform(0.8, 1)), 0.05, 2)
    clumps = chromatin[window]
    if kind == "lymphoid":
        dye = 1.35 + rng.normal(0, 0.12) + 0.2 * clumps
    else:  # pale inside, with a rim and a nucleolus
        dye = 0.95 + rng.normal(0, 0.15) + 0.16 * clumps + 0.45 * np.exp(-((depth / 1.3) ** 2))
        off = rng.normal(0, 0.22 * radius, 2)
        dye = dye + 0.7 * np.exp(-((down - off[0]) ** 2 + (right - off[1]) ** 2) / 2.6)
    cover = _step(depth / 1.6)
    haematoxylin[window] = haematoxylin[window] * (1 - cover) + dye * cover


def _draw_division(haematoxylin: np.ndarray, eosin: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> None:
    """A plate seen from its side, two plates that part, or a plate seen from above, in a cell that is cleared."""
    radius = rng.uniform(6.5, 10)
    window, down, right = _window(haematoxylin.shape, place, 2 * radius)
    cleared = rng.uniform(0.1, 0.6) * _step((1.35 * radius - np.hypot(down, right)) / 3)
    haematoxylin[window] *= 1 - cleared
    eosin[window] *= 1 - 0.7 * cleared
    phase = rng.integers(3)
    radii = ((radius * 0.85, radius * 0.3), (radius * 0.75, radius * 0.22), (radius * 0.7, radius * 0.6))[phase]
    angle, apart = rng.uniform(0, 2 * math.pi), 0.55 * radius if phase == 1 else 0.0
    for side in (-1, 1) if phase == 1 else (0,):
        off = side * apart * np.array([math.cos(angle), math.sin(angle)])
        turned = (down - off[0]) * math.cos(angle) + (right - off[1]) * math.sin(angle)
        aside = (right - off[1]) * math.cos(angle) - (down - off[0]) * math.sin(angle)
        # The short axis of both plates lies on the line that joins them; the rim is ragged.
        around = np.arctan2(turned / radii[1], aside / radii[0])
        rim = 1 + sum(rng.normal(0, 0.09) * np.cos(k * around + rng.uniform(0, 7)) for k in range(3, 11))
        depth = (rim - np.hypot(aside / radii[0], turned / radii[1])) * radii[1]
        cover = _step(depth / 1.2)
        haematoxylin[window] = haematoxylin[window] * (1 - cover) + rng.uniform(1.8, 2.4) * cover


def _draw_dead(haematoxylin: np.ndarray, eosin: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> None:
    """A shrunken nucleus, round, smooth and as dark as a dividing one, in a cell that is red."""
    radius = rng.uniform(3.2, 4.6)
    window, down, right = _window(haematoxylin.shape, place, 3 * radius)
    eosin[window] += 0.35 * _step((2 * radius - np.hypot(down, right)) / 2)
    cover = _step(_depth(down, right, rng, (radius, radius * rng.uniform(0.85, 1)), 0.02, 2) / 1.4)
    haematoxylin[window] = haematoxylin[window] * (1 - cover) + rng.uniform(1.8, 2.4) * cover
