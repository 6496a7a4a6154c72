"""Folders of slices: which files of a tree belong together as one volume."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ttl_monai.data.dicom_file import Refused, open_header
from ttl_monai.data.dicom_slices import FOREIGN_SUFFIXES, NOT_ACQUIRED

__all__ = ["fold_series"]

_SCANS = ("CT", "MR", "PT")  # modalities of which one file is a slice


def fold_series(paths: Sequence[Path], *, workers: int | None = None) -> list[Path]:
    """Put the folder in place of the slices of a scan that lie in it.

    A folder with several files of one CT, MR or PET series is one volume. With it go its files that are no acquired
    images, such as reports, and those that cannot be read, so that the reader of the folder refuses them. X-rays,
    pictures and NIfTI stay, and so do files that are alone in their series. Headers are read only in folders with
    several files that may be DICOM.

    Args:
        paths: files.
        workers: number of threads that read headers, default: one a core.

    Returns:
        Files and folders, sorted.
    """
    named = [path for path in paths if path.suffix.lower() not in FOREIGN_SUFFIXES]
    together = Counter(path.parent for path in named)
    unclear = [path for path in named if together[path.parent] > 1]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        reading = pool.map(_modality_and_series, unclear)
        shown = tqdm(reading, total=len(unclear), desc="headers", unit="file", mininterval=0.5, disable=None)
        found = dict(zip(unclear, shown, strict=True))
    times = Counter((path.parent, series) for path, (modality, series) in found.items() if modality in _SCANS)
    folders = {folder for (folder, _), count in times.items() if count > 1}
    of_scan = {*_SCANS, *NOT_ACQUIRED, ""}
    inside = {path for path, (modality, _) in found.items() if path.parent in folders and modality in of_scan}
    return sorted({path.parent if path in inside else path for path in paths})


def _modality_and_series(path: Path) -> tuple[str, str]:
    """What the header says; empty where it cannot be read, as the reader says what is wrong with the file."""
    try:
        header, _ = open_header(path, ["Modality", "SeriesInstanceUID"])
    except Refused:
        return "", ""
    return str(header.get("Modality") or ""), str(header.get("SeriesInstanceUID") or "")
