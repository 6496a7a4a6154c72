"""The record of a run: what it was made of, how each epoch went, where the time went."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite
import monai
import numpy as np
import sklearn
import timm
import torch
import torchvision
from ignite.engine import Engine, Events

import ttl_monai
from ttl_monai.handlers.files import write_atomically
from ttl_monai.reports import plot_training_curves

logger = logging.getLogger(__name__)
# One line an epoch for whoever asks for it by this level; a bundle's own log has MONAI's StatsHandler.
epochs = logging.getLogger(f"{__name__}.epochs")

PLOT_EVERY_S = 60.0  # a picture takes up to a second: not after each epoch of a short run


def versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    modules = (ttl_monai, monai, torch, torchvision, timm, ignite, np, sklearn)
    return {"python": platform.python_version(), **{module.__name__: module.__version__ for module in modules}}


class RunRecord:
    """Write `run.json` and the training curves after each epoch.

    `run.json` holds the status, versions, seed, data hash, merged config, parameters, MACs, and for each epoch the
    training loss, the validation metrics, the learning rate, seconds, and the share of them spent waiting for data.
    Attach it to the trainer after the validation handler and before `RunCheckpoint`, on every rank; rank 0 writes.

    Args:
        run_dir: the folder of the run.
        evaluator: the validation engine, for its metrics.
        optimizer: for the learning rate (the largest of its groups, the head's).
        facts: constants of the run: config, seed, data hash, parameters and the like; must be JSON.
        rank: rank of this process.
    """

    def __init__(
        self,
        *,
        run_dir: str | Path,
        evaluator: Engine,
        optimizer: torch.optim.Optimizer,
        facts: Mapping[str, Any],
        rank: int = 0,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.evaluator, self.optimizer, self.rank = evaluator, optimizer, rank
        self.facts = dict(facts)
        self.history: list[dict[str, float]] = []
        self._loss_sum, self._loss_count = 0.0, 0
        self._plotted = time.perf_counter()
        self._wait, self._wait_from, self._epoch_from, self._training_seconds = 0.0, 0.0, 0.0, 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start_waiting)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._stop_waiting)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def state_dict(self) -> dict[str, Any]:
        """The history, to be saved with the checkpoint."""
        return {"history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved history."""
        self.history = [dict(row) for row in state["history"]]

    def write(self, status: str) -> None:
        """Write `run.json`, on rank 0."""
        if self.rank != 0:
            return
        # JSON knows no NaN: an undefined metric is null there.
        history = [{name: None if value != value else value for name, value in row.items()} for row in self.history]
        validation: Any = self.evaluator.state
        key = str(getattr(validation, "key_metric_name", ""))
        scored = [row for row in history if row.get(key) is not None]
        content = {
            "status": status,
            **self.facts,
            "versions": versions(),
            "wall_s": round(sum(row["seconds"] for row in self.history), 1),
            "best": max(scored, key=lambda row: float(row[key] or 0)) if scored else None,
            "history": history,
        }
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.run_dir / "run.json", json.dumps(content, indent=4).encode())

    def _start_epoch(self, engine: Engine) -> None:
        self.write("running")
        self._loss_sum, self._loss_count, self._wait = 0.0, 0, 0.0
        self._epoch_from = time.perf_counter()

    def _start_waiting(self, engine: Engine) -> None:
        self._wait_from = time.perf_counter()

    def _stop_waiting(self, engine: Engine) -> None:
        self._wait += time.perf_counter() - self._wait_from

    def _add_loss(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._loss_sum += float(output[0]["loss"] if isinstance(output, list) else output["loss"])
        self._loss_count += 1
        self._training_seconds = time.perf_counter() - self._epoch_from

    def _end_epoch(self, engine: Engine) -> None:
        validation: Any = self.evaluator.state
        validated = validation.epoch == engine.state.epoch  # not in each epoch where val_interval is above 1
        metrics = {name: value for name, value in validation.metrics.items() if isinstance(value, float)}
        self.history.append(
            {
                "epoch": engine.state.epoch,
                "train_loss": self._loss_sum / max(self._loss_count, 1),
                **(metrics if validated else {}),
                "learning_rate": max(float(group["lr"]) for group in self.optimizer.param_groups),
                "seconds": round(time.perf_counter() - self._epoch_from, 3),
                "training_seconds": round(self._training_seconds, 3),
                "data_wait": round(self._wait / self._training_seconds, 4),
            }
        )
        self.write("running")
        if self.rank == 0 and epochs.isEnabledFor(logging.DEBUG):
            epochs.debug("%s", self._say_epoch(engine.state.max_epochs))
        if time.perf_counter() - self._plotted > PLOT_EVERY_S:
            self._plot()

    def _say_epoch(self, last: int | None) -> str:
        """The last epoch in one line: its number, loss and key metric, with the best one so far, and its seconds."""
        row, key = self.history[-1], str(getattr(self.evaluator.state, "key_metric_name", ""))
        said = [f"  epoch {row['epoch']} of {last}: train_loss {row['train_loss']:.4f}"]
        scored = [each for each in self.history if math.isfinite(each.get(key, math.nan))]
        if scored and scored[-1] is row:
            best = max(scored, key=lambda each: each[key])
            said.append(f"{key} {row[key]:.4f} (best {best[key]:.4f}, epoch {best['epoch']})")
        return ", ".join([*said, f"{row['seconds']:.0f} s"])

    def _plot(self) -> None:
        if self.rank == 0 and self.history:
            plot_training_curves(self.history, self.run_dir / "curves.png")
        self._plotted = time.perf_counter()

    def _finish(self, engine: Engine) -> None:
        self.write("finished")
        self._plot()
        if self.rank == 0:
            total = sum(row["seconds"] for row in self.history)
            logger.info("Trained %d epochs in %.0f s. Results: %s", len(self.history), total, self.run_dir)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        # Only the kind of error: its text may hold a path.
        self.facts["error"] = type(error).__name__
        self.write("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise error
