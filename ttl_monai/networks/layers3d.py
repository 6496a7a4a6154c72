"""Layers in 2D and their 3D form: kernels, strides, paddings, and the weights of a state dict."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import get_same_padding
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import nn
from torch.nn.modules.utils import _pair

# A class is looked up exactly: one derived from it may compute something else.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_POOLS: dict[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool2d: nn.MaxPool3d,
    nn.AvgPool2d: nn.AvgPool3d,
    MaxPool2dSame: nn.MaxPool3d,
    AvgPool2dSame: nn.AvgPool3d,
}
# These differ from their 3D form in the number of axes that they check alone. The activation of timm's fused norm stays
# its child and becomes a node of its own.
_OTHERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: nn.BatchNorm3d,
    BatchNormAct2d: nn.BatchNorm3d,
    nn.InstanceNorm2d: nn.InstanceNorm3d,
    nn.Dropout2d: nn.Dropout3d,
    nn.AdaptiveAvgPool2d: nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d: nn.AdaptiveMaxPool3d,
}
_SAME = (Conv2dSame, MaxPool2dSame, AvgPool2dSame)


class SamePad3d(nn.Module):
    """Pads a volume as TensorFlow's SAME does: output size = input size / stride, rounded up.

    Args:
        kernel_size: (D, H, W) of the layer that follows.
        stride: likewise.
        dilation: likewise.
        value: what is filled in.
    """

    def __init__(
        self, kernel_size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], value: float = 0.0
    ) -> None:
        super().__init__()
        # Lists, because TorchScript types them by their items.
        self.kernel_size, self.stride, self.dilation = list(kernel_size), list(stride), list(dilation)
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes (B, C, D, H, W) -> padded ones; of odd numbers the larger half goes behind."""
        d = get_same_padding(x.size(2), self.kernel_size[0], self.stride[0], self.dilation[0])
        h = get_same_padding(x.size(3), self.kernel_size[1], self.stride[1], self.dilation[1])
        w = get_same_padding(x.size(4), self.kernel_size[2], self.stride[2], self.dilation[2])
        pads = [w // 2, w - w // 2, h // 2, h - h // 2, d // 2, d - d // 2]
        return nn.functional.pad(x, pads, value=self.value)


def inflate_kernel(kernel: torch.Tensor, depth: int) -> torch.Tensor:
    """Repeat a 2D kernel along the depth and divide it, so that a repeated slice gives what the slice gave.

    Args:
        kernel: (O, I, H, W).
        depth: number of repeats D.

    Returns:
        (O, I, D, H, W).
    """
    return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth


def inflate_state(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inflate the kernels of a 2D state dict that a 3D network wants in 3D; everything else stays as it is.

    Args:
        state: key to tensor, of a 2D or a 3D network.
        wanted: state dict of the 3D network.
    """
    result = dict(state)
    for key, value in state.items():
        target = wanted[key].shape if key in wanted else ()
        if len(target) == 5 and value.ndim == 4 and (*target[:2], *target[3:]) == value.shape:
            result[key] = inflate_kernel(value, target[2])
    return result


def has_stride(layer: nn.Module | None) -> bool:
    """Whether a 2D layer with a 3D form reduces the resolution."""
    return type(layer) in (*_CONVOLUTIONS, *_POOLS) and max(_pair(layer.stride)) > 1  # type: ignore[union-attr]


def has_3d_form(layer: nn.Module) -> bool:
    """Whether `deepen` knows this class of layer."""
    return type(layer) in (*_CONVOLUTIONS, *_POOLS, *_OTHERS)


def deepen(layer: Any, keep: bool) -> nn.Module:
    """The 3D form of one layer.

    Args:
        layer: of a class in the tables above.
        keep: its stride leaves the depth alone.
    """
    kind = type(layer)
    if kind in _OTHERS:
        deep: Any = _recast(layer, _OTHERS[kind])
        if isinstance(deep, nn.AdaptiveAvgPool3d | nn.AdaptiveMaxPool3d):
            size = _pair(layer.output_size)
            deep.output_size = (size[0], *size)
        return deep
    kernel, stride, dilation = (_pair(getattr(layer, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    # What keeps the depth needs a centre there; pooling needs no neighbours.
    flat_kernel = keep and (kind in _POOLS or kernel[0] % 2 == 0)
    size = {
        "kernel_size": (1 if flat_kernel else kernel[0], *kernel),
        "stride": (1 if keep else stride[0], *stride),
        "dilation": (dilation[0], *dilation),
        "padding": layer.padding,
    }
    if not isinstance(layer.padding, str):
        padding = _pair(layer.padding)
        size["padding"] = (0 if flat_kernel else padding[0], *padding)
    if kind in _POOLS:
        deep = _recast(layer, _POOLS[kind])
        deep.__dict__.update((name, value) for name, value in size.items() if hasattr(layer, name))
        if getattr(layer, "divisor_override", None):
            deep.divisor_override = layer.divisor_override * size["kernel_size"][0]
    else:
        deep = _deepen_convolution(layer, size)
    if kind in _SAME:
        value = -math.inf if kind is MaxPool2dSame else 0.0
        deep.add_module("pad", SamePad3d(size["kernel_size"], size["stride"], size["dilation"], value))
    return deep


def _deepen_convolution(layer: nn.Conv2d, size: dict[str, Any]) -> nn.Conv3d:
    deep = nn.Conv3d(
        layer.in_channels,
        layer.out_channels,
        **size,
        groups=layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    kernel = inflate_kernel(layer.weight.detach(), size["kernel_size"][0])
    deep.weight = nn.Parameter(kernel, requires_grad=layer.weight.requires_grad)
    deep.bias = layer.bias
    return deep.train(layer.training)


def _recast(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same layer, with its tensors and children, as another class of its family."""
    deep = copy.copy(layer)
    deep.__class__ = kind
    return deep
