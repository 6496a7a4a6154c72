"""MedMNIST, 2D and 3D, as a source: one .npz, written out as PNG or NIfTI, with its published split."""

from __future__ import annotations

import argparse
import gzip
import importlib
import logging
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from tqdm import tqdm

from ttl_monai.data.records import Label, Record, Table, name_rows
from ttl_monai.data.sources import tell_origin, warn_of_patients, write_file

logger = logging.getLogger(__name__)

HELP = "MedMNIST, 2D or 3D: one .npz such as pneumoniamnist_224.npz, whose images are written beside it"
EXAMPLE = "ttl datalist medmnist DATA/pneumoniamnist_224.npz --public-ids --download"
SHORT_OF_SECTION = {"training": "train", "validation": "val", "test": "test"}
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
# Names of the classes, which the files do not have; from `medmnist/info.py`.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "chestmnist": (
        *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
        *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil"),
        "platelet",
    ),
    "tissuemnist": (
        *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells"),
        *("Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments"),
        "Thick Ascending Limb",
    ),
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), _ORGANS),
    "organmnist3d": (
        *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right"),
        *("lung-left", "spleen", "pancreas"),
    ),
    "nodulemnist3d": ("benign", "malignant"),
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "vesselmnist3d": ("vessel", "aneurysm"),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "MedMNIST v2 and MedMNIST+ (Yang et al., Scientific Data 10:41, 2023; https://medmnist.com, doi "
        "10.5281/zenodo.10519652), CC BY 4.0 but DermaMNIST, which is CC BY-NC 4.0; made for benchmarks, not for "
        "clinical use. The published split is kept. Some of the sets have identical images, which are an error unless "
        "--no-hash is given."
    )
    add = parser.add_argument
    add("npz", type=Path, help="the file, with its published name: NAME.npz (28 pixels) or NAME_SIZE.npz")
    add(
        "--download", action="store_true", help="fetch the file where it is missing (pip install 'ttl-monai[medmnist]')"
    )
    add("--spacing", type=float, default=1.0, help="3D: size of a voxel in mm to write down (default: %(default)s)")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder that holds the file."""
    return Path(arguments.npz).parent


def read(arguments: argparse.Namespace) -> Table:
    """Write each image of the file into a folder of the file's name, and list them.

    Source: `medmnist/dataset.py` and `medmnist/info.py` of https://github.com/MedMNIST/MedMNIST: arrays
    train_images, train_labels, val_images, ... of 8 bits; images (N, H, W), (N, H, W, 3) or (N, D, H, W), labels (N, 1)
    or, of ChestMNIST, (N, 14).

    Grey volumes become HU (see `to_nifti`). All slices of a volume of the second of two classes carry the finding,
    as the label is that of the whole volume.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records, with the published sections; a record's row is its number in the order of the file, from 1.

    Raises:
        ValueError: a file that is missing, damaged or none of MedMNIST, labels out of the set, by row, or a download
            that fails or lacks its package.
    """
    path = arguments.npz.absolute()
    if not path.is_relative_to(arguments.dataset_dir):
        raise ValueError(f"the file {path.name} must lie in --dataset-dir")
    names = _class_names(path)
    if arguments.download and not path.is_file():
        _download(path)
    records: list[Record] = []
    sections: dict[str, str] = {}
    slices: dict[str, list[int]] = {}
    for section, images, labels in read_npz(path):
        checked = _check_labels(labels, names, first=len(records) + 1)
        volumes = images.ndim == 4 and images.shape[-1] != 3
        suffix = ".nii.gz" if volumes else ".png"
        for k, label in enumerate(tqdm(checked, desc=section, unit="image", mininterval=0.5)):
            file = path.with_suffix("") / f"{SHORT_OF_SECTION[section]}{k:05}{suffix}"
            write_file(file, to_nifti(images[k] / 255, arguments.spacing) if volumes else _png(images[k]))
            name = file.relative_to(arguments.dataset_dir).as_posix()
            records.append(Record(len(records) + 1, name, label, file.name.removesuffix(suffix)))
            sections[name] = section
            if volumes and len(names) == 2:
                slices[name] = list(range(images.shape[1])) if label else []
    warn_of_patients(len(records), "images", "MedMNIST does not tell patients, but says that its sections share none")
    licence = "CC BY-NC 4.0" if path.name.startswith("dermamnist") else "CC BY 4.0"
    tell_origin(arguments, source="MedMNIST v2, doi 10.1038/s41597-022-01721-8", licence=licence)
    task = "multi-label" if records and isinstance(records[0].label, tuple) else "multi-class"
    return Table("binary" if len(names) == 2 else task, list(names), records, slices=slices, sections=sections)


def read_npz(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Section, images and labels of a file of MedMNIST, section by section.

    Args:
        path: the .npz file; nothing in it is unpickled.

    Yields:
        The name of the section; images uint8, (N, H, W), (N, H, W, 3) or (N, D, H, W); labels (N, L).

    Raises:
        ValueError: a file that is missing, damaged or lacks these arrays.
    """
    try:
        published = np.load(path, allow_pickle=False)
        keys = [f"{short}_{what}" for short in SHORT_OF_SECTION.values() for what in ("images", "labels")]
        if lacking := [key for key in keys if key not in getattr(published, "files", ())]:
            raise ValueError(f"it lacks the arrays {', '.join(lacking)}")
        for section, short in SHORT_OF_SECTION.items():
            images, labels = published[f"{short}_images"], published[f"{short}_labels"]
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape[:1] != images.shape[:1]:
                raise ValueError(
                    f"{section}: expected 8-bit images with a label each, got {images.dtype} {images.shape}"
                )
            yield section, images, labels.reshape(len(labels), -1)
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name} in {path.parent}; --download fetches it") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is no file of MedMNIST, or damaged: {error}") from error


