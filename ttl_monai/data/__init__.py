"""Data: datalists split by patient, readers of x-rays, transforms, cache, and the made data of the demo."""

from ttl_monai.data.datalist import SECTIONS, Datalist

__all__ = [
    "SECTIONS",
    "Datalist",
]
