"""Static int8 quantisation by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ttl_monai.deploy.export.forms import INPUT, require, save_onnx
from ttl_monai.engines.configs import quiet


def quantise(model: Any, path: Path, images: Iterable[np.ndarray]) -> Any:
    """Quantise weights and activations to signed 8 bits (QDQ; weights by channel, activations by their range).

    Source: ONNX Runtime's documentation, "Quantize ONNX models", which names this the first choice on x86-64.

    Args:
        model: the ONNX model in float32.
        path: where files may stand between the steps, `path` itself and names that begin like it; they are removed.
        images: (1, C, ...) each, from which the ranges of activations are taken.

    Returns:
        The quantised ONNX model.

    Raises:
        ValueError: there are no images, or a package is missing.
    """
    onnx, tools = require("onnx"), require("onnxruntime.quantization")
    prepare = require("onnxruntime.quantization.shape_inference").quant_pre_process
    prepared, done = (path.with_name(f"{path.name}.{name}") for name in ("prepared", "int8"))
    reader = _reader(images, tools.CalibrationDataReader)
    try:
        save_onnx(model, path, {})
        with warnings.catch_warnings(), quiet("", logging.ERROR):
            warnings.simplefilter("ignore")
            prepare(path, prepared)  # folds batch norms into convolutions
            tools.quantize_static(
                prepared,
                done,
                reader,
                quant_format=tools.QuantFormat.QDQ,
                per_channel=True,
                activation_type=tools.QuantType.QInt8,
                weight_type=tools.QuantType.QInt8,
            )
        return onnx.load(done)
    finally:
        for file in (path, prepared, done):
            file.unlink(missing_ok=True)


def _reader(images: Iterable[np.ndarray], base: type) -> Any:
    """The images one at a time, as ONNX Runtime asks for them."""

    class Reader(base):
        def __init__(self, images: Iterable[np.ndarray]) -> None:
            self.images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image}

    return Reader(images)
