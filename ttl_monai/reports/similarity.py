"""Figures and tables of the similarity of two networks: boxes with their null beside them, and all points by all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttl_monai.reports.figures import PALETTE, _save, _tidy

COLUMNS = (
    *("point", "level", "n", "dims_before", "dims_after", "mean", "q1", "median", "q3"),
    *("null_q1", "null_median", "null_q3", "overlap", "quartile_rule", "excess_area", "jackknife_std"),
)
WHOLE = "whole"


def draw_similarity(document: Mapping[str, Any]) -> Figure:
    """Draw the coefficients at each point with those of random features beside them, as the paper's Fig. 7.

    Boxes show quartiles, whiskers the whole range. The lower panel shows the overlap of the two distributions, its
    range with each group of patients left out, and the pick.

    Args:
        document: `points`, each with `point`, `coefficients`, `null_quantiles`, `null_quartiles`, `overlap` and
            `jackknife`; `runs`, `data`, `null`, and the `pick` with `determined` and `reason`.

    Raises:
        ValueError: no point at all.
    """
    points = document["points"]
    if not points:
        raise ValueError("a picture of similarity needs at least one point, got none")
    figure = Figure(figsize=(max(6.5, 0.75 * len(points) + 2.5), 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    places = np.arange(len(points))
    boxes = [_box(each["coefficients"]) for each in points]
    nulls = [_box(each["null_quantiles"], each["null_quartiles"]) for each in points]
    null = "closed form" if document["null"] == "wachter" else "exchanged images"
    names = (f"{document['runs'][0]} and {document['runs'][1]}", f"random features ({null})")
    colors = ("white", PALETTE[0]), ("0.8", "0.45")
    for shift, stats, name, (face, edge) in zip((-0.18, 0.18), (boxes, nulls), names, colors, strict=True):
        lines = {"color": edge, "linewidth": 1.5}
        upper.bxp(
            stats,
            positions=list(places + shift),
            widths=0.3,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": face, "edgecolor": edge, "linewidth": 1.5},
            medianprops={"color": PALETTE[1] if face == "white" else "0.2", "linewidth": 1.5},
            whiskerprops=lines,
            capprops=lines,
            label=name,
        )
    upper.set(ylabel="SVCCA coefficients", ylim=(-0.02, 1.02))
    upper.set_title(f"{document['data']['name']}, {document['data']['images']} images", fontsize=11)
    upper.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=9, frameon=False)
    _draw_overlap(lower, document, places)
    for axes in (upper, lower):
        _tidy(axes)
    return figure


def plot_similarity(document: Mapping[str, Any], path: str | Path) -> Path:
    """Write the picture of `draw_similarity`.

    Args:
        document: see there.
        path: the PNG file; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: no point at all.
    """
    return _save(draw_similarity(document), path)


def draw_matrix(document: Mapping[str, Any]) -> Figure:
    """Draw how alike every point of one network is to every point of the other.

    The shade is the normalised excess area: 0 for random features, 1 for equal ones, whatever the numbers of channels.

    Args:
        document: `matrix` with `points` and `excess_area`; `runs`.

    Raises:
        ValueError: there is no matrix.
    """
    matrix = document["matrix"]
    if not matrix:
        raise ValueError("a picture of similarity needs the comparison of all points, got none")
    values, names = np.asarray(matrix["excess_area"], np.float64), matrix["points"]
    size = max(4.5, 0.55 * len(names) + 2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", origin="lower")
    for row, column in np.ndindex(values.shape):
        color = "black" if values[row, column] > 0.55 else "white"
        axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=color, fontsize=8)
    places = np.arange(len(names))
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
    axes.set(xlabel=document["runs"][1], ylabel=document["runs"][0], title="Excess of SVCCA over random features")
    figure.colorbar(image, ax=axes, shrink=0.8, label="0: as random features, 1: equal")
    return figure


def plot_matrix(document: Mapping[str, Any], path: str | Path) -> Path:
    """Write the picture of `draw_matrix`.

    Args:
        document: see there.
        path: the PNG file; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: there is no matrix.
    """
    return _save(draw_matrix(document), path)


def similarity_csv(document: Mapping[str, Any]) -> str:
    """The points as CSV, one row each.

    Args:
        document: as for `plot_similarity`, with `n`, `dims`, `mean`, `quartiles`, `quartile_rule`, `excess_area`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in document["points"]:
        spread = each["jackknife"]
        writer.writerow(
            {
                "point": each["point"] or WHOLE,
                **{name: each[name] for name in ("level", "n", "mean", "overlap", "excess_area")},
                "quartile_rule": int(each["quartile_rule"]),
                **dict(zip(("dims_before", "dims_after"), each["dims"], strict=True)),
                **dict(zip(("q1", "median", "q3"), each["quartiles"], strict=True)),
                **dict(zip(("null_q1", "null_median", "null_q3"), each["null_quartiles"], strict=True)),
                "jackknife_std": round(float(np.std(spread, ddof=1)), 5) if len(spread) > 1 else "",
            }
        )
    return text.getvalue()


