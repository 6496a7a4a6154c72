"""Parameter groups for the optimizer: head and backbone at their own rates, frozen parameters left out."""

from __future__ import annotations

from typing import Any

from torch import nn

from ttl_monai.networks.points import list_points
from ttl_monai.networks.tracing import trace


def param_groups(
    network: nn.Module, lr: float, backbone_lr_scale: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a network for an optimizer.

    Sources: a backbone that learns at a tenth of the head's rate is the paper's layer-wise fine-tuning
    (`backbone_lr_scale=0.1`); the decay by depth is that of BEiT and timm (Bao et al. 2022, arXiv:2106.08254): the head
    is at depth 0, the top block at depth 1, and each block below it one deeper; the stem is deepest.

    Args:
        network: has `backbone` and `head`, as `TransferClassifier` and `TransferUNet`; may be wrapped by DDP.
        lr: rate of the head, and of all else that is not the backbone (a U-Net's decoder).
        backbone_lr_scale: the backbone's rate is `lr` times this.
        layer_decay: the backbone's rates are further multiplied by this to the power of their depth.

    Returns:
        Groups with `params`, `lr` and `name` (`head`, `backbone`, or `backbone depth N` with a decay), from the head
        down; no group is empty.

    Raises:
        TypeError: if the network has no `backbone` and `head`.
        ValueError: if a rate or factor is negative (or `layer_decay` is 0 or above 1), or nothing is trainable.

    Example:
        >>> from ttl_monai.networks import TransferClassifier
        >>> network = TransferClassifier("resnet18", weights="none", freeze_up_to="layer2")
        >>> [(group["name"], group["lr"]) for group in param_groups(network, 1e-3, backbone_lr_scale=0.5)]
        [('head', 0.001), ('backbone', 0.0005)]
    """
    if lr < 0 or backbone_lr_scale < 0 or not 0 < layer_decay <= 1:
        raise ValueError(
            "expected lr >= 0, backbone_lr_scale >= 0 and 0 < layer_decay <= 1, got "
            f"{lr}, {backbone_lr_scale} and {layer_decay}"
        )
    inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel) else network
    backbone = getattr(inner, "backbone", None)
    if not isinstance(backbone, nn.Module) or not isinstance(getattr(inner, "head", None), nn.Module):
        raise TypeError(f"expected a network with .backbone and .head, got {type(inner).__name__}")
    depths = _depths(backbone) if layer_decay < 1 else {}
    groups: dict[str, dict[str, Any]] = {}
    of_backbone = {id(parameter): name for name, parameter in backbone.named_parameters()}
    # From the head down, so that the groups come in the order of their rates.
    for parameter in reversed(list(inner.parameters())):
        if not parameter.requires_grad:
            continue
        inside = of_backbone.get(id(parameter))
        depth = depths.get(inside, 1) if inside else 0
        name = "head" if not inside else f"backbone depth {depth}" if depths else "backbone"
        rate = lr * backbone_lr_scale * (layer_decay**depth if depths else 1) if inside else lr
        groups.setdefault(name, {"params": [], "lr": rate, "name": name})["params"].insert(0, parameter)
    if not groups:
        raise ValueError(f"no parameter of {type(inner).__name__} requires a gradient; expected at least a head")
    return list(groups.values())


def _depths(backbone: nn.Module) -> dict[str, int]:
    """Parameter name -> number of blocks from the top, the top block being 1."""
    points = list_points(backbone)
    blocks = [point.name for point in points if point.level != "layer" and "stem" not in point.aliases]
    depths = {}
    index = -1  # the stem
    # In the order of computation, which is not that of registration.
    layers = [str(node.target) for node in trace(backbone).graph.nodes if node.op in ("call_module", "get_attr")]
    for layer in layers:
        inside = [i for i, block in enumerate(blocks) if f"{layer}.".startswith(f"{block}.")]
        # A layer outside the blocks goes with the block before it; of a stage and a block in it, the block counts.
        index = max(inside, key=lambda i: len(blocks[i]), default=index)
        depths[layer] = len(blocks) - index
    return {
        name: next(depths[layer] for layer in depths if f"{name}.".startswith(f"{layer}."))
        for name, _ in backbone.named_parameters()
    }
