"""A training with its evaluation, read from its folder when it is asked for."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_monai.analysis import Measure, auroc, classification_measure, mean_measure

SAME_AUROC = 1e-4  # predictions.csv has single precision, pooled scores have double


@dataclass(frozen=True)
class Predictions:
    """What an evaluation said of each image.

    Attributes:
        classes: names of the network's outputs.
        task: "binary", "multi-class" or "multi-label".
        labels: (N,) class numbers, or (N, C) of 0 and 1 for multi-label.
        scores: (N, C).
        patients: of each row.
        images: ids of each row; see `shown_key` before one is shown.
    """

    classes: Sequence[str]
    task: str
    labels: NDArray[np.float64]
    scores: NDArray[np.float64]
    patients: Sequence[str]
    images: Sequence[str]

    @property
    def measure(self) -> Measure:
        """AUROC and AUPRC of weighted rows."""
        return classification_measure(self.labels, self.scores)

    def columns(self) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        """Name, labels (0 or 1) and scores of each class that is scored: of two the second."""
        for k, name in enumerate(self.classes):
            if self.task != "binary" or k == 1:
                yield name, self.labels[:, k] if self.labels.ndim == 2 else self.labels == k, self.scores[:, k]


@dataclass(frozen=True)
class Masks:
    """What an evaluation of a segmentation said of each image.

    Attributes:
        structures: their names.
        scores: "dice" and "jaccard", (N, K) each, NaN where a structure is not drawn.
        patients: of each row.
        images: ids of each row.
    """

    structures: Sequence[str]
    scores: Mapping[str, NDArray[np.float64]]
    patients: Sequence[str]
    images: Sequence[str]

    @property
    def measure(self) -> Measure:
        """Dice and Jaccard of weighted rows."""
        return mean_measure(self.scores)


@dataclass(frozen=True)
class Run:
    """A training with its evaluation.

    Attributes:
        folder: of its files.
        record: `run.json`.
        spec: `model.json`.
        evaluated: folder of the evaluation, which may be another one.
        title: what to call it in the page: strategy and cut.
        start: what an experiment calls the weights that it started from; empty for a run of its own.
        repeats: how many an experiment has of it; this is the first.
    """

    folder: Path
    record: Mapping[str, Any]
    spec: Mapping[str, Any]
    evaluated: Path
    title: str = ""
    start: str = ""
    repeats: int = 1

    @property
    def cut(self) -> str | None:
        """The point of its network definition, of whichever strategy."""
        network = self.spec["network_def"]
        return next((network[key] for key in ("truncate_at", "slim_after", "freeze_up_to") if network.get(key)), None)

    @property
    def network(self) -> str:
        """The name of its backbone."""
        network = self.spec["network_def"]
        return str(network.get("backbone") or network.get("encoder") or network["_target_"].rpartition(".")[2])

    @property
    def data(self) -> str:
        """The name of its data."""
        return str((self.record.get("data") or {}).get("name") or "these data")

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """`test/metrics.json`; empty where it was not evaluated."""
        return read_json(self.evaluated / "test" / "metrics.json")

    @cached_property
    def test(self) -> Predictions | None:
        """The predictions of the test section.

        Raises:
            ValueError: they are not those that the metrics were made of.
        """
        found = self._predictions(self.evaluated, "test")
        known = self.metrics.get("test_auroc")
        if found is None or known is None or found.task == "multi-label":
            return found  # a label that is not known is as a negative one in the table: see `labels_known`
        if not math.isclose(auroc(found.labels, found.scores), known, abs_tol=SAME_AUROC):
            raise ValueError(
                f"{self.evaluated}/test: predictions.csv gives another AUROC than metrics.json has; evaluate again"
            )
        return found

    @cached_property
    def labels_known(self) -> bool:
        """Whether the table of predictions tells all labels: one that is not known is empty there, as a negative."""
        found, known = self.test, self.metrics.get("test_auroc")
        if found is None or found.task != "multi-label":
            return True
        return known is not None and math.isclose(auroc(found.labels, found.scores), known, abs_tol=SAME_AUROC)

    @cached_property
    def validation(self) -> Predictions | None:
        """The predictions of the validation section, from which thresholds are chosen."""
        found = self._predictions(self.evaluated, "validation")
        return found or self._predictions(self.folder, "validation")

    @cached_property
    def masks(self) -> Masks | None:
        """The scores of each image of the test section of a segmentation."""
        rows = read_csv(self.evaluated / "test" / "masks.csv")
        if not rows:
            return None
        names = [head.removeprefix("dice_") for head in rows[0] if head.startswith("dice_")]
        scores = {
            what: np.array([[float(row[f"{what}_{name}"] or "nan") for name in names] for row in rows])
            for what in ("dice", "jaccard")
        }
        return Masks(names, scores, [row["patient"] or row["image"] for row in rows], [row["image"] for row in rows])

    def _predictions(self, folder: Path, section: str) -> Predictions | None:
        rows = read_csv(folder / section / "predictions.csv")
        if not rows or not all(row["label"] or self.spec["task"] == "multi-label" for row in rows):
            return None
        names, task = list(self.spec["class_names"]), self.spec["task"]
        scores = np.array([[float(row[f"probability_{name}"]) for name in names] for row in rows])
        if task == "multi-label":
            labels = np.array([[float(name in row["label"].split("|")) for name in names] for row in rows])
        else:
            labels = np.array([names.index(row["label"]) for row in rows], dtype=np.float64)
        images = [row["image"] for row in rows]
        patients = [row["patient"] or row["image"] for row in rows]
        return Predictions(names, task, labels, scores, patients, images)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is no file.

    Raises:
        ValueError: it is no JSON.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
