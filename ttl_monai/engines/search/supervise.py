"""Workers of this machine, and the wait for a round of cells with a live table."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.ledger import Ledger

logger = logging.getLogger(__name__)

_MAX_STARTS = 4  # of one worker: one that dies again and again has a fault that another start does not mend
_STATES = ("done", "running", "waiting", "failed")


def default_workers() -> int:
    """How many workers suit this machine: one a GPU, or up to four that share the CPU's cores."""
    return torch.cuda.device_count() if torch.cuda.is_available() else min(4, _cores())


def threads_of(workers: int) -> int:
    """The equal share of this machine's cores that each of so many workers takes."""
    return max(1, _cores() // max(1, workers))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that work on a ledger's cells; leaving the context stops them.

    Args:
        ledger: the ledger; each worker joins it by its address, as one on another machine would.
        number: how many; 0 where all workers are started by hand or by Slurm.
        threads: CPU threads of each; None leaves that to torch.
        log_dir: folder of their logs.
    """

    def __init__(self, ledger: Ledger, *, number: int, threads: int | None, log_dir: Path) -> None:
        self.ledger, self.number, self.threads, self.log_dir = ledger, number, threads, log_dir
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._starts: Counter[int] = Counter()
        self._logs: list[IO[bytes]] = []

    def __enter__(self) -> Workers:
        """Start them."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        for index in range(self.number):
            self._start(index)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask them to stop; each gives its cell back to the queue."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()

    def command(self, index: int) -> list[str]:
        """The command line of one worker."""
        words = [sys.executable, "-W", "ignore", "-m", "ttl_monai.cli", "worker", "--storage", self.ledger.url]
        words += ["--study", self.ledger.study, "--out", str(self.ledger.folder), "--follow", str(os.getpid())]
        if torch.cuda.is_available():
            words += ["--device", f"cuda:{index % torch.cuda.device_count()}"]
        return words + (["--threads", str(self.threads)] if self.threads else [])

    def _start(self, index: int) -> None:
        log = (self.log_dir / f"worker{index}.log").open("ab")
        self._logs.append(log)
        self._starts[index] += 1
        # A session of its own: Ctrl-C goes to the search alone, which stops the workers in order.
        self._processes[index] = subprocess.Popen(
            self.command(index), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def mend(self) -> None:
        """Start a worker that died again, a few times.

        Raises:
            RuntimeError: every worker has died too often; the logs are named.
        """
        dead = [index for index, process in self._processes.items() if process.poll() is not None]
        for index in dead:
            if self._starts[index] < _MAX_STARTS:
                code = self._processes[index].returncode
                logger.warning("worker %d ended with status %d and is started again; see %s", index, code, self.log_dir)
                self._start(index)
        if dead and all(
            process.poll() is not None and self._starts[index] >= _MAX_STARTS
            for index, process in self._processes.items()
        ):
            raise RuntimeError(
                f"all {self.number} workers have died {_MAX_STARTS} times: their logs in {self.log_dir} say why. "
                "Results so far are kept; the same command goes on."
            )


def wait_for(
    cells: Sequence[Cell],
    ledger: Ledger,
    workers: Workers,
    *,
    title: str,
    settled: Callable[[], frozenset[str]],
    poll_s: float = 1.0,
) -> None:
    """Wait until all cells are settled, showing a table of them.

    On a terminal the table is live; elsewhere a line is logged whenever a cell is settled.

    Args:
        cells: the cells of this round.
        ledger: the ledger that they were put in.
        workers: the workers of this machine.
        title: what the round is, for the table.
        settled: keys of all finished and failed cells.
        poll_s: seconds between two looks.

    Raises:
        RuntimeError: another search has begun or ended in the same folder, or all workers have died.
    """
    console = Console(stderr=True)
    started, keys, told = time.monotonic(), [cell.key for cell in cells], -1
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
    try:
        if live:
            live.start()
        while True:
            done = settled()
            ledger.reap()
            states = ledger.states(keys)
            eta = _eta(cells, ledger, states, max(workers.number, 1))
            if live:
                live.update(_table(cells, states, title, time.monotonic() - started, eta), refresh=True)
            elif (count := sum(key in done for key in keys)) > told:
                counts = Counter(states.values())
                said = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
                logger.info("%s: %s%s", title, said, f", about {_minutes(eta)} to go" if eta else "")
                told = count
            if all(key in done for key in keys):
                return
            if not ledger.is_open:  # its workers have left, and nobody would do the rest
                raise RuntimeError(
                    f"another search was begun or ended in {ledger.folder} while this one was running: one at a time. "
                    "Finished cells are kept; start it again when the other is over, or give another --out."
                )
            workers.mend()
            time.sleep(poll_s)
    finally:
        if live:
            live.stop()


def _eta(cells: Sequence[Cell], ledger: Ledger, states: dict[str, str], workers: int) -> float | None:
    """Seconds that the open cells may take, from those that are done; None before the first."""
    results = ledger.results()
    seconds = [float(results[cell.key]["seconds"]) for cell in cells if cell.key in results]
    left = sum(states.get(cell.key, "waiting") in ("waiting", "running") for cell in cells)
    return sum(seconds) / len(seconds) * left / workers if seconds else None


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _table(cells: Sequence[Cell], states: dict[str, str], title: str, elapsed: float, eta: float | None) -> Table:
    """One row a candidate: its cells by state."""
    counts = Counter(states.values())
    said = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    remaining = f", about {_minutes(eta)} to go" if eta else ""
    table = Table(title=f"{title}: {said}; {_minutes(elapsed)} so far{remaining}", title_justify="left")
    table.add_column("candidate")
    for state in _STATES:
        table.add_column(state, justify="right")
    rows: dict[str, Counter[str]] = {}
    for cell in cells:
        name = cell.point or "whole network" if cell.kind == "train" else cell.kind
        rows.setdefault(name, Counter())[states.get(cell.key, "waiting")] += 1
    for name, row in rows.items():
        table.add_row(name, *(str(row[state] or "") for state in _STATES))
    return table
