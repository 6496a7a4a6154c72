"""The datalist by itself: its header and rows, its classes by section, whether its files are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ttl_monai.data.datalist import SECTIONS, Datalist
from ttl_monai.data.records import count_classes
from ttl_monai.deploy.check.problems import NOTE, PROBLEM, WARNING, Findings


def check_datalist(found: Findings, datalist: Path, dataset_dir: Path) -> Datalist | None:
    """Check a datalist without reading an image.

    Args:
        found: gets what is found.
        datalist: the file.
        dataset_dir: folder of the images.

    Returns:
        The list with those entries that are sound by themselves; None where it cannot be read.
    """
    found.start("datalist")
    data = None
    with found.collect("datalist", "--datalist", remedy="make one with `ttl datalist`"):
        data = Datalist.read(datalist, dataset_dir)
    if data is None:
        return None
    for each in data.problems():
        found.add("datalist", PROBLEM, each.what, *each.places, remedy=each.remedy or "correct these rows")
    if not dataset_dir.is_dir():
        found.add("datalist", PROBLEM, "there is no such folder", "--dataset_dir", remedy="name the images' folder")
    else:
        with found.collect("datalist", "--dataset_dir"):
            if missing := data.missing_files():
                total = sum(map(len, data.entries.values())) * len(data.file_keys)
                what = f"{len(missing)} of {total} files are missing"
                remedy = "is it the right --dataset_dir? Else copy them there, or take out these rows"
                found.add("datalist", PROBLEM, what, *missing, remedy=remedy)
    _check_sections(found, data)
    return data


def sound_entries(data: Datalist) -> list[tuple[str, int, dict[str, Any]]]:
    """Section, row and entry of all entries in which nothing is wrong and whose files are there."""
    missing = {place.partition(" ")[0] for place in data.missing_files()}
    return [
        (section, row, entry)
        for section, entries in data.entries.items()
        for row, entry in enumerate(entries)
        if f"{section}[{row}]" not in missing and data.is_sound(entry)
    ]


def _check_sections(found: Findings, data: Datalist) -> None:
    """Images, patients and classes of each section."""
    for section in SECTIONS:
        entries = [entry for entry in data.entries[section] if data.is_sound(entry)]
        if not data.entries[section]:
            severity = WARNING if section == "test" else PROBLEM
            what = "the section is empty"
            found.add("datalist", severity, what, section, remedy="split with other --fractions (`ttl datalist`)")
            continue
        if not entries:  # what is wrong in each of them was said
            continue
        counts = count_classes(data.task, data.class_names, [entry["label"] for entry in entries])
        classes = "".join(f", {number} {name}" for name, number in counts.items())
        patients = len({entry["patient"] for entry in entries})
        found.add("datalist", NOTE, f"{len(entries)} images of {patients} patients{classes}", section)
        lacking = [name for name, number in counts.items() if not number]
        if lacking and section == "training":
            remedy = "leave the class out, or split anew with more of its patients"
            found.add(
                "datalist", PROBLEM, f"no image of {', '.join(lacking)}: it cannot be learnt", section, remedy=remedy
            )
        elif lacking:
            found.add(
                "datalist", WARNING, f"no image of {', '.join(lacking)}: no metric of it", section, remedy="split anew"
            )
        elif section == "training" and data.task == "multi-label" and data.problems() == []:
            with found.collect("datalist", section):
                data.class_weights()  # refuses a class without negatives
