"""The MANIFEST of a packed bundle: the SHA-256 of every file."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from ttl_monai.deploy.findings import Finding, shown
from ttl_monai.deploy.plain import read_plain
from ttl_monai.files import file_sha256, write_atomically

__all__ = ["MANIFEST", "is_plain_path", "list_files", "read_manifest", "verify_manifest", "write_manifest"]

MANIFEST = "MANIFEST.json"
SHA256 = re.compile(r"[0-9a-f]{64}")
FILE_LIMIT = 4 * 2**30
"""Bytes of one file. Above that nothing is read: no network here has a tenth of it."""
MADE_BY_USE = ("eval", "cache", "data")
"""Folders that a bundle writes into where it is told of no other place."""

# One rule for archives, manifests and folders, which leaves no room for "..", "C:", "\", hidden or look-alike names.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def is_plain_path(path: str) -> bool:
    """Whether a POSIX path is relative and each of its parts begins with a letter, a digit or `_`, as `configs/a.json`.

    Letters are ASCII; `.`, `+` and `-` may follow.
    """
    return all(_PART.fullmatch(part) for part in path.split("/"))


def list_files(folder: str | Path) -> tuple[list[str], list[Finding]]:
    """All files of a folder, and what in it is no plain file.

    Args:
        folder: the bundle. Links are not followed.

    Returns:
        Relative POSIX paths, sorted, without the MANIFEST; and a finding for each link, special file, odd name, two
        names that differ by case alone, and file above the limit, none of which is among the paths.
    """
    root, files, findings = Path(folder), list[str](), list[Finding]()
    seen: set[str] = set()
    for place, folders, names in os.walk(root):
        for name in sorted(folders + names):
            path = Path(place, name)
            relative = path.relative_to(root).as_posix()
            problem = _problem(path, relative, seen)
            seen.add(relative.casefold())
            if problem:
                findings.append(Finding(relative, "", *problem))
                folders[:] = [each for each in folders if each != name]  # not entered
            elif name in names:
                files.append(relative)
    return sorted(each for each in files if each != MANIFEST), findings


def _problem(path: Path, relative: str, seen: set[str]) -> tuple[str, str, str] | None:
    """What is wrong with a directory entry: found, allowed, remedy."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "a link", "files and folders", "put the file itself there"
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return "a special file", "files and folders", "remove it"
    if not is_plain_path(relative):
        return (
            f"the name {shown(path.name)}",
            "ASCII letters, digits and _ . + -, no hidden files",
            "rename or remove it",
        )
    if relative.casefold() in seen:
        return "two names that differ by case alone", "names that every file system keeps apart", "rename one of them"
    if stat.S_ISREG(status.st_mode) and status.st_size > FILE_LIMIT:
        return f"{status.st_size:,} bytes", f"at most {FILE_LIMIT:,}", "remove it, or name it in large_files.yml"
    return None


def write_manifest(folder: str | Path) -> Path:
    """Write the SHA-256 of every file of a folder into its MANIFEST.json.

    Args:
        folder: the bundle, finished: every later change of a byte is a finding.

    Returns:
        The path of the MANIFEST. Its own SHA-256 stands for the whole bundle.

    Raises:
        ValueError: the folder holds what `list_files` finds fault with; nothing was written.
    """
    files, findings = list_files(folder)
    if findings:
        first = findings[0]
        raise ValueError(
            f"{folder} cannot have a MANIFEST: expected {first.allowed}, found {first.found} at {first.file}; "
            f"{first.remedy}."
        )
    path = Path(folder, MANIFEST)
    content = {"sha256": {name: file_sha256(Path(folder, name)) for name in files}}
    write_atomically(path, (json.dumps(content, indent=4) + "\n").encode())
    return path


def read_manifest(folder: str | Path) -> dict[str, str]:
    """Path -> SHA-256 of a bundle's MANIFEST.

    Raises:
        ValueError: it is not what `write_manifest` writes.
        FileNotFoundError: there is none.
    """
    path = Path(folder, MANIFEST)
    content = read_plain(path, MANIFEST)
    hashes = content.get("sha256") if isinstance(content, dict) and list(content) == ["sha256"] else None
    if not isinstance(hashes, dict) or not all(
        is_plain_path(name) and isinstance(value, str) and SHA256.fullmatch(value) for name, value in hashes.items()
    ):
        raise ValueError(f'{MANIFEST}: expected {{"sha256": {{path: 64 hex digits, ...}}}} with relative plain paths')
    return hashes


def verify_manifest(
    folder: str | Path, files: Iterable[str], *, optional: Mapping[str, str] | None = None
) -> list[Finding]:
    """Compare the files of a folder with its MANIFEST, byte for byte.

    Args:
        folder: the bundle.
        files: what `list_files` gives.
        optional: path -> SHA-256 of files that may be there as well: those of `large_files.yml`.

    Returns:
        A finding for each file that differs, is missing, or is not named.
    """
    if not Path(folder, MANIFEST).is_file():
        remedy = "pack it anew with ttl pack, or get it anew; a source bundle has no models, code or hashes"
        return [Finding(MANIFEST, "", "no MANIFEST", "the SHA-256 of every file of a packed bundle", remedy)]
    try:
        expected = read_manifest(folder)
    except ValueError as error:
        return [Finding(MANIFEST, "", str(error), "what ttl pack writes", "get the bundle anew")]
    optional = optional or {}
    there = set(files)
    findings = [
        Finding(name, "", "the file is missing", f"sha256 {expected[name]}", "get the bundle anew")
        for name in sorted(expected.keys() - there - optional.keys())
    ]
    for name in sorted(there):
        wanted = expected.get(name, optional.get(name))
        if wanted is None:
            made = name.split("/")[0] in MADE_BY_USE
            remedy = "a result: move it elsewhere, and pass --output_dir and --cache_dir from now on"
            what = f"a file that {MANIFEST} does not name"
            findings.append(Finding(name, "", what, "only named files", remedy if made else "remove it"))
        elif (found := file_sha256(Path(folder, name))) != wanted:
            findings.append(Finding(name, "", f"sha256 {found}", f"sha256 {wanted}", "get the bundle anew"))
    return findings
