"""Inflation: a 2D network and its weights as a 3D network, after I3D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from ttl_monai.networks.cuts import profile_nodes
from ttl_monai.networks.layers3d import SamePad3d, deepen, has_3d_form, has_stride
from ttl_monai.networks.surgery import truncate
from ttl_monai.networks.tracing import default_example, skeleton

_MEANS = ("mean", "amax", torch.mean, torch.amax)
_AXES = {(2, 3): (2, 3, 4), (-2, -1): (-3, -2, -1), (-1, -2): (-3, -2, -1)}


def inflate(model: nn.Module, keep_depth: int = 1, example_input: torch.Tensor | None = None) -> fx.GraphModule:
    """The 3D form of a 2D backbone, with its weights inflated and the names of its layers kept.

    Source: Carreira and Zisserman 2017 (I3D, arXiv:1705.07750), section 2.4. Kernels, paddings and dilations of the
    rows become those of the depth, too; kernels are repeated and divided (`inflate_kernel`). So a volume of one
    repeated slice gives the 2D activations wherever the padding of the depth does not reach.

    The first reductions of the resolution can leave the depth alone, as in I3D and in ResNeXt-3D, because slices are
    few and thick; pooling, and convolutions of an even size, have an extent of 1 there. With the default, an inflated
    ResNeXt-101 has the shapes of `ResNeXt3D`.

    Args:
        model: a 2D network that `list_points` accepts; not changed.
        keep_depth: how many reductions of the resolution, from the input on, keep the depth.
        example_input: (B, C, H, W); default as for `list_points`.

    Returns:
        The backbone up to its last feature map, (B, C, D, H, W) -> (B, C', D', H', W').

    Raises:
        ValueError: the network is not 2D, or holds something without a known 3D form (it is named).

    Example:
        >>> from torchvision.models import resnet18
        >>> inflate(resnet18())(torch.zeros(1, 3, 16, 32, 32)).shape
        torch.Size([1, 512, 1, 1, 1])
    """
    if not isinstance(keep_depth, int) or keep_depth < 0:
        raise ValueError(f"keep_depth must be a whole number of at least 0, got {keep_depth!r}")
    example = default_example(model) if example_input is None else example_input
    if example.dim() != 4:
        raise ValueError(
            f"expected a 2D network to inflate, but {type(model).__name__} takes {example.dim() - 2}D images"
        )
    network: Any = truncate(model, None, example)  # a copy, changed in place from here on
    flat = profile_nodes(network, example).values
    keeping = _layers_that_keep_depth(network, flat, keep_depth)
    deep: dict[str, nn.Module] = {}
    for node in list(network.graph.nodes):
        if node.op == "call_module":
            layer = network.get_submodule(node.target)
            if has_3d_form(layer):
                deep[node.target] = deepen(layer, node.target in keeping)
                network.set_submodule(node.target, deep[node.target])
            if node.target in deep:
                _call_children(network.graph, node, deep[node.target])
        elif node.target in _MEANS:
            _deepen_axes(node)
    network.recompile()
    volume = torch.empty(*example.shape[:2], example.shape[2], *example.shape[2:], dtype=example.dtype, device="meta")
    _Check(skeleton(network), flat).run(volume)
    return network


def _layers_that_keep_depth(network: fx.GraphModule, flat: Mapping[str, Any], keep_depth: int) -> set[str]:
    """Layers with a stride at the first `keep_depth` resolutions that are reduced (parallel branches share one)."""
    sizes: list[torch.Size] = []
    targets = set()
    for node in network.graph.nodes:
        layer = network.get_submodule(node.target) if node.op == "call_module" else None
        if has_stride(layer):
            size = flat[node.args[0].name].shape[2:]
            if size not in sizes:
                sizes.append(size)
            if sizes.index(size) < keep_depth:
                targets.add(node.target)
    return targets


def _call_children(graph: fx.Graph, node: fx.Node, layer: nn.Module) -> None:
    """Call SAME padding before its layer, and the dropout and activation of a fused norm after it."""
    last = node
    for name, child in layer.named_children():
        target = f"{node.target}.{name}"
        if isinstance(child, SamePad3d):
            with graph.inserting_before(node):
                node.args = (graph.call_module(target, node.args[:1]), *node.args[1:])
        elif not isinstance(child, nn.Identity):
            with graph.inserting_after(last):
                after = graph.call_module(target, (last,))
            last.replace_all_uses_with(after)
            after.args = (last,)  # which was replaced as well
            after.meta, last.meta = last.meta, {}  # the marks of the module's output
            last = after


def _deepen_axes(node: fx.Node) -> None:
    """Let a mean over rows and columns (squeeze and excitation) go over the depth, too."""
    given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    axes = _AXES.get(tuple(given)) if isinstance(given, list | tuple) else None
    if axes and "dim" in node.kwargs:
        node.kwargs = {**node.kwargs, "dim": axes}
    elif axes:
        node.args = (node.args[0], axes, *node.args[2:])


class _Check(fx.Interpreter):
    """Runs the 3D network on the meta device beside the shapes of the 2D one, and refuses what differs."""

    def __init__(self, module: nn.Module, flat: Mapping[str, Any]) -> None:
        super().__init__(module)
        self.extra_traceback = False  # our errors name the layer themselves
        self.flat = flat

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise self._refusal(n, str(error).splitlines()[0]) from error
        if n.op == "get_attr" and value.dim() > 2:
            raise self._refusal(n, "a raw tensor with axes of its own")
        flat = self.flat.get(n.name)
        if isinstance(flat, torch.Tensor):
            is_map = flat.dim() == 4
            shape = (*value.shape[:2], *value.shape[3:]) if is_map else value.shape
            if value.dim() != flat.dim() + is_map or shape != flat.shape:
                raise self._refusal(n, f"it makes {tuple(value.shape)} of what was {tuple(flat.shape)}")
        return value

    def _refusal(self, node: fx.Node, reason: str) -> ValueError:
        kind = f", a {type(self.fetch_attr(str(node.target))).__name__}" if node.op == "call_module" else ""
        return ValueError(
            f"inflate knows no 3D form of {str(node.target)!r}{kind}: {reason}. Expected convolutions, norms, pooling "
            "and what works on each value; the ResNet, ResNeXt, DenseNet and EfficientNet families can be inflated"
        )
