"""The forms a network is written in, each one file (OpenVINO: two) with a description inside."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.jit.frontend import FrontendError

from ttl_monai.engines.configs import quiet

# What `--to` names, and the suffix of the file.
FORMS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".ts", "pt2": ".pt2"}
INPUT, OUTPUT = "image", "logits"
METADATA_FILE = "metadata.json"  # inside of TorchScript and PT2, where MONAI writes it too
RT_INFO = "ttl_monai"  # the section of OpenVINO's rt_info


def require(name: str) -> Any:
    """A module of the optional dependencies.

    Raises:
        ValueError: it is not installed, with the remedy.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"this export needs {name.partition('.')[0]}: pip install 'ttl-monai[export]'") from error


def write_form(
    network: nn.Module,
    example: torch.Tensor,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write a network in the form that the suffix names, for batches of any size.

    What the exporters note of this machine (places of source files in traces) is left out.

    Args:
        network: in evaluation mode, on the CPU; images (B, C, ...) -> outputs.
        example: at least two images, (B, C, ...); the file takes images of this size.
        path: the file.
        metadata: JSON values by name, written into the file.
        beside: of TorchScript, further JSON files in it by name, as MONAI puts inference.json there.

    Raises:
        ValueError: the suffix is that of no form, a package is missing, `beside` for another form, or the form
            cannot express the network.
    """
    writers = {".onnx": _write_onnx, ".xml": _write_openvino, ".pt2": _write_pt2}
    if path.suffix not in FORMS.values():
        raise ValueError(f"expected a file that ends in {', '.join(FORMS.values())}, got {path.name}")
    if beside and path.suffix != ".ts":
        raise ValueError(f"only TorchScript (.ts) has room for further files, got {path.name}")
    with _less_noise():
        if path.suffix == ".ts":
            _write_torchscript(network, path, {METADATA_FILE: metadata, **(beside or {})})
        else:
            writers[path.suffix](network, example, path, metadata)


@contextmanager
def _less_noise() -> Iterator[None]:
    """The exporters warn of their own future, and tell their steps."""
    with (
        warnings.catch_warnings(),
        quiet("torch.onnx", logging.ERROR),
        quiet("onnxscript", logging.ERROR),
        quiet("onnx_ir"),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _refusals_told(form: str) -> Iterator[None]:
    """Turn what an exporter raises into one line; its further lines quote source code and places of this machine."""
    try:
        yield
    except (RuntimeError, FrontendError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        raise ValueError(f"{form} cannot express this network: {first}. Take another --to") from error


def onnx_model(network: nn.Module, example: torch.Tensor) -> Any:
    """The network as an ONNX model in memory (`onnx.ModelProto`), without what the exporter noted of this machine."""
    require("onnxscript")
    with _less_noise(), _refusals_told("ONNX"):
        program: Any = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    for part in _parts(model.graph):
        part.doc_string = ""
        del part.metadata_props[:]
    return model


def _parts(graph: Any) -> Iterator[Any]:
    yield graph
    for parts in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        yield from parts


def save_onnx(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Save an ONNX model with the metadata, each value as JSON, in `metadata_props`."""
    onnx = require("onnx")
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.save(model, path)


def save_openvino(onnx_path: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Save an ONNX file as OpenVINO's `.xml` and `.bin`, with the metadata, each value as JSON, in `rt_info`.

    The core reads ONNX itself; `openvino.convert_model` would do the same and send telemetry.
    """
    openvino = require("openvino")
    model = openvino.Core().read_model(onnx_path)
    for name, value in metadata.items():
        model.set_rt_info(json.dumps(value), [RT_INFO, name])
    openvino.save_model(model, path, compress_to_fp16=False)


def _write_onnx(network: nn.Module, example: torch.Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    save_onnx(onnx_model(network, example), path, metadata)


def _write_openvino(network: nn.Module, example: torch.Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    require("openvino")
    between = path.with_suffix(".onnx")
    try:
        save_onnx(onnx_model(network, example), between, {})
        save_openvino(between, path, metadata)
    finally:
        between.unlink(missing_ok=True)


def _write_torchscript(network: nn.Module, path: Path, files: Mapping[str, Any]) -> None:
    whole = path.with_suffix(".tmp")
    extra = {name: json.dumps(content) for name, content in files.items()}
    try:
        with _refusals_told("TorchScript"):
            torch.jit.save(torch.jit.script(network), whole, _extra_files=extra)
        _copy_records(whole, path, lambda name: not name.endswith(".debug_pkl"))
    finally:
        whole.unlink(missing_ok=True)


def _copy_records(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Copy an archive of PyTorch without some of its records; the debug ones name the source files of this machine."""
    reader = torch._C.PyTorchFileReader(str(source))
    writer = torch._C.PyTorchFileWriter(str(target))
    made_by_the_writer = ("version", ".data/version", "byteorder", ".data/serialization_id")
    for name in reader.get_all_records():
        if wanted(name) and name not in made_by_the_writer:
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def _write_pt2(network: nn.Module, example: torch.Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    with _refusals_told("torch.export"):
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})
