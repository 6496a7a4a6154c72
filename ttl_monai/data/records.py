"""What a source hands over: one record an image, and the checks that hold for every source."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ttl_monai.data.hdf5 import dataset_length, dataset_sha256, split_entry

logger = logging.getLogger(__name__)

TASKS = ("binary", "multi-class", "multi-label", "segmentation")
Label = int | tuple[float | None, ...] | str


class Record(NamedTuple):
    """One image of a source.

    Attributes:
        row: where the user finds it: the row of the table (its header is row 1), or the number of the file.
        image: path of the image, of the folder of its DICOM slices, or `FILE.hdf5#KEY`, relative to the data set's
            folder, with forward slashes.
        label: index of the class; or one of 1, 0, None (unknown) for each class; or the path of the mask.
        patient: id of the patient as the source gives it. It is never printed.
    """

    row: int
    image: str
    label: Label
    patient: str


@dataclass(frozen=True)
class Table:
    """All records of a source, with what their labels mean.

    Attributes:
        task: one of `TASKS`.
        class_names: names of the classes in the order of the labels.
        records: the images.
        slices: by image, the numbers of a volume's slices that show the finding, ascending, from 0 at the feet; an
            image that is not here has no labels of slices.
        sections: by image, the section of a published split; empty where there is none.
    """

    task: str
    class_names: list[str]
    records: list[Record]
    slices: dict[str, list[int]] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)


def name_rows(rows: Iterable[int], limit: int = 10) -> str:
    """Rows in words, so that a message points to the input without repeating what stands there.

    Example:
        >>> name_rows([2, 3, 7])
        'rows 2, 3, 7'
        >>> name_rows(range(2, 40), limit=3)
        'rows 2, 3, 4 and 35 more'
    """
    rows = list(rows)
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:limit]))}{more}"


def raise_problems(problems: Sequence[str], where: str) -> None:
    """Raise one ValueError that lists all `problems` found in `where`; return when there are none."""
    if problems:
        raise ValueError(f"{where}:\n" + "\n".join(f"- {problem}" for problem in problems))


def relative_path(text: str, dataset_dir: Path) -> str | None:
    """A path of a source as a path relative to the data set's folder.

    Args:
        text: path, absolute or relative to `dataset_dir`, with slashes of either kind.
        dataset_dir: absolute path of the data set's folder.

    Returns:
        The relative path with forward slashes, or None when it leads out of the folder.
    """
    path = posixpath.normpath(text.replace("\\", "/"))
    if posixpath.isabs(path):
        path = path.removeprefix(posixpath.normpath(dataset_dir.as_posix()).rstrip("/") + "/")
    return None if posixpath.isabs(path) or path in ("..", ".") or path.startswith("../") else path


def check_records(table: Table, dataset_dir: Path, *, min_patients: int) -> None:
    """Check what needs no look into the files.

    Args:
        table: the records of a source.
        dataset_dir: folder that their paths are relative to.
        min_patients: the fewest patients that a class must have.

    Raises:
        ValueError: a list of all that is wrong: no records, images named twice, empty patients, missing files,
            too few patients in a class. Patients and files are not named, their rows are.
    """
    if not table.records:
        raise ValueError("the source has no images: expected at least one row or file")
    problems = []
    times = Counter(record.image for record in table.records)
    if twice := [record.row for record in table.records if times[record.image] > 1]:
        problems.append(
            f"{len(twice)} duplicate rows name an image more than once: {name_rows(twice)}; remove all but one"
        )
    if empty := [record.row for record in table.records if not record.patient]:
        problems.append(f"{len(empty)} images have an empty patient id: {name_rows(empty)}")
    paths: list[tuple[str, Callable[[Record], str]]] = [("images", lambda record: record.image)]
    if table.task == "segmentation":
        paths.append(("masks", lambda record: str(record.label)))
    for what, path in paths:
        if missing := [record.row for record in table.records if not has_content(dataset_dir / path(record))]:
            problems.append(f"{len(missing)} {what} are missing in the data set's folder: {name_rows(missing)}")
    problems += _too_few_patients(table, min_patients)
    raise_problems(problems, "the source cannot be split")


def label_matrix(task: str, num_classes: int, labels: Sequence[Any]) -> np.ndarray:
    """Labels as numbers, whatever the task.

    Args:
        task: one of `TASKS`.
        num_classes: number of classes C.
        labels: the labels of N records.

    Returns:
        1 where a record carries a class, 0 where not, NaN where that is unknown, shape (N, C); for segmentation shape
        (N, 0), as the masks would have to be read.
    """
    if task == "segmentation" or not labels:
        return np.zeros((len(labels), 0 if task == "segmentation" else num_classes))
    return np.array(labels, dtype=float) if task == "multi-label" else np.eye(num_classes)[np.array(labels)]


def count_classes(task: str, class_names: Sequence[str], labels: Sequence[Any]) -> dict[str, int]:
    """How many of `labels` carry each class, by name; empty for segmentation."""
    counts = (label_matrix(task, len(class_names), labels) == 1).sum(axis=0)
    return dict(zip(class_names, counts.tolist(), strict=False))


def patient_numbers(table: Table) -> np.ndarray:
    """The number of each record's patient, counted from 0 in the order of appearance, shape (records,)."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(record.patient, len(numbers)) for record in table.records])


