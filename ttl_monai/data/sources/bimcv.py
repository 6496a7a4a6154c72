"""BIMCV-COVID19+ and BIMCV-COVID19- as one source: x-rays of patients with and without COVID-19, as published."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sidecar import read_sidecar
from ttl_monai.data.sources import source_folder, tell_origin
from ttl_monai.data.sources.csv import read_rows

logger = logging.getLogger(__name__)

HELP = "BIMCV-COVID19+ and -: a folder with covid19_posi and covid19_neg"
EXAMPLE = "ttl datalist bimcv DATA/bimcv --positive test --days 14"
NEGATIVE, POSITIVE = "covid19_neg", "covid19_posi"
CLASS_NAMES = ("negative", "positive")


class _Xray(NamedTuple):
    """One frontal x-ray: its number among all PNG in the order of the paths, its file and whose it is."""

    row: int
    path: Path
    part: str
    subject: str
    session: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "BIMCV-COVID19+ (de la Iglesia Vaya et al., arXiv 2006.01174) and BIMCV-COVID19- (doi 10.21227/m4j2-ap59), for "
        "research only, under BIMCV's research use agreement: see "
        "https://bimcv.cipf.es/bimcv-projects/bimcv-covid19/. Unpack the archives of both in one folder. Frontal views "
        "(vp-ap, vp-pa) with their JSON; the subject is the patient."
    )
    add = parser.add_argument
    add("folder", type=Path, help=f"the folder that holds {POSITIVE} and {NEGATIVE}")
    add(
        "--positive",
        choices=("part", "test", "report"),
        default="part",
        help=f"which images of {POSITIVE} count: all; those near a positive test; or those whose report says so. The "
        "others of that part are left out (default: %(default)s)",
    )
    add("--days", type=int, default=14, help="of --positive test: how near, before or after (default: %(default)s)")
    add(
        "--findings",
        nargs="+",
        default=["COVID 19"],
        metavar="LABEL",
        help=f"of --positive report: labels of which the report has one; images of {NEGATIVE} whose report has one "
        "are left out (default: %(default)s)",
    )
    add(
        "--common-ids",
        metavar="FILE",
        help=f"table in the folder with the columns {POSITIVE} and {NEGATIVE}: the two ids of those who are in both",
    )


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Find the x-rays, their side-cars and what the tables say.

    Source: arXiv 2006.01174 for the layout (MIDS), the Readme and LICENSE of
    https://github.com/BIMCV-CSUSP/BIMCV-COVID-19 for archives and terms; the columns as read by two public users of
    the data, rilshok/BIMCV-COVID-19-interface and the amid package. In each part participants.tsv (participant, ...;
    one row is "derivatives"), sub-S*/ses-E*/mod-rx/sub-S*_ses-E*[_acq-N]_run-N_bp-chest[_vp-ap]_cr.png with a .json of
    DICOM tags beside it (CT as .nii.gz in the same folder), sub-S*/sub-S*_sessions.tsv (session_id, study_date as
    20200321), derivatives/labels/labels_*.tsv (ReportID, which is the session, Labels) and, of the positive part,
    derivatives/EHR/sil_reg_covid*.tsv (participant, date as 21.03.2020, test, result POSITIVO, NEGATIVO,
    INDETERMINADO). The pixels are those of the DICOM image, unwindowed, in 16 bits; `XrayReader` shows them by the
    side-car, so that MONOCHROME1 is turned over.

    Note:
        Views are those of the file names. Some laterals are called vp-ap or vp-pa there (DeGrave et al., Nature
        Machine Intelligence 3, 2021, list about thirty); nothing in the tables tells them.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records; a record's row is the number of its PNG in the order of the paths, the negative part first.

    Raises:
        ValueError: a part or a table that is missing, or images that the tables do not fit, by row.
    """
    folder = source_folder(arguments, f"{POSITIVE} and {NEGATIVE}")
    if lacking := [part for part in (NEGATIVE, POSITIVE) if not (folder / part).is_dir()]:
        raise ValueError(f"there is no {' and no '.join(lacking)} in {folder}: expected both parts of the data set")
    xrays = _with_sidecar(_frontal(folder))
    _check_subjects(xrays, folder)
    if arguments.positive == "test":
        chosen = _near_a_test(xrays, folder, arguments.days)
    elif arguments.positive == "report":
        chosen = _by_report(xrays, folder, arguments.findings)
    else:
        chosen = xrays
    if left_out := len(xrays) - len(chosen):
        logger.info("%d images are left out by --positive %s", left_out, arguments.positive)
    same = _common_ids(folder, arguments.common_ids)
    tell_origin(
        arguments,
        source="BIMCV-COVID19+ and BIMCV-COVID19-, arXiv 2006.01174, doi 10.21227/m4j2-ap59",
        licence="BIMCV-COVID19 research use agreement",
    )
    records = [
        Record(
            xray.row,
            xray.path.relative_to(arguments.dataset_dir).as_posix(),
            int(xray.part == POSITIVE),
            same.get(xray.subject, xray.subject) if xray.part == NEGATIVE else xray.subject,
        )
        for xray in chosen
    ]
    return Table("binary", list(CLASS_NAMES), records)


