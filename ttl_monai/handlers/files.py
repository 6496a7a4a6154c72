"""Files of a run that are whole or absent, never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ttl_monai.files import file_sha256, write_atomically

__all__ = ["file_sha256", "save_tensors", "write_atomically"]


def save_tensors(state: Any, path: Path) -> None:
    """Save a state of tensors and plain Python values atomically, readable with `weights_only=True`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
