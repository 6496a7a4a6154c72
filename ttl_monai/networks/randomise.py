"""Weights drawn anew from the head down: a map of saliency that does not change with them says nothing of the model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from ttl_monai.networks.classifier import TransferClassifier
from ttl_monai.networks.features import WHOLE, evaluation_mode, points_of

__all__ = ["randomise_down"]


def randomise_down(
    network: TransferClassifier, images: torch.Tensor, *, seed: int = 0
) -> Iterator[tuple[str, TransferClassifier]]:
    """Draw the weights of a classifier anew, first those of the head, then stage by stage down to the input.

    Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (https://arxiv.org/abs/1810.03292), cascading
    randomisation.

    Note:
        Batch norms take new statistics from `images` at each step. With those of the trained weights, or with 0 and 1,
        the signal would grow or vanish layer by layer, and with it the map.

    Args:
        network: is left as it is; a copy is changed.
        images: (B, C, ...) in [0, 1].
        seed: of the draw.

    Yields:
        Name of what was drawn last ("head", "whole" for what follows the last stage, then the stages), and the network
        in evaluation mode. It is the same one each time: use it before going on.

    Raises:
        ValueError: a layer with weights does not know how to draw them.
    """
    changed = copy.deepcopy(network)
    steps: list[tuple[str, list[nn.Module]]] = [("head", [changed.head]), *_stages_down(changed)]
    for name, layers in steps:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in layers:
                _draw(layer)
        _take_statistics(changed, images)
        yield name, changed.eval()


def _stages_down(network: TransferClassifier) -> list[tuple[str, list[nn.Module]]]:
    """Layers of the backbone by stage, the last stage first."""
    ends = {point.node: point.name for point in points_of(network) if point.level == "stage"}
    stages: list[tuple[str, list[nn.Module]]] = []
    layers: list[nn.Module] = []
    nodes: Iterable[fx.Node] = cast("fx.GraphModule", network.backbone).graph.nodes
    for node in nodes:
        if node.op == "call_module":
            layers.append(network.backbone.get_submodule(str(node.target)))
        if node.name in ends:
            stages.append((ends[node.name], layers))
            layers = []
    if any(True for layer in layers for _ in layer.parameters()):
        stages.append((WHOLE, layers))
    return stages[::-1]


def _draw(module: nn.Module) -> None:
    for part in module.modules():
        if callable(draw := getattr(part, "reset_parameters", None)):
            draw()
        elif next(part.parameters(recurse=False), None) is not None:
            raise ValueError(f"{type(part).__name__} has weights but no reset_parameters to draw them anew")


def _take_statistics(network: nn.Module, images: torch.Tensor) -> None:
    norms = [part for part in network.modules() if isinstance(part, _NormBase) and part.track_running_stats]
    with evaluation_mode(network):
        for norm in norms:
            norm.training, norm.momentum = True, 1.0
        network(images)
