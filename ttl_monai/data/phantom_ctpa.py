"""The made data of the 3D demo: CT pulmonary angiographies of patients who do not exist, as DICOM series and NIfTI."""

from __future__ import annotations

import csv
import gzip
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.demo import ensure_demo, write_demo_list
from ttl_monai.data.phantom_ct import CtScan, draw_ct
from ttl_monai.data.records import Record, Table

__all__ = ["CtExam", "demo_ctpa_phantom", "draw_ctpa_phantom", "make_ctpa_phantom", "to_nifti"]

logger = logging.getLogger(__name__)

# Raised when the scans change, so that a demo made by an older version is made anew.
EDITION = 2
CLASS_NAMES = ["negative", "positive"]
DEMO_PATIENTS = 60
SHAPE = (48, 96, 96)
# Large ones, so that a small network learns from few scans what they are.
CLOTS, SMALLEST_MM = (6, 8), 6.5
_FORMATS = ("DICOM", "NIfTI")
_README = """Made CT pulmonary angiographies, not of real people
====================================================

ttl_monai drew these scans from shapes and noise (ttl_monai.data.make_ctpa_phantom), for demonstrations and tests.
Patients, ids and findings are made up. Results on them say nothing about medicine.

images/        scans in HU: folders of DICOM slices, and NIfTI
labels.csv     image, patient_id, label, slices (numbers of the slices with emboli, from 0 at the feet)
datalist.json  the same, split by patient into training, validation and test

In "positive" scans clots fill parts of the pulmonary arteries. Every patient has a scan of both classes.
Licence: CC0-1.0.
"""


class CtExam(NamedTuple):
    """One scan of the phantom, in memory.

    Attributes:
        patient: made-up patient id, such as P0001.
        number: 0 or 1, number of the scan of the patient.
        label: 0 negative, 1 positive.
        format: "DICOM" or "NIfTI".
        scan: the volume, with the masks of arteries and emboli.
    """

    patient: str
    number: int
    label: int
    format: str
    scan: CtScan


def draw_ctpa_phantom(
    *,
    seed: int = 0,
    patients: int = DEMO_PATIENTS,
    shape: tuple[int, int, int] = SHAPE,
    clots: tuple[int, int] = CLOTS,
    smallest_mm: float = SMALLEST_MM,
) -> Iterator[CtExam]:
    """Draw the scans of a phantom, two a patient, one of each class, in no telling order.

    Nothing but the emboli depends on the class: so no patient, and no file format, tells it.

    Args:
        seed: decides everything. A patient's scans do not depend on the number of patients.
        patients: number of patients.
        shape: slices, rows and columns.
        clots: fewest and most clots of a positive scan.
        smallest_mm: radius of the smallest arteries with clots.

    Yields:
        One scan after the other.

    Raises:
        ValueError: no patients, or a shape too coarse.
    """
    if patients < 1:
        raise ValueError(f"expected patients >= 1, got {patients}")
    for index in range(patients):
        for number, label in enumerate(np.random.default_rng((seed, index, 7)).permutation(2)):
            scan = draw_ct(
                (seed, index), positive=bool(label), number=number, shape=shape, clots=clots, smallest_mm=smallest_mm
            )
            yield CtExam(f"P{index + 1:04}", number, int(label), _FORMATS[index % len(_FORMATS)], scan)


