"""A batch script for Slurm: an array of workers, to be read and changed before it is submitted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ttl_monai.engines.search.storage import check_url

_WORD = re.compile(r"[\w.,:/@%+=\[\]-]+")  # what may stand in an #SBATCH line, where nothing is quoted


@dataclass(frozen=True)
class Job:
    """What a worker asks of Slurm.

    Attributes:
        workers: number of workers, one a task of the array.
        cpus: cores of each, which are its threads.
        gpus: GPUs of each, 0 or 1: a worker uses one.
        memory: as Slurm writes it.
        time: limit of one start; a worker that reaches it is queued again.
        name: of the job.
        options: further lines, such as `--partition=gpu`.
    """

    workers: int
    cpus: int = 4
    gpus: int = 1
    memory: str = "16G"
    time: str = "04:00:00"
    name: str = "ttl-worker"
    options: tuple[str, ...] = ()


def slurm_script(
    job: Job,
    *,
    storage: str,
    python: str,
    study: str | None = None,
    places: Mapping[str, str | Path | None] | None = None,
) -> str:
    """An sbatch script that starts workers.

    Slurm signals a job two minutes before its limit. The worker then gives its cell back, exits with status 75, and the
    task is queued again; the training goes on from its last epoch on whatever node takes it.

    Args:
        job: what to ask for.
        storage: address of the queue; not SQLite, which is not safe on a folder that nodes share.
        python: the interpreter on the nodes that has ttl-monai.
        study: name of the search, where the queue has more than one.
        places: folders as the nodes see them, where that is not as the search does: `out` (of the search), `bundle`,
            `dataset_dir`.

    Returns:
        The script.

    Raises:
        ValueError: a value that Slurm would misread, an address with a password, or an SQLite file.
    """
    url = check_url(storage)
    if url.startswith("sqlite"):
        raise ValueError(
            "expected a queue that many nodes can share, as in --storage postgresql://me@db/ttl, got a SQLite file: on "
            "a network file system its locks fail (sqlite.org/faq.html#q5). Within one job, use ttl search --workers N."
        )
    if job.workers < 1 or job.cpus < 1 or job.gpus not in (0, 1):
        raise ValueError(
            f"expected at least 1 worker and 1 core, and 0 or 1 GPU each, got {job.workers}, {job.cpus} and {job.gpus}."
        )
    for word in (job.memory, job.time, job.name, *job.options):
        if not _WORD.fullmatch(word):
            raise ValueError(f"expected one word without spaces or quotes for an #SBATCH line, got {word!r}.")
    command = [python, "-m", "ttl_monai.cli", "worker", "--storage", storage, "--threads", str(job.cpus)]
    command += ["--study", study] if study else []
    for option, folder in (places or {}).items():
        command += [f"--{option}", str(folder)] if folder else []
    command += [] if job.gpus else ["--device", "cpu"]
    return _TEMPLATE.format(
        lines="\n".join(f"#SBATCH {line}" for line in _lines(job)),
        command=shlex.join(command),
    )


def _lines(job: Job) -> list[str]:
    return [
        f"--job-name={job.name}",
        f"--array=0-{job.workers - 1}",
        "--ntasks=1",
        f"--cpus-per-task={job.cpus}",
        *([f"--gres=gpu:{job.gpus}"] if job.gpus else []),
        f"--mem={job.memory}",
        f"--time={job.time}",
        "--signal=B:USR1@120",
        "--requeue",
        "--open-mode=append",
        f"--output={job.name}-%A_%a.log",
        *job.options,
    ]


# The shell must not wait for the worker in the foreground: bash runs a trap only when the command before it has ended.
_TEMPLATE = """\
#!/bin/bash
# Workers of a truncation search, one a task of this array. Made by `ttl slurm`; read it, change it, then: sbatch FILE
# The password of the database is not in here: put it into ~/.pgpass (mode 600).
{lines}

set -u
worker= requeue=0
stop() {{ [ -z "$worker" ] || kill -TERM "$worker" 2>/dev/null; }}
# Two minutes before the limit: the worker gives its cell back to the queue and stops, and the task is queued again.
trap 'requeue=1; stop' USR1
# Cancelled or preempted (then Slurm itself queues it again, or not): the worker stops in the same way.
trap stop TERM INT
{command} &
worker=$!
wait "$worker"
status=$?
while kill -0 "$worker" 2>/dev/null; do # the first wait ended with the signal
    wait "$worker"
    status=$?
done
if [ "$status" -eq 75 ] && [ "$requeue" -eq 1 ]; then # stopped by the limit while the search goes on
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$status"
"""
