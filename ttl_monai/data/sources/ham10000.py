"""HAM10000 as a source: HAM10000_metadata.csv, and the dermatoscopic images in two folders or in one."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ttl_monai.data.labels import class_labels
from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sources import source_folder, tell_origin
from ttl_monai.data.sources.csv import read_rows

logger = logging.getLogger(__name__)

HELP = "HAM10000: a folder with HAM10000_metadata.csv and the folders of images"
EXAMPLE = "ttl datalist ham10000 DATA/HAM10000 --public-ids"
# The second is how Harvard's Dataverse calls it today, where it has one more column.
TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
# As they are called after unpacking, by where they come from.
IMAGES = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images_part1", "HAM10000_images_part2")
CLASS_NAMES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "HAM10000 (Tschandl, Rosendahl, Kittler, Scientific Data 5:180161, 2018), CC BY-NC 4.0, from "
        "https://doi.org/10.7910/DVN/DBW86T. Seven classes. Several images show the same lesion, so the lesion stands "
        "for the patient, whom the data do not tell."
    )
    add = parser.add_argument
    add("folder", type=Path, help=f"the folder that holds {TABLES[0]}")
    add(
        "--images",
        nargs="+",
        metavar="DIR",
        help=f"folders of the images in it (default: {IMAGES[0]} and {IMAGES[1]}, or the folder itself)",
    )


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Read the table and find its images.

    Source: Tschandl et al., doi 10.1038/sdata.2018.161, and the data set's page, doi 10.7910/DVN/DBW86T: columns
    lesion_id, image_id, dx, dx_type, age, sex, localization; an image is IMAGE_ID.jpg in one of two folders.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records, their rows those of the table (the header is row 1).

    Raises:
        ValueError: no table, a column that is missing, or rows that cannot be used.
    """
    folder = source_folder(arguments, TABLES[0])
    table = next((folder / name for name in TABLES if (folder / name).is_file()), folder / TABLES[0])
    rows = read_rows(table, ("image_id", "lesion_id", "dx"))
    labels, names = class_labels([cells[2] for _, cells in rows], CLASS_NAMES)
    files = _files(folder, arguments.images)
    pairs = list(zip(rows, labels, strict=True))
    problems = {
        f"rows have another dx than {', '.join(CLASS_NAMES)}": [row for (row, _), label in pairs if label is None],
        "images have no .jpg in the folders of images; --images names them": [
            row for row, (image, *_) in rows if image not in files
        ],
        "images lie in several folders; --images names those to use": [
            row for row, (image, *_) in rows if len(files.get(image, ())) > 1
        ],
    }
    raise_problems(
        [f"{len(found)} {what}: {name_rows(found)}" for what, found in problems.items() if found],
        f"the table {table.name} cannot be used",
    )
    if more := len(files.keys() - {image for _, (image, *_) in rows}):
        logger.warning("%d images are not in %s and are left out", more, table.name)
    tell_origin(arguments, source="HAM10000, Tschandl et al., Scientific Data 5:180161, 2018", licence="CC BY-NC 4.0")
    records = [
        Record(row, files[image][0].relative_to(arguments.dataset_dir).as_posix(), label, lesion)
        for (row, (image, lesion, _)), label in pairs
        if label is not None
    ]
    return Table("multi-class", names, records)


def _files(folder: Path, named: list[str] | None) -> dict[str, list[Path]]:
    """The images by their id."""
    if named and (lacking := [name for name in named if not (folder / name).is_dir()]):
        raise ValueError(f"there is no folder {', '.join(lacking)} in {folder}; --images names those of the images")
    folders = [folder / name for name in named or IMAGES if (folder / name).is_dir()] or [folder]
    found: dict[str, list[Path]] = {}
    for path in (path for each in folders for path in sorted(each.glob("*.jpg"))):
        found.setdefault(path.stem, []).append(path)
    return found
