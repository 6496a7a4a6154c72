"""Cut, freeze and split any backbone at a truncation point."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator

import torch
from torch import fx, nn

from ttl_monai.networks.cuts import find_cuts, operands_of, profile_nodes
from ttl_monai.networks.outputs import front_of
from ttl_monai.networks.points import find_point, name_points
from ttl_monai.networks.tracing import as_module, default_example, mutates, remove_dead_code, trace


def _find_node(graph_module: fx.GraphModule, point: str | None, example_input: torch.Tensor) -> fx.Node:
    """The node to output at `point`; None is the last feature map, whether a module's output or not."""
    cuts = find_cuts(graph_module, example_input)
    if not cuts:
        raise ValueError(
            f"expected a network with truncation points, but {type(graph_module).__name__} has none: no single "
            "feature map carries everything forward"
        )
    if point is None:
        return cuts[-1].node
    name = find_point(name_points(cuts, example_input), point).node
    return next(node for node in graph_module.graph.nodes if node.name == name)


def truncate(model: nn.Module, point: str | None = None, example_input: torch.Tensor | None = None) -> nn.Module:
    """The network up to a truncation point, as a new module that returns the feature map there.

    Source: truncated transfer learning (TTL), the paper's section 2. What lies above the point is gone: no
    parameters, no state, no computation. Weights, buffers and training flags of the rest are copies under their old
    names, so the state dict is a subset of the model's. `model` is left as it was found.

    Args:
        model: a network that `list_points` accepts, also one that was truncated or frozen before.
        point: a name that `find_point` accepts; None keeps everything up to the last feature map, that is, removes
            the global pooling and the classifier.
        example_input: as for `list_points`.

    Returns:
        A graph module, (B, C, *spatial) -> (B, channels, *spatial).

    Raises:
        ValueError: no such point.
        TypeError: `point` is no name.

    Example:
        >>> from torchvision.models import resnet18
        >>> truncate(resnet18(), "layer2")(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 128, 8, 8])
    """
    graph_module = trace(model)
    example_input = default_example(model) if example_input is None else example_input
    return copy.deepcopy(front_of(graph_module, _find_node(graph_module, point, example_input)))


def _stay_in_eval(mode: bool = True) -> None:
    """Takes the place of a frozen module's `train`.

    A plain function in the instance, because that survives deepcopy, pickle, TorchScript and export, which a bound
    method or a made-up subclass do not all.
    """


def _frozen_modules(model: nn.Module, last: fx.Node) -> Iterator[nn.Module]:
    """Modules of `model` that are used up to `last`, with the containers that hold nothing else."""
    nodes = list(last.graph.nodes)
    position = nodes.index(last)
    calls = [(index, str(node.target)) for index, node in enumerate(nodes) if node.op in ("call_module", "get_attr")]
    frozen = {target for index, target in calls if index <= position}
    free = {target for index, target in calls if index > position} - frozen
    for path, module in model.named_modules():
        inside = any(f"{path}.".startswith(f"{target}.") for target in frozen)
        around = any(target.startswith(f"{path}.") for target in frozen)
        if path and (inside or (around and not any(target.startswith(f"{path}.") for target in free))):
            yield module


def freeze_up_to(model: nn.Module, point: str, example_input: torch.Tensor | None = None) -> nn.Module:
    """Freeze the network up to a truncation point, in place.

    Source: layer-wise fine-tuning (LWFT) and, with `"all"`, head-only transfer learning (HTL), the paper's section 2.
    Frozen means: no gradients; the modules are in evaluation mode (norm statistics fixed, no dropout, no drop path)
    and `train()` does not bring them back. State dict, deepcopy, TorchScript and export work as before.

    Note:
        The authors' code lets the norm statistics of frozen parts move on. A TorchScript copy has its own `train()`,
        which undoes evaluation mode: script networks for inference.

    Args:
        model: a network that `list_points` accepts, also a truncated one.
        point: the last point to freeze, a name that `find_point` accepts, or `"all"` for every parameter of `model`.
        example_input: as for `list_points`.

    Returns:
        The same `model`.

    Raises:
        ValueError: no such point.
        TypeError: `point` is no name.
    """
    if point == "all":
        parts = [module for module in model.modules() if module is not model]
        parameters = list(model.parameters())
    else:
        graph_module = trace(model)
        example_input = default_example(model) if example_input is None else example_input
        last = _find_node(graph_module, point, example_input)
        parts = list(_frozen_modules(model, last))
        parameters = list(front_of(graph_module, last).parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    for part in parts:
        part.eval()
        for module in part.modules():
            module.train = _stay_in_eval  # type: ignore[method-assign, assignment]
    return model


def _needed_above(first: fx.Node, given: set[fx.Node]) -> set[fx.Node]:
    """Nodes to compute after `first` when the nodes `given` are known."""
    nodes = list(first.graph.nodes)
    waiting = nodes[nodes.index(first) + 1 :]
    needed = set(waiting)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node in given or node in needed:
                continue
            if node.op == "placeholder":
                raise ValueError(
                    f"expected that one feature map carries everything forward at {first.name!r}, but what lies above "
                    "also reads the input of the network (such as its size)"
                )
            needed.add(node)
            waiting.append(node)
    return needed


def _rest(graph_module: fx.GraphModule, first: fx.Node, example_input: torch.Tensor) -> fx.GraphModule:
    """The part above `first`, as a function of its value; modules are shared."""
    graph = fx.Graph()
    features = graph.placeholder("features")
    operands = operands_of(first) or []
    copied: dict[fx.Node, fx.Node] = {first: features}
    if operands:
        values = profile_nodes(graph_module, example_input).values
        parts = graph.call_function(torch.split, (features, [values[part.name].shape[1] for part in operands], 1))
        copied |= {part: graph.call_function(operator.getitem, (parts, i)) for i, part in enumerate(operands)}
    needed = _needed_above(first, set(copied))
    given = set(copied)
    for node in graph_module.graph.nodes:
        if node in needed:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    if any(mutates(node, graph_module) and given.intersection(node.args[:1]) for node in needed):
        with graph.inserting_after(features):
            own = graph.call_method("clone")
        features.replace_all_uses_with(own)
        own.args = (features,)
    remove_dead_code(graph, graph_module)
    return as_module(graph, graph_module)


def split_at(
    backbone: nn.Module, point: str, example_input: torch.Tensor | None = None
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The part up to a truncation point and the part above it: `rest(front(x))` is `backbone(x)`, bit for bit.

    Both share their modules and parameters with `backbone`, so that features of a frozen part can be computed once
    while the rest trains.

    Args:
        backbone: a network that `list_points` accepts.
        point: a name that `find_point` accepts.
        example_input: as for `list_points`.

    Returns:
        (front, rest); `rest` does not change the features that it gets.

    Raises:
        ValueError: no such point, or the part above reads more than the feature map.
        TypeError: `point` is no name.
    """
    graph_module = trace(backbone)
    example_input = default_example(backbone) if example_input is None else example_input
    node = _find_node(graph_module, point, example_input)
    return front_of(graph_module, node), _rest(graph_module, node, example_input)
