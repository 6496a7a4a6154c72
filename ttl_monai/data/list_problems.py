"""What can be wrong in a datalist: its header, and each entry by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ttl_monai.data.records import TASKS, raise_problems, relative_path

SECTIONS = ("training", "validation", "test")


def name_places(places: list[str], limit: int = 5) -> str:
    """The first places in words, and the number of the others."""
    return ", ".join(places[:limit]) + (f" and {len(places) - limit} more" if len(places) > limit else "")


class ListProblem(NamedTuple):
    """One kind of thing that is wrong in a list.

    Attributes:
        what: what is wrong, with the number of cases.
        places: where, such as `training[3]`.
        remedy: what to do about it, "" where `what` says it.
    """

    what: str
    places: list[str]
    remedy: str = ""

    def __str__(self) -> str:
        where = f": {name_places(self.places)}" if self.places else ""
        return f"{self.what}{where}" + (f"; {self.remedy}" if self.remedy else "")


def check_header(data: Any, path: Path) -> None:
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


def problems_of(
    entry: Any, task: str, num_classes: int, dataset_dir: Path, public_ids: bool
) -> Iterator[tuple[str, str]]:
    """What is wrong in one entry and the remedy, in words that show neither patient nor path."""
    if not isinstance(entry, dict) or not {"image", "label", "patient"} <= entry.keys():
        yield "lack image, label or patient", ""
        return
    label = entry["label"]
    paths = [entry["image"], label] if task == "segmentation" else [entry["image"]]
    if not all(isinstance(path, str) and relative_path(path, dataset_dir) == path for path in paths):
        yield "have a path that is not relative to the data set's folder, plain, with forward slashes", ""
    if not isinstance(entry["patient"], str) or not entry["patient"].strip():
        yield "have an empty patient", ""
    if not public_ids and not isinstance(entry.get("id"), str):
        yield 'have no "id" to show in outputs', 'use `ttl datalist`, or "public_ids": true if the names are public'
    if task in ("binary", "multi-class") and not (type(label) is int and 0 <= label < num_classes):
        yield f"have an unknown label, expected 0 to {num_classes - 1}", ""
    if task == "multi-label" and not (
        isinstance(label, list) and len(label) == num_classes and all(value in (0, 1, None) for value in label)
    ):
        yield f"have an unknown label, expected a list of {num_classes} values 0, 1 or null", ""
    slices = entry.get("slices", [])
    if (
        not isinstance(slices, list)
        or not all(type(k) is int and k >= 0 for k in slices)
        or slices != sorted(set(slices))
    ):
        yield 'have "slices" that are no ascending numbers from 0', ""
