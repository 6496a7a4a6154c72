"""TransFusion: everything above a point rebuilt with fewer channels and random weights."""

from __future__ import annotations

import copy
import math
import operator
import re
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ttl_monai.networks.points import find_point, list_points
from ttl_monai.networks.surgery import truncate
from ttl_monai.networks.tracing import default_example, skeleton, trace

# The one family fact: a DenseNet transition halves what arrives (its share of kept channels is not slimmed again).
_TRANSITION = re.compile(r"(^|\.)transition\d+(\.|$)")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


def slim_after(
    model: nn.Module, point: str, slim_factor: int = 2, example_input: torch.Tensor | None = None
) -> nn.Module:
    """Keep a network up to a point, rebuild the rest with fewer channels and random weights (TransFusion, TF).

    Source: section 2 of Raghu et al. 2019 (Transfusion, arXiv:1902.07208), the TF family of the paper. Channel counts
    are propagated along the traced graph: every convolution, norm and linear layer after the point gets `1 /
    slim_factor` of its outputs and the inputs that arrive. Depthwise convolutions follow their input, a DenseNet
    transition keeps its ratio, the cardinality of grouped convolutions stays. What is added to, or multiplied with, a
    tensor that is there already takes over its width: after a point inside a stage the residual stream keeps the
    pretrained width up to the end of the stage, and the inner widths shrink, as in the authors' networks.

    Convolutions are initialised by He et al. 2015 with fan_out, as torchvision's ResNet and the authors do (for grouped
    convolutions with the fan_out of one group, as timm does), norm layers with 1 and 0, linear layers as PyTorch does.

    Args:
        model: a backbone, with or without a classifier; not changed.
        point: the last point to keep; its parameters and norm statistics stay bit-equal.
        slim_factor: divides the channels; 1 only re-initialises.
        example_input: (B, C, *spatial); default as for `list_points`.

    Returns:
        The backbone up to its last feature map; all names stay.

    Raises:
        ValueError: if nothing lies above the point, or a layer above it cannot be rebuilt (it is named).

    Example:
        >>> from torchvision.models import resnet50
        >>> sum(p.numel() for p in slim_after(resnet50(), "layer3").parameters()) + 1024 * 2 + 2
        12947522
    """
    return rebuild_after(trace(truncate(model, None, example_input)), point, slim_factor, example_input)[0]


def rebuild_after(
    backbone: fx.GraphModule, point: str, slim_factor: int, example_input: torch.Tensor | None = None
) -> tuple[fx.GraphModule, set[str]]:
    """Do the work of `slim_after` in place on a traced backbone without classifier.

    Returns:
        The backbone, and the names of the layers that were rebuilt.

    Raises:
        ValueError: as `slim_after`.
    """
    if not isinstance(slim_factor, int) or slim_factor < 1:
        raise ValueError(f"slim_factor must be a whole number of at least 1, got {slim_factor!r}")
    example = default_example(backbone) if example_input is None else example_input
    last = find_point(list_points(backbone, example), point).node
    nodes = list(backbone.graph.nodes)
    # In the order of computation; nothing beside the point's tensor is alive there, so all before it is kept.
    end = next(index for index, node in enumerate(nodes) if node.name == last)
    slimmer = _Slimmer(skeleton(backbone), {node.target for node in nodes[: end + 1]}, slim_factor)
    slimmer.run(torch.empty_like(example, device="meta"))
    if not slimmer.rebuilt:
        raise ValueError(
            f"slim_after={point!r} is the end of the backbone: nothing is left to slim; choose a point below"
        )
    device = next(backbone.parameters()).device
    for target, module in slimmer.rebuilt.items():
        module.to_empty(device=device)
        initialise(module)
        module.train(backbone.get_submodule(target).training)
        backbone.set_submodule(target, module)
    return backbone, set(slimmer.rebuilt)


def initialise(module: nn.Module) -> None:
    """Give one layer fresh weights in place (sources: see `slim_after`)."""
    if isinstance(module, _ConvNd):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear | _NormBase | nn.GroupNorm):
        module.reset_parameters()


