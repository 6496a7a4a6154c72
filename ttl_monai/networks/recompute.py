"""Blocks that are computed again in the backward pass: a training needs less memory and more time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ttl_monai.networks.points import list_points
from ttl_monai.networks.tracing import mutates

# Key of `node.meta`: a segment ends here. A mark in the graph survives copying, and changed modules need no new one.
_SEGMENT_END = "ttl_segment_end"


def mark_segments(backbone: fx.GraphModule) -> None:
    """Mark in place where the stem, the blocks and the stages of a traced backbone end, for `forward_in_segments`.

    Raises:
        ValueError: there are no blocks.
    """
    nodes = list(backbone.graph.nodes)
    ends = {point.node for point in list_points(backbone) if point.level != "layer"}
    for index, node in enumerate(nodes):
        # What lies above may read that one value alone, or it would be computed from values that are gone.
        before = set(nodes[:index])
        if node.name in ends and not any(before.intersection(above.all_input_nodes) for above in nodes[index + 1 :]):
            node.meta[_SEGMENT_END] = True
    if not any(_SEGMENT_END in node.meta for node in nodes):
        raise ValueError(
            "use_checkpoint needs a backbone with blocks, as `list_points` finds them; this one has none: leave it off"
        )


def forward_in_segments(backbone: fx.GraphModule, image: torch.Tensor) -> torch.Tensor:
    """`backbone(image)`, whose backward pass computes each marked segment again instead of keeping its activations.

    Source: Chen et al. 2016 (arXiv:1604.06174), by `torch.utils.checkpoint`. Gradients, norm statistics and random
    numbers are those of the plain forward pass.

    Args:
        backbone: a graph that `mark_segments` marked.
        image: (B, C, *spatial).
    """
    entry, *nodes, output = backbone.graph.nodes
    segment: list[fx.Node] = []
    x = image
    for node in nodes:
        segment.append(node)
        if _SEGMENT_END in node.meta or node is nodes[-1]:
            end = output.args[0] if node is nodes[-1] else node
            x = checkpoint(
                partial(_run, backbone, entry, segment, end),
                x,
                use_reentrant=False,
                context_fn=partial(_contexts, backbone),
            )
            entry, segment = end, []
    return x


def _run(
    backbone: fx.GraphModule, entry: fx.Node, segment: Sequence[fx.Node], end: fx.Node, x: torch.Tensor
) -> torch.Tensor:
    """The value of `end`, computed by the nodes of `segment` from `x`, the value of `entry`."""
    if any(mutates(node, backbone) and node.args[:1] == (entry,) for node in segment):
        x = x.clone()  # it is needed again
    interpreter = fx.Interpreter(backbone)
    interpreter.env = {entry: x}
    for node in segment:
        interpreter.env[node] = interpreter.run_node(node)
        for old in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[old]
    return interpreter.env[end]


def _contexts(backbone: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _StatisticsStay(backbone)


class _StatisticsStay:
    """While it is entered, batch norms leave their running statistics alone and are in all else as ever."""

    def __init__(self, backbone: nn.Module) -> None:
        self.norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
        self.before: list[tuple[float | None, torch.Tensor | None]] = []

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
