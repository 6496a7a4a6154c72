"""Datalists made from datalists: without the test section, redrawn for a repeat, and of fewer training patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.model_selection import train_test_split

from ttl_monai.data.datalist import SECTIONS, Datalist
from ttl_monai.data.records import Record, Table, count_classes
from ttl_monai.data.splits import split_patients

Entries = list[dict[str, Any]]


def seal(datalist: Datalist, *, repeat: int = 0, seed: int = 0, train_patients: int | None = None) -> dict[str, Any]:
    """A copy of a datalist in which the test section is empty, so that nothing can be chosen on it.

    Args:
        datalist: the list; it must have training and validation images.
        repeat: 0 keeps training and validation as they are; a higher number redraws them from the images of both, by
            patient and stratified, in the same proportion.
        seed: seed of the redrawing and of the choice of patients.
        train_patients: keep so many training patients, stratified by their labels; None keeps all.

    Returns:
        The content of a datalist file, with `sealed_from`, the SHA-256 of the original.

    Raises:
        ValueError: no training or validation images, or more patients asked for than there are.
    """
    training, validation = (list(datalist.entries[section]) for section in SECTIONS[:2])
    if not training or not validation:
        raise ValueError(
            f"a search needs training and validation images; the datalist {datalist.name!r} has {len(training)} and "
            f"{len(validation)}"
        )
    if repeat:
        training, validation = _redraw(datalist, training, validation, seed=(seed, repeat))
    if train_patients is not None:
        training = _fewer_patients(training, datalist.task, train_patients, seed=seed + repeat)
    sections = dict(zip(SECTIONS, (training, validation, []), strict=True))
    return {**_describe(datalist, sections), "repeat": repeat, "sealed_from": datalist.sha256, **sections}


def split_anew(datalist: Datalist, *, seed: int, fractions: Sequence[float] = (0.64, 0.16, 0.2)) -> dict[str, Any]:
    """The images of all sections of a datalist, split anew by patient and stratified.

    Args:
        datalist: the list; of a data set with a published split its test images get into training.
        seed: of the split.
        fractions: shares of training, validation and test (the paper's: supplement, A.1).

    Returns:
        The content of a datalist file.
    """
    pool = [entry for section in SECTIONS for entry in datalist.entries[section]]
    sections = dict(zip(SECTIONS, _split(datalist, pool, fractions, seed=seed), strict=True))
    shares = dict(zip(SECTIONS, fractions, strict=True))
    return {**_describe(datalist, sections), "seed": seed, "repeat": 0, "split": shares, **sections}


def _describe(datalist: Datalist, sections: Mapping[str, Entries]) -> dict[str, Any]:
    """The header of a datalist with the counts of other sections."""
    described = ("counts", "num_images", "num_patients", "split", *SECTIONS)
    return {
        **{key: value for key, value in datalist.header.items() if key not in described},
        "counts": {
            section: count_classes(datalist.task, datalist.class_names, [entry["label"] for entry in entries])
            for section, entries in sections.items()
        },
        "num_images": {section: len(entries) for section, entries in sections.items()},
        "num_patients": {section: len({each["patient"] for each in entries}) for section, entries in sections.items()},
    }


def _redraw(
    datalist: Datalist, training: Entries, validation: Entries, *, seed: Sequence[int]
) -> tuple[Entries, Entries]:
    """Training and validation drawn anew from the images of both."""
    pool = training + validation
    share = len(training) / len(pool)
    first, second = _split(datalist, pool, (share, 1 - share), seed=seed)
    return first, second


def _split(
    datalist: Datalist, pool: Entries, fractions: Sequence[float], *, seed: int | Sequence[int]
) -> list[Entries]:
    """The entries of each section, by patient and stratified."""
    records = [Record(row, each["image"], _hashable(each["label"]), each["patient"]) for row, each in enumerate(pool)]
    found = split_patients(Table(datalist.task, datalist.class_names, records), fractions, seed=seed)
    return [[each for each, section in zip(pool, found, strict=True) if section == k] for k in range(len(fractions))]


def _hashable(label: Any) -> Any:
    return tuple(label) if isinstance(label, list) else label


def _fewer_patients(entries: Entries, task: str, number: int, *, seed: int) -> Entries:
    """The entries of `number` patients, drawn with the same shares of label combinations as there are."""
    labels: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        labels[entry["patient"]].add("" if task == "segmentation" else str(entry["label"]))
    patients = sorted(labels)
    if not 2 <= number <= len(patients):
        raise ValueError(f"train_patients must be from 2 to the {len(patients)} of the datalist, got {number}")
    if number == len(patients):
        return entries
    kinds = [" ".join(sorted(labels[patient])) for patient in patients]
    kinds = [kind if kinds.count(kind) > 1 else "rare" for kind in kinds]
    can_stratify = min(kinds.count(kind) for kind in kinds) > 1 and len(set(kinds)) <= min(
        number, len(patients) - number
    )
    kept, _ = train_test_split(patients, train_size=number, random_state=seed, stratify=kinds if can_stratify else None)
    chosen = set(kept)
    return [entry for entry in entries if entry["patient"] in chosen]
