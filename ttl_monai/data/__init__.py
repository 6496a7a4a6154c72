"""Data: datalists split by patient, readers of x-rays, volumes and masks, transforms, caches, made data of demos."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttl_monai.data.cache import CachedDataset
    from ttl_monai.data.datalist import SECTIONS, Datalist
    from ttl_monai.data.dicom_choice import SeriesRules
    from ttl_monai.data.dicom_series import find_series, read_series
    from ttl_monai.data.mask_files import write_mask
    from ttl_monai.data.nifti import read_nifti
    from ttl_monai.data.pairs import LoadPaird
    from ttl_monai.data.phantom import demo_lung_phantom, demo_phantom, make_phantom
    from ttl_monai.data.phantom_ctpa import demo_ctpa_phantom, make_ctpa_phantom
    from ttl_monai.data.phantom_findings import make_findings_phantom
    from ttl_monai.data.phantom_masked import make_masked_phantom
    from ttl_monai.data.phantom_tissue import demo_tissue_phantom, make_tissue_phantom
    from ttl_monai.data.reader import XrayReader
    from ttl_monai.data.seal import seal
    from ttl_monai.data.series_dataset import SeriesDataset
    from ttl_monai.data.slices import segmentation_items, slice_items
    from ttl_monai.data.threads import ThreadedLoader
    from ttl_monai.data.transforms import BatchAugment, CenterSquareCropd, PrepareBatch
    from ttl_monai.data.volume import Volume, VolumeError, VolumeReport
    from ttl_monai.data.volume_cache import VolumeCache
    from ttl_monai.data.volume_reader import DicomSeriesReader, VolumeReader
    from ttl_monai.data.window_datasets import RandomWindowDataset, WindowDataset
    from ttl_monai.data.windows import WindowAugment, hu_to_unit, series_scores

__all__ = [
    "SECTIONS",
    "BatchAugment",
    "CachedDataset",
    "CenterSquareCropd",
    "Datalist",
    "DicomSeriesReader",
    "LoadPaird",
    "PrepareBatch",
    "RandomWindowDataset",
    "SeriesDataset",
    "SeriesRules",
    "ThreadedLoader",
    "Volume",
    "VolumeCache",
    "VolumeError",
    "VolumeReader",
    "VolumeReport",
    "WindowAugment",
    "WindowDataset",
    "XrayReader",
    "demo_ctpa_phantom",
    "demo_lung_phantom",
    "demo_phantom",
    "demo_tissue_phantom",
    "find_series",
    "hu_to_unit",
    "make_ctpa_phantom",
    "make_findings_phantom",
    "make_masked_phantom",
    "make_phantom",
    "make_tissue_phantom",
    "read_nifti",
    "read_series",
    "seal",
    "segmentation_items",
    "series_scores",
    "slice_items",
    "write_mask",
]

_MODULES = {
    "SECTIONS": "datalist",
    "BatchAugment": "transforms",
    "CachedDataset": "cache",
    "CenterSquareCropd": "transforms",
    "Datalist": "datalist",
    "LoadPaird": "pairs",
    "PrepareBatch": "transforms",
    "DicomSeriesReader": "volume_reader",
    "RandomWindowDataset": "window_datasets",
    "SeriesDataset": "series_dataset",
    "SeriesRules": "dicom_choice",
    "ThreadedLoader": "threads",
    "Volume": "volume",
    "VolumeCache": "volume_cache",
    "VolumeError": "volume",
    "VolumeReader": "volume_reader",
    "VolumeReport": "volume",
    "WindowAugment": "windows",
    "WindowDataset": "window_datasets",
    "XrayReader": "reader",
    "demo_ctpa_phantom": "phantom_ctpa",
    "demo_lung_phantom": "phantom",
    "demo_phantom": "phantom",
    "demo_tissue_phantom": "phantom_tissue",
    "find_series": "dicom_series",
    "hu_to_unit": "windows",
    "make_ctpa_phantom": "phantom_ctpa",
    "make_findings_phantom": "phantom_findings",
    "make_masked_phantom": "phantom_masked",
    "make_phantom": "phantom",
    "make_tissue_phantom": "phantom_tissue",
    "read_nifti": "nifti",
    "read_series": "dicom_series",
    "seal": "seal",
    "segmentation_items": "slices",
    "slice_items": "slices",
    "series_scores": "windows",
    "write_mask": "mask_files",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `ttl datalist` needs no MONAI, whose import takes 1 GiB alone."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
