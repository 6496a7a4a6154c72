"""From the records of a source to datalists on disk: checked, split by patient, all of them or none."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.keys import pseudonym
from ttl_monai.data.records import Table, check_records, count_classes, drop_identical
from ttl_monai.data.splits import published_split, split_patients

logger = logging.getLogger(__name__)


def build_datalists(
    table: Table,
    dataset_dir: Path,
    *,
    header: dict[str, Any],
    site_key: bytes | None,
    fractions: Sequence[float] = (0.64, 0.16, 0.2),
    repeats: int = 3,
    seed: int = 0,
    hash_files: bool = True,
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Check the records and split them by patient, several times; a published split is kept as it is, once.

    Args:
        table: the records of a source; with a published split, `fractions`, `repeats` and `seed` are not used.
        dataset_dir: folder that their paths are relative to.
        header: name, source, licence and made_by of the data set.
        site_key: key of the pseudonyms, or None to write the patient ids as they are (public data).
        fractions: shares of training, validation and test (the paper's: supplement, A.1), with sum 1.
        repeats: number of different splits.
        seed: seed of all splits; the k-th depends on it and on k only.
        hash_files: hash all files, to find identical ones and to write their SHA-256 into the list.
        workers: number of threads that hash, default: one a core.

    Returns:
        One datalist a split, ready to be written as JSON.

    Raises:
        ValueError: fractions that are none, or anything wrong in the records (`check_records`, `drop_identical`).
    """
    if len(fractions) != len(SECTIONS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three shares that sum to 1, such as 0.64 0.16 0.2, got {tuple(fractions)}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if Path(header["name"]).name != header["name"]:
        raise ValueError(
            f"the name of the data set becomes that of its files: expected no slashes, got {header['name']!r}"
        )
    used = set(table.sections.values()) or {name for name, share in zip(SECTIONS, fractions, strict=True) if share > 0}
    check_records(table, dataset_dir, min_patients=len(used))
    hashes: list[dict[str, str]] = [{}] * len(table.records)
    if hash_files:
        table, hashes = drop_identical(table, dataset_dir, workers=workers)

    ids = {r.patient: r.patient if site_key is None else pseudonym(site_key, r.patient) for r in table.records}
    entries = []
    for record, found in zip(table.records, hashes, strict=True):
        entry: dict[str, Any] = {"image": record.image, "label": record.label, "patient": ids[record.patient]}
        if record.image in table.slices:
            entry["slices"] = table.slices[record.image]
        entry |= found
        if site_key is not None:
            entry["id"] = pseudonym(site_key, f"image {record.image}")[:16]
        entries.append(entry)

    if table.sections:
        splits = [published_split(table, SECTIONS)]
    else:
        splits = [split_patients(table, fractions, seed=(seed, repeat)) for repeat in range(repeats)]
    if len({split.tobytes() for split in splits}) < len(splits):
        raise ValueError(f"{len(ids)} patients do not give {repeats} different splits; ask for fewer --repeats")
    datalists = []
    for repeat, split in enumerate(splits):
        sections = {
            section: [entry for entry, index in zip(entries, split, strict=True) if index == number]
            for number, section in enumerate(SECTIONS)
        }
        datalists.append(
            {
                "name": header["name"],
                **_describe(table, sections),
                **header,
                "seed": None if table.sections else seed,
                "repeat": repeat,
                "split": "published" if table.sections else dict(zip(SECTIONS, fractions, strict=True)),
                "public_ids": site_key is None,
                **sections,
            }
        )
    return datalists


def _describe(table: Table, sections: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Task, classes and counts for the header.

    A class that a section lacks is an error; in a published split, which is as it is, a warning.
    """
    counts = {
        section: count_classes(table.task, table.class_names, [entry["label"] for entry in entries])
        for section, entries in sections.items()
    }
    for section, found in counts.items():
        if sections[section] and (lacking := [name for name, count in found.items() if not count]):
            problem = f"{section} has no image of {', '.join(lacking)}"
            if not table.sections:
                raise ValueError(f"{problem}: too few patients; try another split")
            logger.warning("%s, as published: no metric of theirs there", problem)
    return {
        "task": table.task,
        "class_names": table.class_names,
        "counts": counts,
        "num_images": {section: len(entries) for section, entries in sections.items()},
        "num_patients": {
            section: len({entry["patient"] for entry in entries}) for section, entries in sections.items()
        },
    }


def write_datalists(datalists: Sequence[dict[str, Any]], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write NAME_split0.json, NAME_split1.json, ...: all, or none when anything goes wrong before the last is complete.

    Args:
        datalists: the lists that `build_datalists` made.
        folder: where to, made if absent.
        overwrite: replace files of those names.

    Returns:
        The paths written.

    Raises:
        ValueError: a file is there already and differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{datalist['name']}_split{datalist['repeat']}.json" for datalist in datalists]
    lines: dict[str, str] = {}
    texts = [to_json(datalist, lines).encode() for datalist in datalists]
    differ = [path.name for path, text in zip(paths, texts, strict=True) if path.exists() and path.read_bytes() != text]
    if differ and not overwrite:
        raise ValueError(f"{', '.join(differ)} in {folder} would change; use --overwrite or another --output-dir")
    with ExitStack() as stack:
        temporary = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
        for name, text in zip(temporary, texts, strict=True):
            stack.callback(name.unlink, missing_ok=True)
            with name.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for complete, path in zip(temporary, paths, strict=True):
            complete.replace(path)
    return paths


def to_json(datalist: dict[str, Any], lines: dict[str, str] | None = None) -> str:
    """The JSON text of a datalist: the header indented, then one line an image, so that a diff shows images.

    Args:
        datalist: a list that `build_datalists` made.
        lines: lines of entries by image, which the splits of one data set share: filled and used.
    """
    lines = {} if lines is None else lines
    encode = json.JSONEncoder(ensure_ascii=False).encode
    header = {key: value for key, value in datalist.items() if key not in SECTIONS}
    parts = [json.dumps(header, indent=4, ensure_ascii=False).removesuffix("\n}")]
    for section in SECTIONS:
        for entry in datalist[section]:
            if entry["image"] not in lines:
                lines[entry["image"]] = "        " + encode(entry)
        text = ",\n".join(lines[entry["image"]] for entry in datalist[section])
        parts.append(f'    "{section}": [\n{text}\n    ]' if text else f'    "{section}": []')
    return ",\n".join(parts) + "\n}\n"
