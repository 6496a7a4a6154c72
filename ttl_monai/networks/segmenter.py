"""TransferUNet: a pretrained encoder, whole or cut, and the decoder that its resolutions ask for."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import fx, nn
from torch.nn import functional as F

from ttl_monai.networks.outputs import front_of, several_outputs
from ttl_monai.networks.points import Point, list_points
from ttl_monai.networks.slim import initialise
from ttl_monai.networks.tracing import skeleton
from ttl_monai.networks.transfer import ImageInput, transfer

logger = logging.getLogger(__name__)

Stride = tuple[int, ...]  # size of the image over that of a map, one number an axis


class TransferUNet(ImageInput):
    """A U-Net on a pretrained encoder, cut at any truncation point: the decoder loses the matching stages.

    Source: the paper's supplement, A.2: encoder and decoder are truncated symmetrically, so that every skip connection
    that is left is whole. The decoder is that of segmentation_models_pytorch: at each resolution the map below,
    upsampled (nearest), beside the encoder's map of that resolution, and two convolutions of 3 with batch norm and
    ReLU. Its stages have the names of their strides (`decoder.blocks.stride8`) and the same widths at any cut, so that
    the state dict of a cut network is a subset of the whole one's, up to the inputs of the first stage that is left.

    The encoder's map of a resolution is the end of its last block there (of its last layer where there is none, as in
    the stem of a ResNet). Images may have any size: maps are upsampled to the size of the skip connection, and to that
    of the image.

    Knobs, as those of `TransferClassifier`, on the encoder: `truncate_at` (TTL), `freeze_up_to` (LWFT; with `"all"` the
    encoder is frozen and the decoder, which has no pretrained weights, is trained with the head: the nearest to HTL),
    `slim_after` (TF: the encoder is slimmed, the decoder takes what arrives and keeps its own widths). With none of
    them this is FTL.

    Note:
        The paper has no LWFT, HTL and TF of a U-Net (A.2); these are ours. FTL keeps the layers that an encoder has
        after its last block, as the 1280 channels of an EfficientNet, which other U-Nets leave out: cut at the last
        stage (`blocks.6`) to do so.

    Attributes:
        encoder: image, normalised (B, C, ...) -> its maps, the finest first, the deepest last.
        decoder: image (for its size) and maps -> (B, decoder_channels[-1], ...).
        head: one convolution, -> logits (B, out_channels, ...).
        mean: normalisation of images in [0, 1], (1, C, 1, 1[, 1]); saved, so that a checkpoint brings its own.
        std: likewise.
        skips: name of the encoder's point that each decoder stage gets, by the name of the stage.
        weight_info: source of the weights, and which keys were loaded, re-initialised and skipped.

    Args:
        encoder: a name as in `build_backbone`, or a network, in 2D or 3D, which is then used with the weights it has,
            on images in [0, 1] as they are (set `mean` and `std` for a network that expects something else).
        weights: as in `load_backbone`; must be `none` or None for a network.
        truncate_at: last truncation point to keep, as in `list_points`; what lies above is gone.
        in_channels: channels of the images: 1 (repeated, so that parameters and MACs stay) or those of the encoder, 3.
        out_channels: number of logits a pixel: 1 for one structure (sigmoid), the number of classes with the
            background (softmax), or the number of structures that may overlap (sigmoid).
        freeze_up_to: last point to freeze (no gradients, norm statistics fixed), or `all` for the whole encoder.
        slim_after: last point to keep pretrained; the rest of the encoder is rebuilt with channels / `slim_factor`.
        slim_factor: see `slim_after`.
        decoder_channels: widths of the decoder's stages, the coarsest first; the last is that of the image's
            resolution. A network with fewer stages takes the last ones.

    Raises:
        TypeError: the encoder is neither a name nor a network.
        ValueError: for an unknown name, an unavailable weight, knobs that contradict each other, a cut before the
            first lower resolution, or more resolutions than `decoder_channels`; in eager mode also at a forward pass
            of images that are no floats in [0, 1] or have other channels.

    Example:
        >>> network = TransferUNet("resnet18", weights="none", truncate_at="layer2.0", in_channels=1)
        >>> network(torch.rand(2, 1, 75, 53)).shape
        torch.Size([2, 1, 75, 53])
        >>> network.skips
        {'stride4': 'layer1.1', 'stride2': 'relu'}
    """

    def __init__(
        self,
        encoder: str | nn.Module = "resnet34",
        weights: str | None = "imagenet",
        truncate_at: str | None = None,
        in_channels: int = 3,
        out_channels: int = 1,
        freeze_up_to: str | None = None,
        slim_after: str | None = None,
        slim_factor: int = 2,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        if not isinstance(out_channels, int) or out_channels < 1:
            raise ValueError(f"out_channels must be a whole number of at least 1, got {out_channels!r}")
        body = transfer(
            encoder,
            weights,
            in_channels,
            truncate_at=truncate_at,
            freeze_up_to=freeze_up_to,
            slim_after=slim_after,
            slim_factor=slim_factor,
        )
        super().__init__(body.mean, body.std, in_channels, None)
        image_size = body.example.shape[2:]
        self.spatial_dims = len(image_size)
        deepest = skeleton(body.features)(torch.empty_like(body.example, device="meta")).shape
        bottom = _stride(image_size, deepest[2:])
        skips = _find_skips(list_points(body.features, body.example), image_size, bottom)
        widths = _find_widths(bottom, skips, decoder_channels, truncate_at)
        self.encoder: fx.GraphModule = _with_skips(body.features, skips.values())
        channels = {stride: point.channels for stride, point in skips.items()}
        self.decoder = _Decoder(self.spatial_dims, channels | {bottom: deepest[1]}, widths)
        self.head = Conv[Conv.CONV, self.spatial_dims](decoder_channels[-1], out_channels, kernel_size=3, padding=1)
        self.skips = {_name(stride): skips[stride].name for stride in widths if stride in skips}
        self.weight_info = body.announce(self, "encoder", encoder)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, 1|C, ...) in [0, 1] -> logits (B, out_channels, ...), of the image's size."""
        return self.head(self.decoder(image, self.encoder(self.normalise(image))))

    @property
    @torch.jit.unused
    def backbone(self) -> fx.GraphModule:
        """The encoder as a chain (its deepest map is the output), as `list_points` takes it; modules are shared."""
        return front_of(self.encoder, _output(self.encoder)[-1])


