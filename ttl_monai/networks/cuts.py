"""Where a traced network can be cut: the places at which one feature map carries everything forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ttl_monai.networks.complexity import MacsCounter
from ttl_monai.networks.tracing import BLOCK_LIKE, OUTPUT_OF, count_layers, skeleton

_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_GLOBAL_POOLS = ("mean", "amax", "adaptive_avg_pool", "adaptive_max_pool", "adaptiveavgpool", "adaptivemaxpool")


@dataclass
class Cut:
    """A point before it is named: the node to output, and (module, may it be a block) for each name it can have."""

    node: fx.Node
    names: list[tuple[str, bool]]
    identities: list[str]  # modules that pass it on unchanged
    shape: tuple[int, ...]
    params: int
    macs: int
    has_layers: bool  # a convolution or linear layer lies between the cut before and this one

    def paths(self) -> list[str]:
        """Modules whose output this is, the inner ones first."""
        return [path for path, _ in self.names]


class _Profiler(fx.Interpreter):
    """Runs a graph on the meta device and keeps each node's value, parameters and MACs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.counter = MacsCounter()
        self.values: dict[str, Any] = {}
        self.params: dict[str, int] = {}
        self.macs: dict[str, int] = {}
        self._seen: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        counted = self.counter.total
        value = super().run_node(n)
        owner: Iterable[torch.Tensor] = ()
        if n.op == "call_module":
            owner = self.fetch_attr(str(n.target)).parameters()
        elif n.op == "get_attr" and isinstance(value, nn.Parameter):
            owner = (value,)
        new = {id(parameter): parameter.numel() for parameter in owner if id(parameter) not in self._seen}
        self._seen.update(new)
        self.values[n.name], self.params[n.name] = value, sum(new.values())
        self.macs[n.name] = self.counter.total - counted
        return value


def profile_nodes(graph_module: fx.GraphModule, example_input: torch.Tensor) -> _Profiler:
    """Values (meta tensors), parameters and MACs of every node, by node name, without computing anything."""
    bare = skeleton(graph_module)
    for module in bare.modules():
        if type(module) in _BATCH_NORMS:
            # On the meta device batch norm costs as much as all the rest, only to return the shape that it got.
            module.forward = torch.empty_like
    profiler = _Profiler(bare)  # type: ignore[arg-type]
    with torch.no_grad(), profiler.counter.count_into(bare):
        profiler.run(torch.empty(example_input.shape, dtype=example_input.dtype, device="meta"))
    return profiler


def _carries_data(graph: fx.Graph, values: dict[str, Any]) -> set[fx.Node]:
    """Nodes with tensors that depend on the input; sizes and parameters do not count as carried forward."""
    found: set[fx.Node] = set()
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or reached.intersection(node.all_input_nodes):
            reached.add(node)
            value = values[node.name]
            if isinstance(value, torch.Tensor) or (
                isinstance(value, tuple | list) and any(isinstance(part, torch.Tensor) for part in value)
            ):
                found.add(node)
    return found


def operands_of(node: fx.Node) -> list[fx.Node] | None:
    """What `node` concatenates along the channel axis, None if it is no such concatenation."""
    if node.op != "call_function" or node.target not in _CONCATENATIONS:
        return None
    tensors = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    if dim != 1 or not isinstance(tensors, list | tuple):
        return None
    return [tensor for tensor in tensors if isinstance(tensor, fx.Node)]


def _carrier(live: Sequence[fx.Node]) -> fx.Node | None:
    """The one node that holds what is alive: the lone tensor, or the one concatenation of exactly these tensors."""
    if len(live) == 1:
        return live[0]
    for user in live[-1].users:
        operands = operands_of(user)
        if operands is not None and len(operands) == len(live) and set(operands) == set(live):
            return user
    return None


def _is_global_pool(node: fx.Node, graph_module: fx.GraphModule, shape: tuple[int, ...]) -> bool:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if isinstance(module, nn.AvgPool2d | nn.AvgPool3d) and set(shape[2:]) == {1}:
            return module.stride in (1, (1, 1), (1, 1, 1))
        name = type(module).__name__
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.lower().startswith(_GLOBAL_POOLS)


def _live_sets(graph_module: fx.GraphModule, values: dict[str, Any]) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Each node with the data that is alive after it, in the order of computation."""
    data = _carries_data(graph_module.graph, values)
    last_use = {old: node for node in graph_module.graph.nodes for old in node.all_input_nodes}
    live: list[fx.Node] = []
    for node in graph_module.graph.nodes:
        if node in data and node in last_use:
            live.append(node)
        live = [old for old in live if last_use[old] is not node]
        yield node, list(live)


def find_cuts(graph_module: fx.GraphModule, example_input: torch.Tensor) -> list[Cut]:
    """Every place where one feature map carries everything forward, up to the global pooling.

    Args:
        graph_module: what `trace` returns.
        example_input: (B, C, *spatial).
    """
    profile = profile_nodes(graph_module, example_input)
    cuts: list[Cut] = []
    previous: list[fx.Node] = []
    params = macs = 0
    has_layers = False
    for node, live in _live_sets(graph_module, profile.values):
        params, macs = params + profile.params[node.name], macs + profile.macs[node.name]
        if node.op == "call_module":
            has_layers = has_layers or count_layers(graph_module.get_submodule(str(node.target))) > 0
        carrier = _carrier(live) if live and live != previous else None
        if carrier is None or carrier.op == "placeholder":
            continue
        previous, value = live, profile.values[carrier.name]
        if not isinstance(value, torch.Tensor):
            continue
        shape = tuple(value.shape)
        if _is_global_pool(carrier, graph_module, shape):
            break
        if len(shape) != example_input.dim():
            continue
        meta = live[-1].meta
        names = list(zip(meta.get(OUTPUT_OF, ()), meta.get(BLOCK_LIKE, ()), strict=True))
        passes_on = carrier.op == "call_module" and isinstance(
            graph_module.get_submodule(str(carrier.target)), nn.Identity
        )
        if cuts and cuts[-1].node in (carrier, carrier.args[0] if passes_on else None):
            cuts[-1].names += names[1:] if passes_on else names
            cuts[-1].identities += [path for path, _ in names[:1] if passes_on]
            continue
        cuts.append(Cut(carrier, names, [], shape, params, macs, has_layers))
        has_layers = False
    return cuts