def to_nifti(shares: np.ndarray, spacing_mm: float) -> bytes:
    """A volume as a compressed NIfTI in HU, within the window of -100 to 900 HU of the 3D bundle.

    Args:
        shares: values in [0, 1], (D, H, W), which become -100 to 900 HU; zeros become air, -1000 HU.
        spacing_mm: size of a voxel. The files of MedMNIST do not name their axes: the array's are taken as they are.
    """
    hu = np.where(shares > 0, shares * 1000 - 100, -1000).round().astype(np.int16)
    image = nib.Nifti1Image(hu, np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0]))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _class_names(path: Path) -> tuple[str, ...]:
    """The names of the classes by the name of the file."""
    flag = re.sub(r"(_\d+)?\.npz$", "", path.name)
    if flag not in CLASS_NAMES or path.suffix != ".npz":
        raise ValueError(
            f"{path.name} is not named as MedMNIST names its files: NAME.npz or NAME_SIZE.npz, with NAME "
            f"one of {', '.join(CLASS_NAMES)}"
        )
    return CLASS_NAMES[flag]


def _check_labels(labels: np.ndarray, names: tuple[str, ...], *, first: int) -> list[Label]:
    """Labels as a datalist has them: a class an image, or 1 and 0 for each class."""
    several = labels.shape[1] > 1
    expected = f"{len(names)} values 0 or 1" if several else f"one of 0 to {len(names) - 1}"
    allowed = [0, 1] if several else range(len(names))
    wrong = np.flatnonzero(~np.isin(labels, allowed).all(axis=1))
    if len(wrong) or labels.shape[1] not in (1, len(names)):
        rows = name_rows((wrong + first).tolist() or [first])
        raise ValueError(f"labels are out of the set (expected {expected}): {rows}, in the order of the file")
    return [tuple(row) if several else row[0] for row in labels.tolist()]


def _download(path: Path) -> None:
    """Fetch the file with the medmnist package, which knows addresses and checksums."""
    try:
        medmnist = importlib.import_module("medmnist")
    except ImportError:
        raise ValueError("--download needs the medmnist package: pip install 'ttl-monai[medmnist]'") from None
    flag, size = re.fullmatch(r"(\w+?)(?:_(\d+))?\.npz", path.name).groups()  # type: ignore[union-attr]
    kind = getattr(medmnist, medmnist.INFO[flag]["python_class"])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        kind(split="test", download=True, root=str(path.parent), size=int(size) if size else None)
    except (RuntimeError, AssertionError) as error:  # the package's own: no network, or a size that it does not have
        raise ValueError(f"{path.name} could not be downloaded ({error}); fetch it by hand, see --help") from error
