"""A folder of images or series as a source: one folder a class."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ttl_monai.data.dicom_folders import fold_series
from ttl_monai.data.records import Record, Table
from ttl_monai.data.sources import IMAGE_SUFFIXES, add_patient_regex, patient_finder, source_folder, warn_of_patients

logger = logging.getLogger(__name__)

HELP = "a folder with one folder of images, or of series, a class"
EXAMPLE = r"ttl datalist folder DATA/xrays --patient-regex '([^/]+)_\d+\.png'"
SECTION_FOLDERS = {"train", "training", "val", "valid", "validation", "test"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    add = parser.add_argument
    add("folder", type=Path, help="the folder that holds a folder for each class")
    add(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="class folders in the order of the labels (default: all, by name)",
    )
    add_patient_regex(parser, "an image's path from the class folder on (default: each is a patient of its own)")
    add("--suffix", nargs="+", default=list(IMAGE_SUFFIXES), help="endings of the images (default: %(default)s)")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """List the images of each class folder, the folders in it included.

    A folder with the slices of a CT, MR or PET series is one image, its path the folder's (`fold_series`).

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`; `workers` threads read
            headers.

    Returns:
        The records; a record's row is the number of the image, in the order of classes and paths.

    Raises:
        ValueError: no class folders, folders that are no classes, no image in one, or the slices of a scan in it
            without a folder of their own.
    """
    folder = source_folder(arguments, "images")
    class_names = _class_names(folder, arguments.class_names)
    find_patient = patient_finder(arguments.patient_regex)
    suffixes = tuple(suffix.lower() for suffix in arguments.suffix)
    records: list[Record] = []
    for label, name in enumerate(class_names):
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file() and not path.name.startswith("."))
        images = [path for path in files if path.name.lower().endswith(suffixes)]
        if not images:
            raise ValueError(f"the class folder {name!r} has no images; endings looked for: {' '.join(suffixes)}")
        if len(images) < len(files):
            logger.warning(
                "%d files in %r are left out: their ending is not in --suffix", len(files) - len(images), name
            )
        images = fold_series(images, workers=getattr(arguments, "workers", None))
        if folder / name in images:
            raise ValueError(
                f"the class folder {name!r} holds the slices of a scan: expected a folder for each series in it, such "
                f"as {name}/1/*.dcm"
            )
        for path in images:
            image = path.relative_to(arguments.dataset_dir).as_posix()
            patient = find_patient(path.relative_to(folder).as_posix())
            records.append(Record(len(records) + 1, image, label, patient))
    if not arguments.patient_regex:
        warn_of_patients(len(records), "images")
    return Table("binary" if len(class_names) == 2 else "multi-class", class_names, records)


def _class_names(folder: Path, wanted: list[str] | None) -> list[str]:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if {name.lower() for name in found} <= SECTION_FOLDERS and found:
        raise ValueError(
            f"the folders are sections, not classes: {', '.join(found)}; put the class folders together: the split is "
            "made by patient, here"
        )
    names = wanted or found
    if lacking := [name for name in names if name not in found]:
        raise ValueError(f"no folder for {', '.join(lacking)}; the folders are {', '.join(found)}")
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected at least two different class folders, got {', '.join(names) or 'none'}")
    return names
