"""The traced graph of a network: what points, surgery and slimming work on."""

from __future__ import annotations

import copy
import inspect
import operator
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

# Keys of `node.meta` that the tracer writes: the modules whose output the node is (inner first), and for each of them
# whether it may be a block (several convolutions or linear layers in a module that is no `Sequential` or the like).
OUTPUT_OF = "ttl_output_of"
BLOCK_LIKE = "ttl_block_like"
# Key of `GraphModule.meta`: the graph carries these marks, so that it needs no second trace (which would lose them).
_TRACED = "ttl_traced"

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_DROPOUTS: dict[Callable[..., Any], type[nn.Module]] = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
    nn.functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def count_layers(module: nn.Module) -> int:
    """Number of convolutions and linear layers in `module`, itself included."""
    weighted = (nn.modules.conv._ConvNd, nn.Linear)
    return sum(isinstance(part, weighted) for part in module.modules())


def _is_block_like(module: nn.Module) -> bool:
    return not isinstance(module, _CONTAINERS) and count_layers(module) > 1


def _is_layer(module: nn.Module) -> bool:
    """Whether `module` is a layer of torch.nn or of a class derived from one (as timm's norms are)."""
    bases = (nn.Module, *_CONTAINERS)
    return any(cls.__module__.startswith("torch.nn.") and cls not in bases for cls in type(module).__mro__)


