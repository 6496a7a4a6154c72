"""Patient keys: pseudonyms that only the holder of the site's key can trace back."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

KEY_BYTES = 32


def default_key_path() -> Path:
    """Where the site key lives unless the user says otherwise: the user's configuration folder."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "ttl-monai" / "site_key"


def load_site_key(path: Path | None = None) -> bytes:
    """Read the site key; make it on first use, in a file that only its owner can read.

    Args:
        path: the file of the key, default `default_key_path()`.

    Returns:
        32 bytes.

    Raises:
        ValueError: others may read the file, or it does not hold a key.
    """
    path = default_key_path() if path is None else path
    if not path.exists():
        _make_key(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        mode = stat.S_IMODE(path.stat().st_mode)
        raise ValueError(f"the site key {path} has mode {mode:04o}, expected 0600: others may read it; `chmod 600` it")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(
            f"{path} is no site key: expected {2 * KEY_BYTES} hexadecimal digits; restore it from a backup"
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp gives mode 0600; the link appears with its content complete and fails where another process was first.
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()
    logger.warning("made a site key: %s; keep a copy: without it new images of a patient get another patient key", path)


def pseudonym(key: bytes, text: str) -> str:
    """HMAC-SHA256 of `text` with the site key, as 64 hexadecimal digits."""
    return hmac.digest(key, text.encode(), "sha256").hex()
