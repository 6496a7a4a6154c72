"""The picture of a truncation search: the metric, the SVCCA overlap and the size of the network against the cut."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from ttl_monai.reports.figures import PALETTE
from ttl_monai.reports.figures import _save as save_png
from ttl_monai.reports.figures import _tidy as tidy
from ttl_monai.reports.search_document import (
    check_document,
    done,
    failures,
    finite,
    method_name,
    one_line,
    ordered_methods,
    point_name,
    search_title,
)

Array = NDArray[np.float64]

# Colour and marker of what is drawn; a method has the colour of the curve that it reads.
TRAINED, PROBE, OVERLAP, SIZE, WHOLE = PALETTE[0], PALETTE[2], PALETTE[1], PALETTE[3], PALETTE[6]
STYLES = {
    "exhaustive": (PALETTE[6], "D"),
    "two-stage": (TRAINED, "s"),
    "svcca": (OVERLAP, "^"),
    "probe": (PROBE, "o"),
}
SAMPLES_PER_NEURON = 10  # below it chance alone swamps the overlap: ttl_monai.analysis says undetermined
MOST_NAMES = 80  # of more points only picks and stage ends are named, where there is room
ROW, METRIC, SMALL, CHARACTER = 0.3, 3.8, 1.5, 0.09  # inches: a row of picks, the panels, a letter of a name


class _Pick(NamedTuple):
    """A row of the strip of picks."""

    label: str
    color: str
    marker: str
    determined: bool
    point: str | None
    mean: float
    reason: str = ""
    hollow: bool = False


def draw_search(document: Mapping[str, Any]) -> Figure:
    """Draw a search: which method picked what, and metric, SVCCA overlap and parameters against the cut.

    Panels from above: a row a method with its pick (or why there is none); the metric's mean and standard deviation
    over the repeats (a band, or a bar where no neighbouring cut was trained), each repeat a dot, with the probe's and
    the whole network's; the overlap of the SVCCA coefficients with those of chance, if SVCCA was run; the parameters.
    Cuts stand in the order of depth at equal distances, the whole network last; dotted lines go through the picks.

    Args:
        document: the content of a `search.json`.

    Raises:
        ValueError: not a search document, see `check_document`.
    """
    check_document(document)
    points = [candidate["point"] for candidate in document["candidates"]]
    place = {point: float(number) for number, point in enumerate(points)}
    picks = _picks(document)
    heights = [max(1, len(picks)) * ROW, METRIC, *[SMALL] * bool(document["svcca"]), SMALL]
    below = 1.1 + CHARACTER * max(len(point_name(point)) for point in points)  # names, axis label and legend
    figure = Figure(figsize=(min(max(10.5, 0.3 * len(points) + 2), 14), sum(heights) + below), layout="constrained")
    strip, metric, *small = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_picks(strip, picks, place)
    _draw_metric(metric, document, place)
    if document["svcca"]:
        _draw_overlap(small[0], document, place)
    _draw_size(small[-1], document, place)
    for axes in (metric, *small):
        tidy(axes)
        for pick in picks:
            if pick.determined:
                axes.axvline(place[pick.point], color="0.4", linestyle=(0, (1, 2)), linewidth=1.2, zorder=0)
    _name_points(small[-1], document, {pick.point for pick in picks if pick.determined})
    strip.set_title(search_title(document), loc="left", fontsize=11)
    # Outside the panels, so that it covers no curve.
    entries = [axes.get_legend_handles_labels() for axes in (metric, *small)]
    handles, labels = ([item for pair in entries for item in pair[side]] for side in (0, 1))
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9.5, frameon=False)
    return figure


def plot_search(document: Mapping[str, Any], path: str | Path) -> Path:
    """Write the picture of a search, see `draw_search`.

    Args:
        document: the content of a `search.json`.
        path: the PNG file; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: not a search document, see `check_document`.
    """
    return save_png(draw_search(document), path)


def _picks(document: Mapping[str, Any]) -> list[_Pick]:
    picks = []
    for row in ordered_methods(document):
        color, marker = STYLES.get(row["method"], (PALETTE[4], "v"))
        reason = one_line(row["reason"] or "")
        scores = (bool(row["determined"]), row["pick"], finite(row["mean"]), reason)
        picks.append(_Pick(method_name(row["method"]), color, marker, *scores))
        before = row.get("before_training")
        if before:
            values = {entry["point"]: finite(entry["mean"]) for entry in document["curve"]}
            mean = values.get(before["pick"], math.nan)
            picks.append(_Pick("probe, before training", color, marker, True, before["pick"], mean, hollow=True))
    return picks


def _draw_picks(axes: Axes, picks: Sequence[_Pick], place: Mapping[str | None, float]) -> None:
    """A row a method, so that equal picks do not cover each other."""
    end = len(place) - 1
    for row, pick in enumerate(picks):
        if not pick.determined:
            text = textwrap.shorten(f"no pick: {pick.reason}", 95, placeholder=" …")
            axes.text(0, row, text, va="center", fontsize=9.5, style="italic", color="0.3")
            continue
        x = place[pick.point]
        face = "white" if pick.hollow else pick.color
        axes.plot(x, row, pick.marker, color=pick.color, markerfacecolor=face, markersize=8, markeredgewidth=1.8)
        mean = "" if math.isnan(pick.mean) else f"  {pick.mean:.3f}"
        left = x > 0.6 * end
        shift = -10 if left else 10
        axes.annotate(
            f"{point_name(pick.point)}{mean}",
            (x, row),
            (shift, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=9.5,
        )
    if not picks:
        axes.text(0, 0, "no method has finished yet", va="center", fontsize=9.5, style="italic", color="0.3")
    labels = [pick.label for pick in picks]
    axes.set(yticks=range(len(picks)), yticklabels=labels, ylim=(max(len(picks), 1) - 0.4, -0.6))
    axes.tick_params(axis="both", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("0.96")


def _draw_metric(axes: Axes, document: Mapping[str, Any], place: Mapping[str | None, float]) -> None:
    repeats = document["repeats"]
    spread = f", mean ± std of {repeats} repeats" if repeats > 1 else ", one repeat"
    curves = [(document["curve"], "trained" + spread, TRAINED, "o-", 0.2)]
    if document["probe"]:
        curves.append((document["probe"], "linear probe on the pretrained network", PROBE, "s--", 0.15))
    for entries, label, color, style, alpha in curves:
        x, mean, std = _columns(entries, place)
        if not x.size:
            continue
        _draw_spread(axes, x, mean, std, size=len(place), color=color, alpha=alpha)
        axes.plot(x, mean, style, color=color, markersize=5, linewidth=2, label=label)
    for entry in document["curve"]:
        values = [value for value in entry["values"] if value is not None]
        axes.plot([place[entry["point"]]] * len(values), values, ".", color=TRAINED, markersize=4, alpha=0.5)
    whole = next((entry for entry in document["curve"] if entry["point"] is None), None)
    if whole and not math.isnan(finite(whole["mean"])):
        label = f"whole network (FTL): {whole['mean']:.3f}"
        axes.axhline(whole["mean"], color=WHOLE, linestyle=(0, (6, 3)), linewidth=1.3, label=label)
    failed = {x: count for point, x in place.items() if (count := failures(document, point))}
    if failed:
        foot = blended_transform_factory(axes.transData, axes.transAxes)
        label = f"failed trainings ({sum(failed.values())})"
        axes.plot(list(failed), [0.03] * len(failed), "x", color="0.25", transform=foot, label=label, markersize=7)
    if not document["curve"]:
        axes.text(0.02, 0.96, "nothing trained yet", transform=axes.transAxes, va="top", color="0.3")
    if not axes.get_lines():
        axes.set_yticks([])
    axes.set_ylabel(f"{document['metric']}\n(validation)")


def _draw_spread(axes: Axes, x: Array, mean: Array, std: Array, *, size: int, color: str, alpha: float) -> None:
    """A band between neighbouring cuts; a bar where no neighbour was measured, so that no gap looks measured."""
    low, high = np.full((2, size), np.nan)
    places = x.astype(int)
    low[places], high[places] = mean - std, mean + std
    axes.fill_between(np.arange(size), low, high, color=color, alpha=alpha, linewidth=0)
    lonely = ~(np.isin(x - 1, x) | np.isin(x + 1, x))
    axes.vlines(x[lonely], (mean - std)[lonely], (mean + std)[lonely], color=color, alpha=2 * alpha, linewidth=6)


def _draw_overlap(axes: Axes, document: Mapping[str, Any], place: Mapping[str | None, float]) -> None:
    entries = [entry for entry in document["svcca"] if entry["overlap"] is not None]
    x, overlap = np.array([(place[entry["point"]], entry["overlap"]) for entry in entries]).reshape(-1, 2).T
    order = np.argsort(x)
    axes.plot(x[order], overlap[order], "-", color=OVERLAP, linewidth=2)
    few = np.array([entry["n"] < SAMPLES_PER_NEURON * max(entry["dims"]) for entry in entries], dtype=bool)
    label = "SVCCA: overlap with chance"
    axes.plot(x[~few], overlap[~few], "^", color=OVERLAP, markersize=6, label=label)
    if few.any():
        label = f"SVCCA, too few samples (n < {SAMPLES_PER_NEURON} p)"
        axes.plot(x[few], overlap[few], "^", color=OVERLAP, markerfacecolor="white", markersize=6, label=label)
    threshold = document.get("svcca_threshold")
    if threshold is not None:
        axes.axhline(threshold, color=OVERLAP, linestyle=":", linewidth=1.3, label=f"SVCCA threshold {threshold:g}")
    axes.set(ylabel="SVCCA\noverlap", ylim=(-0.05, 1.05), yticks=[0, 0.5, 1])


def _draw_size(axes: Axes, document: Mapping[str, Any], place: Mapping[str | None, float]) -> None:
    x = [place[candidate["point"]] for candidate in document["candidates"]]
    params = [candidate["params"] / 1e6 for candidate in document["candidates"]]
    axes.plot(x, params, "o-", color=SIZE, markersize=4, linewidth=2, label="parameters, head included")
    axes.set(yscale="log", ylabel="params (M),\nlog scale")
    wide = max(params) > 30 * min(params)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _columns(entries: Sequence[Mapping[str, Any]], place: Mapping[str | None, float]) -> tuple[Array, Array, Array]:
    """Place, mean and standard deviation (0 where there is none) of the entries with a mean, in order of depth."""
    known = [entry for entry in entries if not math.isnan(finite(entry["mean"]))]
    spread = {entry["point"]: 0 if done(entry) < 2 else finite(entry["std"]) for entry in known}
    rows = sorted((place[entry["point"]], entry["mean"], spread[entry["point"]]) for entry in known)
    x, mean, std = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return x, mean, np.nan_to_num(std)


def _name_points(axes: Axes, document: Mapping[str, Any], picked: set[str | None]) -> None:
    """The cuts' names under the lowest panel, stage ends bold."""
    candidates = document["candidates"]
    shown = list(enumerate(candidates))
    if len(candidates) > MOST_NAMES:
        room = len(candidates) / MOST_NAMES
        # What matters more takes its place first: picks and the whole network, then stage ends from above.
        marked = [pair for pair in shown if pair[1]["point"] is None or pair[1]["point"] in picked]
        ends = [pair for pair in reversed(shown) if pair[1]["level"] == "stage" and pair not in marked]
        shown = []
        for number, each in [*marked, *ends]:
            if all(abs(number - other) >= room for other, _ in shown):
                shown.append((number, each))
    labels = [point_name(each["point"]) for _, each in shown]
    axes.set_xticks([number for number, _ in shown], labels, rotation=90, fontsize=9.5 if len(shown) <= 40 else 8)
    for text, (_, each) in zip(axes.get_xticklabels(), shown, strict=True):
        text.set_fontweight("bold" if each["level"] == "stage" else "normal")
    axes.set(xlim=(-0.6, len(candidates) - 0.4), xlabel="cut: the last module kept (bold: end of a stage)")
