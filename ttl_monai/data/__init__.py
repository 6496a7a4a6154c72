"""Data: datalists split by patient, readers of x-rays and masks, transforms, cache, and the made data of the demo."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttl_monai.data.cache import CachedDataset
    from ttl_monai.data.datalist import SECTIONS, Datalist
    from ttl_monai.data.pairs import CheckPaird, LoadPaird
    from ttl_monai.data.phantom import demo_phantom, make_phantom
    from ttl_monai.data.reader import XrayReader
    from ttl_monai.data.seal import seal
    from ttl_monai.data.slices import SelectSliced, SliceOrientationd, slice_items
    from ttl_monai.data.transforms import BatchAugment, CenterSquareCropd, PrepareBatch

__all__ = [
    "SECTIONS",
    "BatchAugment",
    "CachedDataset",
    "CenterSquareCropd",
    "CheckPaird",
    "Datalist",
    "LoadPaird",
    "PrepareBatch",
    "SelectSliced",
    "SliceOrientationd",
    "XrayReader",
    "demo_phantom",
    "make_phantom",
    "seal",
    "slice_items",
]

_MODULES = {
    "SECTIONS": "datalist",
    "BatchAugment": "transforms",
    "CachedDataset": "cache",
    "CenterSquareCropd": "transforms",
    "CheckPaird": "pairs",
    "Datalist": "datalist",
    "LoadPaird": "pairs",
    "PrepareBatch": "transforms",
    "SelectSliced": "slices",
    "SliceOrientationd": "slices",
    "XrayReader": "reader",
    "demo_phantom": "phantom",
    "make_phantom": "phantom",
    "seal": "seal",
    "slice_items": "slices",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `ttl datalist` needs no MONAI, whose import takes 1 GiB alone."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
