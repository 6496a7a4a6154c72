"""The exported forms in a packed bundle, each compared with the network in PyTorch before it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttl_monai.deploy.export import FORMS, compare_outputs, write_form

__all__ = ["write_exports"]


def write_exports(
    forms: Sequence[str],
    network: nn.Module,
    example: torch.Tensor,
    models: Path,
    *,
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    description: Mapping[str, Any],
) -> dict[str, float]:
    """Write the exported forms of a network into a bundle's `models` folder.

    TorchScript has the extra files that `monai.bundle ckpt_export` writes: metadata.json and inference.json. Not by
    that command: it would import the code of the new bundle into this process, from where it lies meanwhile, and it
    notes the places of source files on this machine.

    Args:
        forms: of `packed.EXPORTS`.
        network: in evaluation mode, on the CPU.
        example: images (B, C, ...) in [0, 1], B of at least 2, for the shape.
        models: the folder.
        metadata: content of metadata.json, for TorchScript.
        config: content of the inference.json that goes into TorchScript.
        description: what the other forms say of themselves, see `describe`.

    Returns:
        File in the bundle -> largest difference to PyTorch.

    Raises:
        ValueError: a form cannot be made of this network or here, or gives something else than PyTorch.
    """
    differences = {}
    for form in forms:
        path = models / f"model{FORMS[form]}"
        try:
            if form == "torchscript":
                write_form(network, example, path, metadata, beside={"inference.json": config})
            else:
                write_form(network, example, path, description)
            differences[f"models/{path.name}"] = max(compare_outputs(network, path, example).values())
        except (RuntimeError, ValueError) as error:
            others = " ".join(each for each in forms if each != form)
            cause = " ".join(str(error).split())[:200]
            raise ValueError(f"{form} could not be made ({cause}); leave it out by --exports {others}") from error
    return differences
