"""Made chest x-rays with the masks of their lungs and of their finding: where a network should look is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.phantom import SIZE, draw_phantom
from ttl_monai.data.records import Record, Table

STRUCTURES = ("lungs", "finding")
"""Names of the bits of the masks, from bit 0."""


def make_masked_phantom(folder: str | Path, *, seed: int = 1, patients: int = 12, size: tuple[int, int] = SIZE) -> Path:
    """Write the positive x-rays of a phantom with bit masks: images/, masks/ and datalist.json.

    Args:
        folder: where to, made if absent. It is the data set's folder.
        seed: decides everything; `make_phantom` of another seed has other patients.
        patients: number of patients, at least 3.
        size: smallest and largest width in pixels, as for `make_phantom`.

    Returns:
        The path of datalist.json, which is one of segmentation; bit 0 of a mask are the lungs, bit 1 the finding.

    Raises:
        ValueError: too few patients, or sizes out of order or too small.
    """
    folder = Path(folder)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for exam in draw_phantom(seed=seed, patients=patients, size=size):
        if exam.label == 1:
            image, mask = (f"{what}/{exam.patient}_{exam.number}.png" for what in ("images", "masks"))
            bits = exam.xray.lungs.any(axis=0) + 2 * exam.xray.finding
            Image.fromarray(np.round(exam.xray.image * 255).astype(np.uint8)).save(folder / image)
            Image.fromarray(bits.astype(np.uint8)).save(folder / mask)
            records.append(Record(len(records) + 2, image, mask, exam.patient))
    header = {
        "name": "phantom_masked",
        "source": "drawn by ttl_monai from shapes and noise; no real patients",
        "licence": "CC0-1.0",
        "made_by": f"ttl_monai.data.make_masked_phantom(seed={seed}, patients={patients}, size={tuple(size)})",
    }
    table = Table("segmentation", list(STRUCTURES), records)
    (datalist,) = build_datalists(table, folder, header=header, site_key=None, repeats=1, seed=seed, hash_files=False)
    path = folder / "datalist.json"
    path.write_text(to_json(datalist), encoding="utf-8")
    return path
