"""CheXpert as a source: train.csv and valid.csv with 14 labels, and the folders train and valid."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path, PurePosixPath

from ttl_monai.data.labels import multi_labels
from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sources import patient_finder, source_folder, tell_origin
from ttl_monai.data.sources.csv import Row, read_rows

logger = logging.getLogger(__name__)

HELP = "CheXpert: a folder with train.csv, valid.csv, train/ and valid/"
EXAMPLE = "ttl datalist chexpert DATA/CheXpert-v1.0-small --group low --uncertain positive --no-hash"
SECTION_OF_TABLE = {"train.csv": "training", "valid.csv": "validation"}
LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
# Supplement, Table 4: "low" are findings of texture and contrast alone, "high" those that have a shape as well; no
# finding is in neither. The authors' code (`low_idx`, `high_idx`) groups four of the labels otherwise.
GROUPS: dict[str, tuple[str, ...]] = {
    "full": LABELS,
    "low": tuple(LABELS[k] for k in (3, 6, 7, 9, 10, 11)),
    "high": tuple(LABELS[k] for k in (1, 2, 4, 5, 8, 12, 13)),
    "low-code": tuple(LABELS[k] for k in (3, 5, 6, 7, 8, 10, 11)),
    "high-code": tuple(LABELS[k] for k in (0, 1, 2, 4, 9, 12, 13)),
}
_VIEWS = ("frontal", "lateral", "AP", "PA", "all")
_COLUMNS = ("Path", "Frontal/Lateral", "AP/PA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "CheXpert (Irvin et al., AAAI 2019, arXiv 1901.07031), under Stanford's research use agreement: register at "
        "https://stanfordmlgroup.github.io/competitions/chexpert/. Several labels an image. The published split in "
        "training and validation is kept; --fractions, --repeats and --seed hold with --resplit."
    )
    add = parser.add_argument
    add("folder", type=Path, help="the folder that holds train.csv and valid.csv, such as CheXpert-v1.0-small")
    add("--views", choices=_VIEWS, default="frontal", help="which images (default: %(default)s)")
    add(
        "--group",
        choices=tuple(GROUPS),
        default="full",
        help="which labels: all 14, those with low-level or with high-level features by the supplement's Table 4, or "
        "the same by the authors' code (default: %(default)s)",
    )
    add(
        "--uncertain",
        choices=("positive", "negative", "unknown"),
        default="positive",
        help="what -1 is: positive (U-Ones, as the authors), negative (U-Zeros) or masked (default: %(default)s)",
    )
    add(
        "--blank",
        choices=("negative", "unknown"),
        default="negative",
        help="what an empty cell is: negative (as the authors) or masked (default: %(default)s)",
    )
    add("--resplit", action="store_true", help="split all patients anew, instead of keeping the published split")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Read both tables.

    Source: the data set's page and Irvin et al., arXiv 1901.07031. Columns Path, Sex, Age, Frontal/Lateral, AP/PA
    and one a label: 1.0 present, 0.0 absent, -1.0 uncertain, empty when not mentioned; valid.csv, read by
    radiologists, has 1.0 and 0.0 alone. A path starts with the name of the published folder
    (CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg), whatever yours is called; AP/PA is empty in
    lateral images.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records, with sections unless `--resplit`. A record's row is that of train.csv; the rows of valid.csv
        count on from its last one.

    Raises:
        ValueError: a table or a column that is missing, or rows that cannot be used, by table and row.
    """
    folder = source_folder(arguments, " and ".join(SECTION_OF_TABLE))
    names = GROUPS[arguments.group]
    records: list[Record] = []
    sections: dict[str, str] = {}
    last = 0
    for table, section in SECTION_OF_TABLE.items():
        rows = read_rows(folder / table, [*_COLUMNS, *names], separators=",")
        for record in _records(rows, folder, table, arguments):
            records.append(record._replace(row=record.row + last))
            sections[record.image] = section
        last = rows[-1][0] if rows else 1
    tell_origin(
        arguments,
        source="CheXpert, Irvin et al., AAAI 2019, arXiv 1901.07031",
        licence="Stanford University dataset research use agreement",
    )
    return Table("multi-label", list(names), records, sections={} if arguments.resplit else sections)


def _records(rows: list[Row], folder: Path, table: str, arguments: argparse.Namespace) -> list[Record]:
    """The records of one table in the views asked for; raises one error with all rows that cannot be understood."""
    find_patient = patient_finder(r"/(patient\d+)/study")
    policy = {"uncertain": arguments.uncertain, "blank": arguments.blank}
    labels = multi_labels([cells[len(_COLUMNS) :] for _, cells in rows], **policy)
    below = folder.relative_to(arguments.dataset_dir)
    records, bad_path, bad_view, bad_label = [], [], [], []
    for (row, (path, side, projection, *_)), label in zip(rows, labels, strict=True):
        image = PurePosixPath(path.replace("\\", "/"))
        if len(image.parts) < 3 or ".." in image.parts or not find_patient(path):
            bad_path.append(row)
        elif side not in ("Frontal", "Lateral"):
            bad_view.append(row)
        elif label is None:
            bad_label.append(row)
        elif arguments.views in ("all", side.lower(), projection):
            records.append(Record(row, (below / Path(*image.parts[1:])).as_posix(), label, find_patient(path)))
    wrong = (
        ("a path without .../patientNUMBER/study...", bad_path),
        ("another view than Frontal and Lateral", bad_view),
        ("a label other than 1, 0, -1 and empty", bad_label),
    )
    raise_problems(
        [f"{len(found)} rows have {what}: {name_rows(found)}" for what, found in wrong if found],
        f"the table {table} cannot be used",
    )
    logger.info("%s: %d of %d rows have the views asked for (%s)", table, len(records), len(rows), arguments.views)
    return records
