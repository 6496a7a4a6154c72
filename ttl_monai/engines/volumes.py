"""The volumes to predict: one series of DICOM, one NIfTI file, or a tree of either."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttl_monai.data import SeriesRules, find_series
from ttl_monai.engines.datasets import open_demo
from ttl_monai.engines.runs import reader_options
from ttl_monai.handlers.files import file_sha256

logger = logging.getLogger(__name__)

_NIFTI = (".nii", ".nii.gz")
RULES = ("modality", "max_thickness_mm", "min_slices")  # of the reader, what a series must be


@dataclass(frozen=True)
class FoundVolumes:
    """What lies in a folder.

    Attributes:
        items: with `image` (path, or the paths of a series) and `image_id`.
        refused: with `image_id` and `report`, the report of the reader in plain values.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)


def find_volumes(
    dataset_dir: str | None,
    demo_dir: str,
    trained: Mapping[str, Any] | None = None,
    *,
    make: str = "demo_ctpa_phantom",
    file_names: bool = False,
    gaps: str | None = None,
) -> FoundVolumes:
    """All volumes of a tree, judged by their headers; the reader judges those that pass once more.

    Args:
        dataset_dir: a NIfTI file, a folder of DICOM, or a tree of both; None takes the made test scans.
        demo_dir: where made data lies.
        trained: the `model.json` of the run.
        make: see `open_data`.
        file_names: identify volumes by their path below `dataset_dir` in the results. Off by default, since names of
            files and folders often hold those of patients: then by 16 hex digits, of the hash of a series' UID or of
            the content of a NIfTI file, or of a series without UID.
        gaps: "refuse" or "resample" unequal gaps; None: as the run's reader did.

    Returns:
        What was found, DICOM first, each in the order of the paths.

    Raises:
        ValueError: if nothing is there, or no folder was given for a run that was trained on other than made data.
    """
    if dataset_dir is None:
        data = open_demo(demo_dir, trained, make=make)
        return FoundVolumes([{key: item[key] for key in ("image", "image_id")} for item in data.section("test")])
    root = Path(dataset_dir)
    if not root.exists():
        raise ValueError(f"--dataset_dir must be a file or a folder of CT scans, but {root} does not exist.")
    base = root if root.is_dir() else root.parent
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    nifti = [path for path in files if path.name.lower().endswith(_NIFTI)]
    found = FoundVolumes()
    reader = {} if trained is None else reader_options(trained["preprocessing"])
    rules = SeriesRules(**{name: reader[name] for name in RULES if name in reader})
    gaps = gaps or reader.get("gaps", "refuse")
    for series in [] if root in nifti else find_series(root, rules=rules, gaps=gaps):
        place = series.files[0] if len(series.files) == 1 else series.files[0].parent
        name = place.relative_to(base).as_posix() if file_names else series.report.series
        name = name or file_sha256(series.files[0])[:16]
        name = _unique(name, series.report.series, found)
        if series.report.suitable:
            found.items.append({"image": [str(path) for path in series.files], "image_id": name})
        else:
            found.refused.append({"image_id": name, "report": series.report.to_dict()})
    for path in nifti:
        name = path.relative_to(base).as_posix() if file_names else file_sha256(path)[:16]
        found.items.append({"image": str(path), "image_id": _unique(name, "", found)})
    if not found.items and not found.refused:
        raise ValueError(f"no CT series and no NIfTI file was found among the {len(files)} files of {root}.")
    logger.info("Found %d volumes, of which %d are refused.", *_counts(found))
    return found


def _unique(name: str, series: str, found: FoundVolumes) -> str:
    """The name, with something added where it was given already: several series in a folder, one file twice."""
    taken = {each["image_id"] for each in (*found.items, *found.refused)}
    candidates = [name, f"{name}#{series}" if series and name != series else ""]
    candidates += [f"{name}#{number}" for number in range(2, len(taken) + 3)]
    return next(each for each in candidates if each and each not in taken)


def _counts(found: FoundVolumes) -> tuple[int, int]:
    return len(found.items) + len(found.refused), len(found.refused)
