"""Trained runs as files for other engines: written, described in the file, and compared with the network in PyTorch."""

from ttl_monai.deploy.export.description import describe
from ttl_monai.deploy.export.exported import TOLERANCE, ExportedNetwork, compare_outputs
from ttl_monai.deploy.export.forms import FORMS, write_form
from ttl_monai.deploy.export.run import Export, export_run

__all__ = [
    "FORMS",
    "TOLERANCE",
    "Export",
    "ExportedNetwork",
    "compare_outputs",
    "describe",
    "export_run",
    "write_form",
]
