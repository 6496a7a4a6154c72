"""Picture of what channels of a network look for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ttl_monai.reports.figures import _save


def plot_features(
    images: Mapping[str, NDArray[np.float32]], channels: Mapping[str, Sequence[int]], path: str | Path, *, title: str
) -> Path:
    """Draw made images: a row a point, a column a channel.

    Args:
        images: by point, (K, rows, columns, 3) in [0, 1].
        channels: by point, numbers of the K channels.
        path: the PNG file; its folder is made.
        title: above all.

    Returns:
        The path written.

    Raises:
        ValueError: no image, or other numbers of images than of channels.
    """
    if not images or any(len(each) != len(channels[point]) for point, each in images.items()):
        raise ValueError("plot_features needs at least one point with an image for each of its channels")
    across = max(len(each) for each in images.values())
    figure = Figure(figsize=(1.7 * across + 1.2, 1.95 * len(images) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    every = figure.subplots(len(images), across, squeeze=False)
    for axes_row, (point, pictures) in zip(every, images.items(), strict=True):
        for axes in axes_row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_row[0].set_ylabel(point, fontsize=10)
        for axes, picture, channel in zip(axes_row, pictures, channels[point], strict=False):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(f"channel {channel}", fontsize=9)
    return _save(figure, path)
