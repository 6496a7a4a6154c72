"""When training ends before its last epoch: at the floor of the learning rate, and at a loss that is no number."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class LrFloorStop:
    """Stop when the learning rate has fallen below a floor (supplement A.1: 1e-7).

    Runs on every rank: all ranks see the same rate, so all stop at the same epoch. Attach to the trainer, after the
    validation handler that steps the scheduler.

    Args:
        optimizer: the largest rate of its groups is watched: a group that is lower on purpose (`backbone_lr_scale`)
            does not stop the run early.
        min_lr: the floor.

    Raises:
        ValueError: if the floor is not positive or the rate starts below it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, min_lr: float = 1e-7) -> None:
        start = max(group["lr"] for group in optimizer.param_groups)
        if not 0 < min_lr <= start:
            raise ValueError(f"min_lr must lie above 0 and not above the learning rate {start:g}, got {min_lr:g}.")
        self.optimizer = optimizer
        self.min_lr = min_lr

    def attach(self, engine: Engine) -> None:
        """Look after each epoch, and once at the start: a resumed run may already be done."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stop the engine if the rate is below the floor."""
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        if rate < self.min_lr:
            logger.info("The learning rate %.3g is below the floor %.3g: training ends.", rate, self.min_lr)
            engine.terminate()


class StopOnNonFiniteLoss:
    """Raise as soon as the training loss is NaN or infinite, and name the batch.

    Args:
        last_checkpoint: where the last good state is, for the message.
    """

    def __init__(self, last_checkpoint: str | None = None) -> None:
        self.last_checkpoint = last_checkpoint

    def attach(self, engine: Engine) -> None:
        """Look after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Check the loss of the iteration that has just ended.

        Raises:
            FloatingPointError: naming epoch, iteration and the image ids of the batch (pseudonymous, never file names
                unless they are published).
        """
        state: Any = engine.state  # ignite's type knows neither MONAI's output nor its batch
        output = state.output
        loss = float(torch.as_tensor(output[0]["loss"] if isinstance(output, list) else output["loss"]))
        if math.isfinite(loss):
            return
        batch = state.batch
        ids = [item["image_id"] for item in batch] if isinstance(batch, list) else list(batch["image_id"])
        kept = f" The last good state is kept in {self.last_checkpoint}." if self.last_checkpoint else ""
        raise FloatingPointError(
            f"the training loss is {loss} in epoch {engine.state.epoch}, iteration {engine.state.iteration}. "
            f"Images of this batch: {', '.join(map(str, ids))}. Look for broken images or labels among them, or lower "
            f"the learning rate.{kept}"
        )
