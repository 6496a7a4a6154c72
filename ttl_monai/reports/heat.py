"""Pictures of a map of saliency on the slices of a scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ttl_monai.reports.figures import _save

_COLOURS = "plasma"  # from dark to bright, told apart with every colour blindness
_OPACITY = 0.6  # at the maximum of the map


def plot_heat(
    images: ArrayLike,
    heat: ArrayLike,
    titles: Sequence[str],
    path: str | Path,
    *,
    title: str,
    label: str,
    aspect: float = 1.0,
) -> Path:
    """Draw slices, grey, with a map over them in colour, the more opaque the higher it is.

    Args:
        images: (N, rows, columns) in [0, 1].
        heat: likewise.
        titles: above each slice, N.
        path: the PNG file; its folder is made.
        title: above all.
        label: what the colours mean.
        aspect: distance of rows over that of columns.

    Returns:
        The path written.

    Raises:
        ValueError: no slice, or another shape of the map or number of titles.
    """
    grey, values = (np.asarray(each, dtype=np.float32) for each in (images, heat))
    if not len(titles) or grey.shape != values.shape or grey.ndim != 3 or len(grey) != len(titles):
        raise ValueError(
            f"expected images and heat (N, rows, columns) with N titles, N > 0, got {grey.shape}, {values.shape} and "
            f"{len(titles)}"
        )
    across = min(len(titles), 3)
    down = math.ceil(len(titles) / across)
    height = 4.5 * aspect * grey.shape[1] / grey.shape[2]
    figure = Figure(figsize=(4.5 * across + 1.2, (height + 0.4) * down + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=13)
    every = figure.subplots(down, across, squeeze=False).ravel()
    for axes in every:
        axes.set_axis_off()
    for axes, image, over, words in zip(every, grey, values, titles, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="bicubic")
        axes.imshow(over, cmap=_COLOURS, vmin=0, vmax=1, alpha=_OPACITY * over.clip(0, 1), aspect=aspect)
        axes.set_title(words, fontsize=12)
    figure.colorbar(ScalarMappable(cmap=_COLOURS), ax=every.tolist(), shrink=0.7, label=label)  # 0 to 1, opaque
    return _save(figure, path)
