"""Pictures of where networks look: shares of their maps inside of masks, maps side by side, maps of drawn weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ttl_monai.reports.figures import LINE_STYLES, PALETTE, _save, _tidy
from ttl_monai.reports.heat import _COLOURS, _OPACITY


def plot_localisation(
    shares: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    areas: Mapping[str, float],
    titles: Sequence[str],
    path: str | Path,
) -> Path:
    """Draw the share of the maps that lies inside of each structure, one panel a method.

    Args:
        shares: by method and structure, (mean, low, high) of each network; NaN where there is none.
        areas: share of the image that each structure has: what a map that is the same everywhere gets.
        titles: names of the networks.
        path: the PNG file; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: no method, or other numbers of values than of titles.
    """
    if not shares or any(len(row) != len(titles) for found in shares.values() for row in found.values()):
        raise ValueError(f"expected at least one method with a value for each of {', '.join(titles)}")
    figure = Figure(figsize=(max(4.2, 1.1 * len(titles) + 2) * len(shares), 4.4), layout="constrained")
    panels = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
    places = np.arange(len(titles))
    for axes, (method, found) in zip(panels, shares.items(), strict=True):
        for number, (structure, rows) in enumerate(found.items()):
            mean, low, high = np.array(rows, dtype=np.float64).T
            colour = PALETTE[number % len(PALETTE)]
            shift = (number - (len(found) - 1) / 2) * 0.16
            errors = np.abs([mean - low, high - mean])
            axes.errorbar(
                places + shift, mean, yerr=errors, fmt="o", color=colour, capsize=4, markersize=7, label=structure
            )
            label = f"area of {structure}: what an even map gets"
            axes.axhline(areas[structure], color=colour, linestyle="--", linewidth=1.4, label=label)
        axes.set(title=method, xlim=(-0.6, len(titles) - 0.4))
        axes.set_xticks(places, titles, rotation=20, ha="right")
        _tidy(axes)
    panels[0].set(ylabel="share of the map inside", ylim=(0, None))  # of all panels
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2), frameon=False)
    return _save(figure, path)


def plot_randomised(steps: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Draw how like the maps stay while weights are drawn anew from the head down, one panel a method.

    Args:
        steps: by network, `method`, `drawn` and `rank_correlation` of each step.
        path: the PNG file; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: no step.
    """
    methods = list(dict.fromkeys(row["method"] for rows in steps.values() for row in rows))
    if not methods:
        raise ValueError("plot_randomised needs at least one step, got none")
    figure = Figure(figsize=(6.5 * len(methods), 4.4), layout="constrained")
    panels = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
    for axes, method in zip(panels, methods, strict=True):
        for number, (title, rows) in enumerate(steps.items()):
            own = [row for row in rows if row["method"] == method]
            # Networks have different numbers of stages: each goes from its whole to nothing.
            depth = np.linspace(0, 1, len(own) + 1)
            values = [1.0, *(np.nan if row["rank_correlation"] is None else row["rank_correlation"] for row in own)]
            style = LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)]
            axes.plot(depth, values, style, marker="o", color=PALETTE[number % len(PALETTE)], label=title)
        axes.axhline(0, color="0.5", linewidth=1)
        axes.set(title=method, xlabel="stages drawn anew, from the head down", ylim=(-1.05, 1.05))
        axes.set_xticks([0, 1], ["none", "all"])
        _tidy(axes)
    panels[0].set_ylabel("rank correlation with the map of the trained network")
    panels[0].legend(loc="lower left")
    return _save(figure, path)


def plot_maps(
    images: ArrayLike,
    heat: Mapping[str, ArrayLike],
    masks: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    title: str,
) -> Path:
    """Draw maps of several networks over the same images: a row an image, a column a network.

    Args:
        images: (N, rows, columns) in [0, 1].
        heat: by network, likewise.
        masks: by structure, likewise, bool; their outlines are drawn on every picture.
        path: the PNG file; its folder is made.
        title: above all.

    Returns:
        The path written.

    Raises:
        ValueError: no image, or shapes that do not fit.
    """
    grey: NDArray[np.float32] = np.asarray(images, dtype=np.float32)
    maps = {name: np.asarray(values, dtype=np.float32) for name, values in heat.items()}
    outlines = {name: np.asarray(values, dtype=bool) for name, values in masks.items()}
    shapes = {each.shape for each in (grey, *maps.values(), *outlines.values())}
    if len(shapes) > 1 or grey.ndim != 3 or not len(grey):
        raise ValueError(
            f"expected images, heat and masks of one shape (N, rows, columns), N > 0, got {sorted(shapes)}"
        )
    figure = Figure(figsize=(2.6 * (len(maps) + 1) + 1, 2.8 * len(grey) + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=12)
    every = figure.subplots(len(grey), len(maps) + 1, squeeze=False)
    for row, axes_row in enumerate(every):
        for axes, name in zip(axes_row, [None, *maps], strict=True):
            axes.imshow(grey[row], cmap="gray", vmin=0, vmax=1)
            if name is not None:
                over = maps[name][row]
                axes.imshow(over, cmap=_COLOURS, vmin=0, vmax=1, alpha=_OPACITY * over.clip(0, 1))
            for number, mask in enumerate(outlines.values()):
                if mask[row].any():
                    axes.contour(mask[row], levels=[0.5], colors=["#56B4E9", "#E69F00"][number % 2], linewidths=1)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(name or "image", fontsize=11)
    words = ", ".join(f"{colour} {name}" for name, colour in zip(outlines, ("blue:", "orange:"), strict=False))
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), ax=every.ravel().tolist(), shrink=0.5)
    bar.set_label("share of the map's maximum")
    figure.supxlabel(f"outlines: {words}" if words else "", fontsize=10)
    return _save(figure, path)
