"""A trained run as a file for other engines, kept only if it gives what the network gives."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttl_monai.deploy.export.description import describe
from ttl_monai.deploy.export.exported import TOLERANCE, ExportedNetwork, compare_outputs
from ttl_monai.deploy.export.forms import FORMS, onnx_model, save_onnx, save_openvino, write_form
from ttl_monai.deploy.export.quantise import quantise
from ttl_monai.deploy.export.run_images import RunImages
from ttl_monai.engines import build_network, find_run, load_spec
from ttl_monai.engines.compare_runs import run_data
from ttl_monai.files import file_sha256, write_atomically

logger = logging.getLogger(__name__)

_INT8_FORMS = ("onnx", "openvino")


@dataclass(frozen=True)
class Export:
    """An exported file.

    Attributes:
        path: the file.
        document: what stands in the JSON beside it: the file's metadata, the hashes of its files, what was verified.
    """

    path: Path
    document: dict[str, Any]


def export_run(
    run_dir: str | Path,
    form: str,
    *,
    int8: bool = False,
    out: str | Path | None = None,
    dataset_dir: str | Path | None = None,
    datalist: str | Path | None = None,
    calibration_images: int = 100,
    max_drop: float = 0.02,
) -> Export:
    """Write a trained run for another engine, with batches of any size, and compare the file with the network.

    In float32 the outputs for made images must agree, in int8 the metrics on the validation section. A file that does
    not keep this is not written.

    Args:
        run_dir: folder of the run.
        form: one of `FORMS`.
        int8: quantise weights and activations (ONNX and OpenVINO).
        out: the file; default: `export/model.onnx`, `export/model_int8.onnx` and so on in the run's folder.
        dataset_dir: for int8, folder of the images; None for those that the run's bundle made.
        datalist: for int8, likewise.
        calibration_images: for int8, of how many training images the ranges of the activations are taken.
        max_drop: for int8, how much AUROC or Dice on the validation section may be lost.

    Returns:
        The file, with what was verified.

    Raises:
        ValueError: no run, an unknown form, int8 in a form that has none, another suffix, a missing package, a file
            that does not give what the network gives.
    """
    if form not in FORMS:
        raise ValueError(f"--to must be one of {', '.join(FORMS)}, got {form!r}")
    if int8 and form not in _INT8_FORMS:
        raise ValueError(
            f"--int8 is for --to {' and '.join(_INT8_FORMS)}, whose engines run 8-bit convolutions; PyTorch's own "
            f"quantisation is leaving it, so there is none for {form}"
        )
    if calibration_images < 1:
        raise ValueError(f"--calibration_images must be at least 1, got {calibration_images}")
    folder, suffix = find_run(run_dir, ""), FORMS[form]
    path = Path(out) if out is not None else folder / "export" / f"model{'_int8' if int8 else ''}{suffix}"
    if path.suffix != suffix:
        raise ValueError(f"--out of --to {form} must end in {suffix}, got {path.name}")
    spec, network = load_spec(folder), build_network(folder)
    config = json.loads((folder / "run.json").read_text())["config"]
    metadata = describe(spec, config, network, precision="int8" if int8 else "float32")
    place = next(each for each in path.absolute().parents if each.is_dir())
    with tempfile.TemporaryDirectory(dir=place, prefix=".export-") as temporary:  # on the disk of the file
        made = Path(temporary, path.name)
        example = torch.zeros(2, metadata["input"]["channels"], *metadata["input"]["spatial_size"])
        if int8:
            data = run_data(folder, dataset_dir, datalist)
            images = RunImages(folder, data, Path(temporary, "cache"))
            model = quantise(onnx_model(network, example), made, images.training_images(calibration_images))
            _save_int8(model, made, metadata)
            verified = _compare_metrics(network, made, images, max_drop)
            verified["calibration"] = {"training_images": calibration_images, "data": data.name}
        else:
            write_form(network, example, made, metadata)
            try:
                verified = {"max_difference": compare_outputs(network, made, example), "tolerance": TOLERANCE}
            except ValueError as error:
                raise ValueError(f"{error}; nothing was written. Take another --to") from None
        return _keep(made, path, metadata, verified)


def _save_int8(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    if path.suffix == FORMS["onnx"]:
        save_onnx(model, path, metadata)
        return
    between = path.with_suffix(".onnx")
    save_onnx(model, between, {})
    save_openvino(between, path, metadata)
    between.unlink()


def _compare_metrics(network: nn.Module, path: Path, images: RunImages, max_drop: float) -> dict[str, Any]:
    """The metrics of network and file on the validation section; an error where the file's are worse."""
    before, after = images.validate(network), images.validate(ExportedNetwork(path))
    name = "val_dice" if images.data.task == "segmentation" else "val_auroc"
    difference = after[name] - before[name]
    if not difference >= -max_drop:
        raise ValueError(
            f"{name} is {before[name]:.4f} in float32 and {after[name]:.4f} in int8, expected a loss of at most "
            f"{max_drop:g}; nothing was written. Take more --calibration_images, a larger --max_drop, or no --int8"
        )
    return {
        "metric": name,
        "float32": before,
        "int8": after,
        "difference": difference,
        "max_drop": max_drop,
        "validation_images": len(images.data.entries["validation"]),
    }


def _keep(made: Path, path: Path, metadata: Mapping[str, Any], verified: Mapping[str, Any]) -> Export:
    """Move the files to their place, what belongs to them first, and write the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [each for each in (made.with_suffix(".bin"), made) if each.is_file()]
    document = {
        "files": {each.name: {"sha256": file_sha256(each), "bytes": each.stat().st_size} for each in files},
        "verified": dict(verified),
        "metadata": dict(metadata),
    }
    for each in files:
        each.replace(path.with_name(each.name))
    write_atomically(path.with_name(f"{path.name}.json"), (json.dumps(document, indent=4) + "\n").encode())
    return Export(path, document)
