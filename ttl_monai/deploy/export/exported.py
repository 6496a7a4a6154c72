"""An exported file in the place of the network that it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ttl_monai.deploy.export.forms import INPUT, METADATA_FILE, RT_INFO, require

__all__ = ["TOLERANCE", "ExportedNetwork", "compare_outputs"]

TOLERANCE = 1e-4
"""The largest difference of an exported file's outputs in float32 to PyTorch's, absolute."""
BATCHES = (1, 3)
Runner = Callable[[np.ndarray], np.ndarray]


class ExportedNetwork(nn.Module):
    """A file of `ttl export`, run by its own engine on the CPU: a network for any code that takes one.

    Attributes:
        metadata: what the file says of itself.

    Args:
        path: a file ending in `.onnx`, `.xml` (OpenVINO, its `.bin` beside), `.ts` or `.pt2`.
        threads: of ONNX Runtime and OpenVINO; None leaves it to the engine. The others run with PyTorch's.

    Raises:
        ValueError: another suffix, or the engine is not installed.

    Example:
        ``{"network": {"_target_": "ttl_monai.deploy.export.ExportedNetwork", "path": "model.onnx"}}``
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        super().__init__()
        openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".ts": _open_torchscript, ".pt2": _open_pt2}
        path = Path(path)
        if path.suffix not in openers:
            raise ValueError(f"expected a file that ends in {', '.join(openers)}, got {path.name}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.metadata: dict[str, Any]
        self._run: Runner
        self._run, self.metadata = openers[path.suffix](path, threads)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, C, ...) in [0, 1] -> outputs, on the device of the images."""
        array = image.detach().as_subclass(torch.Tensor).to("cpu", torch.float32).contiguous().numpy()
        return torch.from_numpy(self._run(array)).to(image.device)


def compare_outputs(network: nn.Module, path: Path, example: torch.Tensor) -> dict[str, float]:
    """Compare an exported file with its network, on made images in batches of two sizes.

    Args:
        network: in evaluation mode, on the CPU; images (B, C, ...) in [0, 1] -> outputs.
        path: the file.
        example: (B, C, ...), for the shape.

    Returns:
        Size of the batch -> largest difference.

    Raises:
        ValueError: other shapes, or a difference above `TOLERANCE`; or see `ExportedNetwork`.
    """
    exported, generator = ExportedNetwork(path), torch.Generator().manual_seed(0)
    differences = {}
    for batch in BATCHES:
        image = torch.rand(batch, *example.shape[1:], generator=generator)
        with torch.no_grad():
            expected = network(image)
        got = exported(image)
        if got.shape != expected.shape:
            raise ValueError(f"the file gives {tuple(got.shape)} for a batch of {batch}, not {tuple(expected.shape)}")
        differences[str(batch)] = float((got - expected).abs().max())
    worst = max(differences.values(), key=lambda value: (value != value, value))  # a NaN is the worst
    if not worst <= TOLERANCE:
        raise ValueError(f"the file's outputs differ from the network's by {worst:.2g}, expected at most {TOLERANCE:g}")
    return differences


def _open_onnx(path: Path, threads: int | None) -> tuple[Runner, dict[str, Any]]:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return lambda array: session.run(None, {INPUT: array})[0], {k: json.loads(v) for k, v in metadata.items()}


def _open_openvino(path: Path, threads: int | None) -> tuple[Runner, dict[str, Any]]:
    openvino = require("openvino")
    model = openvino.Core().read_model(path)
    # Newer processors would take bfloat16 by themselves.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.compile_model(model, "CPU", settings)
    metadata = model.get_rt_info([RT_INFO]).value if model.has_rt_info([RT_INFO]) else {}
    # Copied, because the next call writes to the same place.
    return lambda array: compiled(array)[0].copy(), {name: json.loads(text) for name, text in metadata.items()}


def _open_torchscript(path: Path, threads: int | None) -> tuple[Runner, dict[str, Any]]:
    extra = {METADATA_FILE: ""}
    network = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    return _run_torch(network), json.loads(extra[METADATA_FILE])


def _open_pt2(path: Path, threads: int | None) -> tuple[Runner, dict[str, Any]]:
    extra = {METADATA_FILE: ""}
    network = torch.export.load(path, extra_files=extra).module()
    return _run_torch(network), json.loads(extra[METADATA_FILE])


def _run_torch(network: Any) -> Runner:
    def run(array: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(array)).numpy())

    return run
