"""Features of a frozen part, computed once an image instead of once an epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from ttl_monai.networks import TransferClassifier

logger = logging.getLogger(__name__)


class FeatureCache:
    """Serve the frozen part's features from memory, and run only the rest of the network.

    It is both the `prepare_batch` and the `inferer` of the training and validation engines. The features of an image
    are computed when it is first met and kept in main memory as float32, so the images must reach it without random
    augmentation: set `cache_features` in the config, which trains on the evaluation preprocessing.

    Args:
        network: a network with a frozen part (strategies HTL and LWFT).
        prepare_batch: from the loader's batch to (image, label) on the device; must not augment.

    Raises:
        ValueError: if nothing is frozen, or the network is wrapped for several processes (its gradients would not be
            averaged).
    """

    def __init__(self, network: torch.nn.Module, prepare_batch: Callable[..., tuple[Any, Any]]) -> None:
        if not isinstance(network, TransferClassifier):
            raise ValueError(
                f"cache_features needs the network itself, got a {type(network).__name__}: use it in one process."
            )
        self.front, self.rest = network.split_frozen()
        self.prepare = prepare_batch
        self._features: dict[tuple[Any, ...], torch.Tensor] = {}

    def prepare_batch(self, batch: dict[str, Any], device: Any, non_blocking: bool = False, **kwargs: Any) -> Any:
        """Replace the images of a batch by the frozen part's features (for the engine's `prepare_batch`)."""
        keys = list(zip(*(_plain(batch[name]) for name in ("image_id", "start") if name in batch), strict=True))
        missing = [index for index, key in enumerate(keys) if key not in self._features]
        image, label = self.prepare(batch, device, non_blocking, **kwargs)
        if missing:
            self.front.eval()
            with torch.no_grad():
                computed = self.front(image[missing])
            for index, feature in zip(missing, computed, strict=True):
                self._features[keys[index]] = feature.float().cpu()
        features = torch.stack([self._features[key] for key in keys]).to(device, non_blocking=non_blocking)
        return features, label

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the part that trains (for the engine's `inferer`); `network` is given by the engine and not called."""
        return self.rest(inputs)


def _plain(values: Any) -> list[Any]:
    """Of a window its start, besides the id of its series, tells it apart."""
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)
