"""The queue in the database: an Optuna study whose trials are cells that wait, run or have ended.

Optuna only stores them. Its sampler, its pruner and `study.ask` (which would invent trials) are not used.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.process import is_dead
from ttl_monai.engines.search.storage import Storage

ACTIVE = (TrialState.WAITING, TrialState.RUNNING)
TRIED = "tried "


class TrialQueue:
    """The trials of one study.

    A trial's attributes: `cell` and its `key`; `attempt`, counted from 1; `losses`, how many workers were lost over it
    before; `space`, a digest of the search's description; `tried NAME` for each worker that was about to take it, and
    the `worker` that has it; `error`, if the cell failed; `withdrawn`, if it was taken back unseen. A trial that failed
    without either of these two was lost with its worker.

    Args:
        storage: the database.
        study: name of the study.
        study_id: its number.
        space_id: digest of the search's description as this process knows it.
    """

    def __init__(self, storage: Storage, study: str, study_id: int, space_id: str) -> None:
        self.storage, self.space_id = storage, space_id
        self._study, self._study_id = study, study_id

    def trials(self, states: Collection[TrialState] | None = None) -> list[FrozenTrial]:
        """All trials, or those in some states, in the order in which they were put in."""
        return self.storage.call(lambda opened: opened.get_all_trials(self._study_id, deepcopy=False, states=states))

    def by_key(self) -> dict[str, list[FrozenTrial]]:
        """The trials of each cell."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.trials():
            found.setdefault(trial.user_attrs["key"], []).append(trial)
        return found

    def add(self, cell: Cell, *, attempt: int, losses: int = 0) -> None:
        """Put a cell at the end of the queue."""
        attributes = {"attempt": attempt, "losses": losses, "space": self.space_id}
        trial = create_trial(
            state=TrialState.WAITING, user_attrs={"cell": cell.to_json(), "key": cell.key, **attributes}
        )
        self.storage.call(lambda opened: opened.create_new_trial(self._study_id, trial))

    def take(self, trial: FrozenTrial, worker: str) -> bool:
        """Take a waiting trial; False if another worker was first."""

        def take(opened: RDBStorage) -> bool:
            # The heartbeat comes first: Optuna finds no trial stale that has none, as when its worker dies right here.
            opened.record_heartbeat(trial._trial_id)
            opened.set_trial_user_attr(trial._trial_id, TRIED + worker, True)
            if not opened.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return False
            opened.set_trial_user_attr(trial._trial_id, "worker", worker)
            return True

        try:
            return self.storage.call(take)
        except UpdateFinishedTrialError:
            return False

    def settle(
        self, trial_id: int, state: TrialState, *, key: str, owner: str | None = None, **attributes: Any
    ) -> bool:
        """Change a trial's state and attributes.

        Args:
            trial_id: its number in the database.
            state: the new state.
            key: of its cell. In a database that was made anew the number may be another cell's.
            owner: the worker that has it; default: it does not matter.
            attributes: what to set before.

        Returns:
            False if it has ended already, or is another's.
        """

        def settle(opened: RDBStorage) -> bool:
            now = opened.get_trial(trial_id).user_attrs
            if now["key"] != key or (owner is not None and now.get("worker") != owner):
                return False
            for name, value in attributes.items():
                opened.set_trial_user_attr(trial_id, name, value)
            return opened.set_trial_state_values(trial_id, state)

        try:
            return self.storage.call(settle)
        except (UpdateFinishedTrialError, KeyError):
            return False

    def fail_lost(self) -> None:
        """End the running trials whose worker is dead or silent."""
        for trial in self.trials((TrialState.RUNNING,)):
            facts = trial.user_attrs
            # Without a worker's name it was killed at the moment of taking it, and is one of those who tried.
            tried = [name.removeprefix(TRIED) for name in facts if name.startswith(TRIED)]
            suspects = [facts["worker"]] if facts.get("worker") else tried
            if suspects and all(map(is_dead, suspects)):
                self.settle(trial._trial_id, TrialState.FAIL, key=facts["key"], owner=facts.get("worker"))

        def fail_stale(opened: RDBStorage) -> None:
            study = optuna.load_study(study_name=self._study, storage=opened)
            optuna.storages.fail_stale_trials(study)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.storage.call(fail_stale)


def standing(past: Sequence[FrozenTrial], max_retries: int) -> tuple[str | None, str]:
    """What the trials of a cell that has no result say of it.

    Args:
        past: its trials.
        max_retries: how often it is tried again after its worker was lost.

    Returns:
        "waiting", "running" or "failed", None where it is none of the queue's, and the reason of a failure. A cell that
        waits without an active trial is to be put in again.
    """
    active = {each.state for each in past} & set(ACTIVE)
    if active or not past:
        return ("running" if TrialState.RUNNING in active else "waiting" if active else None), ""
    last = past[-1]
    if last.state == TrialState.COMPLETE or last.user_attrs.get("withdrawn"):
        return None, ""  # its result was deleted, or it was taken back
    if "error" in last.user_attrs:
        return "failed", last.user_attrs["error"]
    losses = last.user_attrs["losses"] + 1
    if losses <= max_retries:
        return "waiting", ""
    return (
        "failed",
        f"its worker was lost {losses} times, the last one was {last.user_attrs.get('worker') or 'unknown'}",
    )
