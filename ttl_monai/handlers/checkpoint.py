"""Best and last checkpoint of a run, written so that a kill at any moment loses at most the epoch in progress."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.utils import set_determinism

from ttl_monai.handlers.files import file_sha256, save_tensors, write_atomically
from ttl_monai.handlers.record import RunRecord

logger = logging.getLogger(__name__)

EPOCH_SEED_STEP = 1_000_003  # prime, so that epochs of runs with neighbouring seeds do not share their random numbers
RANK_SEED_STEP = 7919


def bare_network(network: torch.nn.Module) -> torch.nn.Module:
    """The network inside a DistributedDataParallel wrapper, or the network itself."""
    return network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network


def resume_path(run_dir: Path, resume: str | bool) -> Path | None:
    """The checkpoint that a run goes on from, None where it starts anew.

    Args:
        run_dir: the folder of the run.
        resume: as for `RunCheckpoint`.

    Raises:
        ValueError: `resume` is neither "never", "auto" nor an existing file.
    """
    if resume in ("never", False):
        return None
    last = run_dir / "last.pt"
    if resume in ("auto", True):
        return last if last.is_file() else None
    path = Path(str(resume))
    if not path.is_file():
        raise ValueError(f"resume must be 'never', 'auto' or an existing checkpoint file, got {str(resume)!r}.")
    return path


class RunCheckpoint:
    """Keep `last.pt` (everything needed to go on), `model.pt` (the best network) and `model.json` (what it is).

    Each epoch draws its random numbers from a seed of its own, so a run that was killed and resumed ends, on a CPU,
    with the same weights as one that was not. The best epoch is the one with the highest finite key metric: a NaN
    never becomes the best model. Attach it to the trainer as the LAST handler. Only rank 0 writes; every rank loads.

    Args:
        run_dir: the folder of the run.
        network, optimizer, lr_scheduler: what is saved and restored. A DDP wrapper is taken off.
        evaluator: the validation engine, whose key metric decides.
        record: the run's record, whose history is restored with the rest.
        spec: content of `model.json`: network definition, preprocessing, class names (see `engines.model_spec`).
        datasets: data sets whose random transforms are seeded each epoch.
        seed: seed of the run.
        resume: "never" starts anew; "auto" goes on from `last.pt` where there is one; a path goes on from that file.
        rank: rank of this process.

    Raises:
        ValueError: if `resume` is neither "never", "auto" nor an existing file, or the checkpoint's network differs
            from the configured one (both are named). Data, classes and preprocessing are compared as well.
    """

    def __init__(
        self,
        *,
        run_dir: str | Path,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: Engine,
        record: RunRecord,
        spec: Mapping[str, Any],
        datasets: Sequence[Any] = (),
        seed: int = 0,
        resume: str | bool = "never",
        rank: int = 0,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.network, self.optimizer, self.lr_scheduler = bare_network(network), optimizer, lr_scheduler
        self.evaluator, self.record, self.spec = evaluator, record, dict(spec)
        self.datasets, self.seed, self.rank = tuple(datasets), seed, rank
        self.best: dict[str, Any] = {"epoch": 0, "metric": math.nan}
        self.resume_path = resume_path(self.run_dir, resume)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        if self.resume_path is None:
            if self.rank == 0:
                self.run_dir.mkdir(parents=True, exist_ok=True)
                # A new run must not leave the last one's files behind under its own name.
                for name in ("last.pt", "model.pt", "model.json"):
                    (self.run_dir / name).unlink(missing_ok=True)
            return
        state = torch.load(self.resume_path, map_location="cpu", weights_only=True)
        saved, configured = json.loads(state["spec"]), json.loads(json.dumps(self.spec))
        for name in configured:
            if saved.get(name) != configured[name]:
                raise ValueError(
                    f"the checkpoint {self.resume_path.name} was made with {name} {json.dumps(saved.get(name))}, but "
                    f"the config asks for {json.dumps(configured[name])}. Resume with the same overlays and data, or "
                    "start anew with --resume never or another --output_dir."
                )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.record.load_state_dict(state["record"])
        if self.resume_path.resolve().parent == self.run_dir.resolve():  # elsewhere, the best model lies elsewhere
            self.best = dict(state["best"])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        validation: Any = self.evaluator.state  # MONAI adds to ignite's state
        validation.best_metric, validation.best_metric_epoch = self.best["metric"], self.best["epoch"] or -1
        max_epochs, epoch = engine.state.max_epochs, state["epoch"]
        engine.state.iteration, engine.state.epoch = state["iteration"], epoch
        engine.state.max_epochs = max_epochs  # the new limit counts: a finished run can be made longer
        logger.info("Resumed after epoch %d from %s.", epoch, self.resume_path.name)
        if max_epochs is not None and epoch >= max_epochs:
            logger.info("This run has already reached max_epochs=%d; raise it to go on.", max_epochs)
            engine.terminate()

    def _seed_epoch(self, engine: Engine) -> None:
        seed = self.seed + EPOCH_SEED_STEP * engine.state.epoch + RANK_SEED_STEP * self.rank
        set_determinism(seed % 2**32)
        for dataset in self.datasets:
            set_rnd(dataset, seed % 2**32)

    def _save(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        validation: Any = self.evaluator.state
        validated = validation.epoch == epoch  # not in each epoch where val_interval is above 1
        metric = float(validation.metrics[validation.key_metric_name]) if validated else math.nan
        is_best = math.isfinite(metric) and not metric <= self.best["metric"]
        if is_best:
            self.best = {"epoch": epoch, "metric": metric}
        if self.rank != 0:
            return
        if is_best:
            self._save_best(engine)
        scaler = getattr(engine, "scaler", None)  # of mixed precision
        state = {
            "epoch": epoch,
            "iteration": engine.state.iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "record": self.record.state_dict(),
            "best": self.best,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "spec": json.dumps(self.spec),
        }
        save_tensors(state, self.run_dir / "last.pt")

    def _save_best(self, engine: Engine) -> None:
        model = self.run_dir / "model.pt"
        # Contiguous tensors: a channels_last layout would travel into every file made from this one.
        save_tensors({name: value.contiguous() for name, value in self.network.state_dict().items()}, model)
        metrics = {name: value for name, value in self.evaluator.state.metrics.items() if isinstance(value, float)}
        spec = {
            **self.spec,
            "epoch": engine.state.epoch,
            "validation": metrics,
            "threshold": metrics.get("val_threshold"),
            "sha256": file_sha256(model),
        }
        write_atomically(self.run_dir / "model.json", json.dumps(spec, indent=4).encode())

    def _finish(self, engine: Engine) -> None:
        validation: Any = self.evaluator.state
        if self.rank == 0 and not self.best["epoch"]:
            logger.warning(
                "No epoch had a finite %s, so no best model was saved; the last state is in last.pt. "
                "Does the validation split hold every class?",
                validation.key_metric_name,
            )
