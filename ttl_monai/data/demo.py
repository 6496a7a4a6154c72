"""Made data that appears on first use: whole or not at all, and made anew where it is damaged or of another version."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.records import Table, content_sha256

__all__ = ["ensure_demo", "write_demo_list"]

logger = logging.getLogger(__name__)


def write_demo_list(table: Table, folder: Path, *, header: dict[str, str], seed: int) -> Path:
    """Write the datalist of made images, split by patient 64/16/20, with the hash of each.

    Args:
        table: the images, which lie in `folder`.
        folder: the data set's folder.
        header: name, source, licence and `made_by`.
        seed: of the split.

    Returns:
        The path of its datalist.json.
    """
    (datalist,) = build_datalists(table, folder, header=header, site_key=None, repeats=1, seed=seed, hash_files=False)
    for entry in (entry for section in SECTIONS for entry in datalist[section]):
        entry["sha256"] = content_sha256(folder / entry["image"])
    path = folder / "datalist.json"
    path.write_text(to_json(datalist), encoding="utf-8")
    return path


def ensure_demo(folder: str | Path, *, made_by: str, title: str, what: str, make: Callable[[Path], object]) -> Path:
    """Make a phantom in `folder` unless it lies there already, every byte of its images as it was made.

    It appears whole or not at all, also when the process is killed or several processes ask for it at once. One line
    is logged: what it is, where, and how to use one's own data instead.

    Args:
        folder: where it lies or shall lie.
        made_by: what its datalist says in "made_by" when it is of this version.
        title: the first line of its README.txt, by which a phantom of another version is known.
        what: what it holds, for the line that is logged.
        make: makes it in the folder that it gets, with datalist.json and README.txt.

    Returns:
        The path of its datalist.json.

    Raises:
        ValueError: the folder holds something that is no phantom; it is left as it is.
    """
    folder = Path(folder).absolute()
    state = "found"
    if not _is_whole(folder, made_by):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not _is_whole(folder, made_by):
                _replace(folder, title, make)
                state = "made"
    logger.info(
        "%s the demo's data in %s: %s. To use your own data, pass --dataset_dir DIR --datalist FILE.",
        state,
        folder,
        what,
    )
    return folder / "datalist.json"


def _replace(folder: Path, title: str, make: Callable[[Path], object]) -> None:
    """Make the phantom beside `folder` and move it there; the caller holds the lock."""
    readme = folder / "README.txt"
    ours = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(title)
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} holds something else than {title[0].lower()}{title[1:].split(',')[0]}: expected no such folder, "
            "an empty one, or a phantom with its README.txt; remove it or name another folder for the demo's data"
        )
    temporary = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    make(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def _is_whole(folder: Path, made_by: str) -> bool:
    try:
        datalist = json.loads((folder / "datalist.json").read_bytes())
        return datalist["made_by"] == made_by and all(
            content_sha256(folder / entry[what]) == entry[key]
            for section in SECTIONS
            for entry in datalist[section]
            for key, what in (("sha256", "image"), ("label_sha256", "label"))
            if key in entry
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
