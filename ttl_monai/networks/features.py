"""Feature maps at several truncation points from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import fx, nn

from ttl_monai.networks.classifier import TransferClassifier
from ttl_monai.networks.cuts import find_cuts
from ttl_monai.networks.outputs import several_outputs
from ttl_monai.networks.points import Level, Point, find_point, list_points, name_points
from ttl_monai.networks.segmenter import TransferUNet
from ttl_monai.networks.tracing import default_example, trace
from ttl_monai.networks.transfer import ImageInput

WHOLE = "whole"  # how the end of the whole network, the point None, is written in files


def backbone_of(network: nn.Module) -> nn.Module:
    """The pretrained part of a classifier or a U-Net, which is what can be cut; any other network is all of it."""
    return network.backbone if isinstance(network, TransferClassifier | TransferUNet) else network


class PointFeatures(nn.Module):
    """The feature maps of a network at truncation points, all from one forward pass.

    At each point it returns what `truncate(backbone, point)` returns, concatenations of dense networks included. The
    modules are those of the network, not copies: what trains there is seen here, training flags and hooks too. What
    lies above the last point is not computed.

    Args:
        network: a network that `list_points` accepts. Of a `TransferClassifier` or `TransferUNet` the backbone is
            taken, with the normalisation before it, so that it takes the same images.
        points: names that `find_point` accepts; None is the last feature map.
        example_input: as for `list_points`.

    Attributes:
        points: the points as they were given, the keys of the result.
        channels: of the map at each point.

    Raises:
        ValueError: no points, or none of such a name.
        TypeError: a point is no name.

    Example:
        >>> from torchvision.models import resnet18
        >>> features = PointFeatures(resnet18(), ["layer1", "layer2", None])(torch.zeros(1, 3, 64, 64))
        >>> {point: tuple(value.shape) for point, value in features.items()}
        {'layer1': (1, 64, 16, 16), 'layer2': (1, 128, 8, 8), None: (1, 512, 2, 2)}
    """

    def __init__(
        self, network: nn.Module, points: Sequence[str | None], example_input: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        if isinstance(points, str) or not points:
            raise ValueError(f"expected a list of at least one truncation point, got {points!r}")
        backbone = backbone_of(network)
        graph_module = trace(backbone)
        example = default_example(backbone) if example_input is None else example_input
        nodes, channels = _find_nodes(graph_module, points, example)
        self.points = tuple(points)
        self.channels = dict(zip(points, channels, strict=True))
        self.body = several_outputs(graph_module, nodes)
        # In a list, so that the whole network does not become a part of this module.
        self._front = [network] if isinstance(network, ImageInput) else []

    def forward(self, image: torch.Tensor) -> dict[str | None, torch.Tensor]:
        """Images (B, C, *spatial) -> {point: (B, channels, *spatial')}, in the order of `points`."""
        for network in self._front:
            image = network.normalise(image)
        return dict(zip(self.points, self.body(image), strict=True))


def _find_nodes(
    graph_module: fx.GraphModule, points: Sequence[str | None], example_input: torch.Tensor
) -> tuple[list[fx.Node], list[int]]:
    """The node to output at each point, and its number of channels."""
    cuts = find_cuts(graph_module, example_input)
    if not cuts:
        raise ValueError(f"expected a network with truncation points, but {type(graph_module).__name__} has none")
    last = (cuts[-1].node.name, cuts[-1].shape[1])
    named = name_points(cuts, example_input)
    found = []
    for name in points:
        point = None if name is None else find_point(named, name)
        found.append(last if point is None else (point.node, point.channels))
    by_name = {node.name: node for node in graph_module.graph.nodes}
    return [by_name[name] for name, _ in found], [channels for _, channels in found]


def choose_points(network: nn.Module, points: str | Sequence[str]) -> list[tuple[str | None, Level]]:
    """Points of a network to look at, in the order of depth, each with its level.

    Args:
        network: a network that `list_points` accepts, or a `TransferClassifier` or `TransferUNet`, whose backbone is
            meant.
        points: "stage" (ends of stages), "block" (ends of stages and blocks) or names. Levels end with the last feature
            map, None, of level "stage"; a network without stages or blocks shows every point.

    Returns:
        (name, level) of each.

    Raises:
        ValueError: no such point or level, or a network without points.
        TypeError: a point is no name.
    """
    every = points_of(network)
    if not isinstance(points, str):
        names = {find_point(every, name).name for name in points}
        if not names:
            raise ValueError("expected 'stage', 'block' or the names of truncation points, got none")
        return [(each.name, each.level) for each in every if each.name in names]
    levels = {"stage": ("stage",), "block": ("stage", "block")}
    if points not in levels:
        raise ValueError(f"expected points to be 'stage', 'block' or a list of names, got {points!r}")
    chosen: list[tuple[str | None, Level]] = [
        (each.name, each.level)
        for each in every
        # With nothing to learn above it, the last point is the end of the network, which stands for it.
        if each.params < every[-1].params and each.level in levels[points]
    ]
    if not chosen:
        chosen = [(each.name, each.level) for each in every if each.params < every[-1].params]
    return [*chosen, (None, "stage")]


def points_of(network: nn.Module) -> list[Point]:
    """`list_points` of a network, or of the backbone of a classifier or U-Net.

    Raises:
        ValueError: there are none.
    """
    points = list_points(backbone_of(network))
    if not points:
        raise ValueError(f"expected a network with truncation points, but {type(network).__name__} has none")
    return points


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module has the training flag that it had, also on error."""
    flags = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for module, _ in flags:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
