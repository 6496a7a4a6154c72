"""Result files: what a search knows for sure. One file a cell, whole or absent, and the first one stays."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Results:
    """The folder of result files.

    Args:
        folder: made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, dict[str, Any]] = {}

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def add(self, key: str, result: Mapping[str, Any]) -> bool:
        """Keep a result, unless the cell has one.

        Args:
            key: the cell's key.
            result: JSON values; numbers that are not finite become null, since JSON has none.

        Returns:
            False if another result was there first.

        Raises:
            TypeError: something in it is no JSON value.
        """
        path = self._path(key)
        text = json.dumps(_finite(result), indent=1, allow_nan=False) + "\n"
        temporary = path.with_name(f".{key}.{platform.node()}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            return _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self) -> dict[str, dict[str, Any]]:
        """All results by the key of their cell. A file is read once, since it never changes.

        Raises:
            ValueError: a file is no result, which only a change by other hands can cause.
        """
        keys = {path.stem: path for path in sorted(self.folder.glob("*.json"))}
        for key in keys.keys() - self._read.keys():
            try:
                result = json.loads(keys[key].read_text(encoding="utf-8"))
                if result["key"] != key:
                    raise ValueError(f"its key is {result['key']!r}")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{keys[key]} is not a result of this search ({error}): it was changed. Delete it to have its cell "
                    "done again."
                ) from error
            self._read[key] = result
        return {key: self._read[key] for key in keys}

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _link(temporary: Path, path: Path) -> bool:
    """Give a whole file its name, unless the name is taken: a link is the one step that does both."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A file system without hard links, such as a USB stick's. Between these two lines another worker's equally
        # valid result may come and be replaced; still there is one, and it is whole.
        if path.exists():
            return False
        temporary.replace(path)
    return True


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
