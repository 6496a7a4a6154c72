"""Data: datalists split by patient, readers of x-rays, transforms, cache, and the made data of the demo."""

from ttl_monai.data.cache import CachedDataset
from ttl_monai.data.datalist import SECTIONS, Datalist
from ttl_monai.data.reader import XrayReader
from ttl_monai.data.transforms import BatchAugment, CenterSquareCropd, PrepareBatch

__all__ = [
    "SECTIONS",
    "BatchAugment",
    "CachedDataset",
    "CenterSquareCropd",
    "Datalist",
    "PrepareBatch",
    "XrayReader",
]
