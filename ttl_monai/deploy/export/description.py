"""What an exported file says of itself: the images that it takes, what it gives, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ttl_monai import __version__
from ttl_monai.data.windows import HU_WINDOW

_XRAY = "as displayed: MONOCHROME1 turned over, the patient's right at the left of the picture, rows from the top"
_WINDOW = "slices from the feet to the head, rows from front to back, columns from the patient's right to the left"


def describe(
    spec: Mapping[str, Any], config: Mapping[str, Any], network: nn.Module, *, precision: str
) -> dict[str, Any]:
    """All that somebody needs to feed the file and to read what it gives; no path and nothing of a patient.

    Args:
        spec: `model.json` of the run.
        config: the merged config of its training, as in `run.json`.
        network: the trained network, for its normalisation.
        precision: "float32" or "int8".

    Returns:
        JSON values by name.
    """
    definition, size = spec["network_def"], spec["spatial_size"]
    spatial = [size, size] if isinstance(size, int) else list(size)
    meta = config.get("_meta_") or {}
    axes = "batch, channel, " + ("height, width" if len(spatial) == 2 else "depth, height, width")
    segments = spec["task"] == "segmentation"
    sigmoid = spec["task"] == "multi-label" or (segments and spec.get("mask_bits") is not None)
    return {
        "package": f"ttl-monai {__version__}",
        "bundle": {"name": meta.get("name"), "version": meta.get("version")},
        "intended_use": "Research only. Not a medical device, not for clinical use.",
        "task": spec["task"],
        "class_names": list(spec["class_names"]),
        "strategy": spec["strategy"],
        "backbone": definition.get("backbone") or definition["encoder"],
        "truncate_at": definition["truncate_at"],
        "weights": Path(str(definition["weights"])).name,
        "model_sha256": spec["sha256"],
        "data_sha256": spec["data_sha256"],
        "precision": precision,
        "input": {
            "name": "image",
            "axes": axes,
            "channels": definition["in_channels"],
            "spatial_size": spatial,
            "dtype": "float32",
            "range": [0.0, 1.0],
            "orientation": _XRAY if len(spatial) == 2 else _WINDOW,
            "window": _window(spec, spatial),
        },
        "normalisation": {
            "inside": True,  # the network does it: images come in [0, 1]
            **{name: getattr(network, name).flatten().tolist() for name in ("mean", "std")},
        },
        "preprocessing": spec["preprocessing"]["transforms"],
        "output": {
            "name": "logits",
            "axes": axes.replace("channel", "class") if segments else "batch, class",
            "activation": "sigmoid" if sigmoid else "softmax",
            "threshold": spec["threshold"],
            "pooling": spec.get("pooling"),
        },
    }


def _window(spec: Mapping[str, Any], spatial: list[int]) -> dict[str, Any] | None:
    """The values that become 0 and 1; None where each file tells its own (DICOM's VOI window, 8 bits)."""
    if len(spatial) == 3:
        return {"low": HU_WINDOW[0], "high": HU_WINDOW[1], "unit": "HU"}
    of_volumes = spec["preprocessing"]["transforms"][0].get("window")
    return None if of_volumes is None else {"low": of_volumes[0], "high": of_volumes[1], "unit": "of the volume"}
