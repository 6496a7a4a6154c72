"""Sources of datalists: one file a kind, each with the same face.

A source is a module with `HELP` (one line), `EXAMPLE` (a command), `add_arguments(parser)`,
`default_dataset_dir(arguments) -> Path`, and `read(arguments) -> Table`, in which `arguments.dataset_dir` is an
absolute path. To add one, write the file and add its name to `SOURCES`.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable

logger = logging.getLogger(__name__)

SOURCES = ("csv", "folder", "masks", "msd", "penet", "rsna_pe")


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".nii", ".nii.gz")


TELL_PATIENTS = "say --patient-regex, or `ttl datalist csv` where a table names the patients"


def warn_of_patients(count: int, what: str = "files", remedy: str = TELL_PATIENTS) -> None:
    """Say what is assumed where nothing tells which images are of one patient, and what helps."""
    logger.warning(
        "ASSUMPTION: each of the %d %s is a patient of its own. If a patient has several images, training and "
        "test will share patients and the results will be too good; %s.",
        count,
        what,
        remedy,
    )


def add_patient_regex(parser: argparse.ArgumentParser, where: str) -> None:
    """Add the option --patient-regex.

    Args:
        parser: the parser of a source.
        where: what the expression is searched in.
    """
    parser.add_argument(
        "--patient-regex",
        metavar="REGEX",
        help=f"regular expression that finds the patient id in {where}: its first group, else all of it",
    )


def patient_finder(pattern: str | None) -> Callable[[str], str]:
    r"""A function that finds the patient id in a text; empty where there is none.

    Args:
        pattern: regular expression, or None to take the whole text.

    Raises:
        ValueError: not a regular expression.

    Example:
        >>> patient_finder(r"patient(\d+)")("train/patient00012/study1/view1.jpg")
        '00012'
    """
    if pattern is None:
        return str.strip
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--patient-regex {pattern!r} is no regular expression: {error}") from error

    def find(text: str) -> str:
        match = expression.search(text)
        return (match[1 if expression.groups else 0] or "").strip() if match else ""

    return find
