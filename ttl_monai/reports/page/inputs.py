"""What folders of trainings, searches, comparisons and experiments hold, read for the page."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_monai.analysis import Measure, auroc, classification_measure, mean_measure

KEY = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}([#_-]\d+)?")  # a pseudonym, and the number of a slice or series
SAME_AUROC = 1e-4  # predictions.csv has six digits


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
    """

    folder: Path
    record: Mapping[str, Any]
    spec: Mapping[str, Any]
    evaluated: Path
    title: str = ""

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


@dataclass
class Inputs:
    """Everything that a page is made of.

    Attributes:
        runs: trainings.
        searches: contents of `search.json`.
        similarities: contents of `similarity.json`, of `ttl svcca`.
        experiments: folders and contents of `results.json`.
        pictures: Grad-CAM pictures.
    """

    runs: list[Run] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    similarities: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The tables of all experiments."""
        return [table for _, content in self.experiments for table in content["tables"]]


def read_inputs(folders: Sequence[str | Path]) -> Inputs:
    """Read what lies in folders of trainings, searches, `ttl svcca`, experiments and inferences with Grad-CAM.

    Args:
        folders: any mix; the file that names what was done may be given instead of its folder.

    Raises:
        ValueError: no folder, or one that holds nothing of the kind.
    """
    if not folders:
        raise ValueError("a report needs at least one folder of a training, a search, `ttl svcca` or an experiment")
    found = Inputs()
    for each in folders:
        path = Path(each)
        _read_folder(path.parent if path.suffix == ".json" else path, found)
    for key in ("runs", "pictures"):
        setattr(found, key, list({_place(each): each for each in getattr(found, key)}.values()))
    found.runs = _named(found.runs)
    return found


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in groups of the same data, task and backbone, which may stand in one table."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data, run.spec["task"], run.network), []).append(run)
    return list(groups.values())


def shown_key(image: str, row: int) -> str:
    """What to call an image in a page: a pseudonym by its first digits, anything else by its row in the table.

    An id that is no pseudonym may be a name; the row of `predictions.csv` says as much to whoever has the file.
    """
    match = KEY.fullmatch(image)
    return f"{match[1]}…{match[2] or ''}" if match else f"row {row + 1}"


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


def _read_folder(folder: Path, found: Inputs) -> None:
    known = False
    if (folder / "results.json").is_file():
        content, known = read_json(folder / "results.json"), True
        if not isinstance(content.get("tables"), list):
            raise ValueError(f"{folder / 'results.json'} must have `tables`, a list; write it by `ttl experiment`")
        found.experiments.append((folder, content))
        found.runs += [run for table in content["tables"] for row in table["rows"] for run in _run_of(folder, row)]
    if (folder / "search.json").is_file():
        content, known = read_json(folder / "search.json"), True
        found.searches += content.get("searches", [content])
    if (folder / "similarity.json").is_file():
        found.similarities.append(read_json(folder / "similarity.json"))
        known = True
    if (folder / "run.json").is_file():
        found.runs.append(_read_run(folder, folder))
        known = True
    pictures = sorted(folder.glob("*_gradcam.png")) or sorted(folder.glob("*/*_gradcam.png"))
    found.pictures += pictures
    if not (known or pictures):
        raise ValueError(
            f"{folder} holds nothing to report: expected run.json (a training), search.json, similarity.json, "
            "results.json (an experiment) or pictures *_gradcam.png"
        )


def _read_run(folder: Path, evaluated: Path) -> Run:
    missing = [name for name in ("run.json", "model.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}: has its training finished an epoch?")
    return Run(folder, read_json(folder / "run.json"), read_json(folder / "model.json"), evaluated)


def _run_of(folder: Path, row: Mapping[str, Any]) -> list[Run]:
    """The run of a row of an experiment, where it is still there."""
    named = row.get("run")
    there = folder / named if named else None
    return [_read_run(there, there)] if there is not None and (there / "run.json").is_file() else []


def _place(each: Run | Path) -> Path:
    return (each.evaluated if isinstance(each, Run) else each).resolve()


def _named(runs: Sequence[Run]) -> list[Run]:
    """The runs with titles: strategy and cut, then network, seed, a number, as far as it takes to tell them apart."""
    titles = [" ".join(filter(None, (run.record["strategy"], run.cut))) for run in runs]
    for more in ([f", {run.network}" for run in runs], [f", seed {run.record['seed']}" for run in runs]):
        longer = [title + end for title, end in zip(titles, more, strict=True)]
        if len(set(longer)) > len(set(titles)):
            titles = [long if titles.count(title) > 1 else title for title, long in zip(titles, longer, strict=True)]
    named = []
    for number, (title, run) in enumerate(zip(titles, runs, strict=True)):
        again = f" ({titles[: number + 1].count(title)})" if titles.count(title) > 1 else ""
        named.append(Run(run.folder, run.record, run.spec, run.evaluated, title + again))
    return named
