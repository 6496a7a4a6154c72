"""The made data of the pathology demo: patches of stained tissue that was never anyone's, in three classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.demo import ensure_demo, write_demo_list
from ttl_monai.data.phantom_patch import CLASS_NAMES, Stain, draw_tissue
from ttl_monai.data.records import Record, Table

# Raised when the pictures change, so that a demo made by an older version is made anew.
EDITION = 1
DEMO_PATIENTS = 100
SIZE = (144, 176)
_README = """Made patches of stained tissue, not of real people
==================================================

ttl_monai drew these pictures from shapes and noise (ttl_monai.data.make_tissue_phantom), for demonstrations and tests.
Patients, ids and findings are made up. Results on them say nothing about medicine.

images/        patches, 8-bit RGB PNG, with the look of haematoxylin and eosin
labels.csv     image, patient_id, label
datalist.json  the same, split by patient into training, validation and test

"lymphoid" patches have many small dark nuclei, "tumour" patches fewer and larger ones, "mitosis" patches look like
tumour with dividing cells. Every patient has a patch of each class. Licence: CC0-1.0.
"""


class TissuePatch(NamedTuple):
    """One patch of the phantom, in memory: made-up patient, number among theirs, label, RGB uint8 (H, W, 3)."""

    patient: str
    number: int
    label: int
    image: np.ndarray


def draw_tissue_phantom(
    *, seed: int = 0, patients: int = DEMO_PATIENTS, size: tuple[int, int] = SIZE
) -> Iterator[TissuePatch]:
    """Draw the patches of a phantom: of each patient one of each class, in no telling order, on one slide.

    Args:
        seed: decides everything. A patient's patches do not depend on the number of patients.
        patients: number of patients.
        size: smallest and largest height and width in pixels.

    Yields:
        One patch after the other, patient by patient.

    Raises:
        ValueError: no patients, or sizes out of order or below 64.
    """
    if patients < 1 or not 64 <= size[0] <= size[1]:
        raise ValueError(f"expected patients >= 1 and 64 <= size[0] <= size[1], got patients={patients}, size={size}")
    for index in range(patients):
        rng = np.random.default_rng((seed, index))
        stain, pixels = Stain.draw(rng), int(rng.integers(size[0], size[1] + 1))
        for number, label in enumerate(rng.permutation(len(CLASS_NAMES)).tolist()):
            image = draw_tissue(stain, np.random.default_rng((seed, index, number)), label=label, size=pixels)
            yield TissuePatch(f"P{index + 1:04}", number, label, image)


def make_tissue_phantom(
    folder: str | Path, *, seed: int = 0, patients: int = DEMO_PATIENTS, size: tuple[int, int] = SIZE
) -> Path:
    """Write a phantom: images/, labels.csv, datalist.json (split by patient, 64/16/20) and README.txt.

    The same arguments give the same bytes.

    Args:
        folder: where to, made if absent; files of those names are replaced. It is the data set's folder.
        seed: decides everything.
        patients: number of patients, at least 3.
        size: smallest and largest height and width in pixels.

    Returns:
        The path of datalist.json.

    Raises:
        ValueError: too few patients, or sizes out of order or too small.
    """
    folder = Path(folder)
    if patients < len(SECTIONS):
        raise ValueError(f"expected patients >= {len(SECTIONS)}, one for each of {', '.join(SECTIONS)}, got {patients}")
    records: list[Record] = []
    for patch in draw_tissue_phantom(seed=seed, patients=patients, size=size):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        name = f"images/{patch.patient}_{patch.number}.png"
        buffer = BytesIO()
        Image.fromarray(patch.image).save(buffer, format="PNG")
        (folder / name).write_bytes(buffer.getvalue())
        records.append(Record(len(records) + 2, name, patch.label, patch.patient))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "patient_id", "label"])
        rows.writerows([r.image, r.patient, CLASS_NAMES[int(r.label)]] for r in records)  # type: ignore[arg-type]
    (folder / "README.txt").write_text(_README, encoding="utf-8")
    header = {
        "name": "phantom_tissue",
        "source": "drawn by ttl_monai from shapes and noise; no real patients",
        "licence": "CC0-1.0",
        "made_by": _made_by(seed, patients, size),
    }
    table = Table("multi-class", CLASS_NAMES, records)
    return write_demo_list(table, folder, header=header, seed=seed)


def demo_tissue_phantom(folder: str | Path) -> Path:
    """The phantom of the pathology demo, made on first use, and made anew where it is damaged or of another version.

    Args:
        folder: where it lies or shall lie.

    Returns:
        The path of datalist.json; `folder` is the data set's folder.

    Raises:
        ValueError: the folder holds something that is no phantom; it is left as it is.
    """
    return ensure_demo(
        folder,
        made_by=_made_by(0, DEMO_PATIENTS, SIZE),
        title=_README.split("\n")[0],
        what=f"drawn patches of tissue of {DEMO_PATIENTS} patients who do not exist",
        make=lambda place: make_tissue_phantom(place, seed=0, patients=DEMO_PATIENTS, size=SIZE),
    )


def _made_by(seed: int, patients: int, size: tuple[int, int]) -> str:
    arguments = f"seed={seed}, patients={patients}, size={tuple(size)}"
    return f"ttl_monai.data.make_tissue_phantom({arguments}), edition {EDITION}"
