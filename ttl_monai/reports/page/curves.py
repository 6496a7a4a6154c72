"""ROC and precision-recall curves with bands, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from ttl_monai.analysis import curve_bands, reliability
from ttl_monai.reports.figures import PALETTE
from ttl_monai.reports.page.blocks import Block, Figure, Section, Table, fixed
from ttl_monai.reports.page.inputs import Inputs
from ttl_monai.reports.page.runs import Predictions, Run
from ttl_monai.reports.page.svg import legend_below, new_figure

TOGETHER = 4  # curves in one figure
Array = NDArray[np.float64]


class Curve(NamedTuple):
    """A class of a run that is scored."""

    title: str
    truth: Array
    values: Array
    patients: Sequence[str]


def curves_section(inputs: Inputs) -> Section:
    """ROC and precision-recall curves of the test section: the runs of a binary task together, others by class."""
    groups = list(_groups(inputs.runs))
    blocks: list[Block] = []
    for number, (title, curves) in enumerate(groups):
        blocks += _roc_pr(f"{number}", title, curves)
    unknown = [run.title for run in inputs.runs if not run.labels_known]
    missing = (
        [f"{', '.join(unknown)}: some labels are unknown, which predictions.csv does not tell."] if unknown else []
    )
    if not blocks and any(run.masks is None for run in inputs.runs):
        missing.append("No predictions of a test section: evaluate the runs (evaluate.json) for ROC and PR curves.")
    return Section("curves", "ROC and precision-recall", blocks, missing)


def calibration_section(inputs: Inputs) -> Section:
    """Reliability diagrams, Brier score and expected calibration error."""
    rows, drawn = [], []
    for run in inputs.runs:
        found = run.test if run.labels_known else None
        if found is None or found.task == "multi-label":
            continue
        truth, values = _confidence(found)
        drawn.append((run.title, reliability(truth, values)))
        rows.append([run.title, str(len(truth)), fixed(drawn[-1][1].brier), fixed(drawn[-1][1].ece)])
    if not rows:
        return Section("calibration", "Calibration")
    binary = all(run.test is None or run.test.task == "binary" for run in inputs.runs)
    what = "probability of the positive class" if binary else "probability of the predicted class"
    figures = [_reliability(f"reliability{k}", drawn[k : k + TOGETHER], what) for k in range(0, len(drawn), TOGETHER)]
    note = "Brier: mean squared error of the probability, lower is better. ECE: mean distance of the diagram's points "
    note += f"from the diagonal, weighted by their images; 10 bins of equal width of the {what}."
    table = Table("Calibration on the test section", ["run", "images", "Brier", "ECE"], rows, notes=[note])
    return Section("calibration", "Calibration", [*figures, table])


def _groups(runs: Sequence[Run]) -> list[tuple[str, list[Curve]]]:
    """The curves that share a figure, with its title."""
    scored = [(run, run.test) for run in runs if run.test is not None and run.labels_known]
    binary, groups = [], []
    for run, found in scored:
        curves = [
            Curve(run.title if found.task == "binary" else name, truth.astype(float), values, found.patients)
            for name, truth, values in found.columns()
            if 0 < truth.sum() < truth.size
        ]
        if found.task == "binary":
            binary += curves
        else:
            groups += [(f"{run.title}, by class", curves[k : k + TOGETHER]) for k in range(0, len(curves), TOGETHER)]
    positive = next((found.classes[1] for _, found in scored if found.task == "binary"), "")
    return [(positive, binary[k : k + TOGETHER]) for k in range(0, len(binary), TOGETHER)] + groups


def _roc_pr(name: str, title: str, curves: Sequence[Curve]) -> list[Figure]:
    roc_figure, (roc,) = new_figure(4.6)
    pr_figure, (pr,) = new_figure(4.6)
    said: tuple[list[str], list[str]] = ([], [])
    for number, curve in enumerate(curves):
        color = PALETTE[number]
        bands = curve_bands(curve.truth, curve.values, curve.patients)
        false_rate, true_rate, _ = metrics.roc_curve(curve.truth, curve.values)
        area = metrics.auc(false_rate, true_rate)
        roc.fill_between(bands[0].x, bands[0].low, bands[0].high, color=color, alpha=0.15, linewidth=0)
        roc.plot(false_rate, true_rate, color=color, linewidth=2, label=f"{curve.title}: AUROC {area:.3f}")
        said[0].append(f"{curve.title} AUROC {area:.3f}")
        precision, recall, _ = metrics.precision_recall_curve(curve.truth, curve.values)
        area = metrics.average_precision_score(curve.truth, curve.values)
        pr.fill_between(bands[1].x, bands[1].low, bands[1].high, color=color, alpha=0.15, linewidth=0)
        # Steps, because average precision is the area under the steps.
        label = f"{curve.title}: AUPRC {area:.3f}"
        pr.plot(recall, precision, color=color, linewidth=2, drawstyle="steps-post", label=label)
        said[1].append(f"{curve.title} AUPRC {area:.3f}")
    roc.plot([0, 1], [0, 1], color="0.5", linestyle=(0, (1, 2)), label="chance")
    share = float(np.mean(curves[0].truth))
    if len({float(np.mean(curve.truth)) for curve in curves}) == 1:
        pr.axhline(share, color="0.5", linestyle=(0, (1, 2)), label=f"chance: share of positives {share:.2f}")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity")
    pr.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    for figure, axes in ((roc_figure, roc), (pr_figure, pr)):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        legend_below(figure, axes)
    patients = len(set(curves[0].patients))
    caption = f"{len(curves[0].truth)} images of {patients} patients. Bands: 95 %, bootstrap over patients, pointwise."
    return [
        Figure(f"roc{name}", f"ROC: {title}", f"ROC curves. {'; '.join(said[0])}.", roc_figure, caption),
        Figure(f"pr{name}", f"Precision-recall: {title}", f"PR curves. {'; '.join(said[1])}.", pr_figure, caption),
    ]


def _confidence(found: Predictions) -> tuple[Array, Array]:
    """What came true and its probability: of two classes the second, else the predicted class."""
    if found.task == "binary":
        return (found.labels == 1).astype(float), found.scores[:, 1]
    return (found.scores.argmax(axis=1) == found.labels).astype(float), found.scores.max(axis=1)


def _reliability(name: str, drawn: Sequence[tuple], what: str) -> Figure:
    figure, (axes, counts) = new_figure(5.0, rows=2, sharex=True, height_ratios=(4, 1))
    width = 0.08 / len(drawn)
    for number, (title, found) in enumerate(drawn):
        color = PALETTE[number]
        label = f"{title}: ECE {found.ece:.3f}"
        axes.plot(found.predicted, found.observed, "o-", color=color, linewidth=1.5, markersize=5, label=label)
        bins = np.floor(np.minimum(found.predicted, 0.999) * 10) / 10 + 0.05
        counts.bar(bins + (number - (len(drawn) - 1) / 2) * width, found.counts, width, color=color)
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=(0, (1, 2)), label="perfect")
    axes.set(ylabel="came true (share)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counts.set(xlabel=f"predicted: {what}", ylabel="images")
    legend_below(figure, axes)
    said = "; ".join(f"{title} ECE {found.ece:.3f}, Brier {found.brier:.3f}" for title, found in drawn)
    return Figure(name, "Reliability", f"Reliability diagram. {said}.", figure, "Below: images in each bin.")
