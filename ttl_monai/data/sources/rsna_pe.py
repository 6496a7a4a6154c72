"""The RSNA-STR Pulmonary Embolism CT data set as a source: train.csv and train/STUDY/SERIES/IMAGE.dcm."""

from __future__ import annotations

import argparse
import csv
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ttl_monai.data.dicom_choice import SeriesRules
from ttl_monai.data.dicom_file import open_header
from ttl_monai.data.dicom_series import find_series
from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sources import source_folder, tell_origin, warn_of_patients

logger = logging.getLogger(__name__)

HELP = "the RSNA-STR Pulmonary Embolism CT data set: a folder with train.csv and train/STUDY/SERIES/IMAGE.dcm"
EXAMPLE = "ttl datalist rsna_pe DATA/rsna-str-pulmonary-embolism-detection --no-hash"
TABLE, IMAGES = "train.csv", "train"
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_LABELS = ("pe_present_on_image", "negative_exam_for_pe", "indeterminate")


@dataclass
class _Series:
    """One series of the table; `images` has the row and the label of each image by its UID."""

    study: str
    uid: str
    row: int
    negative: bool
    indeterminate: bool
    images: dict[str, tuple[int, bool]] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return f"{IMAGES}/{self.study}/{self.uid}"

    @property
    def positive(self) -> bool:
        return any(positive for _, positive in self.images.values())


class _Judged(NamedTuple):
    """What the headers of a series say: the slices with an embolus, the patient, and what the reader refuses."""

    slices: list[int]
    patient: str
    refusal: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "The data set (Colak et al., Radiology: Artificial Intelligence 3:2, 2021, doi 10.1148/ryai.2021200254; for "
        "non-commercial use) comes from https://www.kaggle.com/c/rsna-str-pulmonary-embolism-detection, after "
        "accepting its rules there. Only train.csv has labels. The headers of all images are read, to number the "
        "slices from the feet; their pixels only without --no-hash."
    )
    add = parser.add_argument
    add("folder", type=Path, help=f"the folder that holds {TABLE} and {IMAGES}/")
    add(
        "--indeterminate",
        choices=("leave-out", "negative"),
        default="leave-out",
        help="what becomes of exams that nobody could judge (default: %(default)s)",
    )
    add(
        "--leave-out-refused",
        action="store_true",
        help="leave out series that the reader of volumes refuses by their headers (default: an error that names them)",
    )


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Read the table, and the headers of all images for the order of the slices.

    Source: Colak et al., "The RSNA Pulmonary Embolism CT Dataset", doi 10.1148/ryai.2021200254; layout, licence and
    number of studies (7279) from the wiki of https://github.com/RSNA/AI-Challenge-Data, page "RSNA-STR Pulmonary
    Embolism Detection", and the competition's own page. A row an image: `pe_present_on_image` is its label; the other
    columns are the exam's, the same in all its rows, and an exam is either negative, indeterminate or positive.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`; `workers` threads read
            headers.

    Returns:
        One record a series, its row that of its first image in the table (the header is row 1). Label 1 where some
        image shows an embolus; `slices` are the numbers of those images, from 0 at the feet, as `read_series` numbers
        them. The patient is PatientID of the header or, where that is empty, the study.

    Raises:
        ValueError: no such table, one without labels, or rows that contradict each other or the files, by row.
    """
    folder = source_folder(arguments, TABLE)
    everything = _read_table(folder / TABLE)
    _check_labels(everything)
    unclear = sum(each.indeterminate for each in everything)
    keep_unclear = arguments.indeterminate == "negative"
    if unclear:
        logger.info("%d indeterminate series are %s", unclear, "taken as negative" if keep_unclear else "left out")
    series = [each for each in everything if keep_unclear or not each.indeterminate]
    _check_files(series, folder)
    workers = getattr(arguments, "workers", None) or os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        judging = pool.map(lambda each: _judge(each, folder / each.folder), series)
        judged = list(tqdm(judging, total=len(series), desc="headers", unit="series", mininterval=0.5))
    sound = _leave_out_refused(series, judged, allowed=arguments.leave_out_refused)
    if unknown := sum(not found.patient for _, found in sound):
        warn_of_patients(unknown, "series without PatientID", "the table does not tell patients")
    tell_origin(arguments, source="RSNA-STR Pulmonary Embolism CT (RSPECT) Dataset, doi 10.1148/ryai.2021200254")
    below = folder.relative_to(arguments.dataset_dir)
    records = [
        Record(each.row, (below / each.folder).as_posix(), int(each.positive), found.patient or each.study)
        for each, found in sound
    ]
    slices = {record.image: found.slices for record, (_, found) in zip(records, sound, strict=True)}
    return Table("binary", ["negative", "positive"], records, slices=slices)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Row and cells, UIDs and labels, one after the other: the table has some two million rows."""
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise ValueError(
            f"there is no {TABLE} in {path.parent}; test.csv is of no use: its labels are not published"
        ) from None
    with file:
        rows = csv.reader(file)
        header = next(rows, [])
        if lacking := [name for name in (*_UIDS, *_LABELS) if header.count(name) != 1]:
            raise ValueError(
                f"the table {path.name} lacks the columns {', '.join(lacking)}: without labels (as test.csv, whose "
                "labels are not published) it cannot be used"
            )
        places = [header.index(name) for name in (*_UIDS, *_LABELS)]
        ragged = []
        for row, cells in enumerate(rows, 2):
            if len(cells) == len(header):
                yield row, [cells[place] for place in places]
            elif cells:
                ragged.append(row)
    if ragged:
        raise ValueError(f"{len(ragged)} rows of {path.name} do not have the header's cells: {name_rows(ragged)}")