class _Tracer(fx.Tracer):
    """Marks module outputs; a module that cannot be traced (control flow on its input) becomes a leaf."""

    # Without this, a norm layer written in Python would count its batches up in the buffer of the traced model.
    proxy_buffer_attributes = True

    def __init__(self, leaves: set[str]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or _is_layer(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        nodes_before, stack_before = len(self.graph.nodes), self.module_stack.copy()
        try:
            result = super().call_module(m, forward, args, kwargs)
        except (TraceError, TypeError, RuntimeError):
            for node in reversed(list(self.graph.nodes)[nodes_before:]):
                self.graph.erase_node(node)
            self.module_stack = stack_before
            self.leaves.add(path)
            result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            meta = result.node.meta
            meta[OUTPUT_OF] = (*meta.get(OUTPUT_OF, ()), path)
            meta[BLOCK_LIKE] = (*meta.get(BLOCK_LIKE, ()), _is_block_like(m))
        return result


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device, in evaluation mode and without hooks: shapes and code, no weights."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copied.eval()


def _trace_once(model: nn.Module, leaves: set[str]) -> fx.Graph:
    parameters = list(inspect.signature(type(model).forward).parameters.values())[2:]  # after self and the image
    options = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    return _Tracer(leaves).trace(model, options or None)


def _owner(node: fx.Node) -> str:
    """Path of the module whose forward wrote `node`."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module":
        stack = stack[:-1]
    return stack[-1] if stack else ""


def _code_by_owner(graph: fx.Graph) -> dict[str, list[str]]:
    """What each module's forward does, without names of nodes and without the switch of functional dropout."""
    code = defaultdict(list)
    for node in graph.nodes:
        switch = "training" if node.target in _DROPOUTS else None
        kwargs = {key: value for key, value in node.kwargs.items() if key != switch}
        literals = fx.node.map_arg((node.args, kwargs), lambda _: "node")
        code[_owner(node)].append(f"{node.op} {node.target} {literals}")
    return code


def _trace_both_modes(model: nn.Module) -> tuple[fx.Graph, fx.Graph]:
    """Graphs in training and evaluation mode that agree, because every module that reads its mode is a leaf."""
    leaves: set[str] = set()
    while True:
        known = len(leaves)
        graphs = [_trace_once(model.train(mode), leaves) for mode in (True, False)]
        if len(leaves) > known:
            continue
        training, evaluation = (_code_by_owner(graph) for graph in graphs)
        differing = {owner for owner in training.keys() | evaluation.keys() if training[owner] != evaluation[owner]}
        if "" in differing:
            raise ValueError(
                f"expected a network whose own forward is the same in training and in evaluation mode, but that of "
                f"{type(model).__name__} is not: build it without auxiliary outputs (aux_logits=False), or move the "
                "part that depends on the mode into a module"
            )
        if not differing:
            return graphs[0], graphs[1]
        leaves |= differing


def _dropout_modules(training: fx.Graph, evaluation: fx.Graph) -> dict[str, nn.Module]:
    """Turn functional dropout that follows the mode into modules, in place in the evaluation graph."""
    added: dict[str, nn.Module] = {}
    for in_training, node in zip(list(training.nodes), list(evaluation.nodes), strict=True):
        if node.target in _DROPOUTS and in_training.kwargs["training"] != node.kwargs["training"]:
            target = f"functional_{node.name}"
            added[target] = _DROPOUTS[node.target](node.kwargs["p"], node.kwargs["inplace"])
            node.op, node.target, node.kwargs = "call_module", target, {}
    return added


def trace(model: nn.Module) -> fx.GraphModule:
    """The network as a graph of its leaf modules.

    The result shares modules and parameters with `model`, under the same names, and does what `model` does in
    training as in evaluation mode: modules that read `self.training` (drop path, fused norms) are leaves, functional
    dropout becomes a module, and what cannot be traced (padding computed from the input size) is a leaf, too. Each
    node knows the modules whose output it is: `node.meta[OUTPUT_OF]`. `model` itself is not run and not changed.

    Raises:
        ValueError: the network's own forward depends on the mode, or cannot be traced.
    """
    if isinstance(model, fx.GraphModule) and model.meta.get(_TRACED):
        return model
    bare = skeleton(model)
    try:
        training, graph = _trace_both_modes(bare)
    except (TraceError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"expected a network that torch.fx can trace, but the forward of {type(model).__name__} is not: {error}. "
            "Move its control flow into a submodule, which is then kept whole"
        ) from error
    added = _dropout_modules(training, graph)
    for name, module in added.items():
        bare.add_module(name, module)
    remove_dead_code(graph, bare)
    for node in graph.nodes:
        # TorchScript cannot resolve the annotations that tracing copies (`Unknown type name '_torch_Tensor_'`).
        node.type = None
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if any(node.users for node in inputs[1:]):
        raise ValueError(f"expected a network with one input, but {type(model).__name__} uses {len(inputs)}")
    for node in inputs[1:]:
        graph.erase_node(node)
    return as_module(graph, model, added)


def mutates(node: fx.Node, source: nn.Module) -> bool:
    """Whether `node` works in place on its input; its modules are those of `source`."""
    if node.op == "call_module":
        return bool(getattr(source.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    name = getattr(node.target, "__name__", "")
    return bool(node.kwargs.get("inplace")) or (name.startswith("i") and hasattr(operator, f"__{name}__"))


def remove_dead_code(graph: fx.Graph, source: nn.Module) -> None:
    """Remove the nodes that nothing uses, but keep those that change their input for a later reader."""
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or mutates(node, source))


def as_module(graph: fx.Graph, source: nn.Module, added: dict[str, nn.Module] | None = None) -> fx.GraphModule:
    """A module that runs `graph` on the modules of `source` (shared, under the same names; no other module is kept).

    Args:
        graph: a graph whose targets are names in `source` or `added`.
        source: where modules, parameters, buffers and training flags come from.
        added: modules that `source` does not have.
    """
    targets: dict[str, Any] = dict(added or {})
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target not in targets:
            parent, _, name = node.target.rpartition(".")
            targets[node.target] = getattr(source.get_submodule(parent), name)
    result = fx.GraphModule(targets, graph, class_name=type(source).__name__)
    result.meta[_TRACED] = True
    flags = {path: module.training for path, module in source.named_modules()}
    for path, module in result.named_modules():
        module.training = flags.get(path, source.training)
    return result


def default_example(model: nn.Module) -> torch.Tensor:
    """Zeros of (1, C, 224, 224) or (1, C, 64, 64, 64), as the first convolution asks.

    Raises:
        ValueError: there is no 2D or 3D convolution.
    """
    # A graph may hold its modules in another order than it runs them.
    run = (
        (node.target for node in model.graph.nodes if node.op == "call_module")
        if isinstance(model, fx.GraphModule)
        else ("",)
    )
    for module in (part for name in run for part in model.get_submodule(name).modules()):
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            size = (224, 224) if isinstance(module, nn.Conv2d) else (64, 64, 64)
            return torch.zeros(1, module.in_channels, *size, dtype=module.weight.dtype)
    raise ValueError(f"expected a network with 2D or 3D convolutions, but {type(model).__name__} has none")
