"""The ledger of a search: which cells wait, run, are done or failed. Any number of workers on any machines share it.

Results are the truth: one file a cell in `<folder>/results`. The database is only the queue: an Optuna study with one
waiting trial a cell, and no sampler. Whatever befalls it costs time, never a result.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.results import Results
from ttl_monai.engines.search.storage import LedgerUnreachable, Storage, check_url
from ttl_monai.engines.search.studies import begin_study, check_folder, close_study, find_study, open_space
from ttl_monai.engines.search.trials import ACTIVE, TrialQueue, standing

__all__ = ["Claim", "Ledger", "LedgerUnreachable"]


@dataclass(frozen=True)
class Claim:
    """A cell that one worker has taken.

    Attributes:
        cell: what to do.
        trial_id: its trial in the database.
        attempt: 1, or more after a worker was lost.
        folder: for the files of this attempt; it exists.
        worker: who took it.
    """

    cell: Cell
    trial_id: int
    attempt: int
    folder: Path
    worker: str


class Ledger:
    """One search's ledger, made by `create` or `join`.

    Attributes:
        url: address of the queue, by which workers join.
        study: name of the search in the database.
        folder: where results and runs are.
        space: the description of the search, for workers.
        url: address of the queue.
        heartbeat_s: seconds between two signs of life of a worker.
    """

    def __init__(self, storage: Storage, study: str, study_id: int, folder: Path, search: Mapping[str, Any]) -> None:
        self.url, self.study = storage.url, study
        self.folder, self.space = folder, dict(search["space"])
        self.heartbeat_s, self._max_retries = search["heartbeat_s"], search["max_retries"]
        self._storage, self._study_id = storage, study_id
        storage.heartbeat_s, storage.grace_s = search["heartbeat_s"], search["grace_s"]
        self._queue = TrialQueue(storage, study, study_id, _digest(self.space))
        self._results = Results(folder / "results")

    @classmethod
    def create(
        cls,
        folder: str | Path,
        storage: str | None = None,
        *,
        study: str,
        space: Mapping[str, Any],
        heartbeat_s: int = 60,
        grace_s: int = 300,
        max_retries: int = 2,
        patience_s: float = 30.0,
    ) -> Ledger:
        """Begin a search, or go on with it.

        Args:
            folder: where results and runs are or will be; workers on other machines must see the same folder.
            storage: address of the queue; default: a SQLite file in the folder, for workers of this machine.
            study: name of the search in the database.
            space: JSON values that workers need. Where it differs from the search that is there, workers that joined
                that one take nothing more and leave.
            heartbeat_s: whole seconds between two signs of life of a worker.
            grace_s: whole seconds of silence after which a worker counts as lost.
            max_retries: how often a cell is tried again after its worker was lost.
            patience_s: seconds for which an unreachable database is tried again.

        Raises:
            ValueError: bad address, or the name is taken by a search in another folder.
            LedgerUnreachable: the database does not answer.
        """
        if not 1 <= heartbeat_s < grace_s or max_retries < 0:
            raise ValueError(
                "expected heartbeat_s of at least 1, grace_s above it and max_retries of at least 0, got "
                f"{heartbeat_s}, {grace_s} and {max_retries}."
            )
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        own = f"sqlite:///{folder / 'ledger.db'}"
        database = Storage(check_url(storage or own), create=True, patience_s=patience_s)
        search = {
            "folder": str(folder),
            "space": json.loads(json.dumps(space)),
            "heartbeat_s": int(heartbeat_s),
            "grace_s": int(grace_s),
            "max_retries": int(max_retries),
        }
        study_id = begin_study(database, study, search, movable=database.url == own)
        return cls(database, study, study_id, folder, search)

    @classmethod
    def join(
        cls, storage: str, *, study: str | None = None, folder: str | Path | None = None, patience_s: float = 30.0
    ) -> Ledger:
        """Take part in a search that was begun elsewhere.

        Args:
            storage: address of the queue.
            study: name of the search, where the database has more than one.
            folder: the search's folder as this machine sees it; default: where it was begun.
            patience_s: seconds for which an unreachable database is tried again.

        Raises:
            ValueError: no such search, or more than one and no name; the names are listed.
            LedgerUnreachable: the database does not answer or is not there.
        """
        database = Storage(check_url(storage), create=False, patience_s=patience_s)
        name, study_id, search = find_study(database, study)
        return cls(database, name, study_id, check_folder(folder or search["folder"], name), search)

    def enqueue(self, cells: Iterable[Cell], *, retry_failed: bool = False) -> int:
        """Put cells into the queue, in this order. What is finished, waiting or running is left out.

        Args:
            cells: the cells.
            retry_failed: enqueue the failed ones again, too.

        Returns:
            How many were put in.
        """
        trials, count = self._queue.by_key(), 0
        for cell in {cell.key: cell for cell in cells}.values():
            past = trials.get(cell.key, [])
            state, _ = self._state(cell.key, past)
            if state in ("done", "running") or (state == "failed" and not retry_failed):
                continue
            waiting = [each for each in past if each.state == TrialState.WAITING]
            if any(each.user_attrs["space"] == self._queue.space_id for each in waiting):
                continue
            for each in waiting:  # of a search that was begun with other settings; nobody would take it
                self._queue.settle(each._trial_id, TrialState.FAIL, key=cell.key, withdrawn=True)
            self._queue.add(cell, attempt=1 + max((each.user_attrs["attempt"] for each in past), default=0))
            count += 1
        return count

    def claim(self, worker: str) -> Claim | None:
        """Take the next cell.

        Args:
            worker: name of the worker, from `worker_id`.

        Returns:
            The claim; None if no cell waits.
        """
        trials = self._queue.trials(ACTIVE)
        taken = {each.user_attrs["key"] for each in trials if each.state == TrialState.RUNNING}
        for trial in trials:
            facts = trial.user_attrs
            key = facts["key"]
            if trial.state != TrialState.WAITING or facts["space"] != self._queue.space_id or key in taken:
                continue
            if key in self._results:
                self._queue.settle(trial._trial_id, TrialState.COMPLETE, key=key)
                continue
            taken.add(key)  # whoever is first: should the cell have a second trial, that one is not for now
            if self._queue.take(trial, worker):
                cell = Cell.from_json(facts["cell"])
                folder = self._attempt_folder(cell, facts["attempt"], facts["losses"])
                return Claim(cell, trial._trial_id, facts["attempt"], folder, worker)
        return None

    def _attempt_folder(self, cell: Cell, attempt: int, losses: int) -> Path:
        """The folder of an attempt. One that follows a lost worker starts with copies of what that one left."""
        runs = self.folder / "runs" / f"{cell.name}-{cell.key}"
        folder, before = runs / f"attempt-{attempt}", runs / f"attempt-{attempt - 1}"
        if losses and before.is_dir() and not folder.exists():
            # Copies, for the lost worker may only sleep. Under another name until complete, for this one may die, too.
            half = runs / f".attempt-{attempt}.tmp"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(before, half, ignore=shutil.ignore_patterns("*.tmp"))
            half.rename(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def beat(self, claim: Claim) -> None:
        """Give a sign of life; a single try."""
        self._storage.open().record_heartbeat(claim.trial_id)

    def finish(self, claim: Claim, result: Mapping[str, Any]) -> bool:
        """Keep the result of a cell.

        Args:
            claim: from `claim`.
            result: JSON values.

        Returns:
            False if the cell had a result already: this one is discarded.

        Raises:
            TypeError: the result is not made of JSON values.
            LedgerUnreachable: the result was kept, but the database does not answer.
        """
        first = self._results.add(
            claim.cell.key,
            {
                **result,
                **claim.cell.to_json(),
                "worker": claim.worker,
                "attempt": claim.attempt,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "run": claim.folder.relative_to(self.folder).as_posix(),
            },
        )
        self._settle(claim, TrialState.COMPLETE)
        return first

    def fail(self, claim: Claim, reason: str) -> None:
        """Mark a cell as failed, so that it is not tried again by itself.

        Args:
            claim: from `claim`.
            reason: for the user, in one line.
        """
        self._settle(claim, TrialState.FAIL, error=reason)

    def release(self, claim: Claim) -> None:
        """Give a cell back to the queue, since the worker was told to stop. It goes on in the same folder."""
        self._settle(claim, TrialState.WAITING, worker="")

    def _settle(self, claim: Claim, state: TrialState, **attributes: Any) -> None:
        self._queue.settle(claim.trial_id, state, key=claim.cell.key, owner=claim.worker, **attributes)

    def reap(self) -> int:
        """Find lost workers and put their cells back into the queue, unless they were lost too often.

        A worker is lost when its process on this machine is gone, or when it gave no sign of life for the grace period.
        Returns how many cells were put back.
        """
        self._queue.fail_lost()
        count = 0
        for key, past in self._queue.by_key().items():
            last = past[-1].user_attrs
            if last["space"] != self._queue.space_id:
                continue  # of a search with other settings
            if self._state(key, past)[0] == "waiting" and not any(each.state in ACTIVE for each in past):
                cell = Cell.from_json(last["cell"])
                self._queue.add(cell, attempt=last["attempt"] + 1, losses=last["losses"] + 1)
                count += 1
        return count

    def _state(self, key: str, past: Sequence[FrozenTrial]) -> tuple[str | None, str]:
        return ("done", "") if key in self._results else standing(past, self._max_retries)

    def states(self, keys: Iterable[str]) -> dict[str, str]:
        """The state of cells: "waiting", "running", "done" or "failed". Those that were never put in are left out."""
        trials = self._queue.by_key()
        states = {key: self._state(key, trials.get(key, []))[0] for key in keys}
        return {key: state for key, state in states.items() if state}

    def results(self) -> dict[str, dict[str, Any]]:
        """All results in the folder, by the key of their cell."""
        return self._results.read()

    def failures(self) -> dict[str, str]:
        """Why cells failed, by key."""
        states = {key: self._state(key, past) for key, past in self._queue.by_key().items()}
        return {key: reason for key, (state, reason) in states.items() if state == "failed"}

    def close(self) -> None:
        """End the search: workers leave when nothing waits."""
        close_study(self._storage, self._study_id)

    @property
    def is_open(self) -> bool:
        """Whether cells may still come: the search was neither closed, nor begun anew with other settings."""
        space = open_space(self._storage, self._study_id)
        return space is not None and _digest(space) == self._queue.space_id


def _digest(space: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:16]
