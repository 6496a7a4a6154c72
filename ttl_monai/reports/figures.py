"""Figures of a run as PNG: training curves, and ROC and precision-recall curves.

Drawn through matplotlib's objects, without pyplot: no global state, no display needed, safe within a training run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

Array = NDArray[np.float64]

# Okabe and Ito's palette: told apart with every common colour blindness (https://jfly.uni-koeln.de/color/).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")  # the next round of colours
DPI = 130


def plot_training_curves(history: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw loss, validation AUROC and AUPRC (Jaccard index and Dice), and learning rate, in three panels by epoch.

    Args:
        history: one mapping an epoch with `epoch`, `train_loss`, `val_auroc` and `val_auprc` (of a segmentation
            `val_jaccard` and `val_dice`), and `learning_rate`. A value that is missing, None or NaN (an epoch without
            validation) leaves a gap that the line bridges.
        path: the PNG file; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: no epoch at all.
    """
    if not history:
        raise ValueError("plot_training_curves needs at least one epoch, got an empty history")
    figure = Figure(figsize=(13, 4), layout="constrained")
    loss, score, rate = figure.subplots(1, 3)
    _curve(loss, history, "train_loss", "training", 0)
    loss.set(title="Loss", ylabel="loss (batch mean)")
    masks = any("val_dice" in row for row in history)
    side, key = ("Jaccard", "Dice") if masks else ("AUROC", "AUPRC")
    _curve(score, history, f"val_{side.lower()}", side, 0)
    label = key if masks else f"{key} (average precision)"
    epochs, values = _curve(score, history, f"val_{key.lower()}", label, 1)
    if epochs.size:
        best = int(values.argmax())
        label = f"best {key}: {values[best]:.3f}, epoch {epochs[best]:g}"
        score.plot(epochs[best], values[best], "*", color=PALETTE[6], markersize=13, label=label)
    score.set(title="Validation", ylabel="overlap" if masks else "area under the curve")
    _curve(rate, history, "learning_rate", "head", 0)
    rate.set(title="Learning rate of the head", ylabel="learning rate (log scale)", yscale="log")
    for axes in (loss, score, rate):
        _tidy(axes)
        axes.set(xlabel="epoch", xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if not axes.get_lines():
            _say(axes, "no finite value yet")
    if score.get_lines():
        score.legend(loc="best", fontsize=10)
    return _save(figure, path)


def plot_roc_pr(
    labels: ArrayLike,
    scores: ArrayLike,
    class_names: Sequence[str],
    path: str | Path,
    threshold: float | None = None,
) -> Path:
    """Draw the ROC and the precision-recall curve of every class, with the areas in the legend.

    A class of which the labels hold only positives or only negatives has no curve: the legend says so.

    Args:
        labels: (N,) class numbers, or (N, C) of 0, 1 and NaN (unknown) for multi-label.
        scores: (N,) of the positive class, or (N, C). Two columns with (N,) labels draw the second class only.
        class_names: the C names; binary: those of negative and positive.
        path: the PNG file; its folder is made.
        threshold: the operating point (`score >= threshold` is positive), marked in both panels; binary only.

    Returns:
        The path written.

    Raises:
        ValueError: shapes or number of names that do not fit, or a threshold with several classes.
    """
    columns = list(_columns(labels, scores, class_names))
    if threshold is not None and len(columns) > 1:
        raise ValueError(f"threshold marks one curve, but there are {len(columns)} classes; leave it None")
    figure = Figure(figsize=(12, 5.5))
    roc, pr = figure.subplots(1, 2)
    for number, (name, truth, values) in enumerate(columns):
        style = {"color": PALETTE[number % 7], "linestyle": LINE_STYLES[number // 7 % 4], "linewidth": 2}
        if 0 < truth.sum() < truth.size:
            _draw_class(roc, pr, name, truth, values, style, prevalence=len(columns) <= 3)
        else:
            kind = "positives" if truth.size and truth.all() else "negatives"
            label = f"{name}: undefined, only {kind} (n = {truth.size})" if truth.size else f"{name}: no labels"
            for axes in (roc, pr):
                axes.plot([], [], label=label, **style)
                if len(columns) == 1:
                    _say(axes, "undefined: the labels hold one class only" if truth.size else "no labels")
    if threshold is not None and not math.isnan(threshold):
        _mark_operating_point(roc, pr, *columns[0][1:], threshold)
    roc.plot([0, 1], [0, 1], color="0.5", linestyle=(0, (1, 2)), label="chance")
    roc.set(title="ROC", xlabel="1 - specificity (false positive rate)", ylabel="sensitivity (true positive rate)")
    pr.set(title="Precision-recall", xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    for axes in (roc, pr):
        _tidy(axes)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), fontsize=10, frameon=False)
    return _save(figure, path)


def plot_slice_scores(
    places: ArrayLike,
    scores: ArrayLike,
    top: Mapping[str, float],
    path: str | Path,
    *,
    class_name: str,
    threshold: float | None = None,
) -> Path:
    """Draw the score of each slice of a series, from feet to head, and the window of the highest score.

    Args:
        places: of the slices, in mm towards the head, (K,).
        scores: likewise.
        top: `first_mm` and `last_mm`, the places of the window's first and last slice, and its `score`.
        path: the PNG file; its folder is made.
        class_name: name of the class that is scored.
        threshold: the operating point, drawn as a line.

    Returns:
        The path written.

    Raises:
        ValueError: no slice at all, or another number of scores than of places.
    """
    x, y = np.asarray(places, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not x.size or x.shape != y.shape:
        raise ValueError(f"expected a score for each of at least one slice, got {y.shape} for the places {x.shape}")
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, color=PALETTE[0], linewidth=2, drawstyle="steps-mid", label="slices")
    axes.fill_between(x, y, color=PALETTE[0], alpha=0.15, step="mid")
    label = f"highest window: {top['score']:.3f}, {top['first_mm']:g} to {top['last_mm']:g} mm"
    span = [top["first_mm"], top["last_mm"]]
    axes.plot(span, [top["score"]] * 2, color=PALETTE[1], linewidth=4, solid_capstyle="projecting", label=label)
    if threshold is not None and math.isfinite(threshold):
        axes.axhline(threshold, color="0.3", linestyle="--", label=f"operating point {threshold:.3g}")
    _tidy(axes)
    axes.set(xlabel="position of the slice towards the head (mm)", ylabel=f"score of {class_name}", ylim=(0, 1.02))
    axes.legend(loc="best", fontsize=10)
    return _save(figure, path)


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, color: int) -> tuple[Array, Array]:
    """Draw one value against the epoch and return the points drawn."""
    points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None and math.isfinite(row[key])]
    epochs, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if points:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(epochs, values, color=PALETTE[color], marker=marker, markersize=4, linewidth=2, label=label)
    return epochs, values


