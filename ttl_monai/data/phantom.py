"""The made data of the demo and the tests: chest x-rays of patients who do not exist, as DICOM and PNG."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.demo import ensure_demo
from ttl_monai.data.phantom_xray import Anatomy, ChestXray, draw_chest
from ttl_monai.data.records import Record, Table

logger = logging.getLogger(__name__)

# Raised when the pictures change, so that a demo made by an older version is made anew.
EDITION = 2
CLASS_NAMES = ["negative", "positive"]
MASK_CLASS_NAMES = ["background", "lung"]
DEMO_PATIENTS = 240
SIZE = (144, 184)
_FORMATS = ("PNG", "DX MONOCHROME2", "PNG", "CR MONOCHROME1", "DX MONOCHROME1", "CR MONOCHROME2")
_SOP_CLASSES = {"DX": DigitalXRayImageStorageForPresentation, "CR": ComputedRadiographyImageStorage}
_CHEST_WIDTH_MM = 350.0
_HASHED = (("sha256", "image"), ("label_sha256", "label"))
_BLACK_AND_WHITE = [0, 0, 0, 255, 255, 255]
_README = """Made chest x-rays, not of real people
=====================================

ttl_monai drew these pictures from shapes and noise (ttl_monai.data.make_phantom), for demonstrations and tests.
Patients, ids and findings are made up. Results on them say nothing about medicine.

images/        x-rays, 12-bit DICOM (DX and CR, MONOCHROME1 and MONOCHROME2) and 8-bit PNG
masks/         where there are any: the lungs as far as they show, PNG with a palette, 0 background, 1 lung
labels.csv     image, patient_id, label (the mask, where there are any)
datalist.json  the same, split by patient into training, validation and test

