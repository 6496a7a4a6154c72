<<<<<<< HEAD
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


def make_finding_phantom(
    folder: str | Path, *, seed: int = 1, patients: int = 12, size: tuple[int, int] = SIZE
) -> Path:
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
        "name": "phantom_findings",
        "source": "drawn by ttl_monai from shapes and noise; no real patients",
        "licence": "CC0-1.0",
        "made_by": f"ttl_monai.data.make_finding_phantom(seed={seed}, patients={patients}, size={tuple(size)})",
    }
    table = Table("segmentation", list(STRUCTURES), records)
    (datalist,) = build_datalists(table, folder, header=header, site_key=None, repeats=1, seed=seed, hash_files=False)
    path = folder / "datalist.json"
    path.write_text(to_json(datalist), encoding="utf-8")
    return path
=======
"""Made chest x-rays with several findings each, a source data set in the labels of CheXpert and its groups."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.phantom import _png
from ttl_monai.data.phantom_xray import Anatomy, draw_chest
from ttl_monai.data.records import Record, Table

FINDINGS = ("Lung Opacity", "Cardiomegaly", "Atelectasis")
# By file name; the groups are those of the supplement's Table 4.
GROUPS = {"full": FINDINGS, "low": FINDINGS[:1], "high": FINDINGS[1:]}
_UNKNOWN = 0.1


def make_findings_phantom(
    folder: str | Path, *, seed: int = 0, patients: int = 60, size: tuple[int, int] = (144, 184)
) -> Path:
    """Write images/ and the datalists full.json, low.json, high.json and datalist.json (the same as full.json).

    The three labels are the texture of `make_phantom` (an opacity of low-level features), a wide heart and a high
    diaphragm (shapes). A tenth of the labels is unknown, as in CheXpert. The same arguments give the same bytes.

    Args:
        folder: where to, made if absent; it is the data set's folder.
        seed: decides everything.
        patients: number of patients, two x-rays each.
        size: smallest and largest width in pixels, rounded down to multiples of 8.

    Returns:
        The path of datalist.json, which is written last.

    Raises:
        ValueError: so few patients that a section has no image of a label.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records, hashes = [], {}
    for index in range(patients):
        rng = np.random.default_rng((seed, 1, index))
        anatomy = Anatomy.draw(rng)
        short = int(rng.integers(size[0], size[1] + 1)) // 8 * 8
        for number in range(2):
            opacity = bool(rng.integers(2))
            xray = draw_chest(
                anatomy, np.random.default_rng((seed, 1, index, number)), positive=opacity, shape=(short + 8, short)
            )
            name, content = f"images/S{index + 1:04}_{number}.png", _png(xray.image)
            (folder / name).write_bytes(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
            found = (opacity, anatomy.heart > 1, anatomy.domes[0] < 0.47)  # the middle of what is drawn
            unknown = rng.random(len(FINDINGS)) < _UNKNOWN
            label = tuple(None if hidden else float(value) for value, hidden in zip(found, unknown, strict=True))
            records.append(Record(len(records) + 2, name, label, f"S{index + 1:04}"))
    for name, group in [*GROUPS.items(), ("datalist", FINDINGS)]:
        header = {
            "name": "phantom_findings",
            "source": "drawn by ttl_monai from shapes and noise; no real patients",
            "licence": "CC0-1.0",
            "made_by": f"ttl_monai.data.make_findings_phantom(seed={seed}, patients={patients}, size={tuple(size)})",
        }
        places = [FINDINGS.index(each) for each in group]
        own = [each._replace(label=tuple(each.label[k] for k in places)) for each in records]  # type: ignore[index]
        table = Table("multi-label", list(group), own)
        (listed,) = build_datalists(table, folder, header=header, site_key=None, repeats=1, seed=seed, hash_files=False)
        for entry in (entry for section in ("training", "validation", "test") for entry in listed[section]):
            entry["sha256"] = hashes[entry["image"]]
        (folder / f"{name}.json").write_text(to_json(listed), encoding="utf-8")
    return folder / "datalist.json"
>>>>>>> 8965f7c215b999966ed2605974c69a7a54c96823