def _draw_class(
    roc: Axes, pr: Axes, name: str, truth: Array, values: Array, style: Mapping[str, Any], *, prevalence: bool
) -> None:
    false_rate, true_rate, _ = metrics.roc_curve(truth, values)
    roc.plot(false_rate, true_rate, label=f"{name}: AUROC {metrics.auc(false_rate, true_rate):.3f}", **style)
    precision, recall, _ = metrics.precision_recall_curve(truth, values)
    # Steps, because average precision is the area under the steps, not under straight lines.
    area = metrics.average_precision_score(truth, values)
    label = f"{name}: AUPRC {area:.3f} (prevalence {truth.mean():.3f})"
    pr.plot(recall, precision, drawstyle="steps-post", label=label, **style)
    if prevalence:
        pr.axhline(truth.mean(), color=style["color"], linestyle=(0, (1, 2)), linewidth=1)


def _mark_operating_point(roc: Axes, pr: Axes, truth: Array, values: Array, threshold: float) -> None:
    called, positive = values >= threshold, truth == 1
    if not (called & positive).any() or positive.all():
        label = f"operating point {threshold:.3g}: not on the curve of these data"
        for axes in (roc, pr):
            axes.plot([], [], "o", color=PALETTE[1], label=label)
        return
    sensitivity, specificity = called[positive].mean(), (~called[~positive]).mean()
    precision = positive[called].mean()
    style: dict[str, Any] = {"color": PALETTE[1], "marker": "o", "markersize": 10, "linestyle": "", "zorder": 3}
    label = f"threshold {threshold:.3g}: sensitivity {sensitivity:.3f}, specificity {specificity:.3f}"
    roc.plot(1 - specificity, sensitivity, label=label, **style)
    label = f"threshold {threshold:.3g}: recall {sensitivity:.3f}, precision {precision:.3f}"
    pr.plot(sensitivity, precision, label=label, **style)


def _columns(labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str]) -> Iterator[tuple[str, Array, Array]]:
    """Name, known labels (0 or 1) and their scores of every class to draw."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    names = list(class_names)
    if truth.shape[:1] != values.shape[:1] or (truth.ndim == 2 and truth.shape != values.shape):
        raise ValueError(f"labels {truth.shape} and scores {values.shape} must be (N,) or (N, C) of equal N")
    expected = 2 if values.ndim == 1 else values.shape[1]
    if len(names) != expected:
        raise ValueError(f"scores {values.shape} need {expected} class names, got {len(names)}: {names}")
    if truth.ndim == 1:
        numbers = [1] if expected == 2 else list(range(expected))
        truth = np.stack([np.where(np.isnan(truth), np.nan, truth == number) for number in numbers], axis=1)
        values = values[:, None] if values.ndim == 1 else values[:, numbers]
        names = [names[number] for number in numbers]
    for name, column, score in zip(names, truth.T, values.T, strict=True):
        known = ~np.isnan(column)
        yield name, column[known], score[known]


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _say(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none"}
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.3", bbox=box)


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # "tight": the legends below the panels grow with the number of classes.
    figure.savefig(path, dpi=DPI, format="png", bbox_inches="tight", metadata={"Software": None})
    return path