def _frontal(folder: Path) -> list[_Xray]:
    """The x-rays that are frontal by their names."""
    paths = [path for part in (NEGATIVE, POSITIVE) for path in sorted(folder.glob(f"{part}/sub-*/ses-*/mod-rx/*.png"))]
    found = []
    for row, path in enumerate(paths, 1):
        view = re.search(r"_vp-([a-z]+)", path.name)
        if view and view[1] in ("ap", "pa"):
            part, subject, session = path.relative_to(folder).parts[:3]
            found.append(_Xray(row, path, part, subject, session))
    if not found:
        raise ValueError(f"no frontal x-rays among {len(paths)} PNG: expected PART/sub-*/ses-*/mod-rx/*_vp-ap_*.png")
    if more := len(paths) - len(found):
        logger.info("%d of %d x-rays are left out: not frontal, or no view in their name", more, len(paths))
    return found


def _with_sidecar(xrays: list[_Xray]) -> list[_Xray]:
    """The x-rays whose side-car tells how their pixels are meant; without, nobody knows which are negatives."""
    kept: list[_Xray] = []
    unclear: list[_Xray] = []
    for xray in tqdm(xrays, desc="side-cars", unit="file", mininterval=0.5):
        try:
            tags = read_sidecar(xray.path)
        except ValueError:  # damaged; its text would name the file, and so the subject
            tags = None
        known = tags is not None and tags.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")
        (kept if known else unclear).append(xray)
    if unclear:
        rows = name_rows(xray.row for xray in unclear)
        logger.warning(
            "%d x-rays have no sound JSON that says MONOCHROME1 or 2 and are left out: %s", len(unclear), rows
        )
    return kept


def _check_subjects(xrays: list[_Xray], folder: Path) -> None:
    """Raise one ValueError for x-rays of subjects whom participants.tsv does not have."""
    problems = []
    for part in (NEGATIVE, POSITIVE):
        rows = _read(folder / part / "participants.tsv", ["participant"])
        known = {subject for (subject,) in rows}
        if wrong := [xray.row for xray in xrays if xray.part == part and xray.subject not in known]:
            problems.append(
                f"{len(wrong)} x-rays are of subjects whom {part}/participants.tsv lacks: {name_rows(wrong)}"
            )
    raise_problems(problems, "the tables and the folders do not fit")


def _near_a_test(xrays: list[_Xray], folder: Path, days: int) -> list[_Xray]:
    """The negative part, and the x-rays at most so many days from a positive test of their subject."""
    table = _one_table(folder / POSITIVE / "derivatives" / "EHR", "sil_reg_covid")
    tests: dict[str, list[datetime]] = {}
    results = set()
    for subject, date, result in _read(table, ["participant", "date", "result"]):
        results.add(result)
        if result == "POSITIVO":
            tests.setdefault(subject, []).append(_date(date, "%d.%m.%Y", table.name))
    if unknown := results - {"POSITIVO", "NEGATIVO", "INDETERMINADO"}:
        raise ValueError(f"{table.name} has {len(unknown)} results other than POSITIVO, NEGATIVO and INDETERMINADO")
    studies: dict[tuple[str, str], datetime] = {}
    for subject in tests.keys() & {xray.subject for xray in xrays if xray.part == POSITIVE}:
        sessions = folder / POSITIVE / subject / f"{subject}_sessions.tsv"
        try:
            rows = _read(sessions, ["session_id", "study_date"])
        except ValueError:  # its text would name the file, and so the subject
            raise ValueError("a subject's table of sessions is missing or lacks session_id or study_date") from None
        for session, date in rows:
            if date:  # some have none
                studies[subject, session] = _date(date.removesuffix(".0"), "%Y%m%d", "a table of sessions")

    def near(xray: _Xray) -> bool:
        study = studies.get((xray.subject, xray.session))
        return study is not None and any(abs((study - test).days) <= days for test in tests[xray.subject])

    return [xray for xray in xrays if xray.part == NEGATIVE or near(xray)]


def _by_report(xrays: list[_Xray], folder: Path, findings: Iterable[str]) -> list[_Xray]:
    """The x-rays whose report has one of the findings, of the negative part those whose report has none."""
    wanted = set(findings)
    has: set[tuple[str, str]] = set()
    for part in (NEGATIVE, POSITIVE):
        table = _one_table(folder / part / "derivatives" / "labels", "labels_")
        for session, labels in _read(table, ["ReportID", "Labels"]):
            # A list as Python prints it, in which some entries have spaces or a tab around, and some lists have no end.
            if wanted & {label.strip() for label in re.findall(r"""['"]([^'"]*)['"]""", labels)}:
                has.add((part, session))
    return [xray for xray in xrays if ((xray.part, xray.session) in has) == (xray.part == POSITIVE)]


def _common_ids(folder: Path, named: str | None) -> dict[str, str]:
    """The positive part's id by the negative part's, of those who are in both."""
    if named is None:
        logger.warning(
            "ASSUMPTION: no patient is in both %s and %s. Some are, with two ids: training and test may share them; "
            "--common-ids names the table of these.",
            POSITIVE,
            NEGATIVE,
        )
        return {}
    return dict(_read(folder / named, [NEGATIVE, POSITIVE]))


def _read(path: Path, columns: list[str]) -> list[list[str]]:
    return [cells for _, cells in read_rows(path, columns, separators="\t")]


def _one_table(folder: Path, start: str) -> Path:
    """The table whose name starts so, in capitals or not: its end differs between the releases."""
    found = sorted(path for path in folder.glob("*.tsv") if path.name.lower().startswith(start))
    if len(found) != 1:
        raise ValueError(f"expected one table {start}*.tsv in {folder}, got {len(found)}")
    return found[0]


def _date(text: str, form: str, where: str) -> datetime:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        raise ValueError(f"{where} has a date that is not written as {form}") from None
