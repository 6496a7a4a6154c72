"""Parameters, multiply-accumulates (MACs) and latency of a network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.ops import FrozenBatchNorm2d

Convention = Literal["paper", "plain"]

# timm's norm layers that are fused with an activation are subclasses of these; their activation is a child of its own.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, FrozenBatchNorm2d)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.ELU)
_POOLS = tuple(
    getattr(nn, f"{kind}Pool{dims}d") for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for dims in (1, 2, 3)
)


def _weighted_macs(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[int, int] | None:
    """Products and biases of a convolution or a linear layer, None for any other module."""
    if isinstance(module, _ConvTransposeNd):
        products = x.numel() * module.weight[0].numel()
    elif isinstance(module, _ConvNd):
        products = y.numel() * module.weight[0].numel()
    elif isinstance(module, nn.Linear):
        products = y.numel() * module.in_features
    else:
        return None
    return products, 0 if module.bias is None else y.numel()


def _module_macs(module: nn.Module, x: torch.Tensor, y: torch.Tensor, convention: Convention) -> int:
    """MACs of one call of one module, without those of its children."""
    weighted = _weighted_macs(module, x, y)
    if convention == "plain":
        return weighted[0] if weighted else 0
    if weighted:
        return sum(weighted)
    if isinstance(module, _NORMS):
        return 2 * x.numel()
    if isinstance(module, (*_ACTIVATIONS, *_POOLS)):
        return x.numel()
    return 0


class MacsCounter:
    """Adds up the MACs of every module call while it is attached to a network by `count_into`."""

    def __init__(self, convention: Convention = "paper") -> None:
        if convention not in ("paper", "plain"):
            raise ValueError(f"convention must be 'paper' or 'plain', got {convention!r}")
        self.convention = convention
        self.total = 0

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        if inputs and isinstance(inputs[0], torch.Tensor) and isinstance(output, torch.Tensor):
            self.total += _module_macs(module, inputs[0], output, self.convention)

    @contextmanager
    def count_into(self, model: nn.Module) -> Iterator[None]:
        """Watch `model`; the hooks go when the block ends, also by an error."""
        handles = [module.register_forward_hook(self) for module in model.modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own training flag is put back at the end."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def _device_of(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def count_params(model: nn.Module) -> int:
    """Number of parameters, each counted once; buffers are not counted (as in the paper's Table 3)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_input: torch.Tensor, *, convention: Convention = "paper") -> int:
    """Multiply-accumulates of one forward pass of `example_input`.

    Source: the paper's Table 3 (MACs as ptflops counts modules). `"paper"`: convolutions and linear layers with their
    biases, 2 per element of a norm layer (also where it is fused with an activation), 1 per element of ReLU, ReLU6,
    PReLU, LeakyReLU and ELU, the input size of a pooling layer; nothing for SiLU, GELU, sigmoid and for functional
    calls. `"plain"`: the products of convolutions and linear layers alone.

    Args:
        model: the network; it runs in evaluation mode and is left as it was found. On the meta device nothing is
            computed and the count is immediate.
        example_input: (B, C, *spatial); MACs grow with B, so pass B = 1 for the usual number.
        convention: what counts.

    Raises:
        ValueError: the convention is not known.
    """
    counter = MacsCounter(convention)
    with eval_mode(model), counter.count_into(model):
        model(example_input.to(_device_of(model)))
    return counter.total


def measure_latency(model: nn.Module, example_input: torch.Tensor, *, repeats: int = 20) -> float:
    """Median wall time of a forward pass in milliseconds, on the device of the model: see `measure_latencies`."""
    return measure_latencies([(model, example_input)], repeats=repeats)[0]


def measure_latencies(pairs: Sequence[tuple[nn.Module, torch.Tensor]], *, repeats: int = 20) -> list[float]:
    """Median wall times of forward passes in milliseconds, each on the device of its model.

    The models run in turn, so that what else the machine does slows all of them and they can be compared.

    Args:
        pairs: networks, each with its input (B, C, *spatial); they run in evaluation mode and are left as they were
            found.
        repeats: timed passes of each, after a warm-up of a quarter as many (at least 2).

    Raises:
        ValueError: `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    placed = [(model, image.to(_device_of(model))) for model, image in pairs]
    times: list[list[float]] = [[] for _ in pairs]
    with ExitStack() as stack:
        for model, _ in pairs:
            stack.enter_context(eval_mode(model))
        for turn in range(-max(2, repeats // 4), repeats):
            for (model, image), taken in zip(placed, times, strict=True):
                start = time.perf_counter()
                model(image)
                if image.is_cuda:
                    torch.cuda.synchronize(image.device)
                if turn >= 0:
                    taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]
