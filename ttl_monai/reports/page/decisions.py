"""Decisions: operating points, the confusion matrix, and the cases that are most wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import confusion_matrix

from ttl_monai.analysis import operating_intervals, threshold_at_sensitivity
from ttl_monai.reports.page.blocks import Block, Section, Table, fixed, interval
from ttl_monai.reports.page.inputs import Inputs, shown_key
from ttl_monai.reports.page.runs import Run

MOST_WRONG = 10


def operating_section(inputs: Inputs, sensitivities: Sequence[float], prevalence: float | None) -> Section:
    """Thresholds chosen on the validation section, and what they do on the test section.

    Args:
        inputs: the runs.
        sensitivities: wanted on validation.
        prevalence: for the predictive values; None takes the share of positives in each test section.
    """
    rows, missing, shares, unscored = [], [], [], []
    for run in inputs.runs:
        found = run.test
        if found is None or found.task != "binary":
            continue
        positives = float(found.labels.mean())
        if not 0 < positives < 1:
            missing.append(f"{run.title}: the test section has one class only, so that there is no operating point.")
            continue
        shares.append(positives)
        points = [("Youden", run.spec["threshold"])] if run.spec.get("threshold") is not None else []
        if run.validation is None:
            unscored.append(run.title)
        else:
            truth, scores = run.validation.labels, run.validation.scores
            points += [(f"≥ {each:.0%}", threshold_at_sensitivity(truth, scores, each)) for each in sensitivities]
        for wanted, threshold in points:
            values, spread = operating_intervals(
                found.labels, found.scores, found.patients, threshold, prevalence or positives
            )
            shown = [interval(values[name], spread.intervals[name], 2) for name in values]
            rows.append([run.title, wanted, fixed(threshold), *shown])
    if unscored:
        missing.append(
            f"No validation scores, from which thresholds for a wanted sensitivity are chosen: {', '.join(unscored)}. "
            "Evaluate once more with --section validation."
        )
    if not rows:
        return Section("operating", "Operating points", missing=missing)
    heads = ["run", "wanted sensitivity", "threshold", "sensitivity", "specificity", "PPV", "NPV"]
    at = f"{prevalence:.1%} (given)" if prevalence else f"{_range(shares)}, that of the test section"
    notes = [
        "Thresholds were chosen on the validation section (Youden: highest sensitivity + specificity; else the highest "
        "threshold of the wanted sensitivity) and applied to the test section. In brackets: 95 % intervals, bootstrap "
        f"over patients. PPV and NPV by Bayes' rule for a prevalence of {at}.",
    ]
    return Section(
        "operating",
        "Operating points",
        [Table("Operating points on the test section", heads, rows, text=2, notes=notes)],
        missing,
    )


def confusion_section(inputs: Inputs) -> Section:
    """Confusion matrices at the run's own threshold, else of the most probable class."""
    blocks: list[Block] = []
    for run in inputs.runs:
        found = run.test
        if found is None or found.task == "multi-label":
            continue
        called, how = _called(run)
        counts = confusion_matrix(found.labels, called, labels=range(len(found.classes)))
        shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
        rows = [
            [name, *(f"{count} ({share:.0%})" for count, share in zip(line, part, strict=True))]
            for name, line, part in zip(found.classes, counts, shares, strict=True)
        ]
        heads = ["reference", *(f"called {name}" for name in found.classes)]
        note = f"{how} Rows: reference; in brackets the share of its images."
        blocks.append(Table(run.title, heads, rows, shades=shares.tolist(), notes=[note]))
    return Section("confusion", "Confusion matrix", blocks)


def wrong_section(inputs: Inputs) -> Section:
    """The images whose own class got the lowest probability."""
    blocks: list[Block] = []
    for run in inputs.runs:
        found = run.test
        if found is None or found.task == "multi-label":
            continue
        labels = found.labels.astype(int)
        own = found.scores[np.arange(len(labels)), labels]
        called, _ = _called(run)
        worst = [int(row) for row in np.argsort(own, kind="stable") if called[row] != labels[row]][:MOST_WRONG]
        rows = [
            [
                shown_key(found.images[row], row),
                found.classes[labels[row]],
                found.classes[int(called[row])],
                fixed(own[row]),
            ]
            for row in worst
        ]
        count = int((called != labels).sum())
        if not rows:
            blocks.append(f"{run.title}: no image of the test section was called wrongly.")
            continue
        caption = f"{run.title}: {count} of {len(labels)} images were called wrongly"
        heads = ["image", "reference", "called", "its probability"]
        blocks.append(Table(caption, heads, rows, text=3))
    note = [
        "Images are named by the first digits of their pseudonym, or by their row in the run's predictions.csv. Its "
        "probability: what the network gave the reference's class."
    ]
    return Section("wrong", "Most wrong cases", [*note, *blocks] if blocks else [])


def _called(run: Run) -> tuple[np.ndarray, str]:
    """The class that each image was called, and how that was decided."""
    found, threshold = run.test, run.spec.get("threshold")
    if found is None:
        raise ValueError("a run without predictions calls nothing")
    if found.task == "binary" and threshold is not None:
        called = (found.scores[:, 1] >= threshold).astype(int)
        return called, f"Called at the threshold chosen on validation, {threshold:.3f}."
    return found.scores.argmax(axis=1), "Called: the most probable class."


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1%}", f"{max(values):.1%}"
    return low if low == high else f"{low} to {high}"
