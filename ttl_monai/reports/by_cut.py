"""Metrics against the truncation point, one line a kind of network, with the spread over repeats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ttl_monai.reports.figures import LINE_STYLES, PALETTE, _save, _tidy

WHOLE = "whole network"
PANELS = ({"test_auprc": "AUPRC", "test_auroc": "AUROC"}, {"test_dice": "Dice", "test_jaccard": "Jaccard"})
Curves = dict[str, list[dict[str, Any]]]


def curves_of(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> Curves:
    """The lines of a figure from the rows of a table.

    Args:
        rows: rows as in `results_table`; FTL is the whole network, TTL a cut one.
        kinds: by the name of a line, what its rows have after "FTL" and "TTL".

    Returns:
        By the name of a line its points in the order of cost, the whole network last: `cut`, and by metric the values
        of the repeats.
    """
    curves: Curves = {}
    for name, ending in kinds.items():
        cut = sorted((row for row in rows if row["strategy"] == f"TTL{ending}"), key=lambda row: row["macs"])
        whole = [row for row in rows if row["strategy"] == f"FTL{ending}"]
        curves[name] = [{"cut": row["cut"] or WHOLE, "repeats": row["repeats"]} for row in [*cut, *whole]]
    return curves


def plot_by_cut(curves: Curves, path: str | Path, *, title: str) -> Path:
    """Draw one panel a metric of the test section, one line a kind of network, mean and sample standard deviation.

    Args:
        curves: see `curves_of`; each line has its points in the same order.
        path: the PNG file; its folder is made.
        title: of the figure.

    Returns:
        The path written.

    Raises:
        ValueError: no line, or one without a point.
    """
    if not curves or not all(curves.values()):
        raise ValueError("plot_by_cut needs at least one line, each with at least one point")
    first = next(iter(curves.values()))[0]["repeats"][0]
    panels = next(each for each in PANELS if next(iter(each)) in first)
    names = list(dict.fromkeys(point["cut"] for points in curves.values() for point in points))
    figure = Figure(figsize=(max(7.0, 0.7 * len(names) + 3) * 1.4, 4.6), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for number, (name, points) in enumerate(curves.items()):
            values = [[repeat[metric] for repeat in point["repeats"]] for point in points]
            places = np.array([names.index(point["cut"]) for point in points], dtype=float)
            means, spread = (np.array(each) for each in zip(*map(_mean_std, values), strict=True))
            color = PALETTE[number % len(PALETTE)]
            style = LINE_STYLES[number % len(LINE_STYLES)]
            axes.plot(places, means, marker="o", markersize=4, color=color, linestyle=style, label=name)
            axes.fill_between(places, means - spread, means + spread, color=color, alpha=0.15, linewidth=0)
        axes.set(ylabel=f"{label} (test section)", xlabel="truncation point")
        axes.xaxis.set_major_locator(FixedLocator(list(range(len(names)))))
        axes.set_xticklabels(names, rotation=60 if len(names) > 5 else 20, ha="right", fontsize=8)
        _tidy(axes)
    figure.suptitle(title, fontsize=11)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return _save(figure, path)


def _mean_std(values: Sequence[float | None]) -> tuple[float, float]:
    array = np.array([math.nan if value is None else value for value in values])
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else 0.0
