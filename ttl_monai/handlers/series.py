"""Predictions of CT series: scores, where they come from, what was checked, and what was refused and why."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine

from ttl_monai.data import WindowDataset
from ttl_monai.handlers.files import write_atomically
from ttl_monai.handlers.predictions import Predictions
from ttl_monai.reports import plot_slice_scores

logger = logging.getLogger(__name__)

_COLUMNS = ("image", "outcome", "score", "decision", "top_first_mm", "top_last_mm", "reasons")


class SeriesWriter(Predictions):
    """Write `series.json`, `series.csv` and a picture of the scores along each series.

    A series has the score that its windows give by `pooling`, all windows with their places (how far the middles of
    their first and last slice lie towards the head, in mm of the scanner's system), the highest of them, and the report
    of the reader. A refused volume has the reasons. Nothing in it names a patient.

    Attach to the evaluator of an inference, on every rank; rank 0 writes.

    Args:
        task: must be "binary".
        class_names: names in the order of the network's outputs.
        output_dir: where the files go.
        dataset: the windows that are predicted; it knows the reports and what the reader refused.
        refused: more volumes that were refused, with `image_id` and `report`.
        pooling: "max", "mean" or "top-k".
        threshold: operating point of class 1; None leaves the decision out.

    Raises:
        ValueError: for another task or pooling.
    """

    def __init__(
        self,
        *,
        task: str,
        class_names: Sequence[str],
        output_dir: str | Path,
        dataset: WindowDataset,
        refused: Sequence[Mapping[str, Any]] = (),
        pooling: str = "max",
        threshold: float | None = None,
    ) -> None:
        if task != "binary":
            raise ValueError(f"SeriesWriter writes one score a series: expected the task 'binary', got {task!r}.")
        super().__init__(task=task, class_names=class_names, pooling=pooling)
        self.output_dir, self.threshold, self.dataset = Path(output_dir), threshold, dataset
        self.refused = [*refused, *dataset.refused]

    def write(self) -> None:
        """Write the files from what was predicted; after a run this is done already."""
        rows = self._gathered()
        if idist.get_rank() != 0:
            return
        windows = defaultdict(list)
        for row in rows:
            windows[row["image_id"]].append({**row["window"], "score": round(row["probabilities"][1], 6)})
        reports = {item["image_id"]: self.dataset.cache.open(item).report for item in self.dataset.series}
        series = [
            self._describe(number, row, windows[row["image_id"]], reports[row["image_id"]])
            for number, row in enumerate(self._pooled(rows))
        ]
        refused = [
            {"image": each["image_id"], "reasons": _reasons(each["report"]), "volume": each["report"]}
            for each in self.refused
        ]
        document = {
            "schema": 1,
            "pooling": self.pooling,
            "threshold": self.threshold,
            "series": series,
            "refused": refused,
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.output_dir / "series.json", json.dumps(document, indent=4).encode())
        write_atomically(self.output_dir / "series.csv", _csv(series, refused).encode())
        logger.info("Wrote %d series, and %d refused ones, to %s.", len(series), len(refused), self.output_dir)

    def _describe(
        self, number: int, row: Mapping[str, Any], windows: list[dict[str, float]], report: Any
    ) -> dict[str, Any]:
        score = row["probabilities"][1]
        decided = {} if self.threshold is None else {"decision": self.class_names[int(score >= self.threshold)]}
        plot = f"series_{number:03}.png"
        plot_slice_scores(windows, self.output_dir / plot, class_name=self.class_names[1], threshold=self.threshold)
        return {
            "image": row["image_id"],
            "score": round(score, 6),
            **decided,
            "top_window": max(windows, key=lambda each: each["score"]),
            "windows": windows,
            "plot": plot,
            "volume": report,
        }

    def _end(self, engine: Engine) -> None:
        self.write()


def _reasons(report: Mapping[str, Any]) -> list[str]:
    return [f"{each['name']}: {each['detail']}" for each in report["checks"] if each["outcome"] == "refused"]


def _csv(series: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for each in series:
        top = each["top_window"]
        writer.writerow(
            {**each, "outcome": "predicted", "top_first_mm": top["first_mm"], "top_last_mm": top["last_mm"]}
        )
    writer.writerows({**each, "outcome": "refused", "reasons": " | ".join(each["reasons"])} for each in refused)
    return buffer.getvalue()
