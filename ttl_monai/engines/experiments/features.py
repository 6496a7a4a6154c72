"""What the layers of a pretrained network look for (the supplement's E, Fig. 9)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized

from ttl_monai.data import CenterSquareCropd, XrayReader
from ttl_monai.engines.datasets import inference_items
from ttl_monai.networks import TransferClassifier, excite, find_point, mean_activations
from ttl_monai.networks.features import points_of
from ttl_monai.networks.points import Point
from ttl_monai.reports import plot_features

logger = logging.getLogger(__name__)


class Features:
    """Make images that excite channels at some points of a network, by `excite`.

    The paper shows VGG19 with ImageNet weights at `features.1`, `.5`, `.10`, `.20` and `.30`: `backbone="vgg19"`, those
    points. Any backbone and any of its truncation points will do.

    Args:
        backbone: as in `build_backbone`, of 2D.
        weights: as in `load_backbone`. "none" draws them by the seed: a network that has learnt nothing.
        points: truncation points.
        output_dir: folder of the results.
        channels: how many at each point, drawn by the seed, or their numbers, the same at all points.
        size: of the images in pixels.
        steps: of the optimiser.
        learning_rate: see `excite`; likewise `jitter`, `blur` and `total_variation`.
        jitter: see `excite`.
        blur: see `excite`.
        total_variation: see `excite`.
        image_dir: folder of real images; the highest mean activation among them stands beside that of the made image.
        seed: of all that is drawn.

    Raises:
        ValueError: an unknown backbone, weight, point or channel, a network of 3D, or no image in the folder.
    """

    def __init__(
        self,
        *,
        backbone: str,
        weights: str | None,
        points: Sequence[str],
        output_dir: str | Path,
        channels: int | Sequence[int] = 4,
        size: int = 160,
        steps: int = 160,
        learning_rate: float = 0.05,
        jitter: int = 12,
        blur: float = 1.5,
        total_variation: float = 1.0,
        image_dir: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TransferClassifier(backbone, weights, in_channels=3)
        if network.mean.ndim != 4:
            raise ValueError(f"images are made for networks of 2D, but {backbone} is one of 3D")
        if isinstance(points, str) or not points:
            raise ValueError(f"points must be a list of at least one truncation point, got {points!r}")
        known = points_of(network)
        self.points = [find_point(known, point) for point in points]
        self.channels = {point.name: _channels(point, channels, seed) for point in self.points}
        self.network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.backbone, self.weights, self.output_dir, self.seed = backbone, weights or "none", Path(output_dir), seed
        self.settings: dict[str, Any] = {"size": size, "steps": steps, "learning_rate": learning_rate, "jitter": jitter}
        self.settings |= {"blur": blur, "total_variation": total_variation}
        self.images = [] if image_dir is None else inference_items(str(image_dir), "")

    def run(self) -> dict[str, Any]:
        """Make the images.

        Returns:
            `tables` with one table, one row a point and channel: `cut` (the point), `channel`, `metrics` (mean
            activation at the `start`, at the `end`, and of the best of the real images, `real`), parameters and MACs up
            to the point, and the `seconds` that its image took; `figures` with one picture.
        """
        pictures, rows = {}, []
        for number, point in enumerate(self.points):
            logger.info("%s: %d of %d points left.", point.name, len(self.points) - number, len(self.points))
            chosen, started = self.channels[point.name], time.monotonic()
            found = excite(self.network, point.name, chosen, seed=self.seed, **self.settings)
            seconds = (time.monotonic() - started) / len(chosen)
            best = self._best_real(point.name)
            pictures[point.name] = found.images.permute(0, 2, 3, 1).numpy()  # (K, H, W, 3)
            for k, channel in enumerate(chosen):
                metrics: dict[str, float | None] = {
                    "start": round(float(found.start[k]), 6),
                    "end": round(float(found.end[k]), 6),
                }
                metrics["real"] = None if best is None else round(float(best[channel]), 6)
                size = {"params": point.params, "trainable_params": 0, "macs": point.macs, "latency_ms": None}
                row = {"strategy": "features", "cut": point.name, "channel": channel, "metrics": metrics, **size}
                repeat = {"split": None, "seed": self.seed, **metrics}
                rows.append({**row, "seconds": round(seconds, 2), "repeats": [repeat], "published": None, "run": None})
        title = f"{self.backbone}, weights: {self.weights}: images that excite channels"
        plot_features(pictures, self.channels, self.output_dir / "features.png", title=title)
        table = {
            "dataset": "made images",
            "backbone": self.backbone,
            "weights": self.weights,
            "spatial_size": self.settings["size"],
            "max_epochs": None,
            "settings": self.settings,
            "repeated": "run",
            "rows": rows,
            "differences": [],
        }
        figure = {
            "file": "features.png",
            "title": "What channels look for",
            "alt": f"Images made for channels of {self.backbone} at {', '.join(self.channels)}, one row a point.",
            "caption": "Made from noise by gradient ascent on the mean of a channel. Lower points look for colours and "
            "simple textures, higher ones for parts of objects (supplement, E).",
        }
        return {"tables": [table], "figures": [figure]}

    def _best_real(self, point: str) -> torch.Tensor | None:
        """The highest mean activation of each channel among the real images, (channels,)."""
        if not self.images:
            return None
        side = self.settings["size"]
        load = Compose(
            [
                LoadImaged("image", reader=XrayReader, channels=3, image_only=True),
                EnsureChannelFirstd("image", channel_dim=-1),
                CenterSquareCropd("image"),
                Resized("image", (side, side), mode="bilinear", anti_aliasing=True),
            ]
        )
        device = self.network.mean.device
        found = [
            mean_activations(self.network, point, torch.as_tensor(load(item)["image"])[None].to(device).clamp(0, 1))
            for item in self.images
        ]
        return torch.cat(found).amax(dim=0)


def _channels(point: Point, channels: int | Sequence[int], seed: int) -> list[int]:
    """Numbers of the channels to show at a point.

    Raises:
        ValueError: more than there are, or one that is not there.
    """
    if isinstance(channels, int):
        if not 1 <= channels <= point.channels:
            raise ValueError(f"{point.name} has {point.channels} channels, but {channels} are asked for")
        return np.sort(np.random.default_rng(seed).choice(point.channels, channels, replace=False)).tolist()
    if not channels or not all(0 <= each < point.channels for each in channels):
        raise ValueError(f"channels of {point.name} must be from 0 to {point.channels - 1}, got {list(channels)}")
    return list(channels)
