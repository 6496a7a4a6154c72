"""The scans of synthetic emboli as files: NIfTI and datalists with positions held out. Artificial, of one patient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttl_monai.data.build import to_json
from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.emboli import DIAMETERS_MM, Blob, Site, draw_scan, partition_arteries, surroundings, vessels_beside
from ttl_monai.data.nifti import read_nifti
from ttl_monai.data.phantom_ctpa import to_nifti
from ttl_monai.data.records import count_classes

__all__ = ["make_emboli", "read_cta"]

CLASS_NAMES = ["negative", "positive"]
BLOCKS, MARGIN_MM = {"training": 4, "validation": 2, "test": 2}, 3.0
SHAPE = (24, 84, 84)  # of the scans: the arteries and some 15 mm around them
EMBOLI, DISTRACTORS = (1, 3), (2, 4)  # fewest and most of a scan
FILES = ("datalist.json", "shuffled.json", "elsewhere.json")


def read_cta(folder: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A CT angiography and the mask of its pulmonary arteries, as far as 30 mm around these, two slices made one.

    Args:
        folder: of cta.nii.gz and pulmonary_artery.nii.gz.

    Returns:
        HU and bool, (slices, rows, columns) each, and the distances of slices, rows and columns in mm.

    Raises:
        ValueError: the two do not lie on the same voxels, or the reader refuses one.
    """
    volume = read_nifti(folder / "cta.nii.gz")
    mask = read_nifti(folder / "pulmonary_artery.nii.gz", check_hu_range=False)
    if mask.array.shape != volume.array.shape or not np.allclose(mask.affine, volume.affine, atol=1e-3):
        raise ValueError(f"cta.nii.gz and pulmonary_artery.nii.gz in {folder} do not lie on the same voxels")
    dx, dy, dz = (float(each) for each in np.linalg.norm(volume.affine[:3, :3], axis=0))
    hu, shares = (_thicker(each.array.transpose(2, 1, 0)) for each in (volume, mask))
    arteries, spacing_mm = shares > 0.5, (2 * dz, dy, dx)
    places = np.argwhere(arteries)
    low, high = places.min(axis=0) - np.divide(30, spacing_mm), places.max(axis=0) + np.divide(30, spacing_mm)
    box = tuple(slice(max(int(first), 0), int(last) + 1) for first, last in zip(low, high, strict=True))
    return hu[box], arteries[box], spacing_mm


def _thicker(array: np.ndarray) -> np.ndarray:
    """Means of two slices each."""
    return array[: len(array) // 2 * 2].reshape(-1, 2, *array.shape[1:]).mean(axis=1)


def make_emboli(
    cta: Path,
    folder: Path,
    *,
    seed: int,
    pairs: Mapping[str, int],
    diameters_mm: tuple[float, float] = DIAMETERS_MM,
) -> None:
    """Write pairs of scans, images/*.nii.gz, and their lists, unless they are there.

    The scans of a pair have the same variation and the same distractors; one of them has emboli, whole inside of its
    section's part of the arteries. `shuffled.json` has the labels of training and validation shuffled. `elsewhere.json`
    has the positive scans of the test section, and as negatives their twins with as many defects outside of the
    pulmonary arteries, in other vessels and the heart.

    Args:
        cta: see `read_cta`.
        folder: where to, made if absent.
        seed: decides everything.
        pairs: number of pairs of each section.
        diameters_mm: smallest and largest of the blobs.

    Raises:
        ValueError: the folder holds other scans than are asked for, or the arteries have no room.
    """
    made_by = (
        f"ttl_monai.data.emboli_files.make_emboli(seed={seed}, pairs={dict(pairs)}, diameters_mm={diameters_mm}), "
        f"{BLOCKS} blocks, {MARGIN_MM} mm apart"
    )
    if all((folder / name).is_file() for name in FILES):
        if (found := json.loads((folder / FILES[0]).read_text())["made_by"]) != made_by:
            raise ValueError(f"{folder} was made by {found}, but {made_by} is asked for: use another folder")
        return
    hu, arteries, spacing_mm = read_cta(cta)
    parts = partition_arteries(arteries, spacing_mm, blocks=BLOCKS, margin_mm=MARGIN_MM, seed=seed)
    tissue, vessels = surroundings(hu, arteries, spacing_mm), vessels_beside(hu, arteries, spacing_mm)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries: dict[str, list[dict[str, Any]]] = {section: [] for section in (*SECTIONS, "elsewhere")}
    for number, section in enumerate(SECTIONS):
        site = Site(parts[section], spacing_mm)
        for pair in range(pairs[section]):
            rng = np.random.default_rng((seed, number, pair))
            emboli = _several(site, rng, EMBOLI, diameters_mm)
            others = _several(tissue, rng, DISTRACTORS, diameters_mm)
            kinds: dict[str, tuple[list[Blob], list[Blob]]] = {"negative": ([], others), "positive": (emboli, others)}
            if section == "test":
                away = _several(vessels, rng, (len(emboli), len(emboli)), diameters_mm)
                kinds["elsewhere"] = ([], [*others, *away])
            for kind, (inside, outside) in kinds.items():
                look = (seed, number, pair, 1)
                scan = draw_scan(hu, arteries, spacing_mm, emboli=inside, others=outside, shape=SHAPE, seed=look)
                name = f"images/{section}_{pair:03}_{kind}.nii.gz"
                (folder / name).write_bytes(to_nifti(scan))
                # All scans are of one patient. Pairs stand in the list for patients, so that none is torn apart.
                entry: dict[str, Any] = {
                    "image": name,
                    "label": int(kind == "positive"),
                    "patient": f"{section} pair {pair}",
                }
                entry["slices"] = list(scan.slices)
                if kind != "elsewhere":
                    entries[section].append(entry)
                if section == "test" and kind != "negative":
                    entries["elsewhere"].append(entry)
    _write_lists(folder, entries, made_by, seed)


def _several(
    site: Site, rng: np.random.Generator, count: Sequence[int], diameters_mm: tuple[float, float]
) -> list[Blob]:
    return [site.place(rng, diameters_mm) for _ in range(rng.integers(count[0], count[1] + 1))]


def _write_lists(folder: Path, entries: Mapping[str, list[dict[str, Any]]], made_by: str, seed: int) -> None:
    """The three lists; the one whose name tells that all is there comes last."""
    header = {
        "name": "synthetic_emboli",
        "task": "binary",
        "class_names": CLASS_NAMES,
        "source": "one real CT angiography with artificial filling defects",
        "made_by": made_by,
        "public_ids": True,
        "seed": seed,
    }
    rng = np.random.default_rng(seed)
    shuffled = {"test": entries["test"]}
    for section in ("training", "validation"):
        order = rng.permutation(len(entries[section]))
        labels = [{key: entries[section][other][key] for key in ("label", "slices")} for other in order]
        shuffled[section] = [entry | label for entry, label in zip(entries[section], labels, strict=True)]
    elsewhere = {"training": [], "validation": [], "test": entries["elsewhere"]}
    for name, lists in reversed(list(zip(FILES, (entries, shuffled, elsewhere), strict=True))):
        sections = {section: lists[section] for section in SECTIONS}
        counts = {
            section: count_classes("binary", CLASS_NAMES, [entry["label"] for entry in found])
            for section, found in sections.items()
        }
        (folder / name).write_text(to_json({**header, "counts": counts, **sections}), encoding="utf-8")
