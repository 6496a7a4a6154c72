"""What classifier and U-Net share: checked and normalised images, and a pretrained backbone with its knobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from ttl_monai.networks.checkpoints import LoadReport
from ttl_monai.networks.points import find_point, list_points
from ttl_monai.networks.pretrained import WeightInfo, load_backbone
from ttl_monai.networks.slim import rebuild_after
from ttl_monai.networks.surgery import freeze_up_to as freeze_backbone
from ttl_monai.networks.surgery import truncate
from ttl_monai.networks.tracing import default_example, trace

logger = logging.getLogger(__name__)

_RANGE_TOLERANCE = 1e-3  # interpolation and float16 overshoot a little


class ImageInput(nn.Module):
    """Checks images in [0, 1] and normalises them as the weights ask; one grey channel becomes all channels."""

    def __init__(
        self, mean: torch.Tensor, std: torch.Tensor, in_channels: int, image_size: tuple[int, ...] | None
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        # Annotated here, because TorchScript cannot resolve annotations in the body of a class.
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def normalise(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, 1|C, ...) in [0, 1] -> (B, C, ...) as the weights expect them.

        Raises:
            ValueError: in eager mode, for images of another kind.
        """
        if not torch.jit.is_scripting():
            self._check(image)
        return (image - self.mean) / self.std  # (B, 1|C, ...) -> (B, C, ...): broadcasting repeats a single channel

    def _check(self, image: torch.Tensor) -> None:
        """Raise ValueError for a wrong input; compiled and exported networks skip this."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or isinstance(image, fx.Proxy):
            return
        spatial = self.mean.ndim - 2
        if image.ndim != spatial + 2 or image.shape[1] not in (1, self.in_channels):
            raise ValueError(
                f"expected images of shape (B, {self.in_channels}, {', '.join('DHW'[-spatial:])}), "
                f"got {tuple(image.shape)}"
            )
        if self.image_size is not None and tuple(image.shape[2:]) != self.image_size:
            raise ValueError(
                f"head='flatten' is built for images of {self.image_size}, got {tuple(image.shape[2:])}; pass "
                "image_size, or use head='pool' for any size"
            )
        if not image.is_floating_point():
            raise ValueError(f"expected float images in [0, 1], got {image.dtype}; divide 8-bit images by 255")
        if image.is_meta or image.numel() == 0:
            return
        low, high = (value.item() for value in torch.aminmax(image.detach()))
        if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):  # also catches NaN
            raise ValueError(
                f"expected images in [0, 1], got values in [{low:g}, {high:g}]; scale them to [0, 1] and leave the "
                "normalisation to the network"
            )


@dataclass(frozen=True)
class TransferredBackbone:
    """A backbone, loaded, truncated, slimmed and frozen as the knobs say.

    Attributes:
        features: image, normalised (B, C, ...) -> feature map (B, C', ...).
        example: zeros of (1, C, ...), the size that points are counted for.
        mean: normalisation of images in [0, 1], (1, C, 1, 1[, 1]).
        std: likewise.
        weight_info: source of the weights, with the report on the backbone's own keys.
        rebuilt: names of the layers that `slim_after` rebuilt.
    """

    features: fx.GraphModule
    example: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    weight_info: WeightInfo
    rebuilt: set[str]

    def announce(self, network: nn.Module, name: str, given: str | nn.Module) -> WeightInfo:
        """Say what the weights are, and what became of the keys of the whole network.

        Args:
            network: the network that was built around the backbone.
            name: how the backbone is called in it.
            given: the backbone as it was asked for.

        Returns:
            The source of the weights, with that report.
        """
        info = replace(self.weight_info, report=self._report(network, name))
        logger.info("%s: %s: %s", given if isinstance(given, str) else name, info.source, info.report)
        return info

    def _report(self, network: nn.Module, name: str) -> LoadReport:
        """What became of the keys; all that is not of the backbone is new."""
        report = self.weight_info.report

        def is_fresh(key: str) -> bool:
            return key in report.reinitialised or key.rpartition(".")[0] in self.rebuilt

        loaded = tuple(f"{name}.{key}" for key in report.loaded if not is_fresh(key))
        fresh = [f"{name}.{key}" for key in self.features.state_dict() if is_fresh(key)]
        fresh += [key for key in network.state_dict() if key.partition(".")[0] not in (name, "mean", "std")]
        return LoadReport(loaded, tuple(fresh), report.skipped)


def transfer(
    backbone: str | nn.Module,
    weights: str | None,
    in_channels: int,
    *,
    truncate_at: str | None,
    freeze_up_to: str | None,
    slim_after: str | None,
    slim_factor: int,
) -> TransferredBackbone:
    """Build a backbone, load its weights, truncate, slim and freeze it, in this order.

    Args:
        backbone: a name as in `build_backbone`, or a network.
        weights: as in `load_backbone`; must be `none` or None for a network.
        in_channels: channels of the images: 1 or those of the backbone.
        truncate_at: last truncation point to keep.
        freeze_up_to: last point to freeze, or `all`.
        slim_after: last point to keep pretrained.
        slim_factor: divides the channels of the rest.

    Raises:
        TypeError: the backbone is neither a name nor a network.
        ValueError: for an unknown name, an unavailable weight, other channels, or knobs that contradict each other.
    """
    features, info = _load(backbone, weights, truncate_at)
    example = default_example(features)
    channels, spatial_dims = example.shape[1], example.ndim - 2
    if in_channels not in (1, channels):
        raise ValueError(f"in_channels must be 1 or the backbone's {channels}, got {in_channels!r}")
    _check_knobs(features, truncate_at, freeze_up_to, slim_after)
    rebuilt: set[str] = set()
    if slim_after is not None:
        features, rebuilt = rebuild_after(features, slim_after, slim_factor)
    if freeze_up_to is not None:
        freeze_backbone(features, freeze_up_to)
    mean, std = (
        torch.tensor(values, dtype=example.dtype).expand(channels).clone().view(1, -1, *(1,) * spatial_dims)
        for values in info.normalisation()
    )
    return TransferredBackbone(features, example, mean, std, info, rebuilt)


def _load(backbone: str | nn.Module, weights: str | None, truncate_at: str | None) -> tuple[fx.GraphModule, WeightInfo]:
    if isinstance(backbone, str):
        features, info = load_backbone(backbone, weights, truncate_at=truncate_at)
        return trace(features), info
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone must be a name or a torch.nn.Module, got {type(backbone).__name__}")
    if weights not in (None, "none"):
        raise ValueError(
            f"a backbone given as a module keeps the weights it has: expected weights='none', got {weights!r}; "
            "pass the backbone's name, or load the weights into the module first"
        )
    return trace(truncate(backbone, truncate_at)), WeightInfo(name="none", source="the given module")


def _check_knobs(
    backbone: nn.Module, truncate_at: str | None, freeze_up_to: str | None, slim_after: str | None
) -> None:
    """Raise ValueError for points that the (truncated) backbone lacks, and for random layers frozen."""
    if freeze_up_to is None and slim_after is None:
        return
    points = list_points(backbone)
    order = {}
    for knob, name in (("freeze_up_to", freeze_up_to), ("slim_after", slim_after)):
        if name is None or (knob, name) == ("freeze_up_to", "all"):
            continue
        try:
            order[knob] = points.index(find_point(points, name))
        except ValueError as error:
            cut = "" if truncate_at is None else f" that truncate_at={truncate_at!r} leaves"
            raise ValueError(f"{knob}={name!r} lies not in the backbone{cut}: {error}") from error
    frozen = len(points) - 1 if freeze_up_to == "all" else order.get("freeze_up_to", -1)
    if slim_after is not None and frozen > order["slim_after"]:
        raise ValueError(
            f"freeze_up_to={freeze_up_to!r} lies above slim_after={slim_after!r}: it would freeze layers with random "
            f"weights; expected {slim_after!r} or a point below it"
        )
