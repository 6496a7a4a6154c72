"""ResNeXt-3D: the network of the paper's CT task, made of MONAI's ResNet and a grouped bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from monai.networks.nets.resnet import ResNet, ResNetBottleneck
from torch import nn

from ttl_monai.networks.backbones import register_backbone


class ResNeXtBottleneck(ResNetBottleneck):
    """MONAI's bottleneck with 32 groups in its middle convolution; outputs are twice as wide as the middle.

    Source: Xie et al. 2017 (arXiv:1611.05431), in 3D by Hara et al. 2018 (arXiv:1711.09577).

    Args:
        in_planes: input channels.
        planes: output channels / `expansion`.
        spatial_dims: number of spatial axes.
        stride: of the middle convolution.
        downsample: the shortcut where the shape changes.
        act: activation, as in MONAI.
        norm: normalisation, as in MONAI.
    """

    expansion = 4
    cardinality = 32

    def __init__(
        self,
        in_planes: int,
        planes: int,
        spatial_dims: int = 3,
        stride: int = 1,
        downsample: nn.Module | partial[torch.Tensor] | None = None,
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple = "batch",
    ) -> None:
        nn.Module.__init__(self)  # MONAI's own constructor builds layers without groups; its forward is inherited
        conv = Conv[Conv.CONV, spatial_dims]
        norm_layer = partial(get_norm_layer, name=norm, spatial_dims=spatial_dims)
        outputs = planes * self.expansion
        width = outputs // 2
        self.conv1 = conv(in_planes, width, kernel_size=1, bias=False)
        self.bn1 = norm_layer(channels=width)
        self.conv2 = conv(width, width, kernel_size=3, stride=stride, padding=1, groups=self.cardinality, bias=False)
        self.bn2 = norm_layer(channels=width)
        self.conv3 = conv(width, outputs, kernel_size=1, bias=False)
        self.bn3 = norm_layer(channels=outputs)
        self.act = get_act_layer(name=act)
        self.downsample = downsample
        self.stride = stride


class _BottleneckAfterWideStem(ResNeXtBottleneck):
    """The same block for a stem of 128 channels: MONAI's ResNet makes the stem as wide as the first `planes`."""

    expansion = 2


_BLOCKS = {64: ResNeXtBottleneck, 128: _BottleneckAfterWideStem}


class ResNeXt3D(ResNet):
    """ResNeXt as Hara et al. define it for video and the paper for CT, with the names of the published checkpoints.

    A 7x7x7 stem of stride (1, 2, 2), max pooling, four stages of 256, 512, 1024 and 2048 channels with 32 groups and
    projection shortcuts (type B), adaptive average pooling, a linear classifier. Sources: Hara et al., CVPR 2018
    (arXiv:1711.09577), the definition of kenshohara/3D-ResNets-PyTorch; the paper's supplement, C.1 (ResNeXt3D-101).

    Note:
        The published `resnext-101-kinetics.pth` has the stem of 64 channels of that repository's CVPR2018 branch. Its
        master branch builds 128 channels: checkpoints from there fit `stem_channels=128` alone.

    Args:
        layers: blocks in each of the four stages; default ResNeXt-101.
        spatial_dims: number of spatial axes, 2 or 3.
        in_channels: channels of the images.
        num_classes: number of logits; 400 is Kinetics.
        stem_channels: 64 or 128, see the note.

    Raises:
        ValueError: for other numbers of stages, axes or stem channels.

    Example:
        >>> ResNeXt3D((1, 1, 1, 1), num_classes=2)(torch.zeros(1, 3, 8, 32, 32)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 23, 3),
        spatial_dims: int = 3,
        in_channels: int = 3,
        num_classes: int = 400,
        stem_channels: int = 64,
    ) -> None:
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"layers must be four numbers of blocks, each at least 1, got {tuple(layers)}")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")
        if stem_channels not in _BLOCKS:
            raise ValueError(
                f"stem_channels must be 64 (the published checkpoint) or 128 (checkpoints of the master branch), got "
                f"{stem_channels!r}"
            )
        super().__init__(
            _BLOCKS[stem_channels],
            list(layers),
            [stem_channels * 2**stage for stage in range(4)],
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_size=7,
            conv1_t_stride=(1, 2, 2)[-spatial_dims:],  # type: ignore[arg-type]
            num_classes=num_classes,
            bias_downsample=False,
        )


register_backbone("resnext3d101")(ResNeXt3D)
register_backbone("resnext3d101_master")(partial(ResNeXt3D, stem_channels=128))
register_backbone("resnext3d50")(partial(ResNeXt3D, (3, 4, 6, 3)))
# For demonstrations and tests: no published weights fit it, so it need not take three channels.
register_backbone("resnext3d14")(partial(ResNeXt3D, (1, 1, 1, 1), in_channels=1))