In "positive" pictures patches of the lungs carry a fine net of lines. Every patient has pictures of both classes.
Licence: CC0-1.0.
"""


class PhantomExam(NamedTuple):
    """One x-ray of the phantom, in memory.

    Attributes:
        patient: made-up patient id, such as P0001.
        number: number of the x-ray among those of the patient, from 0.
        label: 0 negative, 1 positive.
        format: "PNG", or modality and photometric interpretation, such as "DX MONOCHROME1".
        xray: the picture, with the masks of lungs and finding.
    """

    patient: str
    number: int
    label: int
    format: str
    xray: ChestXray


def draw_phantom(
    *, seed: int = 0, patients: int = DEMO_PATIENTS, size: tuple[int, int] = SIZE
) -> Iterator[PhantomExam]:
    """Draw the x-rays of a phantom, two or three a patient, each patient in both classes, in no telling order.

    Nothing but the finding depends on the class: patient, format and size are the same in both, position, exposure
    and noise are drawn without it.

    Args:
        seed: decides everything. A patient's x-rays do not depend on the number of patients.
        patients: number of patients.
        size: smallest and largest width in pixels, rounded down to multiples of 8.

    Yields:
        One x-ray after the other, patient by patient.

    Raises:
        ValueError: no patients, or sizes out of order or below 96.
    """
    if patients < 1 or not 96 <= size[0] <= size[1]:
        raise ValueError(f"expected patients >= 1 and 96 <= size[0] <= size[1], got patients={patients}, size={size}")
    for index in range(patients):
        rng = np.random.default_rng((seed, index))
        anatomy = Anatomy.draw(rng)
        short = int(rng.integers(size[0], size[1] + 1)) // 8 * 8  # lengths that a Fourier transform likes
        shape = (short + 8 * int(rng.integers(0, 4)), short)
        labels = [0, 1, int(rng.integers(2))][: int(rng.integers(2, 4))]
        for number, label in enumerate(rng.permutation(labels)):
            xray = draw_chest(anatomy, np.random.default_rng((seed, index, number)), positive=bool(label), shape=shape)
            yield PhantomExam(f"P{index + 1:04}", number, int(label), _FORMATS[index % len(_FORMATS)], xray)


def make_phantom(
    folder: str | Path,
    *,
    seed: int = 0,
    patients: int = DEMO_PATIENTS,
    size: tuple[int, int] = SIZE,
    masks: bool = False,
) -> Path:
    """Write a phantom: images/, labels.csv, datalist.json (split by patient, 64/16/20) and README.txt.

    The same arguments give the same bytes, DICOM UIDs included.

    Args:
        folder: where to, made if absent; files of those names are replaced. It is the data set's folder.
        seed: decides everything.
        patients: number of patients, at least 3.
        size: smallest and largest width in pixels, rounded down to multiples of 8.
        masks: a data set of segmentation: masks/ with the lungs as well, which are the labels in place of the finding.

    Returns:
        The path of datalist.json.

    Raises:
        ValueError: too few patients, or sizes out of order or too small.
    """
    folder = Path(folder)
    if patients < len(SECTIONS):
        raise ValueError(f"expected patients >= {len(SECTIONS)}, one for each of {', '.join(SECTIONS)}, got {patients}")
    records: list[Record] = []
    hashes: dict[str, str] = {}

    def write(name: str, content: bytes) -> str:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
        return name

    for exam in draw_phantom(seed=seed, patients=patients, size=size):
        name = f"{exam.patient}_{exam.number}"
        if exam.format == "PNG":
            image = write(f"images/{name}.png", _png(exam.xray.image))
        else:
            image = write(f"images/{name}.dcm", _dicom(exam, seed))
        label = write(f"masks/{name}.png", _mask_png(exam.xray.lungs)) if masks else exam.label
        records.append(Record(len(records) + 2, image, label, exam.patient))

    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "patient_id", "label"])
        rows.writerows([r.image, r.patient, r.label if masks else CLASS_NAMES[r.label == 1]] for r in records)
    (folder / "README.txt").write_text(_README, encoding="utf-8")
    header = {
        "name": "phantom",
        "source": "drawn by ttl_monai from shapes and noise; no real patients",
        "licence": "CC0-1.0",
        "made_by": _made_by(seed, patients, size, masks),
    }
    table = Table("segmentation", MASK_CLASS_NAMES, records) if masks else Table("binary", CLASS_NAMES, records)
    (datalist,) = build_datalists(table, folder, header=header, site_key=None, repeats=1, seed=seed, hash_files=False)
    for entry in (entry for section in SECTIONS for entry in datalist[section]):
        entry.update({key: hashes[entry[what]] for key, what in _HASHED if entry[what] in hashes})
    path = folder / "datalist.json"
    path.write_text(to_json(datalist), encoding="utf-8")
    return path


def demo_phantom(folder: str | Path, *, masks: bool = False) -> Path:
    """The phantom of the demo, made on first use, and made anew where it is damaged or of another version.

    It appears whole or not at all, also when the process is killed or several processes ask for it at once. One line
    is logged: what it is, where, and how to use one's own data instead.

    Args:
        folder: where it lies or shall lie.
        masks: that of segmentation, as in `make_phantom`.

    Returns:
        The path of datalist.json; `folder` is the data set's folder.

    Raises:
        ValueError: the folder holds something that is no phantom; it is left as it is.
    """
    return ensure_demo(
        folder,
        made_by=_made_by(0, DEMO_PATIENTS, SIZE, masks),
        title=_README.split("\n")[0],
        what=f"drawn chest x-rays of {DEMO_PATIENTS} patients who do not exist",
        make=lambda place: make_phantom(place, seed=0, patients=DEMO_PATIENTS, size=SIZE, masks=masks),
    )


def demo_lung_phantom(folder: str | Path) -> Path:
    """`demo_phantom` with masks of the lungs."""
    return demo_phantom(folder, masks=True)


def _made_by(seed: int, patients: int, size: tuple[int, int], masks: bool) -> str:
    arguments = f"seed={seed}, patients={patients}, size={tuple(size)}{', masks=True' if masks else ''}"
    return f"ttl_monai.data.make_phantom({arguments}), edition {EDITION}"


def _png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _mask_png(lungs: np.ndarray) -> bytes:
    """The lungs, (2, height, width), as a picture whose values are the classes and which shows them white."""
    picture = Image.fromarray(lungs.any(axis=0).astype(np.uint8))
    picture.putpalette(_BLACK_AND_WHITE)  # turns grey into indices of the palette, the values stay
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _dicom(exam: PhantomExam, seed: int) -> bytes:
    """A 12-bit DICOM x-ray with a window that shows the picture, its stored values anywhere in the 12 bits."""
    modality, polarity = exam.format.split()
    rng = np.random.default_rng((seed, int(exam.patient[1:]), exam.number, 12))
    low, high = int(rng.integers(0, 500)), int(rng.integers(3000, 4096))
    shown = 1 - exam.xray.image if polarity == "MONOCHROME1" else exam.xray.image
    rows, columns = shown.shape

    def uid(what: str) -> str:
        return generate_uid(entropy_srcs=["ttl_monai phantom", str(EDITION), str(seed), exam.patient, what])

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = _SOP_CLASSES[modality], uid(f"image {exam.number}")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(f"study {exam.number}"), uid(f"series {exam.number}")
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = exam.patient, f"Phantom^{exam.patient}", "", ""
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "drawn by ttl_monai, no real patient"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.BurnedInAnnotation = modality, "CHEST", "PA", "NO"
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
    ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer = 1, 1, "ttl_monai phantom"
    ds.PatientOrientation, ds.Laterality = ["L", "F"], ""
    if modality == "DX":
        ds.ImageType, ds.PresentationIntentType = ["DERIVED", "PRIMARY", ""], "FOR PRESENTATION"
        ds.ImageLaterality, ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "U", "LOG", 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
        ds.PresentationLUTShape = "INVERSE" if polarity == "MONOCHROME1" else "IDENTITY"
    ds.PixelSpacing = ds.ImagerPixelSpacing = [round(_CHEST_WIDTH_MM / columns, 4)] * 2
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, polarity
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    # The linear VOI function takes low to 0 and high to 1 (PS3.3, C.11.2.1.2.1).
    ds.WindowCenter, ds.WindowWidth = (low + high + 1) / 2, high - low + 1
    ds.PixelData = np.round(low + shown * (high - low)).astype("<u2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
