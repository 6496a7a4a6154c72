"""metadata.json of a packed bundle: that of the source bundle, with what the run was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ttl_monai.deploy.pack.run import FinishedRun

__all__ = ["packed_metadata", "read_version"]

VERSION = re.compile(r"\d+\.\d+\.\d+")


def read_version(text: str | None, source: Mapping[str, Any]) -> str:
    """The version of a packed bundle: the given one, or that of the source bundle.

    Raises:
        ValueError: it is not three numbers.
    """
    found = source["version"] if text is None else text
    if not VERSION.fullmatch(found):
        raise ValueError(f"expected --version as three numbers, such as 0.1.0, got {found!r}")
    return str(found)


def packed_metadata(
    run: FinishedRun, source: Mapping[str, Any], packages: Iterable[str], *, release: str, changelog: str | None
) -> dict[str, Any]:
    """The metadata of a run's bundle.

    Args:
        run: what is packed.
        source: metadata of the source bundle.
        packages: distributions that the carried code imports.
        release: version of the bundle.
        changelog: what is new in it; None says what was packed.

    Returns:
        The content of metadata.json: versions of this environment, in which the exports were verified; the run's
        results as `eval_metrics`; shapes, channels and classes of its network.

    Raises:
        ValueError: a package that the source bundle names is not installed.
    """
    name, spec = run.record["data"]["name"], run.spec
    text = changelog or f"{spec['strategy']} of {run.network}, trained on {name}"
    classes = ", ".join(spec["class_names"])
    channels = spec["network_def"]["in_channels"]
    expected = source["network_data_format"]["inputs"]["image"]["num_channels"]
    return {
        **source,
        "version": release,
        "changelog": {**source["changelog"], release: text},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {
            each: _version(each) for each in [*source["required_packages_version"], *sorted(packages)]
        },
        "description": f"{source['description']} Packed: {spec['strategy']} of {run.network}.",
        "data_source": f"trained on {name}",
        "image_classes": source["image_classes"] if channels == expected else f"{channels} channels in [0, 1]",
        "label_classes": f"{source['label_classes']} (here: {classes})",
        "eval_metrics": {each: round(value, 4) for each, value in run.scores.items()},
        "network_data_format": _data_format(spec, source["network_data_format"]),
    }


def _version(package: str) -> str:
    """The installed version, without the local part (`+cpu`) that no registry has."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        raise ValueError(f"{package} is named by the bundle's metadata, but not installed: pip install it") from None


def _data_format(spec: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """`network_data_format` with the network's channels, size and classes."""
    network, image, pred = spec["network_def"], source["inputs"]["image"], source["outputs"]["pred"]
    dims, size = len(image["spatial_shape"]), spec["spatial_size"]
    shape = [size] * dims if isinstance(size, int) else list(size)
    channels, classes = network["in_channels"], spec["class_names"]
    inputs = {**image, "num_channels": channels, "spatial_shape": shape}
    if channels != image["num_channels"]:
        inputs |= {"modality": "RGB"} if channels == 3 else {}
        inputs["channel_def"] = _numbered(("red", "green", "blue") if channels == 3 else ["image"] * channels)
    outputs = {
        **pred,
        "num_channels": network.get("num_classes", network.get("out_channels")),
        "spatial_shape": shape if pred["spatial_shape"] else [],
        "channel_def": _numbered(classes),
    }
    return {"inputs": {"image": inputs}, "outputs": {"pred": outputs}}


def _numbered(names: Sequence[str]) -> dict[str, str]:
    return {str(index): name for index, name in enumerate(names)}
