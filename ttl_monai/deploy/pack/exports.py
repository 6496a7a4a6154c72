"""The exported forms in a packed bundle, each compared with the network in PyTorch before it is kept."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from monai.networks.utils import convert_to_torchscript
from torch import nn

__all__ = ["TOLERANCE", "write_onnx", "write_torchscript"]

TOLERANCE = 1e-4
"""The largest difference to PyTorch, absolute, of logits."""


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
        config: content of inference.json.

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
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is missing.
    """
    import onnxruntime  # of the extra `export`

    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            exported = Path(folder, "model.onnx")  # a file beside it would be left there
            torch.onnx.export(
                network,
                (example,),
                exported,
                input_names=["image"],
                output_names=["pred"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            path.write_bytes(exported.read_bytes())
    finally:
        noise.setLevel(level)
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
