"""Datalists: which images belong to training, validation and test, as MONAI decathlon JSON with a header."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttl_monai.data.records import TASKS, count_classes, has_content, label_matrix, raise_problems, relative_path

SECTIONS = ("training", "validation", "test")


def _some(places: list[str], limit: int = 5) -> str:
    return ", ".join(places[:limit]) + (f" and {len(places) - limit} more" if len(places) > limit else "")


@dataclass(frozen=True)
class Datalist:
    """A data set split by patient, read from a file that `ttl datalist` wrote.

    Attributes:
        name: name of the data set.
        task: "binary", "multi-class", "multi-label" or "segmentation".
        class_names: names of the classes, in the order of labels and logits.
        seed: seed of the split, None where the list was not made by us.
        source: where the images come from.
        licence: licence of the images.
        public_ids: the list carries published patient ids and file names, so that outputs may show them.
        header: the whole header, counts included.
        sha256: SHA-256 of the file.
        dataset_dir: absolute path of the folder that the images' paths are relative to.
        entries: the entries of each section as they stand in the file.
    """

    name: str
    task: str
    class_names: list[str]
    seed: int | None
    source: str
    licence: str
    public_ids: bool
    header: dict[str, Any]
    sha256: str
    dataset_dir: Path
    entries: dict[str, list[dict[str, Any]]]

    @classmethod
    def load(cls, path: str | Path, dataset_dir: str | Path, check_files: bool = True) -> Datalist:
        """Read and check a datalist.

        Args:
            path: the JSON file.
            dataset_dir: the folder of the data set.
            check_files: look whether every file is there.

        Returns:
            The checked list.

        Raises:
            ValueError: no JSON, a header or a label that does not fit, a patient or an image in two sections, missing
                files. All that is wrong is listed, with places such as `training[3]` and without patients or paths.
        """
        path, dataset_dir = Path(path), Path(dataset_dir).absolute()
        content = path.read_bytes()
        try:
            data = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        _check_header(data, path)
        entries = {section: data.pop(section) for section in SECTIONS}
        datalist = cls(
            name=data["name"],
            task=data["task"],
            class_names=list(data["class_names"]),
            seed=data.get("seed"),
            source=data.get("source", ""),
            licence=data.get("licence", ""),
            public_ids=bool(data.get("public_ids", False)),
            header=data,
            sha256=hashlib.sha256(content).hexdigest(),
            dataset_dir=dataset_dir,
            entries=entries,
        )
        raise_problems(datalist._entry_problems() or datalist._list_problems(), f"the datalist {path} is refused")
        if check_files:
            datalist.check_files()
        return datalist

    @property
    def origin_sha256(self) -> str:
        """SHA-256 of the list as the user gave it: a sealed copy (`seal`) names the list that it was made from."""
        return str(self.header.get("sealed_from", self.sha256))

    def section(self, section: str) -> list[dict[str, Any]]:
        """The images of one section, ready for MONAI's transforms.

        Args:
            section: "training", "validation" or "test".

        Returns:
            One dictionary an image: `image` (absolute path); `label` (int for binary and multi-class; float32 array
            of shape (classes,) with NaN for unknown for multi-label; absolute path of the mask for segmentation);
            `patient` (key); `image_id` (the published path when `public_ids`, else 16 digits without meaning);
            `slices` where the list has it: the numbers, from 0 at the feet, of a volume's slices that show the finding.

        Raises:
            ValueError: an unknown section, or an empty one.
        """
        if section not in SECTIONS:
            raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}")
        if not self.entries[section]:
            sizes = ", ".join(f"{len(entries)} {name}" for name, entries in self.entries.items())
            raise ValueError(
                f"the section {section!r} of datalist {self.name!r} is empty ({sizes}); split it with other --fractions"
            )
        return [
            {
                "image": str(self.dataset_dir / entry["image"]),
                "label": self._decode(entry["label"]),
                "patient": entry["patient"],
                "image_id": entry["image"] if self.public_ids else entry["id"],
                **({"slices": list(entry["slices"])} if "slices" in entry else {}),
            }
            for entry in self.entries[section]
        ]

    def class_weights(self) -> list[float]:
        """Weights of the classes in the loss, from the training section.

        Returns:
            For binary and multi-class, N / (C * N_c) (scikit-learn's "balanced"), for the cross-entropy; for
            multi-label, negatives / positives of each class among its known labels, the `pos_weight` of
            torch.nn.BCEWithLogitsLoss.

        Raises:
            ValueError: segmentation, or a class without training images (multi-label: without positives or negatives).
        """
        labels = [entry["label"] for entry in self.entries["training"]]
        if self.task == "segmentation":
            raise ValueError("class weights are for classification, but the datalist's task is segmentation")
        matrix = label_matrix(self.task, len(self.class_names), labels)
        positives = (matrix == 1).sum(axis=0)
        balanced = np.full(len(positives), len(labels) / len(positives))
        negatives = (matrix == 0).sum(axis=0) if self.task == "multi-label" else balanced
        if empty := [name for name, p, n in zip(self.class_names, positives, negatives, strict=True) if not p or not n]:
            raise ValueError(
                f"no class weights: {', '.join(empty)} lack positive or negative images in the training section of "
                f"{self.name!r}; leave the class out, or pass --loss#class_weights None"
            )
        return [float(weight) for weight in negatives / positives]

    def check_files(self) -> None:
        """Look whether every image and mask is there.

        Raises:
            ValueError: the number of missing files and the places in the list of the first.
        """
        keys = ("image", "label") if self.task == "segmentation" else ("image",)
        missing = [
            f"{place} ({key})"
            for place, e in self._places()
            for key in keys
            if not has_content(self.dataset_dir / e[key])
        ]
        if missing:
            total = sum(len(entries) for entries in self.entries.values()) * len(keys)
            raise ValueError(
                f"{len(missing)} of {total} files of datalist {self.name!r} are missing in {self.dataset_dir}: "
                f"{_some(missing)}; check dataset_dir"
            )

    def _decode(self, label: Any) -> Any:
        if self.task == "multi-label":
            return np.array([np.nan if value is None else value for value in label], dtype=np.float32)
        return str(self.dataset_dir / label) if self.task == "segmentation" else label

    def _places(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for section, entries in self.entries.items():
            for index, entry in enumerate(entries):
                yield f"{section}[{index}]", entry

    def _entry_problems(self) -> list[str]:
        """What is wrong inside single entries."""
        wrong: dict[str, list[str]] = defaultdict(list)
        for place, entry in self._places():
            for problem in _problems_of(entry, self.task, len(self.class_names), self.dataset_dir, self.public_ids):
                wrong[problem].append(place)
        return [f"{len(places)} entries {problem}: {_some(places)}" for problem, places in wrong.items()]

    def _list_problems(self) -> list[str]:
        """What is wrong between entries: leaks from one section into another, and a header that does not fit."""
        problems = []
        for key, what in (("patient", "patients are"), ("sha256", "images are, by content,")):
            places: dict[str, dict[str, str]] = defaultdict(dict)
            for place, entry in self._places():
                if key in entry:
                    places[entry[key]].setdefault(place.split("[")[0], place)
            if shared := [" and ".join(found.values()) for found in places.values() if len(found) > 1]:
                problems.append(f"{len(shared)} {what} in two sections: {_some(shared)}; split by patient anew")
        images: dict[str, str] = {}
        twice = [
            f"{images[e['image']]} and {place}"
            for place, e in self._places()
            if images.setdefault(e["image"], place) != place
        ]
        if twice:
            problems.append(f"{len(twice)} images stand in the list twice: {_some(twice)}")
        for section, counts in self.header.get("counts", {}).items():
            labels = [entry["label"] for entry in self.entries.get(section, [])]
            found = count_classes(self.task, self.class_names, labels)
            if found != counts:
                problems.append(f"the header counts {counts} in {section}, the list has {found}; the file was edited")
        return problems


def _check_header(data: Any, path: Path) -> None:
    """Raise one ValueError with all that is wrong in the header."""
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no datalist: expected a JSON object, got {type(data).__name__}")
    problems = [f"the list {section!r} is missing" for section in SECTIONS if not isinstance(data.get(section), list)]
    if not isinstance(data.get("name"), str):
        problems.append("'name' must be a string")
    if data.get("task") not in TASKS:
        problems.append(f"'task' must be one of {', '.join(TASKS)}, got {data.get('task')!r}")
    names = data.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        problems.append("'class_names' must be a list of different strings")
    elif len(names) != 2 if data.get("task") == "binary" else not names:
        problems.append(f"'class_names' has {len(names)} names, which does not fit the task {data.get('task')!r}")
    raise_problems(problems, f"{path} is no datalist; make one with `ttl datalist`")


def _problems_of(entry: Any, task: str, num_classes: int, dataset_dir: Path, public_ids: bool) -> Iterator[str]:
    """What is wrong in one entry, in words that show neither patient nor path."""
    if not isinstance(entry, dict) or not {"image", "label", "patient"} <= entry.keys():
        yield "lack image, label or patient"
        return
    label = entry["label"]
    paths = [entry["image"], label] if task == "segmentation" else [entry["image"]]
    if not all(isinstance(path, str) and relative_path(path, dataset_dir) == path for path in paths):
        yield "have a path that is not relative to the data set's folder, plain, with forward slashes"
    if not isinstance(entry["patient"], str) or not entry["patient"].strip():
        yield "have an empty patient"
    if not public_ids and not isinstance(entry.get("id"), str):
        yield 'have no "id" to show in outputs; use `ttl datalist`, or "public_ids": true if the names are public'
    if task in ("binary", "multi-class") and not (type(label) is int and 0 <= label < num_classes):
        yield f"have an unknown label, expected 0 to {num_classes - 1}"
    if task == "multi-label" and not (
        isinstance(label, list) and len(label) == num_classes and all(value in (0, 1, None) for value in label)
    ):
        yield f"have an unknown label, expected a list of {num_classes} values 0, 1 or null"
    slices = entry.get("slices", [])
    if (
        not isinstance(slices, list)
        or not all(type(k) is int and k >= 0 for k in slices)
        or slices != sorted(set(slices))
    ):
        yield 'have "slices" that are no ascending numbers from 0'
