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

from ttl_monai.data.list_problems import SECTIONS, ListProblem, check_header, name_places, problems_of
from ttl_monai.data.records import count_classes, has_content, label_matrix, raise_problems

__all__ = ["SECTIONS", "Datalist", "ListProblem"]


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
        datalist = cls.read(path, dataset_dir)
        raise_problems([str(each) for each in datalist.problems()], f"the datalist {path} is refused")
        if check_files:
            datalist.check_files()
        return datalist

    @classmethod
    def read(cls, path: str | Path, dataset_dir: str | Path) -> Datalist:
        """Read a datalist of which only the header is checked; see `load`, and `problems` for the rest.

        Raises:
            ValueError: no JSON, or a header that does not fit.
        """
        path, dataset_dir = Path(path), Path(dataset_dir).absolute()
        content = path.read_bytes()
        try:
            data = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        check_header(data, path)
        entries = {section: data.pop(section) for section in SECTIONS}
        return cls(
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

    def problems(self) -> list[ListProblem]:
        """All that is wrong in the list itself; its files are not looked at.

        Returns:
            One a kind; where entries are unsound in themselves, the others are still compared with each other.
        """
        wrong = self._entry_problems()
        return wrong + self._leaks() + ([] if wrong else self._wrong_counts())

    def is_sound(self, entry: Any) -> bool:
        """Whether nothing is wrong in an entry by itself."""
        return not any(problems_of(entry, self.task, len(self.class_names), self.dataset_dir, self.public_ids))

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

    def missing_files(self) -> list[str]:
        """Places of the images and masks that are not there, such as `training[3] (image)`; of sound entries alone."""
        return [
            f"{place} ({key})"
            for place, entry in self._places()
            if self.is_sound(entry)
            for key in self.file_keys
            if not has_content(self.dataset_dir / entry[key])
        ]

    def check_files(self) -> None:
        """Look whether every image and mask is there.

        Raises:
            ValueError: the number of missing files and the places in the list of the first.
        """
        if missing := self.missing_files():
            total = sum(len(entries) for entries in self.entries.values()) * len(self.file_keys)
            raise ValueError(
                f"{len(missing)} of {total} files of datalist {self.name!r} are missing in {self.dataset_dir}: "
                f"{name_places(missing)}; check dataset_dir"
            )

    @property
    def file_keys(self) -> tuple[str, ...]:
        """What of an entry is a file."""
        return ("image", "label") if self.task == "segmentation" else ("image",)

    def _decode(self, label: Any) -> Any:
        if self.task == "multi-label":
            return np.array([np.nan if value is None else value for value in label], dtype=np.float32)
        return str(self.dataset_dir / label) if self.task == "segmentation" else label

    def _places(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for section, entries in self.entries.items():
            for index, entry in enumerate(entries):
                yield f"{section}[{index}]", entry

    def _entry_problems(self) -> list[ListProblem]:
        """What is wrong inside single entries."""
        wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
        for place, entry in self._places():
            for problem in problems_of(entry, self.task, len(self.class_names), self.dataset_dir, self.public_ids):
                wrong[problem].append(place)
        return [
            ListProblem(f"{len(places)} entries {what}", places, remedy) for (what, remedy), places in wrong.items()
        ]

    def _leaks(self) -> list[ListProblem]:
        """What is wrong between entries: leaks from one section into another, and images that stand there twice."""
        problems = []
        sound = [(place, entry) for place, entry in self._places() if self.is_sound(entry)]
        for key, what in (("patient", "patients are"), ("sha256", "images are, by content,")):
            places: dict[str, dict[str, str]] = defaultdict(dict)
            for place, entry in sound:
                if key in entry:
                    places[entry[key]].setdefault(place.split("[")[0], place)
            if shared := [" and ".join(found.values()) for found in places.values() if len(found) > 1]:
                problems.append(ListProblem(f"{len(shared)} {what} in two sections", shared, "split by patient anew"))
        images: dict[str, str] = {}
        twice = [
            f"{images[e['image']]} and {place}" for place, e in sound if images.setdefault(e["image"], place) != place
        ]
        if twice:
            problems.append(ListProblem(f"{len(twice)} images stand in the list twice", twice, "take out the second"))
        return problems

    def _wrong_counts(self) -> list[ListProblem]:
        """Where the header counts other classes than the list has; for sound entries alone."""
        problems = []
        for section, counts in self.header.get("counts", {}).items():
            labels = [entry["label"] for entry in self.entries.get(section, [])]
            found = count_classes(self.task, self.class_names, labels)
            if found != counts:
                what = f"the header counts {counts} in {section}, the list has {found}"
                problems.append(ListProblem(what, [], "the file was edited: make it anew with `ttl datalist`"))
        return problems
