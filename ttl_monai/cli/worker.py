"""`ttl worker`: take part in a search, from any machine that sees its queue and its folder."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

# Nothing of torch is imported here: it reads the number of threads and the devices when it is first imported.

REQUEUE = 75  # exit status of a worker that was told to stop while the search went on (sysexits' EX_TEMPFAIL)


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "worker",
        help="take part in a search",
        description="Take cells of a search and do them, until the search is over. Start as many workers as there are "
        "GPUs or shares of the cores, on any machine that sees the queue and the folder of the search. SIGTERM and "
        "Ctrl-C give the cell at hand back to the queue; a training goes on from its last epoch.",
        epilog="example: ttl worker --storage postgresql://me@db.example/ttl --device cuda:1",
    )
    parser.add_argument("--storage", required=True, metavar="URL", help="address of the queue, without a password")
    parser.add_argument("--study", metavar="NAME", help="name of the search, where the queue has more than one")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the search as this machine sees it (default: as it was made)"
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="the bundle as this machine sees it, likewise")
    parser.add_argument(
        "--dataset_dir",
        "--dataset-dir",
        type=Path,
        metavar="DIR",
        help="the images as seen from here, likewise",
    )
    parser.add_argument("--device", metavar="cpu|cuda:N", help="where to compute (default: as the bundle chooses)")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads (default: all)")
    parser.add_argument("--leave-when-empty", action="store_true", help="leave when no cell waits")
    parser.add_argument("--follow", type=int, metavar="PID", help="stop when this parent process is gone")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Work until the search is over.

    Args:
        arguments: the parsed command line.

    Returns:
        0; 75 when it was told to stop before the search was over, so that a batch system starts it again.

    Raises:
        ValueError: bad device, number of threads or address, no such search, or other configs or versions here.
        LedgerUnreachable: the queue does not answer; an OSError.
    """
    pin(arguments.device, arguments.threads)
    # After pinning. The search's modules import torch and MONAI.
    from ttl_monai.engines.search.ledger import Ledger
    from ttl_monai.engines.search.run_cell import run_cell
    from ttl_monai.engines.search.space import Space
    from ttl_monai.engines.search.worker import work

    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    if arguments.follow:
        threading.Thread(target=_follow, args=(arguments.follow,), daemon=True).start()
    ledger = Ledger.join(arguments.storage, study=arguments.study, folder=arguments.out)
    # The folders as this machine sees them.
    places = {"folder": ledger.folder, "bundle": arguments.bundle, "dataset_dir": arguments.dataset_dir}
    here = {name: str(path.absolute()) for name, path in places.items() if path is not None}
    space, stop = Space.from_json({**ledger.space, **here}), threading.Event()
    done = work(
        ledger,
        lambda cell, folder: run_cell(space, cell, folder),
        stop=stop,
        leave_when_empty=arguments.leave_when_empty,
        check=space.check_sources,
    )
    print(f"{done} cells done; {'told to stop' if stop.is_set() else 'nothing is left to do'}", flush=True)
    return REQUEUE if stop.is_set() else 0


def pin(device: str | None, threads: int | None) -> None:
    """Confine this process to a device and a number of threads, before torch is imported.

    Args:
        device: "cpu", or "cuda:N" with N counted among the devices that the process may see.
        threads: CPU threads.

    Raises:
        ValueError: no such device, or no positive number.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"expected --threads of at least 1, got {threads}.")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
    if device is None:
        return
    kind, _, number = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and number.isdigit()):
        raise ValueError(f"expected --device cpu or cuda:N, got {device!r}.")
    # Slurm and users limit the devices by the same variable: cuda:0 is then the first of those.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [number] if visible is None else [name for name in visible.split(",") if name]
    index = 0 if visible is None else int(number or 0)
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif index < len(names):
        os.environ["CUDA_VISIBLE_DEVICES"] = names[index]
    else:
        raise ValueError(f"{device} is not to be seen: CUDA_VISIBLE_DEVICES is {visible!r}.")


def _follow(parent: int) -> None:
    """Stop this process, in order, when its parent is gone: a killed search leaves nobody to stop its workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
