"""Pictures of masks on their images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ttl_monai.reports.figures import PALETTE, _save

_SIDE_IN = {1: 7.0, 2: 5.5, 4: 3.5}  # of one picture, by the number of pictures
_WIDTH_PT = 0.3  # of a solid outline, for each inch of the picture
_LEGEND_PT = 2.4  # width of a solid line there
# Widths over that of the solid outline.
_CASING, _DASHES = 2.2, 1.5
_DASH = (0, (2.4, 1.6))  # on and off, in widths of the line

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class MaskPanel:
    """One picture.

    Attributes:
        title: above it.
        image: (rows, columns) in [0, 1].
        found: predicted structures, (K, rows, columns) bool.
        drawn: the reference, likewise; None where there is none.
        aspect: distance of rows over that of columns.
    """

    title: str
    image: NDArray[np.float32]
    found: NDArray[np.bool_]
    drawn: NDArray[np.bool_] | None = None
    aspect: float = 1.0


def plot_masks(panels: Sequence[MaskPanel], structures: Sequence[str], path: str | Path, *, across: int = 3) -> Path:
    """Draw masks on images: the prediction filled with a solid outline, the reference below it with a dashed one.

    Both have the colour of the structure, and widths in proportion to the picture.

    Args:
        panels: one or more pictures, row by row.
        structures: names of the K structures.
        path: the PNG file; its folder is made.
        across: most pictures in a row.

    Returns:
        The path written.

    Raises:
        ValueError: no picture, or another number of masks than of names.
    """
    if not panels:
        raise ValueError("plot_masks needs at least one picture, got none")
    if wrong := [panel.title for panel in panels if len(panel.found) != len(structures)]:
        raise ValueError(f"expected a mask for each of {', '.join(structures)}; got others for {', '.join(wrong)}")
    across = min(len(panels), across)
    down = math.ceil(len(panels) / across)
    rows, columns = panels[0].image.shape
    side = _SIDE_IN.get(across, 4.5)
    height = side * min(2.0, max(0.4, rows * panels[0].aspect / columns))
    figure = Figure(figsize=(side * across, height * down + 0.8), layout="constrained")
    every = figure.subplots(down, across, squeeze=False).ravel()
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(every, panels, strict=False):
        _draw(axes, panel, _WIDTH_PT * side)
    handles: list[Any] = [
        Line2D([], [], color=colour, linewidth=_LEGEND_PT) for colour in structure_colours(len(structures))
    ]
    labels = list(structures)
    if any(panel.drawn is not None for panel in panels):
        handles.append(tuple(Line2D([], [], **style) for style in _dashed(structure_colours(1)[0], _LEGEND_PT)))
        labels.append("dashed: reference")
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        fontsize=11,
        frameon=False,
        handlelength=3.5,
        handler_map={tuple: HandlerTuple(ndivide=1, pad=0)},
    )
    return _save(figure, path)


def structure_colours(count: int) -> list[Colour]:
    """Colours of structures on grey pictures, RGB in [0, 1].

    The first six are Okabe and Ito's, told apart with every common colour blindness, light ones first, as images are
    dark. Each further one is, of a grid without dark ones, that which lies farthest (in CIELAB) from all before it and
    from the greys.
    """
    steps = np.linspace(0, 1, 6)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    grid = grid[grid.max(axis=1) > 0.5]  # (N, 3), none dark: images are
    chosen = [to_rgb(PALETTE[index]) for index in (4, 5, 2, 3, 1, 0)]
    if count > len(chosen):
        taken = _to_lab(np.array([*chosen, *((grey,) * 3 for grey in steps)]))
        gaps = np.linalg.norm(_to_lab(grid)[:, None] - taken, axis=-1).min(axis=1)
        while len(chosen) < count:
            new = grid[gaps.argmax()]
            chosen.append(tuple(new.tolist()))
            gaps = np.minimum(gaps, np.linalg.norm(_to_lab(grid) - _to_lab(new[None]), axis=-1))
    return chosen[:count]


def _to_lab(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (sRGB in [0, 1], (N, 3)) -> CIELAB with the white of D65: distances as the eye sees them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = np.cbrt(xyz / (0.9505, 1.0, 1.0888)).T  # CIE's straight line for near black makes no difference here
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _dashed(colour: Colour, width: float) -> list[dict[str, Any]]:
    """Lines of a reference, one over the other: dashes of the colour on a casing, black or white, that shows them."""
    light = np.dot(colour, (0.299, 0.587, 0.114)) > 0.35
    return [
        {"color": "black" if light else "white", "linewidth": width * _CASING, "linestyle": "solid"},
        {"color": colour, "linewidth": width * _DASHES, "linestyle": _DASH},
    ]


def _draw(axes: Axes, panel: MaskPanel, width: float) -> None:
    axes.imshow(panel.image, cmap="gray", vmin=0, vmax=1, aspect=panel.aspect)
    colours = structure_colours(len(panel.found))
    for colour, mask in zip(colours, panel.found, strict=True):
        if mask.any():
            layer = np.zeros((*mask.shape, 4))
            layer[mask] = (*colour, 0.2)
            axes.imshow(layer, aspect=panel.aspect, interpolation="nearest")
    # The reference below: where the two run together, the solid line lies between its dashes.
    for colour, mask in zip(colours, [] if panel.drawn is None else panel.drawn, strict=False):
        for style in _dashed(colour, width):
            _outline(axes, mask, **style)
    for colour, mask in zip(colours, panel.found, strict=True):
        _outline(axes, mask, color=colour, linewidth=width, linestyle="solid")
    rows, columns = panel.image.shape
    axes.set(xlim=(-1, columns), ylim=(rows, -1))  # the same with and without outlines
    axes.set_title(panel.title, fontsize=11)
    axes.set_axis_off()


def _outline(axes: Axes, mask: NDArray[np.bool_], *, color: Any, linewidth: float, linestyle: Any) -> None:
    if not mask.any():
        return
    # A border of nothing closes the outline of what reaches the edge.
    padded = np.pad(mask.astype(float), 1)
    x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    axes.contour(x, y, padded, levels=[0.5], colors=[color], linewidths=[linewidth], linestyles=[linestyle])
