"""Make AdrenalMNIST3D ready for the 3D bundle: NIfTI volumes, and one datalist a repeat.

The shapes of 1,584 adrenal glands, segmented from the CT of 792 patients, normal or with hyperplasia, in cubes of 64 mm
(MedMNIST v2, Yang et al. 2023, CC BY 4.0). The published sections, made by patient, are kept; which glands belong to
one patient is not published. A repeat trains on its own random part of the training section, stratified, as small data
sets are what truncation is for. Voxels of a gland become 900 HU and empty ones air, so that the bundle's window gives
shares of the gland. The label is that of the whole volume: all slices of a positive one carry the finding, and a window
is the whole volume.

    python benchmarks/adrenal3d.py adrenalmnist3d_64.npz --out DATA/adrenal3d --size 24 --train_patients 400
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch.nn.functional import interpolate

from ttl_monai.data.build import to_json
from ttl_monai.data.sources.medmnist import CLASS_NAMES, SHORT_OF_SECTION, read_npz, to_nifti

NAMES = CLASS_NAMES["adrenalmnist3d"]


def write_volume(voxels: np.ndarray, path: Path, size: int) -> None:
    """Shrink a volume of 0 and 255, (64, 64, 64), by area to `size` voxels an axis and write it in HU."""
    shares = interpolate(torch.from_numpy(voxels / 255.0)[None, None], size=(size,) * 3, mode="area")[0, 0]
    path.write_bytes(to_nifti(shares.numpy(), 64 / size))


def main() -> None:
    """Write volumes and datalists, and say what the count of voxels alone is worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path, help="adrenalmnist3d_64.npz, as published")
    parser.add_argument("--out", type=Path, required=True, help="folder of the volumes and datalists")
    parser.add_argument("--size", type=int, default=24, help="voxels an axis (default: %(default)s)")
    parser.add_argument("--train_patients", type=int, default=400, help="training volumes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    entries: dict[str, list[dict[str, object]]] = {}
    for section, volumes, labels in read_npz(arguments.npz):
        short = SHORT_OF_SECTION[section]
        entries[section] = []
        for k, (voxels, label) in enumerate(zip(volumes, labels[:, 0].tolist(), strict=True)):
            name = f"images/{short}{k:04}.nii.gz"
            write_volume(voxels, arguments.out / name, arguments.size)
            slices = {"slices": list(range(arguments.size))} if label else {}
            entries[section].append({"image": name, "label": label, "patient": f"{short}{k:04}", **slices})
    counts = volumes.reshape(len(volumes), -1).astype(bool).sum(axis=1)  # of the last section, the test's
    auroc = roc_auc_score(labels[:, 0], counts)
    print(f"AUROC of the count of voxels alone on the test section: {auroc:.3f}")
    for repeat in range(arguments.repeats):
        labels = [entry["label"] for entry in entries["training"]]
        chosen, _ = train_test_split(
            range(len(labels)), train_size=arguments.train_patients, stratify=labels, random_state=repeat
        )
        sections = {**entries, "training": [entries["training"][k] for k in sorted(chosen)]}
        datalist = {
            "name": "adrenal3d",
            "task": "binary",
            "class_names": list(NAMES),
            "counts": {
                section: {name: sum(entry["label"] == label for entry in each) for label, name in enumerate(NAMES)}
                for section, each in sections.items()
            },
            "source": "AdrenalMNIST3D, MedMNIST v2 (doi:10.1038/s41597-022-01721-8)",
            "licence": "CC BY 4.0",
            "seed": repeat,
            "public_ids": True,
            **sections,
        }
        (arguments.out / f"adrenal3d_split{repeat}.json").write_text(to_json(json.loads(json.dumps(datalist))))


if __name__ == "__main__":
    main()
