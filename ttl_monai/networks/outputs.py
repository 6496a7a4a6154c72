"""Parts of a traced network: the nodes up to one that is returned, or up to several."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import fx, nn

from ttl_monai.networks.tracing import as_module, mutates, remove_dead_code

# What may return its input, or a view of it, instead of new values.
_VIEWS = {"view", "view_as", "reshape", "flatten", "contiguous", "expand", "permute", "transpose", "squeeze"}
_VIEWS |= {"unsqueeze", "unflatten", "chunk", "split", "narrow", "movedim", "detach", "to", "float", "type_as"}


def front_of(graph_module: fx.GraphModule, last: fx.Node) -> fx.GraphModule:
    """The part up to `last`, which it returns; modules are shared."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        copied[node] = graph.node_copy(node, copied.__getitem__)
        if node is last:
            break
    graph.output(copied[last])
    remove_dead_code(graph, graph_module)
    return as_module(graph, graph_module)


def _passes_on(node: fx.Node, source: nn.Module) -> bool:
    """Whether the value of `node` may share its memory with its input."""
    if node.op == "call_module":
        module = source.get_submodule(str(node.target))
        return isinstance(module, nn.Identity | nn.Flatten | nn.Unflatten) or "drop" in type(module).__name__.lower()
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.target is operator.getitem or name in _VIEWS or "drop" in name


def _is_overwritten(node: fx.Node, source: nn.Module) -> bool:
    """Whether a later node works in place on the value of `node`."""
    shared = {node}
    nodes = list(node.graph.nodes)
    for later in nodes[nodes.index(node) + 1 :]:
        if not shared.intersection(later.all_input_nodes):
            continue
        if mutates(later, source) and shared.intersection(later.args[:1]):
            return True
        if _passes_on(later, source):
            shared.add(later)
    return False


def several_outputs(graph_module: fx.GraphModule, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """A module that returns the values of `outputs` as a list; modules are shared."""
    graph = fx.Graph()
    waiting = set(outputs)
    copied: dict[fx.Node, fx.Node] = {}
    kept: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        copied[node] = graph.node_copy(node, copied.__getitem__)
        if node in waiting:
            waiting.remove(node)
            # `truncate` ends before whatever overwrites the map; here it goes on.
            overwritten = _is_overwritten(node, graph_module)
            kept[node] = graph.call_method("clone", (copied[node],)) if overwritten else copied[node]
        if not waiting:
            break
    graph.output([kept[node] for node in outputs])  # of a tuple, TorchScript could not take the item of a counter
    remove_dead_code(graph, graph_module)
    return as_module(graph, graph_module)
