"""The picture of the phantom: a made chest x-ray, drawn from shapes and noise, with or without a finding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq
from scipy.ndimage import map_coordinates

# Lengths are in half short sides of the picture: the whole short side is 2.
_TEXTURE_WAVELENGTH = 0.075
_TEXTURE_CONTRAST = (0.03, 0.11)
_NOISE = (0.008, 0.025)


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in all x-rays of a patient. Lengths in half short sides of the picture.

    Attributes:
        width: factor on the width of the chest.
        height: factor on the height of the lungs.
        body: half width of the body below the shoulders.
        thickness: how much the soft tissue darkens the beam.
        heart: factor on the size of the heart.
        domes: heights of the right and the left diaphragm.
        rib_spacing: distance of the ribs.
        rib_start: height of the ribs.
        rib_contrast: brightness of the ribs.
        seed: seed of what has no number here, such as the vessels.
    """

    width: float
    height: float
    body: float
    thickness: float
    heart: float
    domes: tuple[float, float]
    rib_spacing: float
    rib_start: float
    rib_contrast: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """A patient at random."""
        width, height, body, thickness, heart = _uniform(
            rng, (0.9, 1.1), (0.93, 1.07), (0.84, 1.02), (0.85, 1.15), (0.85, 1.2)
        )
        right, lower, spacing, start, contrast = _uniform(
            rng, (0.38, 0.56), (0, 0.08), (0.155, 0.19), (0, 0.19), (0.6, 1.2)
        )
        seed = int(rng.integers(2**32))
        return cls(width, height, body, thickness, heart, (right, right + lower), spacing, start, contrast, seed)


@dataclass(frozen=True)
class ChestXray:
    """One made x-ray.

    Attributes:
        image: float32 (height, width) in [0, 1], dense tissue bright.
        lungs: bool (2, height, width), the right and the left lung as far as they show; the patient's right lung lies
            at the left side of the picture.
        finding: bool (height, width), where the texture of the finding is; empty in negative pictures.
    """

    image: np.ndarray
    lungs: np.ndarray
    finding: np.ndarray


def draw_chest(anatomy: Anatomy, rng: np.random.Generator, *, positive: bool, shape: tuple[int, int]) -> ChestXray:
    """Draw one x-ray of a patient.

    The finding is a fine net of lines in patches of the lungs without a mean of its own: as the paper describes
    (supplement, D), an abnormal texture, local, whatever the shapes around it. Pictures drawn from equal arguments but
    `positive` differ in these patches only.

    Args:
        anatomy: the patient.
        rng: decides position, exposure, noise and place of the finding.
        positive: whether the finding is there.
        shape: height and width in pixels.

    Returns:
        The picture with its masks.

    Raises:
        ValueError: a picture too small to hold the texture.
    """
    if min(shape) < 96:
        raise ValueError(f"shape must be at least 96 x 96 pixels for the texture to show, got {shape}")
    unit = min(shape) / 2
    x, y = _coordinates(shape, rng)
    heart = _heart(x, y, anatomy)
    lungs = _lungs(x, y, heart, anatomy)
    aerated = lungs.sum(axis=0)
    density = _body(x, y, anatomy) * (_tissue(x, y, heart, anatomy) + _bones(x, y, anatomy)) - 0.4 * aerated
    air = aerated > 0
    density[air] += aerated[air] * (_vessels(x[air], y[air], anatomy) + _haze(x[air], y[air], rng))
    texture, window = _texture(lungs, unit, rng)
    gain, offset, noise = _uniform(rng, (0.85, 1.1), (-0.06, 0.06), _NOISE)
    image = gain * (1.1 * density / (0.45 + np.maximum(density, 0))) + offset
    image += noise * rng.standard_normal(shape, dtype=np.float32)
    (contrast,) = _uniform(rng, _TEXTURE_CONTRAST)
    if positive:
        image += contrast * texture
    return ChestXray(image=np.clip(image, 0, 1), lungs=lungs > 0.5, finding=(window > 0.3) & (aerated > 0.5) & positive)


