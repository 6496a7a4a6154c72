"""Predictions of CT series: scores, where they come from, what was checked, and what was refused and why."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttl_monai.data import SeriesDataset, series_scores
from ttl_monai.data.windows import window_starts
from ttl_monai.handlers.files import write_atomically
from ttl_monai.handlers.gradcam import GradCamWriter
from ttl_monai.handlers.predictions import PredictionWriter
from ttl_monai.reports import plot_slice_scores

logger = logging.getLogger(__name__)

_COLUMNS = ("image", "outcome", "score", "decision", "top_first_mm", "top_last_mm", "reasons")


class SeriesWriter(PredictionWriter):
    """Write `predictions.csv`, `series.json`, `series.csv` and a picture of the scores along each series.

    A window has the mean of the scores of its slices, a series what its windows give by `pooling`. The files tell the
    windows with their places (how far the middles of their first and last slice lie towards the head, in mm of the
    scanner's system), the highest of them, and the report of the reader. A refused volume has the reasons. Nothing in
    it names a patient.

    Attach to the evaluator of an inference in one process, with `SeriesDataset` and `SeriesInferer`.

    Args:
        task: must be "binary".
        class_names: names in the order of the network's outputs.
        output_dir: where the files go.
        dataset: the series that are predicted; it knows the reports and what the reader refused.
        refused: more volumes that were refused, with `image_id` and `report`.
        pooling: "max", "mean" or "top-k".
        threshold: operating point of class 1; None leaves the decision out.
        gradcam: writes the Grad-CAM of the highest window of each series; None leaves it out.

    Raises:
        ValueError: for another task or pooling.
    """

    def __init__(
        self,
        *,
        task: str,
        class_names: Sequence[str],
        output_dir: str | Path,
        dataset: SeriesDataset,
        refused: Sequence[Mapping[str, Any]] = (),
        pooling: str = "max",
        threshold: float | None = None,
        gradcam: GradCamWriter | None = None,
    ) -> None:
        if task != "binary":
            raise ValueError(f"SeriesWriter writes one score a series: expected the task 'binary', got {task!r}.")
        super().__init__(
            task=task, class_names=class_names, output_dir=output_dir, threshold=threshold, pooling=pooling
        )
        self.dataset, self.refused, self.gradcam = dataset, [*refused, *dataset.refused], gradcam

    def _row(self, item: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        places = np.asarray(item["slice_mm"], dtype=np.float64)
        scores = torch.as_tensor(output["pred"])[1, : len(places)].double().cpu().numpy()
        windows = [self._window(start, places, scores) for start in window_starts(len(places), self.dataset.size)]
        pooled = series_scores([each["score"] for each in windows], [0] * len(windows), method=str(self.pooling))[0]
        row = super()._row(item, {"pred": [1 - pooled, pooled]})
        score = row["probabilities"][1]
        decided = {} if self.threshold is None else {"decision": self.class_names[int(score >= self.threshold)]}
        top = max(windows, key=lambda each: each["score"])
        volume, name = self.dataset.cache.open(self.dataset.data[len(self._rows)]), f"series_{len(self._rows):03}"
        plot_slice_scores(
            places,
            scores,
            top,
            self.output_dir / f"{name}.png",
            class_name=self.class_names[1],
            threshold=self.threshold,
        )
        series = {
            "image": row["image_id"],
            "score": round(score, 6),
            **decided,
            "top_window": _rounded(top),
            "windows": [_rounded(each) for each in windows],
            "plot": f"{name}.png",
            **({} if self.gradcam is None else {"gradcam": self.gradcam.write(name, item, top, volume)}),
            "volume": volume.report,
        }
        return {**row, "series": series}

    def _window(self, start: int, places: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        inside = slice(start, start + self.dataset.size)
        first, last = (round(float(place), 3) for place in places[inside][[0, -1]])
        return {"start": start, "first_mm": first, "last_mm": last, "score": float(scores[inside].mean())}

    def write(self) -> None:
        """Write the files from what was predicted; after a run this is done already."""
        super().write()
        series = [row["series"] for row in self._rows]
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
        write_atomically(self.output_dir / "series.json", json.dumps(document, indent=4).encode())
        write_atomically(self.output_dir / "series.csv", _csv(series, refused).encode())
        logger.info("Wrote %d series, and %d refused ones, to %s.", len(series), len(refused), self.output_dir)


def _rounded(window: Mapping[str, float]) -> dict[str, float]:
    return {**window, "score": round(window["score"], 6)}


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
