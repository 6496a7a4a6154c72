"""The exported forms in a packed bundle, each compared with the network in PyTorch before it is kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from monai.networks.utils import convert_to_torchscript
from torch import nn

from ttl_monai.engines.search.space import quiet

__all__ = ["TOLERANCE", "write_exports", "write_onnx", "write_torchscript"]

TOLERANCE = 1e-4
"""The largest difference to PyTorch, absolute, of logits."""


def write_exports(
    forms: Sequence[str],
    network: nn.Module,
    example: torch.Tensor,
    models: Path,
    *,
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, float]:
    """Write the exported forms of a network into a bundle's `models` folder.

    Args:
        forms: of `packed.EXPORTS`.
        network: in evaluation mode.
        example: images (B, C, ...) in [0, 1], B of at least 2, to compare with.
        models: the folder.
        metadata: content of metadata.json.
        config: content of the inference.json that goes into TorchScript.

    Returns:
        File in the bundle -> largest difference to PyTorch.

    Raises:
        ValueError: a form cannot be made of this network or here, or differs by more than `TOLERANCE`.
    """
    differences = {}
    for form in forms:
        try:
            if form == "torchscript":
                name = "model.ts"
                difference = write_torchscript(network, example, models / name, metadata=metadata, config=config)
            else:
                name = "model.onnx"
                difference = write_onnx(network, example, models / name)
        except (RuntimeError, ImportError) as error:
            others = " ".join(each for each in forms if each != form)
            cause = " ".join(str(error).split())[:200]
            raise ValueError(f"{form} could not be made ({cause}); leave it out by --exports {others}") from error
        differences[f"models/{name}"] = difference
    return differences


def write_torchscript(
    network: nn.Module, example: torch.Tensor, path: Path, *, metadata: Mapping[str, Any], config: Mapping[str, Any]
) -> float:
    """Write what `monai.bundle ckpt_export` writes: TorchScript with metadata.json and inference.json as extra files.

    Not by that command: it would import the code of the new bundle into this process, from where it lies meanwhile.

    Args:
        network: in evaluation mode.
        example: images (B, C, ...) in [0, 1], to compare with.
        path: the new file.
        metadata: content of metadata.json.
        config: content of the inference.json that goes into TorchScript.

    Returns:
        The largest difference to PyTorch.

    Raises:
        ValueError: it is above `TOLERANCE`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which the model zoo asks for
        script = convert_to_torchscript(network)
        save_net_with_metadata(
            script,
            str(path),
            include_config_vals=False,
            append_timestamp=False,
            meta_values=dict(metadata),
            more_extra_files={"inference.json": json.dumps(config).encode()},
        )
        with torch.inference_mode():
            return _compare(path, torch.jit.load(path)(example), network(example))


def write_onnx(network: nn.Module, example: torch.Tensor, path: Path) -> float:
    """Write ONNX with a dynamic number of images, the input `image` and the output `pred`.

    Args:
        network: in evaluation mode.
        example: images (B, C, ...) in [0, 1], B of at least 2, to compare with.
        path: the new file.

    Returns:
        The largest difference to PyTorch.

    Raises:
        ValueError: it is above `TOLERANCE`.
        ImportError: onnx, onnxscript or onnxruntime is missing: the extra `export`.
    """
    import onnxruntime  # of the extra `export`

    with ExitStack() as stack:
        for name in ("torch.onnx", "onnx_ir", "onnxscript"):
            stack.enter_context(quiet(name))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=["image"],
            output_names=["pred"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path)
    with torch.inference_mode():
        for images in (example, example[:1]):
            found = torch.from_numpy(session.run(None, {"image": images.numpy()})[0])
            difference = _compare(path, found, network(images))
    return difference


def _compare(path: Path, found: torch.Tensor, expected: torch.Tensor) -> float:
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:  # also catches NaN
        raise ValueError(f"{path.name} gives other outputs than PyTorch: by {difference:.2g}, at most {TOLERANCE:g}")
    return difference
