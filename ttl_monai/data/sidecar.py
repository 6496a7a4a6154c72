"""The JSON file beside a PNG that says how its grey values are meant: DICOM tags in DICOM's own JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

__all__ = ["read_sidecar", "sidecar_path"]

# What display needs: no other tag is kept, so that nothing about a patient reaches memory, logs or caches.
_NUMBERS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
_TEXTS = ("PhotometricInterpretation", "VOILUTFunction")


def sidecar_path(image: Path) -> Path:
    """Where the side-car of an image lies: beside it, ending in .json."""
    return image.with_suffix(".json")


def read_sidecar(image: Path) -> Dataset | None:
    """The tags for display in the side-car of an image.

    The layout is that of BIMCV's data sets: DICOM's JSON model (PS3.18, F.2), {"00280004": {"vr": "CS", "Value":
    ["MONOCHROME1"]}, ...}, with the look-up tables as lists of numbers.

    Args:
        image: path of the image.

    Returns:
        The tags that `grey_picture` uses; None where there is no such file, or one of another kind.

    Raises:
        ValueError: a side-car that is damaged; the message quotes nothing of it.
    """
    try:
        content = json.loads(sidecar_path(image).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{sidecar_path(image)}: the file beside the image is no JSON") from None
    if not isinstance(content, dict) or not _values(content, "PhotometricInterpretation"):
        return None
    try:
        return _dataset(content)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise ValueError(f"{sidecar_path(image)}: tags for display are damaged") from None


def _dataset(content: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    for keyword in _TEXTS:
        if values := _values(content, keyword):
            setattr(dataset, keyword, str(values[0]))
    for keyword in _NUMBERS:
        if values := _values(content, keyword):
            setattr(dataset, keyword, float(f"{float(values[0]):.10g}"))  # DICOM has room for 16 characters
    if tables := _values(content, "VOILUTSequence"):
        table = Dataset()
        for keyword in ("LUTDescriptor", "LUTData"):
            setattr(table, keyword, [int(value) for value in _values(tables[0], keyword)])
        if len(table.LUTDescriptor) != 3 or not len(table.LUTData):
            raise ValueError("a look-up table without three numbers that describe it, or empty")
        dataset.VOILUTSequence = [table]
    return dataset


def _values(content: dict[str, Any], keyword: str) -> list[Any]:
    """The values of a tag, empty where it is absent or has none."""
    element = content.get(f"{tag_for_keyword(keyword):08X}")
    return (element.get("Value") or []) if isinstance(element, dict) else []
