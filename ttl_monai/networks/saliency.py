"""Where in an image a classifier sees its evidence."""

from __future__ import annotations

import torch
from monai.visualize import GradCAM
from torch import nn
from torch.func import functional_call

from ttl_monai.networks.classifier import TransferClassifier
from ttl_monai.networks.features import evaluation_mode

__all__ = ["grad_cam"]


class _Tapped(nn.Module):
    """The log-odds of a classifier of two classes, with its feature map as the output of a module of its own.

    MONAI's hooks lie on that module and stay there, not on the classifier. The gradient is needed at the feature map
    alone, so that none is computed for a parameter, and frozen layers do not matter.
    """

    def __init__(self, network: TransferClassifier) -> None:
        super().__init__()
        self.classifier = (network,)  # as no submodule: MONAI would clear its gradients
        self.features = nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        (network,) = self.classifier
        with torch.no_grad():
            features = network.backbone(network.normalise(image))
        fixed = {name: parameter.detach() for name, parameter in network.head.named_parameters()}
        logits = functional_call(network.head, fixed, self.features(features.requires_grad_()))
        # What the probability of the second class goes by: its logit alone would not show what the other one knows.
        return logits[:, 1:] - logits[:, :1]


def grad_cam(network: TransferClassifier, image: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (MONAI's) of the last feature map of a classifier, for the second of two classes.

    The channels of the feature map, weighted by the mean gradient of the log-odds and summed, without what is negative,
    brought to the size of the image by linear interpolation: as coarse as the feature map is.
    Source: Selvaraju et al., Grad-CAM, ICCV 2017 (https://arxiv.org/abs/1610.02391).

    Args:
        network: cut or whole; it is left as it was found.
        image: (B, C, ...) in [0, 1].

    Returns:
        (B, ...) in [0, 1], each map divided by its maximum; all 0 where nothing speaks for the class.

    Raises:
        ValueError: another number of classes.
    """
    classes = network.head[-1].out_features
    if classes != 2:
        raise ValueError(f"grad_cam shows the second of two classes, but the network has {classes}")
    method = GradCAM(_Tapped(network), "features", postprocessing=lambda found: found)
    with evaluation_mode(network), torch.enable_grad():
        found = method(image, class_idx=0).detach()[:, 0]
    highest = found.amax(dim=tuple(range(1, found.ndim)), keepdim=True)
    return torch.where(highest > 0, found / highest, 0)
