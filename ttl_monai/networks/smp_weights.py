"""Weights of a U-Net of segmentation_models_pytorch in a `TransferUNet`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ttl_monai.networks.checkpoints import LoadReport, load_strictly
from ttl_monai.networks.segmenter import TransferUNet

# Its decoder counts the stages from the coarsest on; convolution and norm of a `Conv2dReLU` are 0 and 1.
_STAGE = re.compile(r"decoder\.blocks\.(\d+)\.(conv[12])\.([01])\.(\w+)")
_PARTS = {"0": "conv", "1": "adn.N"}


def load_smp_unet(network: TransferUNet, state: Mapping[str, torch.Tensor]) -> LoadReport:
    """Load the state dict of an `smp.Unet` on a ResNet into a `TransferUNet`, in place.

    | segmentation_models_pytorch | here |
    | --- | --- |
    | `encoder.X` | `encoder.X` (torchvision's names in both) |
    | `decoder.blocks.I.convJ.0.X` of N stages | `decoder.blocks.strideS.convJ.conv.X`, S = 2 ** (N - 1 - I) |
    | `decoder.blocks.I.convJ.1.X` | `decoder.blocks.strideS.convJ.adn.N.X` |
    | `segmentation_head.0.X` | `head.X` |

    The network keeps its `mean` and `std`: those of ImageNet, as `weights="none"` sets them too, are what
    segmentation_models_pytorch's preprocessing uses.

    Args:
        network: whole or cut; of a cut one, the file's layers above the cut are skipped.
        state: key to tensor.

    Returns:
        The keys of the network that were loaded, and those of the file that were skipped.

    Raises:
        ValueError: if keys of the network are missing in the file or have another shape, or the file has none of such
            a U-Net's keys; nothing is loaded then.

    Example:
        >>> network = TransferUNet("resnet34", weights="none")
        >>> report = load_smp_unet(network, torch.load("unet.pt", weights_only=True))  # doctest: +SKIP
    """
    stages = [int(match[1]) for key in state if (match := _STAGE.fullmatch(key))]
    if not stages or not any(key.startswith("segmentation_head.0.") for key in state):
        raise ValueError(
            "expected the state dict of an smp.Unet, with keys such as decoder.blocks.0.conv1.0.weight and "
            f"segmentation_head.0.weight, got {', '.join(list(state)[:3]) or 'none'}"
        )

    def rename(match: re.Match[str]) -> str:
        stride = 2 ** (max(stages) - int(match[1]))
        return f"decoder.blocks.stride{stride}.{match[2]}.{_PARTS[match[3]]}.{match[4]}"

    renamed = {_STAGE.sub(rename, key).replace("segmentation_head.0.", "head."): value for key, value in state.items()}
    wanted = network.state_dict()
    dropped = [key for key in renamed if key not in wanted and key.startswith(("encoder.", "decoder."))]
    statistics = {key: wanted[key] for key in ("mean", "std")}
    report = load_strictly(network, renamed | statistics, dropped=dropped, origin="the U-Net's state dict")
    return LoadReport(tuple(key for key in report.loaded if key not in statistics), (), report.skipped)
