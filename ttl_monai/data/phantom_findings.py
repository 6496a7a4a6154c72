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
    labels: list[tuple[float | None, ...]] = []
    records: list[Record] = []
    hashes: dict[str, str] = {}
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
            labels.append(tuple(None if hidden else float(value) for value, hidden in zip(found, unknown, strict=True)))
            records.append(Record(len(records) + 2, name, labels[-1], f"S{index + 1:04}"))
    for name, group in [*GROUPS.items(), ("datalist", FINDINGS)]:
        header = {
            "name": "phantom_findings",
            "source": "drawn by ttl_monai from shapes and noise; no real patients",
            "licence": "CC0-1.0",
            "made_by": f"ttl_monai.data.make_findings_phantom(seed={seed}, patients={patients}, size={tuple(size)})",
        }
        places = [FINDINGS.index(each) for each in group]
        own = [
            each._replace(label=tuple(label[k] for k in places)) for each, label in zip(records, labels, strict=True)
        ]
        table = Table("multi-label", list(group), own)
        (listed,) = build_datalists(table, folder, header=header, site_key=None, repeats=1, seed=seed, hash_files=False)
        for entry in (entry for section in ("training", "validation", "test") for entry in listed[section]):
            entry["sha256"] = hashes[entry["image"]]
        (folder / f"{name}.json").write_text(to_json(listed), encoding="utf-8")
    return folder / "datalist.json"
