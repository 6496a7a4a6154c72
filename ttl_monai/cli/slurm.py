"""`ttl slurm`: write a batch script that starts workers on a cluster."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "slurm",
        help="write a Slurm script of workers",
        description="Write a plain sbatch script: an array of workers of one search. Nothing is submitted. Start the "
        "search itself with --storage and --workers 0 where it can stay for long.",
        epilog="example: ttl slurm --storage postgresql://me@db.example/ttl --workers 8 --out workers.sbatch",
    )
    parser.add_argument("--storage", required=True, metavar="URL", help="address of the queue, without a password")
    parser.add_argument("--workers", required=True, type=int, metavar="N", help="number of workers")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write the script")
    parser.add_argument("--study", metavar="NAME", help="name of the search, where the queue has more than one")
    parser.add_argument(
        "--search-dir", metavar="DIR", help="folder of the search as the nodes see it (default: as it was made)"
    )
    parser.add_argument("--bundle", metavar="DIR", help="the bundle, likewise")
    parser.add_argument("--dataset_dir", "--dataset-dir", metavar="DIR", help="the images, likewise")
    ask = parser.add_argument_group("what each worker gets").add_argument
    ask("--cpus", type=int, default=4, help="cores (default: %(default)s)")
    ask("--gpus", type=int, default=1, choices=(0, 1), help="GPUs (default: %(default)s)")
    ask("--memory", default="16G", help="memory (default: %(default)s)")
    ask("--time", default="04:00:00", help="limit of one start, after which it is queued again (default: %(default)s)")
    ask("--name", default="ttl-worker", help="name of the job (default: %(default)s)")
    ask(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a further #SBATCH option, as in --sbatch=--partition=gpu; may be repeated",
    )
    ask("--python", default=sys.executable, metavar="FILE", help="interpreter on the nodes (default: this one)")
    ask("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the script.

    Args:
        arguments: the parsed command line.

    Returns:
        0.

    Raises:
        ValueError: a value that Slurm would misread, or the file is there.
    """
    # The search's package imports torch, which the help of this verb does not need.
    from ttl_monai.engines.search.slurm import Job, slurm_script

    if arguments.out.exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.out} is there already; --overwrite replaces it.")
    job = Job(
        workers=arguments.workers,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        memory=arguments.memory,
        time=arguments.time,
        name=arguments.name,
        options=tuple(arguments.sbatch),
    )
    script = slurm_script(
        job,
        storage=arguments.storage,
        python=arguments.python,
        study=arguments.study,
        places={"out": arguments.search_dir, "bundle": arguments.bundle, "dataset_dir": arguments.dataset_dir},
    )
    arguments.out.write_text(script, encoding="utf-8", newline="\n")
    print(f"{arguments.out} written; submit it with: sbatch {shlex.quote(str(arguments.out))}")
    return 0
