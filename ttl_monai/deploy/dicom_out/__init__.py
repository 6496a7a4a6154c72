"""Predictions as DICOM: structured reports, segmentations and pictures that belong to the study of their source."""

from ttl_monai.deploy.dicom_out.capture import capture_image
from ttl_monai.deploy.dicom_out.identity import ModelIdentity, require_highdicom
from ttl_monai.deploy.dicom_out.masks import segmentation
from ttl_monai.deploy.dicom_out.report import Finding, structured_report
from ttl_monai.deploy.dicom_out.sources import SourceRefused, load_sources

__all__ = [
    "Finding",
    "ModelIdentity",
    "SourceRefused",
    "capture_image",
    "load_sources",
    "require_highdicom",
    "segmentation",
    "structured_report",
]
