"""A table of images as a source: one row an image, columns by name."""

from __future__ import annotations

import argparse
import codecs
import csv
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ttl_monai.data.labels import class_labels, multi_labels, slice_numbers
from ttl_monai.data.records import Label, Record, Table, name_rows, raise_problems, relative_path
from ttl_monai.data.sources import add_patient_regex, patient_finder

logger = logging.getLogger(__name__)

HELP = "a table with one row an image: comma, semicolon or tab between the cells"
EXAMPLE = (
    "ttl datalist csv DATA/labels.csv --image file --image-dir images --patient subject "
    "--label pneumonia --class-names normal pneumonia"
)
SEPARATORS = ",;\t|"
Row = tuple[int, list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    add = parser.add_argument
    add("table", type=Path, help="the table, its first row the names of the columns")
    add("--image", required=True, metavar="COLUMN", help="column with the path or the name of the image")
    add("--image-dir", default="", metavar="DIR", help="folder in the data set that the images are relative to")
    add("--suffix", default="", help="what the names of the images lack, such as .jpg")
    add("--patient", metavar="COLUMN", help="column with the patient id")
    add_patient_regex(parser, "the patient's column, or without --patient in the image's")
    add("--label", nargs="+", metavar="COLUMN", help="one column with the class, or several with 1, 0 or nothing")
    add("--class-names", nargs="+", metavar="NAME", help="names of the classes 0, 1, ... (default: as in the table)")
    add(
        "--uncertain",
        choices=("unknown", "negative", "positive"),
        help="several labels: what -1 is (default: an error)",
    )
    add("--blank", choices=("unknown", "negative"), default="unknown", help="several labels: what an empty cell is")
    add(
        "--slices",
        metavar="COLUMN",
        help="two classes, volumes: column with the slices that show the finding, numbers from 0 at the feet such as "
        "'3 4 10-20' (empty: none in negative images, unknown in positive ones)",
    )
    add("--mask", metavar="COLUMN", help="segmentation: column with the path or the name of the mask")
    add("--mask-dir", default="", metavar="DIR", help="folder in the data set that the masks are relative to")
    add("--mask-suffix", default="", help="what the names of the masks lack, such as .png")
    add("--separator", help="character between the cells (default: the one that yields the columns)")
    add("--encoding", default="utf-8", help="encoding of the table (default: %(default)s, or UTF-16 where it says so)")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder that holds the table."""
    return Path(arguments.table).parent


def read(arguments: argparse.Namespace) -> Table:
    """Read the table.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records, their rows counted as a spreadsheet does (the header is row 1).

    Raises:
        ValueError: options that do not fit, a column that is missing, rows that cannot be used.
    """
    if bool(arguments.label) == bool(arguments.mask):
        raise ValueError("give either --label (classification) or --mask (segmentation)")
    if not arguments.patient and not arguments.patient_regex:
        raise ValueError("give --patient COLUMN, or --patient-regex to find the patient in the image's column")
    find_patient = patient_finder(arguments.patient_regex)
    targets = arguments.label or [arguments.mask]
    last = [arguments.slices] if arguments.slices else []
    rows = read_rows(
        arguments.table,
        [arguments.image, arguments.patient or arguments.image, *targets, *last],
        separators=arguments.separator or SEPARATORS,
        encoding=arguments.encoding,
    )
    labels, task, class_names, expected = _read_labels(rows, arguments)
    if arguments.slices and task != "binary":
        raise ValueError(f"--slices needs two classes, negative and positive, but the task is {task}")
    slices = [slice_numbers(cells[-1]) if arguments.slices else [] for _, cells in rows]
    images = [_path(cells[0], arguments.image_dir, arguments.suffix, arguments.dataset_dir) for _, cells in rows]

    problems = []
    for what, values in (
        (f"labels are unknown (expected {expected})", labels),
        ("images are an empty cell or a path out of the data set's folder", images),
        ("cells of slices are not understood (expected numbers from 0 at the feet, such as 3 4 10-20)", slices),
    ):
        if wrong := [row for (row, _), value in zip(rows, values, strict=True) if value is None]:
            problems.append(f"{len(wrong)} {what}: {name_rows(wrong)}")
    if wrong := [row for (row, _), label, found in zip(rows, labels, slices, strict=True) if label == 0 and found]:
        problems.append(
            f"{len(wrong)} images of the class {class_names[0]!r}, the negative one, have slices: {name_rows(wrong)}; "
            "--class-names gives the order"
        )
    raise_problems(problems, f"the table {arguments.table.name} cannot be used")
    records = [
        Record(row, image, label, find_patient(cells[1]))
        for (row, cells), image, label in zip(rows, images, labels, strict=True)
        if image is not None and label is not None
    ]
    return Table(task, class_names, records, slices=_known_slices(records, slices) if arguments.slices else {})


def _known_slices(records: list[Record], slices: Sequence[list[int] | None]) -> dict[str, list[int]]:
    """The slices by image; of a positive image without any, nobody marked them."""
    known = {r.image: found or [] for r, found in zip(records, slices, strict=True) if found or not r.label}
    if unmarked := len(records) - len(known):
        logger.warning("%d positive images have no slices: only their own labels count", unmarked)
    return known


def _path(cell: str, folder: str, suffix: str, dataset_dir: Path) -> str | None:
    return relative_path(f"{folder}/{cell}{suffix}" if folder else cell + suffix, dataset_dir) if cell else None


def _read_text(path: Path, encoding: str) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name} in {path.parent}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif content.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except LookupError:
        raise ValueError(f"--encoding {encoding!r} is not known; try utf-8, cp1252 or latin-1") from None
    except UnicodeDecodeError:
        # Without the cause: its text shows the bytes around the place, and these may be a patient's name.
        raise ValueError(f"the table {path.name} is not {encoding}; try --encoding cp1252 or latin-1") from None


def read_rows(
    path: Path, columns: Sequence[str], *, separators: str = SEPARATORS, encoding: str = "utf-8"
) -> list[Row]:
    """The cells of some columns, stripped, of every row of a table that is not blank.

    Args:
        path: the table, its first row the names of the columns.
        columns: their names.
        separators: what may stand between the cells; the one that yields most of the columns is taken.
        encoding: of the text, unless it says itself that it is UTF-16 or UTF-8.

    Returns:
        For each row its number, as a spreadsheet counts (the header is row 1), and its cells in the order of `columns`.

    Raises:
        ValueError: no such file, another encoding, a column that is missing or repeated, or rows that lack cells.
    """
    name, text = path.name, _read_text(path, encoding)
    headers = {s: [cell.strip() for cell in next(_cells(text, s), [])] for s in separators}
    separator = max(headers, key=lambda s: len(set(columns) & set(headers[s])))
    header = headers[separator]
    if lacking := [column for column in dict.fromkeys(columns) if header.count(column) != 1]:
        raise ValueError(
            f"the table {name} must have each column once, but {', '.join(map(repr, lacking))} is missing or repeated; "
            f"its columns are {', '.join(map(repr, header[:40]))}"
        )
    places = [header.index(column) for column in columns]
    rows, ragged = [], []
    for number, cells in enumerate(_cells(text, separator), 1):
        if number > 1 and any(cells):
            if len(cells) == len(header):
                # Interned: the cells of labels have few values, and a table may have millions of them.
                rows.append((number, [sys.intern(cells[place].strip()) for place in places]))
            else:
                ragged.append(number)
    if ragged:
        raise ValueError(
            f"{len(ragged)} rows of {name} do not have the header's {len(header)} cells: {name_rows(ragged)}"
        )
    return rows


def _cells(text: str, separator: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator)


def _read_labels(rows: list[Row], arguments: argparse.Namespace) -> tuple[Sequence[Label | None], str, list[str], str]:
    """The label of each row (None: unknown), the task, the names of the classes, and what was expected in words."""
    names, columns = arguments.class_names, arguments.label
    if arguments.mask:
        folder, suffix = arguments.mask_dir, arguments.mask_suffix
        masks = [_path(cells[2], folder, suffix, arguments.dataset_dir) for _, cells in rows]
        return masks, "segmentation", names or ["background", "foreground"], "a mask in the data set's folder"
    if len(columns) == 1:
        labels, found = class_labels([cells[2] for _, cells in rows], names)
        expected = f"one of {', '.join(names)}, or their numbers from 0" if names else "a class in every row"
        return labels, "binary" if len(found) == 2 else "multi-class", found, expected
    if names and len(names) != len(columns):
        raise ValueError(f"--class-names has {len(names)} names for {len(columns)} label columns")
    several = multi_labels([cells[2:] for _, cells in rows], uncertain=arguments.uncertain, blank=arguments.blank)
    return several, "multi-label", names or columns, "1, 0 or nothing in each column; --uncertain says what -1 is"
