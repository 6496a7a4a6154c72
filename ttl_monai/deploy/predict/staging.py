"""Inputs under names of our own: no name of a file or folder reaches a reader, a log, a result or a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ttl_monai.data.dicom_slices import FOREIGN_SUFFIXES, list_files
from ttl_monai.data.sidecar import sidecar_path

__all__ = ["Staged", "link", "list_inputs", "stage_files"]

LISTS = (".txt", ".json")
# Endings by which readers tell formats, and that say nothing else; another one may be a part of a name or of a UID.
_ENDINGS = (".nii.gz", ".dcm", ".dicom", ".ima", *FOREIGN_SUFFIXES)
_OTHER, _HIDDEN = ".other", ".txt"


@dataclass(frozen=True)
class Staged:
    """A file of the input under a name of our own.

    Attributes:
        path: the link; its folder stands for the folder of the file.
        original: the file. For the key map alone: its name may be that of a patient.
        named: given by the user as a file, so that it is never left out in silence.
    """

    path: Path
    original: Path
    named: bool


def list_inputs(source: str | Path) -> list[tuple[Path, bool]]:
    """The files that an input means.

    Args:
        source: a file, a folder (with its subfolders), or a list: a text file with a path a line, or a JSON list of
            paths or of objects with `image`. Paths of a list start from its folder, and may be folders.

    Returns:
        Absolute paths, and whether the user named that file.

    Raises:
        ValueError: nothing there, or a list that is none; the message has no path, as names may be those of patients.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError("the input does not exist: expected a file, a folder, or a list (.txt, .json) of them")
    if path.is_dir() or path.suffix.lower() not in LISTS:
        return _expand([path])
    entries = _read_list(path)
    if not entries:
        raise ValueError("the list is empty: expected a path a line, or a JSON list of paths")
    paths = [path.parent / entry for entry in entries]
    if missing := [str(number) for number, each in enumerate(paths, 1) if not each.exists()]:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise ValueError(f"{len(missing)} of {len(paths)} entries of the list are not there: entry {shown}")
    return _expand(paths)


def _read_list(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        content = json.loads(text)
        entries = [each["image"] if isinstance(each, dict) else each for each in content]
        if not isinstance(content, list) or not all(isinstance(each, str) for each in entries):
            raise TypeError
    except (ValueError, TypeError, KeyError):  # their texts quote the content
        raise ValueError(
            "the list cannot be read: expected a text file in UTF-8 with a path a line, or a JSON list of paths or of "
            'objects with "image"'
        ) from None
    return entries


def _expand(paths: Iterable[Path]) -> list[tuple[Path, bool]]:
    found: dict[Path, bool] = {}
    for path in paths:
        for file in list_files([path]):
            found[file.absolute()] = found.get(file.absolute(), False) or path.is_file()
    return list(found.items())


def stage_files(files: Iterable[tuple[Path, bool]], folder: Path) -> list[Staged]:
    """Link files into a folder, under numbers in place of names; files of one folder stay together.

    Args:
        files: as `list_inputs` gives them.
        folder: a private folder, which goes when the prediction is done.

    Returns:
        One entry a file, in their order. The side-car of a picture is linked beside it.
    """
    folders: dict[Path, Path] = {}
    staged = []
    for number, (file, named) in enumerate(files):
        if file.parent not in folders:
            folders[file.parent] = folder / f"folder{len(folders):05}"
            folders[file.parent].mkdir(parents=True)
        ending = _ending(file.name.lower())
        path = link(file, folders[file.parent] / f"file{number:06}{ending}")
        if ending == ".png" and sidecar_path(file).is_file():
            link(sidecar_path(file), sidecar_path(path))
        staged.append(Staged(path, file, named))
    return staged


def _ending(name: str) -> str:
    if name.startswith("."):
        return _HIDDEN
    return next((each for each in _ENDINGS if name.endswith(each)), _OTHER if "." in name else "")


def link(file: Path, name: Path) -> Path:
    """A symbolic link to a file."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(file)
    return name