def similarity_text(document: Mapping[str, Any]) -> str:
    """The points as a table for a console, and what follows from them.

    Args:
        document: as for `similarity_csv`.
    """
    rows: list[tuple[str, ...]] = [("point", "n", "dims", "Q1", "median", "Q3", "random Q1", "median", "Q3", "overlap")]
    for each in document["points"]:
        dims = "x".join(map(str, dict.fromkeys(each["dims"])))
        numbers = [f"{value:.3f}" for value in (*each["quartiles"], *each["null_quartiles"], each["overlap"])]
        rows.append((each["point"] or WHOLE, f"{each['n']:,}", dims, *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()  # names left, numbers right
        for row in rows
    ]
    return "\n".join([*lines, "", _verdict(document), *_by_statistic(document)])


def _by_statistic(document: Mapping[str, Any]) -> list[str]:
    """What the other ways to decide say, one line a level."""
    lines = []
    for level, found in document["picks"].items():
        said = [
            f"{name} {(each['point'] or WHOLE) if each['determined'] else 'undetermined'}"
            for name, each in found.items()
        ]
        lines.append(f"By statistic, at {'stage ends' if level == 'stage' else 'blocks'}: {', '.join(said)}.")
    return lines


def _verdict(document: Mapping[str, Any]) -> str:
    if not document["determined"]:
        return f"Transition: undetermined, {document['reason']}."
    return f"Transition: {document['pick'] or 'the end of the network'}; {document['reason']}."


def _box(values: Sequence[float], quartiles: Sequence[float] | None = None) -> dict[str, Any]:
    q1, median, q3 = quartiles or np.quantile(values, (0.25, 0.5, 0.75))
    return {"q1": q1, "med": median, "q3": q3, "whislo": min(values), "whishi": max(values)}


def _draw_overlap(axes: Axes, document: Mapping[str, Any], places: np.ndarray) -> None:
    points = document["points"]
    overlaps = [each["overlap"] for each in points]
    axes.plot(places, overlaps, color=PALETTE[4], linewidth=1, zorder=1)
    for level, marker in (("stage", "s"), ("block", "o")):
        chosen = [place for place, each in zip(places, points, strict=True) if each["level"] == level]
        if chosen:
            label = f"end of a {level}" if level == "stage" else "block"
            heights = [overlaps[place] for place in chosen]
            axes.plot(chosen, heights, marker, color=PALETTE[4], markersize=6, linestyle="", label=label)
    for place, each in zip(places, points, strict=True):
        if each["jackknife"]:
            axes.vlines(place, min(each["jackknife"]), max(each["jackknife"]), color="0.2", linewidth=3, zorder=3)
    if document["determined"]:
        place = [each["point"] for each in points].index(document["pick"])
        axes.axvline(place, color=PALETTE[2], linestyle="--", linewidth=1.5, label="transition")
    axes.set(ylabel="overlap", ylim=(-0.05, 1.05), xlabel=None if document["determined"] else _verdict(document))
    axes.set_xticks(places, [each["point"] or WHOLE for each in points], rotation=45, ha="right")
    axes.legend(loc="best", fontsize=8)
