"""Pictures of masks on their images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ttl_monai.reports.figures import PALETTE, _save

_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")  # light ones first: images are dark
_SIDE_IN = {1: 7.0, 2: 5.5, 4: 3.5}  # of one picture, by the number of pictures


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
    """Draw masks on images: the prediction filled with a solid outline, the reference with a dashed one.

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
        _draw(axes, panel)
    lines = [Line2D([], [], color=_colour(k), linewidth=2.5, label=name) for k, name in enumerate(structures)]
    if any(panel.drawn is not None for panel in panels):
        lines.append(Line2D([], [], color=PALETTE[6], linestyle="--", linewidth=1.5, label="dashed: reference"))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 4), fontsize=11, frameon=False)
    return _save(figure, path)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _draw(axes: Axes, panel: MaskPanel) -> None:
    axes.imshow(panel.image, cmap="gray", vmin=0, vmax=1, aspect=panel.aspect, interpolation="nearest")
    for index, mask in enumerate(panel.found):
        if mask.any():
            layer = np.zeros((*mask.shape, 4))
            layer[mask] = (*to_rgb(_colour(index)), 0.2)
            axes.imshow(layer, aspect=panel.aspect, interpolation="nearest")
            _outline(axes, mask, _colour(index), "solid")
    for index, mask in enumerate([] if panel.drawn is None else panel.drawn):
        if mask.any():
            # White below the colour, so that it is seen where the two outlines run together.
            _outline(axes, mask, "white", "solid", 0.8)
            _outline(axes, mask, _colour(index) if not panel.found[index].any() else "black", "dashed", 0.8)
    rows, columns = panel.image.shape
    axes.set(xlim=(-1, columns), ylim=(rows, -1))  # the same with and without outlines
    axes.set_title(panel.title, fontsize=11)
    axes.set_axis_off()


def _outline(axes: Axes, mask: NDArray[np.bool_], colour: str, style: str, width: float = 2.0) -> None:
    # A border of nothing closes the outline of what reaches the edge.
    padded = np.pad(mask.astype(float), 1)
    x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linestyles=[style], linewidths=[width])
