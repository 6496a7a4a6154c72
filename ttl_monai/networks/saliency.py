"""Where in an image a classifier sees its evidence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.visualize import GradCAM
from monai.visualize.visualizer import default_upsampler
from torch import nn
from torch.func import functional_call

from ttl_monai.networks.classifier import TransferClassifier
from ttl_monai.networks.features import evaluation_mode

__all__ = ["SALIENCY_METHODS", "evidence", "fit_map", "grad_cam"]

SALIENCY_METHODS = ("gradcam", "gradcam++", "occlusion")
_BOX = 1 / 8  # of the image along each axis, hidden at a time; boxes overlap by half
_ROUNDING = 1e-6


class _Tapped(nn.Module):
    """The log-odds of one class, with the feature map of the classifier as the output of a module of its own.

    MONAI's hooks lie on that module and stay there, not on the classifier. The gradient is needed at the feature map
    alone, so that none is computed for a parameter, and frozen layers do not matter.
    """

    def __init__(self, network: TransferClassifier, target: int, multi_label: bool) -> None:
        super().__init__()
        self.classifier = (network,)  # as no submodule: MONAI would clear its gradients
        self.features = nn.Identity()
        self.target, self.multi_label = target, multi_label

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        (network,) = self.classifier
        with torch.no_grad():
            features = network.backbone(network.normalise(image))
        fixed = {name: parameter.detach() for name, parameter in network.head.named_parameters()}
        logits = functional_call(network.head, fixed, self.features(features.requires_grad_()))
        return _log_odds(logits, self.target, self.multi_label)


class _GradCAMpp(GradCAM):
    """Grad-CAM++ for batches and for any scale of the gradient.

    MONAI's multiplies the scores of a batch into its last axis, and adds 1e-7 to a denominator that is about as small
    where a head averages over a map (gradients of 1e-4), so that its weights are those of Grad-CAM with squares.
    """

    def compute_map(self, x: torch.Tensor, class_idx: int | None = None, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        _, (features,), (gradient,) = self.nn_module(x, class_idx=class_idx, **kwargs)
        space = tuple(range(2, features.ndim))
        # alpha = g² / (2 g² + g³ ΣA), times g where that is positive; the factor exp(score) of a whole map is left out.
        total, positive = features.clamp(min=0).sum(space, keepdim=True), gradient.clamp(min=0)
        weights = (positive / (2 + positive * total)).sum(space, keepdim=True)
        return F.relu((weights * features).sum(1, keepdim=True))


def evidence(
    network: TransferClassifier,
    image: torch.Tensor,
    *,
    method: str = "gradcam",
    target: int | None = None,
    multi_label: bool = False,
) -> torch.Tensor:
    """What speaks for a class, by place, on the grid of the method.

    What is explained are the log-odds of the class: a logit alone would not show what the other classes know.

    - "gradcam": the channels of the last feature map, weighted by their mean gradient and summed, without what is
      negative (MONAI's). Source: Selvaraju et al., ICCV 2017 (https://arxiv.org/abs/1610.02391).
    - "gradcam++": likewise, weighted by positive gradients g, each by 1 / (2 + g ΣA). Source: Chattopadhyay et al.,
      WACV 2018 (https://arxiv.org/abs/1710.11063), equation 19.
    - "occlusion": by how much the log-odds fall when a box of an eighth of the image is replaced by its own mean, which
      takes the texture and leaves the brightness; at each place the mean over the boxes that hide it. Source: Zeiler
      and Fergus, ECCV 2014 (https://arxiv.org/abs/1311.2901).

    Note:
        Grad-CAM++ assumes a map without negative values, which the end of a truncated network need not be: its sum ΣA
        is taken over the positive ones, or the weights could have any sign. MONAI's `OcclusionSensitivity` is not used:
        its "mean_patch" multiplies a box by its mean instead of replacing it, and a function of one's own raises.

    Args:
        network: cut or whole; it is left as it was found.
        image: (B, C, ...) in [0, 1].
        method: one of `SALIENCY_METHODS`.
        target: the class; of two classes by default the second.
        multi_label: classes do not exclude each other, so that the log-odds are the logit.

    Returns:
        (B, ...), not negative: of the size of the last feature map, for occlusion of the image.

    Raises:
        ValueError: an unknown method or class, or none where there are other than two.
    """
    if method not in SALIENCY_METHODS:
        raise ValueError(f"method must be one of {', '.join(SALIENCY_METHODS)}, got {method!r}")
    classes = int(network.head[-1].out_features)  # type: ignore[arg-type]
    if target is None and classes != 2:
        raise ValueError(f"without target, the second of two classes is shown, but the network has {classes}")
    target = 1 if target is None else target
    if not 0 <= target < classes:
        raise ValueError(f"target must be from 0 to {classes - 1}, got {target}")
    with evaluation_mode(network):
        if method == "occlusion":
            return _occlude(network, image, target, multi_label)
        kind = GradCAM if method == "gradcam" else _GradCAMpp
        with torch.enable_grad():
            tapped = kind(_Tapped(network, target, multi_label), "features")
            return tapped.compute_map(image, class_idx=0).detach()[:, 0]


def fit_map(found: torch.Tensor, size: Sequence[int], *, grid: Sequence[int] | None = None) -> torch.Tensor:
    """Bring maps to the size of their images, each divided by its maximum.

    Args:
        found: (B, ...), not negative.
        size: of the image; linear interpolation.
        grid: bring the maps to this size before, by means over areas: a map is as coarse as the feature map that it
            comes from, and a finer one looks more local for that reason alone.

    Returns:
        (B, *size) in [0, 1]; all 0 where nothing speaks for the class.
    """
    maps = found[:, None]
    if grid is not None:
        maps = F.interpolate(maps, size=tuple(grid), mode="area")
    maps = default_upsampler(tuple(size))(maps)[:, 0]
    highest = maps.amax(dim=tuple(range(1, maps.ndim)), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0)


def grad_cam(
    network: TransferClassifier, image: torch.Tensor, *, target: int | None = None, multi_label: bool = False
) -> torch.Tensor:
    """Grad-CAM of the last feature map at the size of the image; see `evidence` and `fit_map`.

    Returns:
        (B, ...) in [0, 1], each map divided by its maximum; all 0 where nothing speaks for the class.
    """
    return fit_map(evidence(network, image, target=target, multi_label=multi_label), image.shape[2:])


def _log_odds(logits: torch.Tensor, target: int, multi_label: bool) -> torch.Tensor:
    """Of one class, (B, C) -> (B, 1)."""
    one = logits[:, target : target + 1]
    others = [number for number in range(logits.shape[1]) if number != target]
    return one if multi_label or not others else one - logits[:, others].logsumexp(1, keepdim=True)


def _occlude(network: TransferClassifier, image: torch.Tensor, target: int, multi_label: bool) -> torch.Tensor:
    space = tuple(range(2, image.ndim))
    sides = [max(1, round(_BOX * length)) for length in image.shape[2:]]
    starts = [
        sorted({*range(0, length - side, max(1, side // 2)), length - side})
        for length, side in zip(image.shape[2:], sides, strict=True)
    ]
    before = _log_odds(network(image), target, multi_label)
    found, times = torch.zeros_like(image[:, 0]), torch.zeros_like(image[0, 0])
    for corner in itertools.product(*starts):
        box: tuple[Any, ...] = (..., *(slice(start, start + side) for start, side in zip(corner, sides, strict=True)))
        hidden = image.clone()
        hidden[box] = image[box].mean(dim=space, keepdim=True)
        fall = before - _log_odds(network(hidden), target, multi_label)
        found[box] += fall.view(-1, *[1] * len(space))
        times[box] += 1
    found = found / times
    # What is left of two equal sums would be the whole map once it is divided by its maximum.
    rounding = _ROUNDING * (1 + before.abs()).view(-1, *[1] * len(space))
    return torch.where(found > rounding, found, 0)