class _Slimmer(fx.Interpreter):
    """Runs a graph on the meta device; layers that are not kept are rebuilt for the channels that arrive."""

    def __init__(self, module: nn.Module, kept: set[Any], factor: int) -> None:
        super().__init__(module)
        self.extra_traceback = False  # our errors name the layer themselves
        self.kept = kept
        self.factor = factor
        self.rebuilt: dict[str, nn.Module] = {}
        self.position = {node: index for index, node in enumerate(self.graph.nodes)}
        self.node: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        if n.op == "get_attr" and n.target not in self.kept:
            raise ValueError(
                f"slim_after cannot rebuild the raw tensor {n.target!r} above the point (it belongs to no convolution, "
                "norm or linear layer); the ResNet, ResNeXt, DenseNet and EfficientNet families can be slimmed"
            )
        try:
            return super().run_node(n)
        except RuntimeError as error:
            raise ValueError(
                f"slim_after cannot rebuild this network: at {n.target!r} the slimmed shapes do not fit "
                f"({str(error).splitlines()[0]}); choose a point at the end of a stage, or another family"
            ) from error

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if target not in self.kept and any(True for _ in module.parameters()):
            self.rebuilt[target] = module = self._rebuild(target, module, args[0])
        return module(*args, **kwargs)

    def _rebuild(self, target: str, module: nn.Module, x: torch.Tensor) -> nn.Module:
        module = copy.deepcopy(module)
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            depthwise = module.groups == module.in_channels > 1
            outputs = self._width(target, module.in_channels, module.out_channels, x.shape[1], depthwise)
            _resize_conv(target, module, x.shape[1], outputs)
        elif isinstance(module, nn.Linear):
            outputs = self._width(target, module.in_features, module.out_features, x.shape[-1])
            module.in_features, module.out_features = x.shape[-1], outputs
            _resize(module, "weight", outputs, x.shape[-1])
            _resize(module, "bias", outputs)
        elif isinstance(module, _NormBase):
            module.num_features = x.shape[1]
            for name in ("weight", "bias", "running_mean", "running_var"):
                _resize(module, name, module.num_features)
        else:
            raise ValueError(
                f"slim_after cannot rebuild {target!r}, a {type(module).__name__}: expected a convolution, a batch or "
                "instance norm or a linear layer above the point; the ResNet, ResNeXt, DenseNet and EfficientNet "
                "families can be slimmed"
            )
        return module

    def _width(self, target: str, inputs: int, outputs: int, arriving: int, follows: bool = False) -> int:
        """New output channels of a layer that had `inputs` and `outputs`."""
        if follows or _TRANSITION.search(target):
            return arriving * outputs // inputs
        partner = self._partner()
        return max(1, outputs // self.factor) if partner is None else partner.shape[1]

    def _partner(self) -> torch.Tensor | None:
        """The tensor, there already, that this node's result is going to be added to or multiplied with."""
        node = self.node
        while node is not None and node.users:
            # Its other users compute a gate of it (squeeze and excitation, SiLU), which the last one applies.
            user = max(node.users, key=self.position.__getitem__)
            if user.op == "output" or isinstance(self._layer(user), _ConvNd | nn.Linear):
                return None
            if user.target in (*_SUMS, *_PRODUCTS):
                others = [other for other in user.all_input_nodes if other is not node]
                partner = self.env.get(others[0]) if others else None
                if isinstance(partner, torch.Tensor):
                    return partner
                if others and user.target in _SUMS:
                    return None
            elif user.args[:1] != (node,):  # a concatenation, which any width suits
                return None
            node = user
        return None

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.fetch_attr(str(node.target)) if node.op == "call_module" else None


def _resize_conv(target: str, conv: _ConvNd, inputs: int, outputs: int) -> None:
    """Change the channels of a convolution on the meta device; a depthwise one stays depthwise."""
    if conv.groups == conv.in_channels:
        conv.groups = inputs
    if inputs % conv.groups or outputs % conv.groups:
        raise ValueError(
            f"slim_after cannot rebuild {target!r}: {inputs} input and {outputs} output channels do not divide by its "
            f"{conv.groups} groups; choose a smaller slim_factor"
        )
    conv.in_channels, conv.out_channels = inputs, outputs
    _resize(conv, "weight", outputs, inputs // conv.groups, *conv.kernel_size)
    _resize(conv, "bias", outputs)


def _resize(module: nn.Module, name: str, *shape: int) -> None:
    """Give a parameter or buffer (if the module has it) a new shape, on the meta device."""
    tensor = getattr(module, name)
    if tensor is not None:
        resized = tensor.new_empty(shape)
        setattr(module, name, nn.Parameter(resized) if isinstance(tensor, nn.Parameter) else resized)
