"""Predictions of a validation, an evaluation or an inference: kept with pseudonymous keys, scored, written."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from ttl_monai.analysis import (
    Intervals,
    auprc_trapezoid,
    auroc,
    average_precision,
    classification_intervals,
    operating_point,
    sensitivity_specificity,
)
from ttl_monai.handlers.files import write_atomically
from ttl_monai.handlers.metrics import TASKS
from ttl_monai.handlers.pooling import check_labels, check_pooling, pool_rows
from ttl_monai.reports import plot_roc_pr

logger = logging.getLogger(__name__)


def gather_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all ranks, in the order of the data set."""
    if idist.get_world_size() == 1:
        return rows
    parts: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, rows)
    # A DistributedSampler deals the items out in turn: put them back into the order of the data set.
    longest = max(len(part) for part in parts)
    return [part[index] for index in range(longest) for part in parts if index < len(part)]


class Predictions:
    """Collect probabilities, labels and keys of an epoch over all ranks; what is done with them is for subclasses.

    Args:
        task: "binary", "multi-class" or "multi-label".
        class_names: names in the order of the network's outputs.
        pooling: see `OperatingPoint`.

    Raises:
        ValueError: if task or pooling is unknown.
    """

    def __init__(self, *, task: str, class_names: Sequence[str], pooling: str | None = None) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
        check_pooling(pooling)
        self.task, self.class_names, self.pooling = task, tuple(class_names), pooling
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose outputs are decollated (one dictionary an item)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _clear(self, engine: Engine) -> None:
        self._rows = []

    def _collect(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            self._rows.append(self._row(item, output))

    def _row(self, item: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        """What is kept of one item."""
        label = item.get("label")
        return {
            "patient": str(item.get("patient", "")),
            "image_id": str(item["image_id"]),
            "probabilities": torch.as_tensor(output["pred"]).float().cpu().numpy().tolist(),
            "label": None if label is None else np.asarray(label, dtype=float).tolist(),
        }

    def _gathered(self) -> list[dict[str, Any]]:
        return gather_rows(self._rows)

    def _pooled(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row an image: with `pooling`, the rows of one id put together."""
        if self.pooling is None or not rows:
            return rows
        ids = [row["image_id"] for row in rows]
        probabilities = np.array([row["probabilities"] for row in rows], dtype=np.float64)
        # Of two classes the second is scored, and the first is what it leaves: the two sum to 1.
        first, scores = pool_rows(
            ids, probabilities[:, 1:] if self.task == "binary" else probabilities, pooling=self.pooling
        )
        if self.task == "binary":
            scores = np.hstack([1 - scores, scores])
        if all(row["label"] is not None for row in rows):
            check_labels(ids, np.array([row["label"] for row in rows]), first)
        return [
            {**rows[number], "probabilities": values} for number, values in zip(first, scores.tolist(), strict=True)
        ]

    @staticmethod
    def _arrays(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N,), or (N, C) for multi-label, and probabilities (N, C)."""
        labels = np.array([row["label"] for row in rows])
        return labels.reshape(len(rows), -1).squeeze(1) if labels[0].size == 1 else labels, np.array(
            [row["probabilities"] for row in rows], dtype=np.float64
        )

    def _csv(self, rows: list[dict[str, Any]], threshold: float | None = None) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        decided = self.task == "binary" and threshold is not None
        writer.writerow(
            ["patient", "image", "label", *(f"probability_{name}" for name in self.class_names)]
            + (["decision"] if decided else [])
        )
        for row in rows:
            decision = [self.class_names[int(row["probabilities"][1] >= threshold)]] if decided else []
            # The shortest digits that give the same float32 back: rounding would tie the scores of a sure network,
            # and what is computed of the table (curves, intervals) would not agree with metrics.json.
            values = [str(np.float32(value)) for value in row["probabilities"]]
            writer.writerow([row["patient"], row["image_id"], self._label(row["label"]), *values, *decision])
        return buffer.getvalue()

    def _label(self, label: Any) -> str:
        if label is None:
            return ""
        if self.task != "multi-label":
            return self.class_names[int(label)]
        return "|".join(name for name, value in zip(self.class_names, label, strict=True) if value == 1)

    def _end(self, engine: Engine) -> None:
        raise NotImplementedError


class OperatingPoint(Predictions):
    """Choose the operating point on the validation split of a binary task, after each validation.

    Puts `val_threshold` (of maximal Youden index), `val_sensitivity` and `val_specificity` into the engine's metrics,
    from where the threshold of the best epoch goes into `model.json`. Other tasks have no single operating point:
    nothing is added. Attach to the evaluator, on every rank.

    The scores of the best epoch are kept (`predictions.csv`, pseudonymous as those of `PredictionWriter`), so that a
    threshold for another aim can be chosen later without the test section: see `ttl report`.

    Args:
        task: "binary", "multi-class" or "multi-label".
        class_names: names in the order of the network's outputs.
        pooling: "max", "mean" or "top-k" puts the rows of one `image_id` together first: windows become series.
        output_dir: where `predictions.csv` of the best epoch goes; None keeps none.

    Raises:
        ValueError: if task or pooling is unknown, or the rows of one id differ in their labels.
    """

    def __init__(
        self,
        *,
        task: str,
        class_names: Sequence[str],
        pooling: str | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        super().__init__(task=task, class_names=class_names, pooling=pooling)
        self.output_dir = None if output_dir is None else Path(output_dir)

    def _end(self, engine: Engine) -> None:
        rows = self._pooled(self._gathered())
        if self.task != "binary" or not rows:
            return
        labels, probabilities = self._arrays(rows)
        threshold = operating_point(labels, probabilities)
        sensitivity, specificity = sensitivity_specificity(labels, probabilities, threshold)
        engine.state.metrics.update(
            val_threshold=float(threshold), val_sensitivity=float(sensitivity), val_specificity=float(specificity)
        )
        state: Any = engine.state
        # MONAI's evaluator has compared the key metric before its handlers run; the probe's engine knows no best epoch.
        is_best = getattr(state, "best_metric_epoch", None) == state.epoch
        if self.output_dir is not None and is_best and idist.get_rank() == 0:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output_dir / "predictions.csv", self._csv(rows, float(threshold)).encode())


class PredictionWriter(Predictions):
    """Write `predictions.csv`, and where labels are known `metrics.json` and `roc_pr.png`.

    The CSV has the patient's key, the image's id (both pseudonymous unless the list is of public data), the label, a
    probability a class and, for a binary task, the decision at the operating point. The metrics have their 95 %
    intervals over patients (`classification_intervals`). Attach to the evaluator of an evaluation or inference, on
    every rank; rank 0 writes.

    Args:
        task: "binary", "multi-class" or "multi-label".
        class_names: names in the order of the network's outputs.
        output_dir: where the files go.
        threshold: operating point of class 1, as chosen on validation; None leaves the decision out.
        section: prefix of the metrics' names, such as "test".
        facts: more entries for `metrics.json`.
        pooling: "max", "mean" or "top-k" puts the rows of one `image_id` together first: windows become series.

    Raises:
        ValueError: if task or pooling is unknown, or the rows of one id differ in their labels.
    """

    def __init__(
        self,
        *,
        task: str,
        class_names: Sequence[str],
        output_dir: str | Path,
        threshold: float | None = None,
        section: str = "test",
        facts: dict[str, Any] | None = None,
        pooling: str | None = None,
    ) -> None:
        super().__init__(task=task, class_names=class_names, pooling=pooling)
        self.output_dir, self.threshold, self.section = Path(output_dir), threshold, section
        self.facts = dict(facts or {})

    def _end(self, engine: Engine) -> None:
        self.write()

    def write(self) -> None:
        """Write the files from what was predicted; after a run this is done already."""
        rows = self._pooled(self._gathered())
        if idist.get_rank() != 0:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.output_dir / "predictions.csv", self._csv(rows, self.threshold).encode())
        written = ["predictions.csv"]
        if rows and all(row["label"] is not None for row in rows):
            metrics, intervals = self._metrics(rows), self._intervals(rows)
            logger.info("%s: %s.", self.section, intervals.describe(metrics))
            metrics = {
                **self.facts,
                "n": len(rows),
                **{f"{self.section}_{name}": value for name, value in metrics.items()},
                **intervals.to_dict(self.section),
            }
            write_atomically(self.output_dir / "metrics.json", json.dumps(metrics, indent=4).encode())
            labels, probabilities = self._arrays(rows)
            threshold = self.threshold if self.task == "binary" else None
            plot_roc_pr(labels, probabilities, self.class_names, self.output_dir / "roc_pr.png", threshold=threshold)
            written += ["metrics.json", "roc_pr.png"]
        logger.info("Wrote %s for %d images to %s.", ", ".join(written), len(rows), self.output_dir)

    def _metrics(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        labels, probabilities = self._arrays(rows)
        functions = {"auroc": auroc, "auprc": average_precision, "auprc_trapezoid": auprc_trapezoid}
        result = {title: function(labels, probabilities) for title, function in functions.items()}
        if self.task != "multi-label":
            result["accuracy"] = float(np.mean(probabilities.argmax(axis=1) == labels))
        if self.task == "binary" and self.threshold is not None:
            result["threshold"] = self.threshold
            result["sensitivity"], result["specificity"] = sensitivity_specificity(
                labels, probabilities, self.threshold
            )
        # JSON knows no NaN: an undefined metric is null there.
        return {title: float(value) if np.isfinite(value) else None for title, value in result.items()}

    def _intervals(self, rows: list[dict[str, Any]]) -> Intervals:
        labels, probabilities = self._arrays(rows)
        threshold = self.threshold if self.task == "binary" else None
        patients = [row["patient"] or row["image_id"] for row in rows]  # one image each where patients are not known
        return classification_intervals(labels, probabilities, patients, threshold=threshold)
