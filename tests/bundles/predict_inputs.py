"""Inputs of `ttl predict` with planted canaries: no name in them may reach any output but DICOM."""

import json

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from tests.data.conftest import made_volume, write_series

CANARY = "CANARY"
PATIENT = {
    "PatientName": "CANARYDOE^JANE",
    "PatientID": "CANARYMRN7",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "AccessionNumber": "CANARYACC",
    "ReferringPhysicianName": "CANARYREF^DR",
    "StudyDate": "20200103",
    "StudyTime": "101112",
    "StudyID": "CANARYSTUDY",
}
ELSEWHERE = {
    "InstitutionName": "CANARYCLINIC",
    "StationName": "CANARYSTATION",
    "OperatorsName": "CANARYOPERATOR",
    "SeriesDescription": "CANARYSERIES",
    "StudyDescription": "CANARYDESCRIPTION",
    "ProtocolName": "CANARYPROTOCOL",
    "ImageComments": "CANARYCOMMENT",
}


def write_xray(path, size=(90, 70), seed=0, **tags):
    """A made frontal x-ray of 12 bits; a tag given as None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = np.random.default_rng(seed).integers(0, 4096, size).astype("<u2")
    said = {
        **PATIENT,
        **ELSEWHERE,
        **{"SOPClassUID": DigitalXRayImageStorageForPresentation, "SOPInstanceUID": generate_uid()},
        **{"StudyInstanceUID": "1.2.3.77", "SeriesInstanceUID": generate_uid(), "SeriesNumber": 1, "InstanceNumber": 1},
        **{"Modality": "DX", "ViewPosition": "PA", "BodyPartExamined": "CHEST", "BurnedInAnnotation": "NO"},
        **{"PresentationIntentType": "FOR PRESENTATION", "PatientOrientation": ["L", "F"], "PixelSpacing": [2, 2]},
        **{"Rows": size[0], "Columns": size[1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
        **tags,
    }
    for name, value in said.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_scan(folder, slices=14, size=40, **options):
    """A made CT series with the canaries in every slice."""
    options = {"series_uid": "1.2.5.1", **PATIENT, **ELSEWHERE, **options}
    return write_series(folder, made_volume(slices, size, size), **options)


def predicted(folder):
    """The items of report.json and predictions.json by key."""
    report = json.loads((folder / "report.json").read_text())
    predictions = json.loads((folder / "predictions.json").read_text())
    return report, {each["key"]: each for each in predictions["items"]}


def by_name(report, key_map):
    """The items of a report by the name of their first file, through the key map."""
    names = {key: files[0].rpartition("/")[2] for key, files in json.loads(key_map.read_text()).items()}
    return {names[each["key"]]: each for each in report["items"]}


def leaks(folder, but=()):
    """Files below a folder that hold a canary in name or bytes."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not set(path.relative_to(folder).parts) & set(but)
    ]
    assert files
    return [path for path in files if CANARY in str(path.relative_to(folder)) or CANARY.encode() in path.read_bytes()]