def _too_few_patients(table: Table, min_patients: int) -> list[str]:
    patients = patient_numbers(table)
    total = len(np.unique(patients))
    if total < min_patients:
        return [f"the source has {total} patients: expected at least {min_patients}, one a section"]
    carries = label_matrix(table.task, len(table.class_names), [record.label for record in table.records]) == 1
    counts = [len(np.unique(patients[column])) for column in carries.T]
    return [
        f"class {name!r} has {count} patients: expected at least {min_patients}, one a section; leave the class out, "
        "merge it with another or add patients"
        for name, count in zip(table.class_names, counts, strict=False)
        if count < min_patients
    ]


def has_content(path: Path) -> bool:
    """Whether there is such a file, or such a folder with a file in it: the DICOM slices of one volume.

    Raises:
        OSError: for `FILE.hdf5#KEY`, when the file is no HDF5.
    """
    if split_entry(path):
        return dataset_length(path) is not None
    return path.is_file() or (path.is_dir() and any(file.is_file() for file in path.rglob("*")))


def content_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the sorted hashes of its files, whatever their names.

    Of `FILE.hdf5#KEY`, that of the one data set (`dataset_sha256`).

    Raises:
        OSError: what cannot be read, and an empty folder.
    """
    if split_entry(path):
        return dataset_sha256(path)
    if path.is_dir():
        digests = sorted(content_sha256(file) for file in path.rglob("*") if file.is_file())
        if not digests:
            raise FileNotFoundError("an empty folder")
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def hash_files(paths: Sequence[str], dataset_dir: Path, *, workers: int | None = None) -> list[str | None]:
    """SHA-256 of the files (of folders, see `content_sha256`), in parallel, with a progress bar.

    Args:
        paths: paths relative to `dataset_dir`.
        dataset_dir: the data set's folder.
        workers: number of threads (hashing leaves Python's lock), default: one a core.

    Returns:
        One hexadecimal digest a path, None where the file could not be read.
    """

    def digest(path: str) -> str | None:
        try:
            return content_sha256(dataset_dir / path)
        except OSError as error:
            logger.debug("cannot read a file: %s", error)
            return None

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(tqdm(pool.map(digest, paths), total=len(paths), desc="hashing", unit="file", mininterval=0.5))


def drop_identical(
    table: Table, dataset_dir: Path, *, workers: int | None = None
) -> tuple[Table, list[dict[str, str]]]:
    """Hash all files and keep the first of identical images of one patient, with a warning.

    Args:
        table: the records of a source, checked by `check_records`.
        dataset_dir: the data set's folder.
        workers: number of threads, default: one a core.

    Returns:
        The table without the repeated images, and for each record left its hashes: `sha256` of the image and, for
        segmentation, `label_sha256` of the mask.

    Raises:
        ValueError: files that cannot be read, identical images of two patients or under two labels, by row.
    """
    records = table.records
    names = [record.image for record in records]
    if table.task == "segmentation":
        names += [str(record.label) for record in records]
    digests = hash_files(names, dataset_dir, workers=workers)
    hashes = [dict(zip(("sha256", "label_sha256"), pair, strict=False)) for pair in _by_record(digests, len(records))]
    if broken := [r.row for r, found in zip(records, hashes, strict=True) if None in found.values()]:
        raise ValueError(
            f"{len(broken)} files cannot be read: {name_rows(broken)}; check their permissions and the disk"
        )

    same: dict[str, list[int]] = defaultdict(list)
    for index, found in enumerate(hashes):
        same[str(found["sha256"])].append(index)
    across_patients, across_labels, repeated = [], [], []
    for indices in (indices for indices in same.values() if len(indices) > 1):
        labels = {hashes[i]["label_sha256"] if table.task == "segmentation" else records[i].label for i in indices}
        if len({records[i].patient for i in indices}) > 1:
            across_patients += indices
        if len(labels) > 1:
            across_labels += indices
        repeated += indices[1:]
    wrong = (("two patients", across_patients), ("two labels", across_labels))
    problems = [
        f"{len(indices)} images are identical in content but stand under {what}: "
        f"{name_rows(records[i].row for i in indices)}; find out which is right and remove the others"
        for what, indices in wrong
        if indices
    ]
    raise_problems(problems, "the source cannot be split")
    if repeated:
        rows = name_rows(sorted(records[i].row for i in repeated))
        logger.warning("%d images repeat another image of the same patient and are left out: %s", len(repeated), rows)
    drop = set(repeated)
    kept = [index for index in range(len(records)) if index not in drop]
    return replace(table, records=[records[i] for i in kept]), [hashes[i] for i in kept]  # type: ignore[misc]


def _by_record(digests: list[str | None], count: int) -> Iterable[tuple[str | None, ...]]:
    """The digests of images, and of masks where there are any, record by record."""
    return zip(*(digests[start : start + count] for start in range(0, len(digests), count)), strict=True)
