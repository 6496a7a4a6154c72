"""Sources of datalists: one file a kind, each with the same face.

A source is a module with `HELP` (one line), `EXAMPLE` (a command), `add_arguments(parser)`,
`default_dataset_dir(arguments) -> Path`, and `read(arguments) -> Table`, in which `arguments.dataset_dir` is an
absolute path. To add one, write the file and add its name to `SOURCES`.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = (
    *("bimcv", "chexpert", "csv", "folder", "ham10000", "masks"),
    *("medmnist", "midog", "msd", "penet", "rsna_pe"),
)


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


def source_folder(arguments: argparse.Namespace, holds: str) -> Path:
    """The absolute path of the folder that a source was given.

    Args:
        arguments: the parsed options, with `folder` and the absolute `dataset_dir`.
        holds: what lies in the folder, in words.

    Raises:
        ValueError: it is not in the data set's folder.
    """
    folder: Path = arguments.folder.absolute()
    if not folder.is_relative_to(arguments.dataset_dir):
        raise ValueError(f"the folder with {holds} must lie in --dataset-dir")
    return folder


def tell_origin(arguments: argparse.Namespace, *, source: str, licence: str = "") -> None:
    """Say in the datalist where the images come from and under which licence, where the user did not."""
    for option, text in (("source", source), ("licence", licence)):
        if not getattr(arguments, option, None):
            setattr(arguments, option, text)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; one that has this content already is left alone, so that it stays in caches."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
