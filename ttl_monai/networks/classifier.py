"""TransferClassifier: a pretrained backbone, whole or cut, and a linear head."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from ttl_monai.networks.points import find_point, list_points
from ttl_monai.networks.recompute import forward_in_segments, mark_segments
from ttl_monai.networks.surgery import split_at
from ttl_monai.networks.tracing import skeleton
from ttl_monai.networks.transfer import ImageInput, transfer

logger = logging.getLogger(__name__)


class FrozenFront(ImageInput):
    """Normalisation and the frozen part of a `TransferClassifier`, whose parameters and buffers it shares."""

    def __init__(self, network: TransferClassifier, body: nn.Module) -> None:
        super().__init__(network.mean, network.std, network.in_channels, network.image_size)
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, 1|C, ...) in [0, 1] -> features (B, C', ...)."""
        return self.body(self.normalise(image))


class TransferClassifier(ImageInput):
    """A backbone up to its last feature map (or a truncation point) and a linear head.

    The knobs are independent and compose in this order: the backbone is built and loaded, truncated, slimmed, frozen.
    With none of them this is full transfer learning (FTL); `truncate_at` is the paper's truncated transfer learning
    (TTL), `freeze_up_to` layer-wise fine-tuning (LWFT) or, with `"all"`, a frozen backbone (HTL), `slim_after`
    TransFusion (TF). Source: the paper's supplement, A and B.2 (heads).

    Attributes:
        backbone: image, normalised (B, C, ...) -> feature map (B, C', ...).
        head: feature map -> logits (B, num_classes).
        mean: normalisation of images in [0, 1], (1, C, 1, 1[, 1]); saved, so that a checkpoint brings its own.
        std: likewise.
        weight_info: source of the weights, and which keys were loaded, re-initialised and skipped.

    Args:
        backbone: a name as in `build_backbone`, or a network, which is then used with the weights it has, on images in
            [0, 1] as they are (set `mean` and `std` for a network that expects something else).
        weights: as in `load_backbone`; must be `none` or None for a network.
        in_channels: channels of the images: 1 (repeated, so that parameters and MACs stay) or those of the backbone, 3.
        num_classes: number of logits.
        truncate_at: last truncation point to keep, as in `list_points`; what lies above is gone.
        freeze_up_to: last point to freeze (no gradients, norm statistics fixed), or `all` for the whole backbone.
        slim_after: last point to keep pretrained; the rest is rebuilt with channels / `slim_factor`.
        slim_factor: see `slim_after`.
        head: `pool` (adaptive average pooling to 1, linear; any image size) or `flatten` (linear on the flattened
            map; for one image size, because the number of its weights depends on it).
        image_size: pixels per spatial axis, used by `flatten` alone; default 224 in 2D and 64 in 3D.
        use_checkpoint: compute each block of the backbone again in the backward pass of a training instead of keeping
            its activations: less memory, more time, the same results.

    Raises:
        ValueError: for an unknown name, an unavailable weight, or knobs that contradict each other; in eager mode also
            at a forward pass of images that are no floats in [0, 1] or have other channels.

    Example:
        >>> network = TransferClassifier("resnet18", weights="none", in_channels=1, truncate_at="layer2")
        >>> network(torch.rand(2, 1, 64, 64)).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        weights: str | None = "imagenet",
        in_channels: int = 3,
        num_classes: int = 2,
        truncate_at: str | None = None,
        freeze_up_to: str | None = None,
        slim_after: str | None = None,
        slim_factor: int = 2,
        head: str = "pool",
        image_size: int | Sequence[int] | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a whole number of at least 1, got {num_classes!r}")
        body = transfer(
            backbone,
            weights,
            in_channels,
            truncate_at=truncate_at,
            freeze_up_to=freeze_up_to,
            slim_after=slim_after,
            slim_factor=slim_factor,
        )
        size = _image_size(image_size, tuple(body.example.shape[2:]))
        super().__init__(body.mean, body.std, in_channels, size if head == "flatten" else None)
        self.frozen_up_to = freeze_up_to
        self.use_checkpoint = use_checkpoint
        self.backbone = body.features
        if use_checkpoint:
            mark_segments(self.backbone)
        self.head = _build_head(head, _map_shape(body.features, body.example.shape[1], size), num_classes)
        self.weight_info = body.announce(self, "backbone", backbone)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, 1|C, ...) in [0, 1] -> logits (B, num_classes)."""
        image = self.normalise(image)
        if torch.jit.is_scripting():  # which cannot compile the next branch
            features = self.backbone(image)
        elif self.use_checkpoint and self.training:
            features = forward_in_segments(self.backbone, image)
        else:
            features = self.backbone(image)
        return self.head(features)

    def split_frozen(self) -> tuple[nn.Module, nn.Module]:
        """Split the network so that the features of its frozen part can be cached.

        Returns:
            front: image -> features, all of it frozen (with the pooling where the whole backbone is frozen);
            rest: features -> logits. Both share the network's parameters; `rest(front(x))` equals `network(x)`.

        Raises:
            ValueError: if nothing is frozen.
        """
        if self.frozen_up_to is None:
            raise ValueError("nothing is frozen: expected a network built with freeze_up_to (LWFT, HTL)")
        points = list_points(self.backbone)
        if self.frozen_up_to == "all" or find_point(points, self.frozen_up_to) == points[-1]:
            return FrozenFront(self, nn.Sequential(self.backbone, *self.head[:-1])), self.head[-1]
        front, rest = split_at(self.backbone, self.frozen_up_to)
        return FrozenFront(self, front), nn.Sequential(OrderedDict(backbone=rest, head=self.head))


def _image_size(image_size: int | Sequence[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    if image_size is None:
        return default
    size = (image_size,) * len(default) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != len(default):
        raise ValueError(f"image_size must be one number or {len(default)} of them, got {image_size!r}")
    return size


def _map_shape(backbone: nn.Module, channels: int, size: tuple[int, ...]) -> torch.Size:
    """Shape (C', ...) of the feature map of one image, found without computing it."""
    return skeleton(backbone)(torch.empty(1, channels, *size, device="meta")).shape[1:]


def _build_head(head: str, map_shape: torch.Size, num_classes: int) -> nn.Sequential:
    if head == "pool":
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(map_shape) - 2]
        return nn.Sequential(pool(1), nn.Flatten(), nn.Linear(map_shape[0], num_classes))
    if head == "flatten":
        return nn.Sequential(nn.Flatten(), nn.Linear(map_shape.numel(), num_classes))
    raise ValueError(f"head must be 'pool' or 'flatten', got {head!r}")