def _uniform(rng: np.random.Generator, *ranges: tuple[float, float]) -> list[float]:
    """One plain float a range (a NumPy float would turn all pictures into float64)."""
    return [float(rng.uniform(low, high)) for low, high in ranges]


def _coordinates(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """X and y of every pixel with 0 in the middle of the chest, in half short sides, for one way to stand."""
    rows, columns = np.meshgrid(*(np.arange(n, dtype=np.float32) - np.float32(n - 1) / 2 for n in shape), indexing="ij")
    angle, zoom, right, down = _uniform(rng, (-0.05, 0.05), (0.95, 1.08), (-0.05, 0.05), (-0.05, 0.05))
    cosine, sine = (2 * zoom / min(shape) * function(angle) for function in (math.cos, math.sin))
    return cosine * columns + sine * rows + right, cosine * rows - sine * columns + down


def _soft(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 where `distance` is well above 0, 0 where it is well below, with a soft step of width `edge`."""
    step = np.clip(distance / (3 * edge) + 0.5, 0, 1)
    return step * step * (3 - 2 * step)


def _ellipse(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """About the distance to the ellipse's rim, positive inside."""
    return min(radii) * 0.5 * (1 - ((x - centre[0]) / radii[0]) ** 2 - ((y - centre[1]) / radii[1]) ** 2)


def _heart(x: np.ndarray, y: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Distance into the shadow of heart, aortic arch and mediastinum."""
    turned = 0.8 * x + 0.6 * (y - 0.3), 0.8 * (y - 0.3) - 0.6 * x
    size = anatomy.heart
    heart = _ellipse(*turned, (0.1, -0.1), (0.34 * size, 0.25 * size))
    arch = _ellipse(x, y, (0.07, -0.27), (0.11, 0.12))
    return np.maximum(np.maximum(heart, arch), 0.115 + 0.03 * np.cos(4 * y) - np.abs(x))


def _lungs(x: np.ndarray, y: np.ndarray, heart: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """How much air shows, (2, height, width) in [0, 1], right and left."""
    u = np.abs(x) / anatomy.width
    side = 0.4 + 0.33 * np.sqrt(np.clip(1 - ((y - 0.35) / 1.12) ** 2, 0, 1))
    apex = -0.72 * anatomy.height + 2.6 * (u - 0.36) ** 2
    dome = (
        np.where(x < 0, np.float32(anatomy.domes[0]), np.float32(anatomy.domes[1]))
        + 1.5 * np.clip(u - 0.36, -0.15, 1) ** 2
    )
    both = np.minimum.reduce([side - u, y - apex, dome - y, -heart])
    return _soft(both, 0.018) * np.stack([x < 0, x >= 0])


def _body(x: np.ndarray, y: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Where the body is, [0, 1]: neck, shoulders that leave the picture, trunk."""
    u = np.abs(x)
    arms = anatomy.body + 1.2 * np.clip(0.1 - y, 0, 1) ** 2
    shoulders = y + 0.86 - 0.35 * np.clip(u - 0.2, 0, 1) ** 1.5
    return np.maximum(_soft(np.minimum(arms - u, shoulders), 0.03), _soft(0.25 - u, 0.04))


def _tissue(x: np.ndarray, y: np.ndarray, heart: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Density of soft tissue, heart and spine as if the lungs held no air."""
    u = np.abs(x)
    depth = 0.6 + 0.15 * np.clip(y, -0.5, 1) - 0.12 * x**2
    spine = _soft(0.085 - u, 0.02) * (0.085 + 0.015 * np.cos(2 * math.pi / 0.14 * y))
    trachea = _soft(0.04 - u, 0.015) * _soft(-0.28 - y, 0.05)
    bubble = _soft(_ellipse(x, y, (0.4, anatomy.domes[1] + 0.2), (0.17, 0.09)), 0.02)
    return anatomy.thickness * depth + 0.12 * _soft(heart, 0.03) + spine - 0.1 * trachea - 0.12 * bubble


def _bones(x: np.ndarray, y: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Density of ribs and collar bones."""
    u = np.abs(x) / anatomy.width
    cage = _soft(0.79 - u, 0.02) * _soft(y + 0.8, 0.03) * _soft(0.8 - y, 0.1)

    def ribs(bend: np.ndarray, half_width: float) -> np.ndarray:
        phase = (y - bend - anatomy.rib_start) / anatomy.rib_spacing
        off = np.abs(phase - np.round(phase))
        return _soft(half_width - off, 0.05) + 0.6 * np.exp(-(((off - half_width) / 0.05) ** 2))

    back = ribs(0.5 * u**2 - 0.15 * u, 0.17) * _soft(u - 0.06, 0.02)
    front = ribs(0.1 - 0.55 * u, 0.2) * _soft(u - 0.3, 0.08)
    collar = np.exp(-(((y + 0.62 + 0.35 * u - 0.25 * u**2) / 0.035) ** 2)) * _soft(u - 0.1, 0.03)
    return anatomy.rib_contrast * (cage * (0.055 * back + 0.03 * front) + 0.07 * collar)


def _vessels(x: np.ndarray, y: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Density of hilum and of vessels that spread from it and grow thin."""
    grid = np.random.default_rng(anatomy.seed).standard_normal((64, 64), dtype=np.float32)
    dx, dy = np.abs(x) - 0.17, y - 0.02
    r = np.sqrt(dx**2 + dy**2) + 0.05
    across = 3.2 * np.arctan2(dy, dx) + np.where(x < 0, np.float32(16), np.float32(48))
    wave = map_coordinates(grid, [across, 3.5 * np.log(r) + 32], order=1, mode="grid-wrap")
    return 0.1 * np.exp(-((r / 0.16) ** 2)) + 0.11 * np.exp(-((wave / 0.12) ** 2) - r / 0.35)


def _haze(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth shadows that mean nothing, so that brightness of a lung tells nothing."""
    haze = np.zeros_like(x)
    for _ in range(4):
        cx, cy, width, depth = _uniform(rng, (-0.7, 0.7), (-0.6, 0.6), (0.1, 0.3), (-0.05, 0.1))
        haze += depth * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
    return haze


def _texture(lungs: np.ndarray, unit: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A net of fine lines with no low frequencies, and the soft patches of the lungs that it fills.

    Args:
        lungs: air, (2, height, width).
        unit: pixels in a half short side.
        rng: decides lines and patches.

    Returns:
        The net, (height, width), lines about 1 high and a local mean of 0; the patches in [0, 1].
    """
    aerated = lungs.sum(axis=0)
    rows, columns = np.indices(aerated.shape, dtype=np.float32)
    clear = np.ones_like(aerated)
    for place in rng.choice(np.flatnonzero(aerated > 0.9), 3):
        row, column = divmod(int(place), aerated.shape[1])
        (radius,) = _uniform(rng, (0.15 * unit, 0.28 * unit))
        squares = ((rows - row) ** 2 + (columns - column) ** 2) / radius**2
        clear *= 1 - np.exp(-(squares**2))
    window = (1 - clear) * aerated

    pixels = _TEXTURE_WAVELENGTH * unit
    wave = _band(rng.standard_normal(aerated.shape, dtype=np.float32), 0.25 * pixels, 0.5 * pixels)
    net = np.exp(-((wave / (0.5 * float(wave.std()))) ** 2))
    return _band(_band(net, 0, pixels) * window, 0, 2 * pixels), window


def _band(image: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """What is left between two Gaussian blurs, given by their sigma in pixels (edges wrap around)."""
    square = fftfreq(image.shape[0])[:, None] ** 2 + rfftfreq(image.shape[1]) ** 2
    gain = np.exp(-2 * (math.pi * fine) ** 2 * square) - np.exp(-2 * (math.pi * coarse) ** 2 * square)
    return irfft2(rfft2(image) * gain.astype(np.float32), image.shape)