def make_ctpa_phantom(
    folder: str | Path,
    *,
    seed: int = 0,
    patients: int = DEMO_PATIENTS,
    shape: tuple[int, int, int] = SHAPE,
    clots: tuple[int, int] = CLOTS,
    smallest_mm: float = SMALLEST_MM,
) -> Path:
    """Write a phantom: images/, labels.csv, datalist.json (split by patient, 64/16/20) and README.txt.

    The same arguments give the same bytes, DICOM UIDs included. The entries of the datalist have `slices`, the numbers
    of the slices that show an embolus, counted from the feet.

    Args:
        folder: where to, made if absent; files of those names are replaced. It is the data set's folder.
        seed: decides everything.
        patients: number of patients, at least 3.
        shape: slices, rows and columns.
        clots: fewest and most clots of a positive scan.
        smallest_mm: radius of the smallest arteries with clots.

    Returns:
        The path of datalist.json.

    Raises:
        ValueError: too few patients, or a shape too coarse.
    """
    folder = Path(folder)
    if patients < len(SECTIONS):
        raise ValueError(f"expected patients >= {len(SECTIONS)}, one for each of {', '.join(SECTIONS)}, got {patients}")
    records: list[Record] = []
    slices: dict[str, list[int]] = {}
    for exam in draw_ctpa_phantom(seed=seed, patients=patients, shape=shape, clots=clots, smallest_mm=smallest_mm):
        name = f"images/{exam.patient}_{exam.number}" + (".nii.gz" if exam.format == "NIfTI" else "")
        if exam.format == "NIfTI":
            (folder / "images").mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(to_nifti(exam.scan))
        else:
            write_dicom(folder / name, exam, seed)
        records.append(Record(len(records) + 2, name, exam.label, exam.patient))
        slices[name] = list(exam.scan.slices)

    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "patient_id", "label", "slices"])
        for record in records:
            numbers = " ".join(map(str, slices[record.image]))
            rows.writerow([record.image, record.patient, CLASS_NAMES[record.label == 1], numbers])
    (folder / "README.txt").write_text(_README, encoding="utf-8")
    header = {
        "name": "phantom_ctpa",
        "source": "drawn by ttl_monai from shapes and noise; no real patients",
        "licence": "CC0-1.0",
        "made_by": _made_by(seed, patients, shape, clots, smallest_mm),
    }
    table = Table("binary", CLASS_NAMES, records, slices=slices)
    return write_demo_list(table, folder, header=header, seed=seed)


def demo_ctpa_phantom(folder: str | Path) -> Path:
    """The phantom of the 3D demo, made on first use, and made anew where it is damaged or of another version.

    Args:
        folder: where it lies or shall lie.

    Returns:
        The path of datalist.json; `folder` is the data set's folder.

    Raises:
        ValueError: the folder holds something that is no phantom; it is left as it is.
    """
    return ensure_demo(
        folder,
        made_by=_made_by(0, DEMO_PATIENTS, SHAPE, CLOTS, SMALLEST_MM),
        title=_README.split("\n")[0],
        what=f"drawn CT scans of {DEMO_PATIENTS} patients who do not exist",
        make=lambda place: make_ctpa_phantom(place, seed=0, patients=DEMO_PATIENTS, shape=SHAPE),
    )


def _made_by(seed: int, patients: int, shape: tuple[int, int, int], clots: tuple[int, int], smallest_mm: float) -> str:
    return (
        f"ttl_monai.data.make_ctpa_phantom(seed={seed}, patients={patients}, shape={tuple(shape)}, "
        f"clots={tuple(clots)}, smallest_mm={smallest_mm}), edition {EDITION}"
    )


def to_nifti(scan: CtScan) -> bytes:
    """A compressed NIfTI with axes towards left, posterior and superior, about the middle."""
    dz, dy, dx = scan.spacing_mm
    array = scan.hu.transpose(2, 1, 0)
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def write_dicom(folder: Path, exam: CtExam, seed: int) -> None:
    """One file a slice; in half of the series the first file is at the head."""
    planes = exam.scan.hu
    count = len(planes)
    dz, dy, dx = exam.scan.spacing_mm

    def uid(what: str) -> str:
        return generate_uid(entropy_srcs=["ttl_monai CTPA phantom", str(EDITION), str(seed), exam.patient, what])

    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = (uid(f"{what} {exam.number}") for what in ("study", "series", "frame"))
    for k, plane in enumerate(planes):
        instance = count - k if exam.number else k + 1
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid(f"image {exam.number} {k}")
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = (
            exam.patient,
            f"Phantom^{exam.patient}",
            "",
            "",
        )
        ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "drawn by ttl_monai, no real patient"
        ds.Modality, ds.BodyPartExamined, ds.PatientPosition = "CT", "CHEST", "HFS"
        ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
        ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer = 2, instance, "ttl_monai phantom"
        ds.ImageType, ds.KVP, ds.PositionReferenceIndicator = ["ORIGINAL", "PRIMARY", "AXIAL"], 100, ""
        # Places have few digits, as in real headers.
        z, y, x = (np.array([k, 0, 0]) - (np.array(planes.shape) - 1) / 2) * exam.scan.spacing_mm
        ds.ImagePositionPatient = [round(float(v), 4) for v in (x, y, z)]
        ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness = [1, 0, 0, 0, 1, 0], [dy, dx], dz
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{instance:03}.dcm", enforce_file_format=True)
