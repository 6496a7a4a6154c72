"""What a training step of the bundle costs, against a bare PyTorch loop of the same network.

Prints, for the whole network and for the cut one: the ratio of the bundle's step to the bare loop's, the share of the
step spent waiting for data (loading, cache and augmentation), and the gain of the channels_last memory format; and the
gain of caching the frozen part's features for the strategies that freeze. Everything is measured in one process, the
two sides in turn, so that a busy machine slows both.

    python benchmarks/training_step.py [--rounds 3] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

STEPS = 8  # of one measured epoch
CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "covid_ttl" / "configs"


def build(folder: Path, overlays: list[str], **overrides: object) -> ConfigWorkflow:
    """A training of the bundle on its made images, ready to run."""
    workflow = ConfigWorkflow(
        [str(CONFIGS / name) for name in ("train.json", *overlays)],
        logging_file=False,
        workflow_type="train",
        output_dir=str(folder / "run"),
        cache_dir=str(folder / "cache"),
        **{"train#trainer#epoch_length": STEPS},
        **overrides,
    )
    workflow.initialize()
    for _ in workflow.parser.get_parsed_content("train#dataset"):  # the cache is filled once: not part of a step
        pass
    return workflow


class Bundle:
    """Training epochs of a bundle, without its validation."""

    def __init__(self, workflow: ConfigWorkflow) -> None:
        content = workflow.parser.get_parsed_content
        self.trainer, self.prepare = content("train#trainer"), content("train#prepare_batch")
        self.steps, self.wait = 0, 0.0
        self.network = content("network")
        self.trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        self.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._stop)
        self._augment = self.prepare.augment
        self.prepare.augment = self._timed_augment if self._augment is not None else None

    def _start(self) -> None:
        self._from = time.perf_counter()

    def _stop(self) -> None:
        self.wait += time.perf_counter() - self._from

    def _timed_augment(self, image: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        result = self._augment(image)
        self.wait += time.perf_counter() - start
        return result

    def epoch(self) -> tuple[float, float]:
        """Seconds a step and the share of them spent waiting for data."""
        self.wait = 0.0
        self.trainer.state.max_epochs = self.trainer.state.epoch + 1
        for handler in list(self.trainer._event_handlers[Events.EPOCH_COMPLETED]):  # validation is not a step
            self.trainer.remove_event_handler(handler[0], Events.EPOCH_COMPLETED)
        start = time.perf_counter()
        self.trainer.run()
        seconds = time.perf_counter() - start
        return seconds / STEPS, self.wait / seconds


def bare_epoch(network: torch.nn.Module, steps: int, batch: int, size: int) -> float:
    """Seconds a step of the least loop that trains: one batch that is there already, forward, backward, update."""
    image, label = torch.rand(batch, 1, size, size), torch.randint(0, 2, (batch,))
    optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=1e-4)
    network.train()
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


def measure_step(folder: Path, name: str, overlays: list[str], rounds: int) -> dict[str, float | str]:
    """The bundle's step, the bare loop's and the bare loop's without channels_last, in turn."""
    workflow = build(folder / name, overlays)
    bundle = Bundle(workflow)
    network = bundle.network
    size, batch = (workflow.parser.get_parsed_content(key) for key in ("spatial_size", "batch_size"))
    bundle.epoch()  # warms up
    rows = []
    for _ in range(rounds):
        step, wait = bundle.epoch()
        bare = bare_epoch(network, STEPS, batch, size)
        network.to(memory_format=torch.contiguous_format)
        contiguous = bare_epoch(network, STEPS, batch, size)
        network.to(memory_format=torch.channels_last)
        rows.append((step, wait, bare, contiguous))
    step, wait, bare, contiguous = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "network": name,
        "step_ms": 1e3 * step,
        "bare_ms": 1e3 * bare,
        "ratio_to_bare": step / bare,
        "data_wait": wait,
        "channels_last_speedup": contiguous / bare,
    }


def measure_feature_cache(folder: Path, strategy: str, rounds: int) -> dict[str, float | str]:
    """An epoch of a strategy that freezes, with and without its features cached."""
    sides = {}
    for cached in (False, True):
        bundle = Bundle(build(folder / f"{strategy}{cached}", [f"strategy_{strategy}.json"], cache_features=cached))
        for batch in bundle.trainer.data_loader if cached else ():  # the features are computed once
            bundle.trainer.prepare_batch(batch, "cpu")
        sides[cached] = bundle
    rows = [[sides[cached].epoch()[0] for cached in (False, True)] for _ in range(rounds)]
    plain, cached = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "strategy": strategy.upper(),
        "step_ms": 1e3 * plain,
        "cached_step_ms": 1e3 * cached,
        "speedup": plain / cached,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measured epochs a side (default 3)")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = [
            measure_step(folder, "FTL", [], arguments.rounds),
            measure_step(folder, "TTL", ["strategy_ttl.json"], arguments.rounds),
        ]
        caches = [measure_feature_cache(folder, strategy, arguments.rounds) for strategy in ("htl", "lwft")]
    for row in (*steps, *caches):
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    if arguments.out:
        content = {"threads": torch.get_num_threads(), "rounds": arguments.rounds, "steps": steps, "caches": caches}
        arguments.out.write_text(json.dumps(content, indent=4) + "\n")


if __name__ == "__main__":
    main()
