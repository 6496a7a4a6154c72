"""Unpack a zip archive of a stranger: everything is checked before the first byte is written."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from ttl_monai.deploy.findings import shown
from ttl_monai.deploy.manifest import FILE_LIMIT, is_plain_path

__all__ = ["unpack_bundle"]

COUNT_LIMIT = 5000
TOTAL_LIMIT = 2 * FILE_LIMIT
RATIO_LIMIT = 100
"""How much smaller a member may be than its content, beyond the first MiB. JSON and text come to about 10."""


def unpack_bundle(archive: str | Path, folder: str | Path) -> Path:
    """Unpack the zip archive of a bundle.

    MONAI's `extractall` refuses absolute paths and `..`; this refuses links, special files, look-alike names, what
    inflates beyond limits, and what is encrypted or doubled, too, and leaves nothing half done.

    Args:
        archive: the zip file. All its members lie in one folder, which is the bundle's name.
        folder: an existing folder in which nothing else lies.

    Returns:
        The folder of the bundle, in `folder`.

    Raises:
        ValueError: the archive is refused, or broken.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            _refuse(members, Path(archive).stat().st_size)
            for member in members:
                target = Path(folder, member.filename)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as content, target.open("xb") as file:
                    shutil.copyfileobj(content, file)  # zipfile reads no more than the stated size, and checks the CRC
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ValueError(f"expected the zip archive of a bundle, found a broken one: {shown(str(error))}") from None
    return Path(folder, members[0].filename.split("/")[0])


def _refuse(members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise for the first thing that is wrong with an archive of `size` bytes."""
    if not 0 < len(members) <= COUNT_LIMIT:
        raise ValueError(f"expected an archive of 1 to {COUNT_LIMIT} files, found {len(members)}")
    seen: set[str] = set()
    for member in members:
        name = member.orig_filename.removesuffix("/")
        kind = stat.S_IFMT(member.external_attr >> 16)
        expected = stat.S_IFDIR if member.is_dir() else stat.S_IFREG
        found = None
        if not is_plain_path(name) or ("/" not in name and not member.is_dir()):
            found = "a path that is not FOLDER/... of ASCII letters, digits and _ . + -, without hidden files"
        elif kind not in (0, expected):
            found = "a link or special file"
        elif member.flag_bits & 0x1:
            found = "an encrypted file"
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found = f"compression {member.compress_type}"
        elif name.casefold() in seen:
            found = "a second file of this name"
        elif member.file_size > FILE_LIMIT:
            found = f"{member.file_size:,} bytes where at most {FILE_LIMIT:,} are allowed"
        elif member.file_size > RATIO_LIMIT * member.compress_size + 2**20:
            found = f"{member.compress_size:,} bytes that inflate to {member.file_size:,}"
        if found:
            raise ValueError(f"the archive is refused: {shown(member.orig_filename)} is {found}; nothing was unpacked")
        seen.add(name.casefold())
    total = sum(member.file_size for member in members)
    if total > TOTAL_LIMIT or sum(member.compress_size for member in members) > size:
        raise ValueError(
            f"the archive is refused: its members overlap, or come to more than {TOTAL_LIMIT:,} bytes ({total:,}); "
            "nothing was unpacked"
        )
    if len(folders := {name.split("/")[0] for name in seen}) > 1:
        raise ValueError(f"expected all files in one folder, the bundle, found {len(folders)}; nothing was unpacked")
