"""Predictions straight from DICOM files."""

import csv

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from .conftest import refused

QUIET = dict.fromkeys(("spatial_size", "max_epochs", "learning_rate", "network_def#weights", "datalist"), ...)


@pytest.fixture
def predict(make_workflow, trained, tmp_path):
    """The positive class's score of each file below a folder."""

    def run(folder, **options):
        make_workflow(
            "inference.json",
            workflow_type="infer",
            dataset_dir=str(folder),
            run_dir=str(trained),
            file_names=True,
            **QUIET | {"output_dir": str(tmp_path / "out")} | options,
        ).run()
        rows = csv.DictReader((tmp_path / "out/predictions.csv").open())
        return {row["image"]: float(row["probability_positive"]) for row in rows}

    return run


def write_xray(path, *, photometric, invert):
    """A made 12-bit x-ray as DICOM."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    pixels = np.add.outer(np.arange(64), 3 * np.arange(64)) * 16 % 4096
    dataset.PhotometricInterpretation = photometric
    dataset.Modality = "DX"
    dataset.Rows = dataset.Columns = 64
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    for keyword in ("PixelPaddingValue", "SmallestImagePixelValue", "LargestImagePixelValue"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.PixelData = (4095 - pixels if invert else pixels).astype("<u2").tobytes()
    dataset.save_as(path)


def test_both_photometric_interpretations_of_a_picture_score_alike(predict, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_xray(folder / "a.dcm", photometric="MONOCHROME2", invert=False)
    write_xray(folder / "b.dcm", photometric="MONOCHROME1", invert=True)
    write_xray(folder / "c.dcm", photometric="MONOCHROME1", invert=False)
    scores = predict(folder)
    assert scores["a.dcm"] == pytest.approx(scores["b.dcm"], abs=3e-6)
    assert scores["c.dcm"] != pytest.approx(scores["a.dcm"], abs=1e-3)


def test_the_same_values_relabelled_score_otherwise(predict, shared_data):
    scores = predict(shared_data / "dicom_single")
    assert len(scores) == 2
    first, second = scores.values()
    assert first != pytest.approx(second, abs=1e-4)


def test_a_broken_file_is_named_and_nothing_is_written(predict, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with refused("broken.png"):
        predict(tmp_path / "in")
    assert not (tmp_path / "out/predictions.csv").exists()


def test_grad_cam_on_request(predict, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.dcm", "b.dcm"):
        write_xray(tmp_path / "in" / name, photometric="MONOCHROME2", invert=name == "b.dcm")
    assert len(predict(tmp_path / "in", gradcam=True)) == 2
    pictures = sorted((tmp_path / "out").glob("*gradcam*"))
    assert [path.name for path in pictures] == ["image_000_gradcam.png", "image_001_gradcam.png"]
    assert all(Image.open(path).width > 300 for path in pictures)
