"""A bundle to check and eight tiny images, which a test spoils in one way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ttl_monai.deploy.check import check_bundle

BUNDLES = Path(__file__).resolve().parents[3] / "bundles"
SECTIONS = ("training",) * 4 + ("validation",) * 2 + ("test",) * 2
# As small as the images; the networks are built by the tests that look at them.
TINY = {"spatial_size": 16, "batch_size": 4, "network_def#weights": "none"}
TINY_OF = {
    "covid_ttl": TINY,
    "unet_ttl": {**TINY, "cached_size": 16},
    "ctpa_ttl": {**TINY, "spatial_size": [4, 16, 16], "crop_from": 16, "field_size": -1, "min_slices": 1},
}


class Tiny:
    """Eight made images with their datalist, to be changed before they are checked.

    Attributes:
        folder: of the images.
        bundle: folder of the bundle.
        data: content of the datalist; written by `check`.
        settings: of the config.
        overlays: on train.json.
    """

    def __init__(self, folder: Path, bundle: str) -> None:
        self.folder, self.bundle = folder / "data", BUNDLES / bundle
        self.settings = {**TINY_OF[bundle], "output_dir": str(folder / "run"), "cache_dir": str(folder / "cache")}
        self.overlays: list[str] = []
        self.given = {"dataset_dir": self.folder, "datalist": folder / "list.json"}
        self.folder.mkdir()
        task = "segmentation" if bundle == "unet_ttl" else "binary"
        self.data = {"name": "tiny", "task": task, "class_names": ["no", "yes"], "public_ids": True}
        self.data |= {section: [] for section in SECTIONS}
        noise = np.random.default_rng(0)
        for number, section in enumerate(SECTIONS):
            image, label = f"{number}.png", number % 2
            if bundle == "ctpa_ttl":
                image = f"{number}.nii"
                self.write(image, noise.integers(-1000, 500, (16, 16, 6)).astype(np.int16))
            else:
                self.write(image, noise.integers(0, 255, (16, 16), dtype=np.uint8))
            entry = {"image": image, "label": label, "patient": f"p{number}"}
            if task == "segmentation":
                entry["label"] = f"m{number}.png"
                self.write(entry["label"], np.eye(16, dtype=np.uint8))
            if bundle == "ctpa_ttl" and label:
                entry["slices"] = [2, 3]
            self.data[section].append(entry)

    def write(self, name: str, pixels: np.ndarray, affine: np.ndarray | None = None) -> None:
        """Write an image in the format of its name."""
        if name.endswith(".nii"):
            nib.save(nib.Nifti1Image(pixels, np.eye(4) if affine is None else affine), self.folder / name)
        else:
            Image.fromarray(pixels).save(self.folder / name)

    def own_bundle(self) -> Path:
        """Go on with a copy of the bundle's configs, which may be spoilt; gives their folder."""
        copy = self.folder.parent / "bundles" / self.bundle.name
        shutil.copytree(self.bundle / "configs", copy / "configs")
        shutil.copytree(BUNDLES / "schema", copy.parent / "schema")
        self.bundle = copy
        return copy / "configs"

    def check(self, **options):
        """What is found."""
        if self.data is not None:
            (self.folder.parent / "list.json").write_text(json.dumps(self.data))
        given = {**self.given, "overlays": self.overlays, "settings": self.settings, "batch": False, **options}
        return check_bundle(self.bundle, **given)


@pytest.fixture
def make_tiny(tmp_path):
    """Make the tiny images of a bundle."""
    return lambda bundle="covid_ttl": Tiny(tmp_path, bundle)
