"""What became of each item: report.json, predictions.json, the table on the screen, the exit status."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttl_monai.deploy.predict.bundle import Predictor
from ttl_monai.deploy.predict.sort import Item, Sorted
from ttl_monai.files import write_atomically

__all__ = ["Result", "Results", "collect_results", "write_key_map"]

SCHEMA = 1


@dataclass
class Result:
    """One item and what came of it.

    Attributes:
        item: the item.
        reasons: why it was refused; none where it was predicted.
        prediction: plain values for JSON; None where it was refused.
        dicom: files of DICOM objects, relative to the output folder.
        dicom_refused: why there are none though they were asked for.
    """

    item: Item
    reasons: list[str]
    prediction: dict[str, Any] | None = None
    dicom: list[str] = field(default_factory=list)
    dicom_refused: str = ""

    @property
    def outcome(self) -> str:
        """Either "predicted" or "refused"."""
        return "refused" if self.prediction is None else "predicted"

    def to_dict(self) -> dict[str, Any]:
        """For report.json: pseudonyms, checks and reasons."""
        item = self.item
        return {
            "key": item.key,
            "outcome": self.outcome,
            "reasons": self.reasons,
            "warnings": [f"{each.name}: {each.detail}" for each in item.report.checks if each.outcome == "warned"],
            "kind": item.kind,
            "format": item.format,
            "patient": item.patient,
            "study": item.study,
            "files": len(item.files),
            **({"dicom": self.dicom} if self.dicom else {}),
            **({"dicom_refused": self.dicom_refused} if self.dicom_refused else {}),
            "checks": item.report.to_dict(),
        }

    def line(self) -> tuple[str, ...]:
        """Key, kind, number of files, outcome, and what there is to say, for the table."""
        said = "; ".join(self.reasons)
        if self.prediction is not None:
            said = str(self.prediction["summary"]) + (f"; no DICOM: {self.dicom_refused}" if self.dicom_refused else "")
        return self.item.key, self.item.kind, self.item.format, str(len(self.item.files)), self.outcome, said


@dataclass
class Results:
    """All items.

    Attributes:
        results: one an item.
        left_out: files that are no images.
        model: identity of the model, plain values.
        operating_point: threshold and where it comes from; None where there is none.
    """

    results: list[Result]
    left_out: int
    model: dict[str, Any]
    operating_point: dict[str, Any] | None

    @property
    def exit_code(self) -> int:
        """0 all done; 1 some refused, or without the DICOM that was asked for; 3 nothing could be predicted."""
        if not any(each.outcome == "predicted" for each in self.results):
            return 3
        return 1 if any(each.reasons or each.dicom_refused for each in self.results) else 0

    def lines(self) -> list[str]:
        """The table for the screen."""
        rows = [("KEY", "KIND", "FORMAT", "FILES", "OUTCOME", ""), *(each.line() for each in self.results)]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        counts = Counter(each.outcome for each in self.results)
        table = [
            "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5]]).rstrip()
            for row in rows
        ]
        counted = f"{counts['predicted']} predicted, {counts['refused']} refused, {self.left_out} files left out"
        return [*table, counted]

    def write(self, folder: Path) -> None:
        """Write report.json and predictions.json."""
        predictions = {
            "schema": SCHEMA,
            "model": self.model,
            "operating_point": self.operating_point,
            "intended_use": "Research only. Not a medical device, not for clinical use.",
            "items": [
                {"key": each.item.key, "patient": each.item.patient, "study": each.item.study, **each.prediction}
                for each in self.results
                if each.prediction is not None
            ],
        }
        report = {
            "schema": SCHEMA,
            "model": self.model,
            "exit_code": self.exit_code,
            "counts": dict(Counter(each.outcome for each in self.results)),
            "left_out": self.left_out,
            "items": [each.to_dict() for each in self.results],
        }
        for name, content in (("predictions.json", predictions), ("report.json", report)):
            write_atomically(folder / name, (json.dumps(content, indent=4) + "\n").encode())


def collect_results(found: Sorted, predictor: Predictor, folder: Path) -> Results:
    """Read what the bundle's workflow wrote, and put it beside the items.

    Args:
        found: all items.
        predictor: whose workflow has run.
        folder: where it wrote.

    Returns:
        The results; an item that the workflow itself refused has its reasons.
    """
    predictions = _masks(folder, predictor) if predictor.is_segmentation else _scores(folder, predictor)
    refused = _refused_series(folder)
    results = []
    for item in found.items:
        reasons = item.report.refusals or refused.get(item.key, [])
        prediction = None if reasons else predictions[item.key]
        results.append(Result(item, reasons, prediction))
    spec, metadata = predictor.spec, predictor.metadata
    model = {
        "name": metadata["name"],
        "version": metadata["version"],
        "sha256": predictor.weights_sha256,
        "strategy": spec.get("strategy"),
        "truncate_at": spec["network_def"].get("truncate_at"),
        "classes": list(spec["class_names"]),
    }
    point = None
    if spec.get("threshold") is not None:
        origin = f"maximal Youden index on the validation split, epoch {spec['epoch']}; model.json of the run"
        point = {"threshold": spec["threshold"], "class": spec["class_names"][1], "origin": origin}
    return Results(results, found.left_out, model, point)


def _scores(folder: Path, predictor: Predictor) -> dict[str, dict[str, Any]]:
    """The rows of predictions.csv, by key."""
    path, names = folder / "predictions.csv", list(predictor.spec["class_names"])
    if not path.is_file():
        return {}
    series = _series(folder)
    predictions = {}
    for row in csv.DictReader(path.open(encoding="utf-8", newline="")):
        probabilities = {name: float(row[f"probability_{name}"]) for name in names}
        likeliest = max(probabilities, key=lambda name: probabilities[name])
        decision = row.get("decision") or None
        chosen = decision or likeliest
        predictions[row["image"]] = {
            "summary": f"{chosen} ({', '.join(f'{name} {value:.3f}' for name, value in probabilities.items())})",
            "probabilities": probabilities,
            "predicted": chosen,
            "predicted_by": "operating point" if decision else "highest probability",
            **series.get(row["image"], {}),
        }
    return predictions


def _series(folder: Path) -> dict[str, dict[str, Any]]:
    """What series.json adds: the windows, and the names of pictures and maps."""
    path = folder / "series.json"
    if not path.is_file():
        return {}
    names = ("top_window", "windows", "plot", "gradcam")
    series = json.loads(path.read_text(encoding="utf-8"))["series"]
    return {each["image"]: {name: each[name] for name in names if name in each} for each in series}


def _refused_series(folder: Path) -> dict[str, list[str]]:
    path = folder / "series.json"
    if not path.is_file():
        return {}
    return {each["image"]: each["reasons"] for each in json.loads(path.read_text(encoding="utf-8"))["refused"]}


def _masks(folder: Path, predictor: Predictor) -> dict[str, dict[str, Any]]:
    """The entries of volumes.json, by key, with the files of the masks."""
    path = folder / "volumes.json"
    if not path.is_file():
        return {}
    predictions = {}
    for key, structures in json.loads(path.read_text(encoding="utf-8")).items():
        masks = sorted(each.name for each in folder.glob(f"{key}_mask*.nii.gz"))
        summary = ", ".join(f"{name} {size['voxels']} voxels" for name, size in structures.items())
        predictions[key] = {"summary": summary, "structures": structures, "masks": masks, "picture": f"{key}_mask.png"}
    return predictions


def write_key_map(items: Sequence[Item], path: Path) -> None:
    """Write which key stands for which files, for the user alone (mode 0600): names of patients may be in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    content = {item.key: [str(each) for each in item.originals] for item in items}
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
