"""Names of workers, from which others on the same machine can tell that one is dead."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

PROC = Path("/proc")


def worker_id(pid: int | None = None) -> str:
    """Name of a process: machine, process id, and when it began, since ids are used again.

    Args:
        pid: default: this process.

    Returns:
        `host-1a2b3c4d:4711:123456`; the start is 0 where the system does not tell it.
    """
    pid = os.getpid() if pid is None else pid
    return f"{_machine()}:{pid}:{_started(pid) or 0}"


def is_dead(worker: str) -> bool:
    """Whether a worker's process is known to be gone.

    Args:
        worker: from `worker_id`.

    Returns:
        False where that cannot be told from here, as for other machines.
    """
    machine, _, rest = worker.rpartition(":")[0].rpartition(":")
    started = worker.rpartition(":")[2]
    if machine != _machine() or not rest.isdigit() or started == "0":
        return False
    return _started(int(rest)) != started


def _machine() -> str:
    """The host's name with a hash of its boot and process table: two containers may have the same name."""
    try:
        marks = (PROC / "sys/kernel/random/boot_id").read_text() + str((PROC / "self/ns/pid").readlink())
    except OSError:
        marks = ""
    return f"{platform.node()}-{hashlib.sha256(marks.encode()).hexdigest()[:8]}"


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None when it is gone or a zombie."""
    try:
        # The second field is the command in brackets, and may itself have brackets and spaces.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