class _DecoderBlock(nn.Module):
    """One stage of the decoder: the map below, upsampled, beside the encoder's map, and two convolutions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the map below.
        skip_channels: of the encoder's map, 0 where it has none of this resolution.
        out_channels: of the result.
        scale: factors of the upsampling where there is neither an encoder's map nor the image to tell the size.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, skip_channels: int, out_channels: int, scale: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.has_skip = skip_channels > 0
        self.has_size = not scale
        self.scale = [*scale] or [1.0]  # not empty, or TorchScript could not tell its type
        self.conv1 = _convolution(spatial_dims, in_channels + skip_channels, out_channels)
        self.conv2 = _convolution(spatial_dims, out_channels, out_channels)

    def forward(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The map below (B, C, ...), and the encoder's map or else the image (B, S, ...) -> (B, out_channels, ...)."""
        if self.has_size:
            x = F.interpolate(x, size=like.shape[2:], mode="nearest")
        else:
            x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        if self.has_skip:
            x = torch.cat([x, like], dim=1)  # (B, C + S, ...)
        return self.conv2(self.conv1(x))


class _Decoder(nn.Module):
    """Stages from the coarsest resolution to that of the image.

    Args:
        spatial_dims: 2 or 3.
        channels: those of the encoder's maps, by stride; the deepest map is the last.
        widths: those of the stages, by stride, the coarsest first.
    """

    def __init__(self, spatial_dims: int, channels: dict[Stride, int], widths: dict[Stride, int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict()
        below, arriving = list(channels.items())[-1]
        for stride, width in widths.items():
            skip = channels.get(stride, 0)
            scale = [old / new for old, new in zip(below, stride, strict=True)] if not skip and max(stride) > 1 else []
            self.blocks[_name(stride)] = _DecoderBlock(spatial_dims, arriving, skip, width, scale)
            below, arriving = stride, width
        for module in self.modules():
            initialise(module)

    def forward(self, image: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
        """The image (B, C, ...), for its size, and the encoder's maps, the finest first -> (B, width, ...)."""
        x = maps[-1]
        left = len(maps) - 1
        for block in self.blocks.values():
            if block.has_skip:
                left -= 1
                x = block(x, maps[left])
            else:
                x = block(x, image)
        return x


def _convolution(spatial_dims: int, in_channels: int, out_channels: int) -> Convolution:
    return Convolution(
        spatial_dims, in_channels, out_channels, bias=False, norm="batch", act=("relu", {"inplace": True})
    )


def _stride(image_size: Sequence[int], size: Sequence[int]) -> Stride:
    return tuple(max(1, round(whole / part)) for whole, part in zip(image_size, size, strict=True))


def _name(stride: Stride) -> str:
    """`stride8`, or `stride4x8x8` where the axes differ."""
    return "stride" + (str(stride[0]) if len(set(stride)) == 1 else "x".join(map(str, stride)))


def _ends_a_block(point: Point) -> bool:
    """Whether a block (or the stem) ends there, rather than a stage's transition, which a cut may have shortened."""
    return point.level == "block" or (point.level == "stage" and point.name.rpartition(".")[0] == point.stage)


def _find_skips(points: Sequence[Point], image_size: Sequence[int], bottom: Stride) -> dict[Stride, Point]:
    """The end of the last block (else the last point) of each resolution above the deepest map's, the finest first.

    Without this preference the last lone map of an inverted residual network would be the inner, wider one of the next
    block.
    """
    found: dict[Stride, Point] = {}
    for point in points:
        stride = _stride(image_size, point.spatial_size)
        is_finer = stride != bottom and all(here <= deep for here, deep in zip(stride, bottom, strict=True))
        if is_finer and (stride not in found or _ends_a_block(point) or not _ends_a_block(found[stride])):
            found[stride] = point
    return dict(sorted(found.items(), key=lambda item: math.prod(item[0])))


def _find_widths(
    bottom: Stride, skips: dict[Stride, Point], decoder_channels: Sequence[int], truncate_at: str | None
) -> dict[Stride, int]:
    """Channels of the decoder's stages by stride, the coarsest first, none more than a factor of 2 above another."""
    strides, here = [], bottom
    for target in sorted({*skips, (1,) * len(bottom)}, key=math.prod, reverse=True):
        while here != target:
            here = tuple(max(goal, math.ceil(now / 2)) for now, goal in zip(here, target, strict=True))
            strides.append(here)
    if not strides:
        raise ValueError(
            f"truncate_at={truncate_at!r} keeps the resolution of the image alone, from which there is nothing to "
            "decode: expected a point of a lower resolution"
        )
    if len(decoder_channels) < len(strides):
        raise ValueError(
            f"decoder_channels must have a width for each of the {len(strides)} resolutions "
            f"{', '.join(map(_name, strides))}, got {tuple(decoder_channels)}"
        )
    return dict(zip(strides, decoder_channels[-len(strides) :], strict=True))


def _output(graph_module: fx.GraphModule) -> Sequence[fx.Node]:
    """The nodes that a network returns."""
    (returned,) = next(node for node in graph_module.graph.nodes if node.op == "output").args
    return [returned] if isinstance(returned, fx.Node) else returned


def _with_skips(features: fx.GraphModule, skips: Iterable[Point]) -> fx.GraphModule:
    """The encoder with these maps and its deepest one as outputs."""
    nodes = {node.name: node for node in features.graph.nodes}
    return several_outputs(features, [*(nodes[skip.node] for skip in skips), *_output(features)])