def _read_table(path: Path) -> list[_Series]:
    """The series in the order of the table; raises one error with all rows that cannot be understood."""
    found: dict[tuple[str, str], _Series] = {}
    bad_ids: list[int] = []
    bad_labels: list[int] = []
    twice: list[int] = []
    unequal: list[int] = []
    for row, (study, uid, image, positive, negative, indeterminate) in _rows(path):
        if not all(name and name not in (".", "..") and not set("/\\") & set(name) for name in (study, uid, image)):
            bad_ids.append(row)
            continue
        if not {positive, negative, indeterminate} <= {"0", "1"}:
            bad_labels.append(row)
            continue
        flags = (negative == "1", indeterminate == "1")
        series = found.setdefault((study, uid), _Series(study, uid, row, *flags))
        if flags != (series.negative, series.indeterminate):
            unequal.append(row)
        if image in series.images:
            twice.append(row)
        series.images[image] = (row, positive == "1")
    wrong = (
        ("an id that is empty or no name of a file", bad_ids),
        ("a label that is neither 0 nor 1", bad_labels),
        ("the image of another row", twice),
        ("'negative_exam_for_pe' or 'indeterminate' other than the first row of their series", unequal),
    )
    problems = [f"{len(rows)} rows have {what}: {name_rows(rows)}" for what, rows in wrong if rows]
    raise_problems(problems, f"the table {path.name} cannot be used")
    return list(found.values())


def _check_labels(series: list[_Series]) -> None:
    """Raise one ValueError for exams that are not exactly one of positive, negative and indeterminate."""
    wrong: dict[str, list[int]] = {}
    for each in series:
        if each.positive and (each.negative or each.indeterminate):
            rows = [row for row, positive in each.images.values() if positive]
            wrong.setdefault("rows show an embolus in an exam that is negative or indeterminate", []).extend(rows)
        elif each.negative and each.indeterminate:
            wrong.setdefault("exams are both negative and indeterminate", []).append(each.row)
        elif not (each.positive or each.negative or each.indeterminate):
            what = "exams are neither negative nor indeterminate, and no image shows an embolus"
            wrong.setdefault(what, []).append(each.row)
    problems = [f"{len(rows)} {what}: {name_rows(rows)}" for what, rows in wrong.items()]
    raise_problems(problems, f"the labels of {TABLE} contradict each other")


def _check_files(series: list[_Series], folder: Path) -> None:
    """Raise one ValueError for series without a folder, images without a file, and files that the table lacks."""
    no_folder: list[int] = []
    no_file: list[int] = []
    more: list[int] = []
    for each in series:
        try:
            names = {entry.name for entry in os.scandir(folder / each.folder)}
        except (FileNotFoundError, NotADirectoryError):
            no_folder.append(each.row)
            continue
        no_file += [row for image, (row, _) in each.images.items() if f"{image}.dcm" not in names]
        if names - {f"{image}.dcm" for image in each.images}:
            more.append(each.row)
    wrong = (
        ("series have no folder", no_folder),
        ("images have no file", no_file),
        ("series have more files than rows, so that labels of slices are missing", more),
    )
    problems = [f"{len(rows)} {what}: {name_rows(rows)}" for what, rows in wrong if rows]
    raise_problems(problems, f"{TABLE} and the folder {IMAGES} do not fit")


def _judge(series: _Series, folder: Path) -> _Judged:
    """Order the slices of one series by their headers."""
    found = find_series(folder, rules=SeriesRules(modality="CT"))
    if refusals := [reason for each in found for reason in each.report.refusals]:
        return _Judged([], "", refusals[0])
    if len(found) != 1 or len(found[0].from_feet) != len(series.images):
        count = len(found[0].from_feet) if len(found) == 1 else 0
        what = f"{len(found)} series" if len(found) != 1 else f"{count} axial slices"
        return _Judged([], "", f"slices: expected one series of {len(series.images)} axial ones, found {what}")
    order = found[0].from_feet
    patient = str(open_header(order[0], ["PatientID"])[0].get("PatientID") or "").strip()
    return _Judged([k for k, file in enumerate(order) if series.images[file.stem][1]], patient, "")


def _leave_out_refused(series: list[_Series], judged: list[_Judged], *, allowed: bool) -> list[tuple[_Series, _Judged]]:
    """The sound series; the others are an error or, where that is allowed, counted."""
    both = list(zip(series, judged, strict=True))
    refused: dict[str, list[tuple[int, str]]] = {}  # by the name of the check
    for each, found in both:
        if found.refusal:
            refused.setdefault(found.refusal.split(":")[0], []).append((each.row, found.refusal))
    problems = [
        f"{len(cases)} series, {name_rows(row for row, _ in cases)}; the first because of {cases[0][1]}"
        for cases in refused.values()
    ]
    if not allowed:
        raise_problems(problems, "the reader refuses series by their headers; leave them out with --leave-out-refused")
    for problem in problems:
        logger.warning("left out: %s", problem)
    return [(each, found) for each, found in both if not found.refusal]
