"""A data set in the layout of the Medical Segmentation Decathlon as a source: dataset.json, imagesTr, labelsTr."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from ttl_monai.data.records import Record, Table, name_rows, relative_path
from ttl_monai.data.sources import add_patient_regex, patient_finder, source_folder

logger = logging.getLogger(__name__)

HELP = "a folder in the layout of the Medical Segmentation Decathlon, with its dataset.json"
EXAMPLE = "ttl datalist msd DATA/Task04_Hippocampus --public-ids"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.add_argument("folder", type=Path, help="the folder that holds dataset.json")
    add_patient_regex(parser, "the name of an image's file (default: each case is a patient of its own, as published)")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Read the cases that have a mask, those under `training`; the name and licence, where none was given.

    Args:
        arguments: the parsed options, and the absolute `dataset_dir`.

    Returns:
        The records; a record's row is the number of the case in `training`.

    Raises:
        ValueError: no such file, classes that are not 0, 1, ..., or cases without the paths of image and mask.
    """
    folder = source_folder(arguments, "dataset.json")
    content = _read_json(folder / "dataset.json")
    class_names = _class_names(content.get("labels"))
    find_patient = patient_finder(arguments.patient_regex)
    records, wrong = [], []
    for row, case in enumerate(content["training"], 1):
        paths = [case.get(key) if isinstance(case, dict) else None for key in ("image", "label")]
        places = [
            relative_path((folder / path).as_posix(), arguments.dataset_dir) if isinstance(path, str) else None
            for path in paths
        ]
        if None in places:
            wrong.append(row)
            continue
        name = Path(str(places[0])).name
        patient = find_patient(name) if arguments.patient_regex else name.split(".")[0]
        records.append(Record(row, str(places[0]), str(places[1]), patient))
    if wrong:
        raise ValueError(
            f"dataset.json cannot be used: {len(wrong)} cases have no path of image and mask in the folder: "
            f"{name_rows(wrong)}"
        )
    if unlabelled := len(content.get("test") or ()):
        logger.info("%d cases of the challenge's test section have no mask and are left out", unlabelled)
    for option, key in (("name", "name"), ("licence", "licence"), ("source", "reference")):
        if not getattr(arguments, option, None) and isinstance(content.get(key), str):
            setattr(arguments, option, content[key])
    return Table("segmentation", class_names, records)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"there is no dataset.json in {path.parent}; `ttl datalist masks` pairs folders") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise ValueError(f"{path} has no list 'training', as the Medical Segmentation Decathlon has it")
    return content


def _class_names(labels: Any) -> list[str]:
    """The names of `{"0": "background", "1": ...}` in the order of the values."""
    names = labels if isinstance(labels, dict) else {}
    values = {str(index) for index in range(len(names))}
    if len(names) < 2 or set(names) != values or len(set(names.values())) < len(names):
        raise ValueError(
            f"dataset.json must name the classes of the values 0, 1, ... in 'labels', got {labels!r}; renumber the "
            "masks if values are missing"
        )
    return [str(names[str(index)]) for index in range(len(names))]
