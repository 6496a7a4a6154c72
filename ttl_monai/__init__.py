"""Truncated transfer learning for medical images, as MONAI bundles."""

__version__ = "0.2.0"
