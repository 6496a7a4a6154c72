"""`ttl predict --dicom`: objects that are valid, belong to the study of their source, and show what was found."""

import json
import shutil
import subprocess

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

import ttl_monai.deploy.dicom_out.identity as identity
import ttl_monai.deploy.predict.dicom as dicom
from ttl_monai.data import XrayReader

from .predict_inputs import PATIENT, leaks, predicted, write_scan, write_xray

RESEARCH = "RESEARCH USE ONLY"


def check_valid(path):
    """No error of dciodvfy (Debian's dicom3tools), where it is installed."""
    if (checker := shutil.which("dciodvfy")) is None:
        return
    found = subprocess.run([checker, "-new", str(path)], capture_output=True, text=True, check=False)
    assert not [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]


def test_the_validator_finds_what_is_wrong(tmp_path):
    """Where it is absent this test is skipped, so that a report of the tests says that no object was validated."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools): the DICOM objects are not validated")
    broken = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    del broken.StudyInstanceUID
    broken.save_as(tmp_path / "broken.dcm")
    with pytest.raises(AssertionError, match="StudyInstanceUID"):
        check_valid(tmp_path / "broken.dcm")


def read_objects(out):
    """Name of the kind -> dataset, of the one item with DICOM objects."""
    report, _ = predicted(out)
    (files,) = [each["dicom"] for each in report["items"] if "dicom" in each]
    made = {}
    for name in files:
        check_valid(out / name)
        made[name.rpartition("_")[2].removesuffix(".dcm")] = pydicom.dcmread(out / name)
    return made


def check_belongs(made, sources):
    """Same patient and study, new series and instance, which model, and that it is for research."""
    first = sources[0]
    for name in (*PATIENT, "StudyInstanceUID"):
        assert made[name].value == first[name].value, name
    assert made.SeriesInstanceUID not in {each.SeriesInstanceUID for each in sources}
    assert made.SOPInstanceUID not in {each.SOPInstanceUID for each in sources}
    assert made.SeriesDescription.startswith(RESEARCH)
    assert "InstitutionName" not in made
    assert len(made.DeviceSerialNumber) == 64


def content(dataset):
    """Everything that a structured report says: (meaning of the name, value)."""
    for item in dataset.get("ContentSequence", ()):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        if item.ValueType == "NUM":
            yield name, float(item.MeasuredValueSequence[0].NumericValue)
        elif item.ValueType == "CODE":
            yield name, item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "IMAGE":
            yield "image", item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        else:
            yield name, item.get("TextValue") or item.get("UID")
        yield from content(item)


def check_report(report, sources, model, prediction):
    said = list(content(report))
    facts = dict(said)
    assert report.Modality == "SR"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert {value for name, value in said if name == "image"} == {each.SOPInstanceUID for each in sources}
    for name, value in prediction["probabilities"].items():
        assert facts[f"Probability of {name}"] == pytest.approx(value, abs=1e-6)
    assert facts["Operating point: threshold of positive"] == pytest.approx(model["threshold"], abs=1e-6)
    assert facts["Finding"] == prediction["predicted"]
    assert facts["Device Observer Serial Number"] == model["sha256"]
    parameters = [value for name, value in said if name == "Algorithm Parameters"]
    assert f"sha256 of the weights: {model['sha256']}" in parameters
    assert any("maximal Youden index on the validation split" in each for each in parameters)
    assert RESEARCH in parameters


def test_x_ray_gives_a_report_and_a_picture_with_the_map_in_place(predict, train_once, tmp_path, monkeypatch):
    source = write_xray(tmp_path / "in/a.dcm", size=(90, 70))
    Image.fromarray(np.zeros((50, 40), np.uint8) + 7).save(tmp_path / "in/b.png")

    def one_spot(network, image, **_):  # of a network of 32 x 32: the second quarter of the rows, the last column half
        heat = torch.zeros(1, 32, 32)
        heat[:, 8:16, 16:] = 1
        return heat

    monkeypatch.setattr(dicom, "grad_cam", one_spot)
    results = predict("covid_ttl", tmp_path / "in", dicom=True)
    assert results.exit_code == 1, "a picture has no study"
    report, predictions = predicted(tmp_path / "out")
    refused = [each["dicom_refused"] for each in report["items"] if "dicom_refused" in each]
    assert len(refused) == 1
    assert "the input is no DICOM" in refused[0]
    made, sources = read_objects(tmp_path / "out"), [pydicom.dcmread(source)]
    assert set(made) == {"sr", "sc"}
    for each in made.values():
        check_belongs(each, sources)
    key = next(each["key"] for each in report["items"] if "dicom" in each)
    model = json.loads((train_once("covid_ttl") / "model.json").read_text())
    check_report(made["sr"], sources, model, predictions[key])
    assert not leaks(tmp_path / "out", but={"dicom"})

    picture = made["sc"]
    assert list(picture.ImageType) == ["DERIVED", "SECONDARY"]
    assert picture.BurnedInAnnotation == "YES"
    assert picture.SourceImageSequence[0].ReferencedSOPInstanceUID == sources[0].SOPInstanceUID
    pixels = picture.pixel_array.astype(int)
    factor = -(-512 // 90)
    band = (pixels.shape[0] - 90 * factor) // 3
    assert pixels[:band].max() > 200, "the banner is there"
    image = pixels[band : band + 90 * factor : factor, ::factor]
    assert image.shape == (90, 70, 3)
    coloured = (image.max(axis=2) - image.min(axis=2)) > 8
    # The square of the centre, rows 10 to 79, is seen; a quarter of it from row 10 + 17.5, and its right half.
    rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
    assert rows.min() == pytest.approx(27, abs=2)
    assert rows.max() == pytest.approx(44, abs=2)
    assert (columns.min(), columns.max()) == (pytest.approx(35, abs=2), 69)
    grey, _ = XrayReader().get_data((source,))
    np.testing.assert_allclose(image[:20, :, 0], grey[:20] * 255, atol=1)


def test_series_gives_a_report_of_all_its_instances(predict, train_once, tmp_path):
    files = write_scan(tmp_path / "in", orientation=(1, 0, 0, 0, 1, 0))
    assert predict("ctpa_ttl", tmp_path / "in", dicom=True).exit_code == 0
    made, sources = read_objects(tmp_path / "out"), [pydicom.dcmread(file) for file in files]
    for each in made.values():
        check_belongs(each, sources)
    _, predictions = predicted(tmp_path / "out")
    model = json.loads((train_once("ctpa_ttl") / "model.json").read_text())
    (prediction,) = predictions.values()
    check_report(made["sr"], sources, model, prediction)
    heat = nib.load(tmp_path / "out" / prediction["gradcam"]["volume"]).get_fdata()
    shown = made["sc"].SourceImageSequence[0].ReferencedSOPInstanceUID
    heights = sorted(each.ImagePositionPatient[2] for each in sources)
    (slice_,) = [each for each in sources if each.SOPInstanceUID == shown]
    assert heights.index(slice_.ImagePositionPatient[2]) == heat.sum(axis=(0, 1)).argmax()
    assert made["sc"].pixel_array.std() > 5
    assert not leaks(tmp_path / "out", but={"dicom"})


@pytest.fixture
def volume_run(train_once, tmp_path):
    """The tiny segmentation, as if it had been trained on axial slices."""
    folder = shutil.copytree(train_once("unet_ttl"), tmp_path / "volume_run")
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**spec, "axis": "axial"}))
    return folder


@pytest.mark.slow
def test_mask_of_an_x_ray_is_a_segmentation(predict, tmp_path):
    source = write_xray(tmp_path / "in/a.dcm")
    write_scan(tmp_path / "in/scan", slices=4)
    assert predict("unet_ttl", tmp_path / "in", dicom=True).exit_code == 1
    made, sources = read_objects(tmp_path / "out"), [pydicom.dcmread(source)]
    check_belongs(made["seg"], sources)
    (mask,) = (tmp_path / "out").glob("*_mask.nii.gz")
    np.testing.assert_array_equal(made["seg"].pixel_array, nib.load(mask).get_fdata()[:, :, 0].T)
    assert made["seg"].pixel_array.any()
    (segment,) = made["seg"].SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("lung", "39607008")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName.startswith("Truncated transfer learning")


@pytest.mark.parametrize(
    "orientation",
    [
        (0, 1, 0, 0, 0, -1),  # sagittal
        pytest.param((1, 0, 0, 0, 1, 0), marks=pytest.mark.slow),
        pytest.param((-1, 0, 0, 0, -1, 0), marks=pytest.mark.slow),
    ],
)
def test_mask_of_a_series_lies_on_its_slices(predict, volume_run, tmp_path, orientation):
    files = write_scan(tmp_path / "in", slices=4, size=24, orientation=orientation)
    assert predict("unet_ttl", tmp_path / "in", dicom=True, run_dir=volume_run).exit_code == 0
    made, sources = read_objects(tmp_path / "out"), [pydicom.dcmread(file) for file in files]
    check_belongs(made["seg"], sources)
    (path,) = (tmp_path / "out").glob("*_mask.nii.gz")
    mask = nib.load(path)
    segments = hd.seg.Segmentation.from_dataset(made["seg"])
    frames = segments.get_pixels_by_source_instance(
        [each.SOPInstanceUID for each in sources], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )[..., 0]
    assert frames.any()
    to_index = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ mask.affine)
    for source, frame in zip(sources, frames, strict=True):
        # Each set pixel of the frame, by the geometry of its source, is a set voxel of the NIfTI mask and vice versa.
        across, down = np.array(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
        rows_mm, columns_mm = map(float, source.PixelSpacing)
        rows, columns = np.indices(frame.shape)
        places = np.array(source.ImagePositionPatient, dtype=float)[:, None]
        places = places + np.outer(across, columns.ravel() * columns_mm) + np.outer(down, rows.ravel() * rows_mm)
        i, j, k = np.rint((to_index @ np.vstack([places, np.ones(places.shape[1])]))[:3]).astype(int)
        np.testing.assert_array_equal(mask.get_fdata()[i, j, k].reshape(frame.shape), frame)
    assert made["seg"].FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert not leaks(tmp_path / "out", but={"dicom"})


@pytest.mark.slow
def test_what_nothing_can_refer_to_is_predicted_without_dicom(predict, volume_run, tmp_path):
    write_xray(tmp_path / "in/a.dcm", StudyInstanceUID=None)
    results = predict("covid_ttl", tmp_path / "in", dicom=True)
    assert [each.dicom_refused for each in results.results] == [
        "the source has no valid StudyInstanceUID, so that nothing can refer to it"
    ]
    assert results.exit_code == 1
    # A gantry tilt is taken out by shifting the slices, so that the mask lies on no slice of the source.
    step = np.array([0, np.sin(0.3), np.cos(0.3)])
    write_scan(tmp_path / "tilted", slices=4, size=24, step=step)
    results = predict("unet_ttl", tmp_path / "tilted", out=tmp_path / "2", dicom=True, run_dir=volume_run)
    assert "other rows and columns than the source" in results.results[0].dicom_refused


def test_without_highdicom_the_remedy_is_told(predict, tmp_path, monkeypatch):
    write_xray(tmp_path / "in/a.dcm")
    monkeypatch.setattr(identity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs highdicom, .*pip install 'ttl-monai\[dicom-seg\]'"):
        predict("covid_ttl", tmp_path / "in", dicom=True)
