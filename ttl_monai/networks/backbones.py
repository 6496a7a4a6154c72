"""Backbones by name: our own, torchvision, timm and MONAI, 2D ones in 3D, too. No weights here (see `pretrained`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import monai.networks.nets as monai_nets
import timm
import torchvision
from torch import nn

from ttl_monai.networks.inflate import inflate

SOURCES = ("ttl", "torchvision", "timm", "monai")
INFLATED = "_3d"
"""Ends the name of the inflated 3D form of a 2D backbone: `tf_efficientnet_lite0_3d`."""
REGISTRY: dict[str, Callable[[], nn.Module]] = {}
"""Our own backbones: name -> function without arguments. Filled by `register_backbone`."""

# timm has most of torchvision's networks too; these families come from torchvision, whose module names the paper's are.
_TORCHVISION_FIRST = re.compile(r"(resnet|densenet|vgg)\d+(_bn)?")
_MONAI_FAMILY = re.compile(r"(resnet|densenet|senet|seresnet|seresnext)\d+", re.IGNORECASE)


def register_backbone(name: str) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Return a decorator that makes a function or class without required arguments a backbone of ours.

    Args:
        name: how `build_backbone` and the configs call it; no prefix.

    Raises:
        ValueError: if the name is taken already.
    """

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if name in REGISTRY:
            raise ValueError(f"backbone {name!r} is registered already, by {REGISTRY[name]}; choose another name")
        REGISTRY[name] = build
        return build

    return register


def list_backbones(source: str) -> list[str]:
    """Return the names that one source can build.

    Args:
        source: one of `SOURCES`.
    """
    if source == "ttl":
        return sorted(REGISTRY)
    if source == "torchvision":
        models = torchvision.models
        return models.list_models(module=models) + models.list_models(module=models.video)
    if source == "timm":
        return timm.list_models()
    return sorted({name.lower() for name, net in vars(monai_nets).items() if _is_monai_backbone(name, net)})


def resolve_backbone(name: str) -> tuple[str, str]:
    """Return the source of a backbone and its name there.

    Args:
        name: a bare name (ours first, then torchvision for resnet, densenet and vgg, then timm, then MONAI, then the
            rest of torchvision) or one with the prefix `torchvision:`, `timm:` or `monai:`. A timm name may carry the
            tag of its weights (`timm:resnet50.a1_in1k`). Any of them with `_3d` at its end is the 3D form of a 2D
            backbone (see `inflate`); its source is `inflated`, its name there that of the 2D backbone.

    Raises:
        ValueError: if no source knows the name; near names are listed.

    Example:
        >>> resolve_backbone("resnet50"), resolve_backbone("timm:resnet50"), resolve_backbone("resnet50_3d")
        (('torchvision', 'resnet50'), ('timm', 'resnet50'), ('inflated', 'resnet50'))
    """
    if name.endswith(INFLATED):
        flat = name.removesuffix(INFLATED)
        resolve_backbone(flat)
        return "inflated", flat
    prefix, _, rest = name.rpartition(":")
    if prefix and prefix not in SOURCES:
        raise ValueError(f"backbone {name!r} has the prefix {prefix!r}; expected one of {', '.join(SOURCES)}, or none")
    if prefix:
        order: tuple[str, ...] = (prefix,)
    else:
        order = ("ttl", "torchvision") if _TORCHVISION_FIRST.fullmatch(rest) else ("ttl",)
        order += ("timm", "monai", "torchvision")
    for source in order:
        known = list_backbones(source)
        if rest in known or (source == "timm" and "." in rest and rest in timm.list_pretrained()):
            return source, rest
    names = [candidate for source in order for candidate in list_backbones(source)]
    names += timm.list_pretrained() if "." in rest else []
    near = difflib.get_close_matches(rest, dict.fromkeys(names), n=5) or ["none"]
    raise ValueError(f"no backbone {name!r} in {', '.join(dict.fromkeys(order))}; near names: {', '.join(near)}")


def build_backbone(name: str) -> nn.Module:
    """Build a network by name, with its classifier (inflated ones without) and random weights.

    MONAI's networks are built in 3D with 3 input channels, as the other sources' video networks are; build other
    variants with MONAI itself and pass the module to `TransferClassifier` or `TransferUNet`.

    Args:
        name: as in `resolve_backbone`.

    Raises:
        ValueError: if no source knows the name, or a 2D backbone has no 3D form.
    """
    source, rest = resolve_backbone(name)
    if source == "inflated":
        return inflate(build_backbone(rest))
    if source == "ttl":
        return REGISTRY[rest]()
    if source == "torchvision":
        return torchvision.models.get_model(rest, weights=None)
    if source == "timm":
        return timm.create_model(rest, pretrained=False)
    net = next(net for key, net in vars(monai_nets).items() if key.lower() == rest and _is_monai_backbone(key, net))
    channels = "n_input_channels" if rest.startswith("resnet") else "in_channels"
    classes = "out_channels" if rest.startswith("densenet") else "num_classes"
    return net(spatial_dims=3, **{channels: 3, classes: 1000})


def _is_monai_backbone(name: str, net: object) -> bool:
    return callable(net) and _MONAI_FAMILY.fullmatch(name) is not None
