"""How far the features of a network have moved from those before training, while it trains."""

from __future__ import annotations

import copy
import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import list_data_collate
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.tensorboard import SummaryWriter

from ttl_monai.analysis import CrossMoments, Similarity, as_samples, wachter_sample
from ttl_monai.handlers.checkpoint import bare_network
from ttl_monai.handlers.files import write_atomically
from ttl_monai.networks.features import WHOLE, PointFeatures, choose_points, evaluation_mode

logger = logging.getLogger(__name__)

COLUMNS = (
    *("epoch", "point", "level", "n", "dims_before", "dims_after", "mean", "q1", "median", "q3"),
    *("null_q1", "null_median", "null_q3", "overlap", "quartile_rule", "excess_area"),
)


def frozen_copy(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network as it is now: in evaluation mode, without gradients and hooks.

    Args:
        network: any network; a DDP wrapper is taken off.
    """
    copied = copy.deepcopy(bare_network(network)).eval().requires_grad_(False)
    for module in copied.modules():
        module.training = False  # frozen parts do not listen to `eval`
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
    return copied


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes of the training; the tensor itself where there is only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


class SVCCAHandler:
    """Compare the features at truncation points with those before training, every few epochs, on the same images.

    Source: SVCCA (Raghu et al. 2017, arXiv:1706.05806), as the paper uses it: every position of every image is a
    sample, every channel a feature (supplement C.1; PAPER.md section 4). The random baseline is the closed form of
    Wachter for the same numbers of channels and samples.

    What stands for "before training" is a copy of the network at the moment that the handler is built: with its
    pretrained weights, also in a run that is resumed, because `RunCheckpoint` loads when training starts. Each
    comparison takes two forward passes over the chosen images; it sets no hooks, draws no random numbers, and puts the
    training flag of every module back. With several processes each takes a part of the images, and the moments are
    summed.

    It writes `svcca.csv`, one row a point and epoch (`whole` is the end of the network), and TensorBoard scalars.

    Args:
        network: the network that trains; a DDP wrapper is taken off.
        dataset: where the images come from, as items for `prepare_batch`; without random augmentation.
        prepare_batch: (batch, device) -> (images, labels), that of the evaluator.
        run_dir: folder of the run.
        points: "stage", "block" or names of truncation points, see `choose_points`.
        interval: compare after every so many epochs, and after the last one.
        images: how many images, evenly spread over the data set; None takes all.
        batch_size: images in one forward pass.
        variance: share of the variance to keep on each side (SVCCA's cut, 0.99 there); None keeps all, as the paper's
            random baseline implies.
        log_dir: folder for TensorBoard; None writes none.
        rank: rank of this process; 0 writes.

    Raises:
        ValueError: numbers below 1, no images, or points that the network does not have.
    """

    def __init__(
        self,
        *,
        network: torch.nn.Module,
        dataset: Dataset[Any],
        prepare_batch: Callable[..., tuple[Any, Any]],
        run_dir: str | Path,
        points: str | Sequence[str] = "stage",
        interval: int = 1,
        images: int | None = 256,
        batch_size: int = 16,
        variance: float | None = None,
        log_dir: str | Path | None = None,
        rank: int = 0,
    ) -> None:
        for name, value in (("interval", interval), ("images", images), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.dataset, self.indices = dataset, spread(dataset, images)
        self.network = bare_network(network)
        self.points = choose_points(self.network, points)
        names = [name for name, _ in self.points]
        self.before = PointFeatures(frozen_copy(network), names)
        self.after = PointFeatures(self.network, names)
        self.prepare_batch, self.run_dir, self.rank = prepare_batch, Path(run_dir), rank
        self.interval, self.batch_size, self.variance = interval, batch_size, variance
        self._log_dir = log_dir
        self._writer: SummaryWriter | None = None
        self._rows: list[dict[str, Any]] | None = None
        self._compared = 0

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer; a second time does nothing."""
        if engine.has_event_handler(self._end_epoch, Events.EPOCH_COMPLETED):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def compare(self) -> list[Similarity]:
        """Compare now, on every process; a point at which no channel varies is left out with a warning.

        Returns:
            One similarity a point, equal on all processes.

        Raises:
            ValueError: features that are not finite.
        """
        device = next(self.network.parameters()).device
        held = device if device.type == "cuda" else torch.device("cpu")  # Apple's GPU has no float64
        moments = {
            name: CrossMoments(self.before.channels[name], self.after.channels[name], device=held)
            for name, _ in self.points
        }
        with evaluation_mode(self.network):
            for batch in self._batches():
                image, _ = self.prepare_batch(batch, device)
                after = self.after(image)
                for name, before in self.before(image).items():
                    moments[name].update(as_samples(before), as_samples(after[name]))
        found = []
        for name, level in self.points:
            total = moments[name].sum_over(sum_over_processes)
            try:
                result = total.cca(self.variance)
            except ValueError as error:
                logger.warning("no SVCCA at %s: %s", name or WHOLE, error)
                continue
            null = wachter_sample(*result.dims, result.n)
            found.append(Similarity.from_results(name, "stage" if level == "stage" else "block", (result, null)))
        return found

    def _batches(self) -> Iterator[dict[str, Any]]:
        """This process's share of the images."""
        rank, processes = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
        # A generator of its own: the loader would take a random number from the training's.
        yield from DataLoader(
            Subset(self.dataset, self.indices[rank::processes]),
            batch_size=self.batch_size,
            collate_fn=list_data_collate,
            generator=torch.Generator(),
        )

    def _start_epoch(self, engine: Engine) -> None:
        if self._rows is None:  # only now it is known after which epoch a run goes on
            path = self.run_dir / "svcca.csv"
            rows = list(csv.DictReader(io.StringIO(path.read_text()))) if self.rank == 0 and path.is_file() else []
            self._rows = [row for row in rows if int(row["epoch"]) < engine.state.epoch]

    def _end_epoch(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval == 0:
            self._record(engine.state.epoch)

    def _finish(self, engine: Engine) -> None:
        # The last epoch; in a finished run that was resumed, none has started.
        if self._rows is not None and engine.state.epoch != self._compared:
            self._record(engine.state.epoch)
        if self._writer is not None:
            self._writer.close()

    def _record(self, epoch: int) -> None:
        found, self._compared = self.compare(), epoch
        if self.rank != 0:
            return
        rows = [to_row(each, epoch) for each in found]
        self._rows = [*(self._rows or []), *rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.run_dir / "svcca.csv", text.getvalue().encode())
        if self._log_dir is not None:
            self._write_scalars(rows, epoch)
        means = ", ".join(f"{row['point']} {row['mean']:.3f}" for row in rows)
        logger.info("Mean SVCCA with the features before training, epoch %d: %s.", epoch, means)

    def _write_scalars(self, rows: Sequence[dict[str, Any]], epoch: int) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self._log_dir))
        for row in rows:
            for name in ("mean", "overlap", "excess_area"):
                self._writer.add_scalar(f"svcca_{name}/{row['point']}", row[name], epoch)
        self._writer.flush()  # nothing is lost if the training fails


def spread(dataset: Any, images: int | None) -> list[int]:
    """Indices of so many items, evenly spread over a data set; all where it has no more.

    Args:
        dataset: anything with a length.
        images: how many; None for all.

    Raises:
        ValueError: an empty data set.
    """
    size = len(dataset) if isinstance(dataset, Sized) else 0
    if size == 0:
        raise ValueError("SVCCA needs images to compare features on, but the data set is empty.")
    if images is None or images >= size:
        return list(range(size))
    return np.linspace(0, size - 1, images).round().astype(int).tolist()


def to_row(similarity: Similarity, epoch: int) -> dict[str, Any]:
    """One row of `svcca.csv`."""
    quartiles, null = similarity.quartiles()
    values = {
        "mean": float(similarity.coefficients.mean()),
        **dict(zip(("q1", "median", "q3"), quartiles, strict=True)),
        **dict(zip(("null_q1", "null_median", "null_q3"), null, strict=True)),
        "overlap": similarity.overlap,
        "excess_area": similarity.excess_area,
    }
    return {
        "epoch": epoch,
        "point": similarity.point or WHOLE,
        "level": similarity.level,
        "n": similarity.n,
        "dims_before": similarity.dims[0],
        "dims_after": similarity.dims[1],
        "quartile_rule": int(similarity.quartile_rule),
        **{name: round(value, 6) for name, value in values.items()},
    }
