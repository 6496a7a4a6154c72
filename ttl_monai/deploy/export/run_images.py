"""The images of a run as its network takes them, and the score of a network on its validation section."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data import DataLoader
from torch import nn
from torch.utils.data import Subset

from ttl_monai.data import Datalist
from ttl_monai.engines.configs import quiet

T = TypeVar("T")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunImages:
    """A run's data through the data set, transforms and metrics of its own config.

    Attributes:
        run_dir: folder of the run, with the merged config of the training in `run.json`.
        data: the datalist.
        folder: for prepared images; a temporary one.
    """

    run_dir: Path
    data: Datalist
    folder: Path

    def training_images(self, count: int) -> Iterator[np.ndarray]:
        """Some training images (1, C, ...) as the network takes them, spread evenly over the section, not augmented.

        Args:
            count: at most so many; of volumes windows or slices are counted.
        """
        entries = spread(self.data.entries["training"], count)
        parser = self._parser(replace(self.data, entries={**self.data.entries, "validation": entries}))
        dataset = parser.get_parsed_content("validate#dataset")
        prepare = parser.get_parsed_content("validate#prepare_batch")
        for batch in DataLoader(Subset(dataset, spread(range(len(dataset)), count)), batch_size=1):
            image, _ = prepare(batch, _CPU)
            yield image.as_subclass(torch.Tensor).float().numpy()

    def validate(self, network: nn.Module) -> dict[str, float]:
        """The metrics of the training's validation (`val_auroc`, `val_dice` and others) for a network.

        Args:
            network: images -> logits, on the CPU.
        """
        parser = self._parser(self.data)
        parser["network"] = network
        parser.parse(reset=True)
        evaluator = parser.get_parsed_content("validate#evaluator")
        with quiet("ignite", logging.WARNING):
            evaluator.run()
        return {name: float(value) for name, value in evaluator.state.metrics.items()}

    def _parser(self, data: Datalist) -> ConfigParser:
        parser = ConfigParser(json.loads((self.run_dir / "run.json").read_text())["config"])
        settings = {"data": data, "device": _CPU, "cache_dir": str(self.folder), "output_dir": str(self.folder)}
        settings |= {"cache_features": False, "num_workers": 0, "validate#handlers": []}
        for id_, value in settings.items():
            parser[id_] = value
        parser.parse(reset=True)
        return parser


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most so many of the items, evenly spread over them, in their order."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]
