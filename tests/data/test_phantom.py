import csv
import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_voi_lut
from scipy.ndimage import gaussian_filter, zoom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ttl_monai.data import SECTIONS, Datalist, LoadPaird, demo_phantom, make_phantom, phantom
from ttl_monai.data.phantom import DEMO_PATIENTS, draw_phantom
from ttl_monai.data.phantom_xray import Anatomy, draw_chest


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawn_pair(seed, shape=(176, 160)):
    """The same x-ray without and with the finding."""
    anatomy = Anatomy.draw(np.random.default_rng(seed))
    return [draw_chest(anatomy, np.random.default_rng((seed, 1)), positive=p, shape=shape) for p in (False, True)]


def auroc(labels, values):
    """The area in the direction that separates better."""
    area = roc_auc_score(labels, values)
    return max(area, 1 - area)


def thumbnail(image):
    """8 x 8 block means of the centred square."""
    side = min(image.shape)
    top, left = ((n - side) // 2 for n in image.shape)
    square = gaussian_filter(image[top : top + side, left : left + side], side / 16)
    return zoom(square, 8 / side, order=1, grid_mode=True, mode="nearest").ravel()


def thumbnail_auroc(thumbnails, labels, trained):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(thumbnails[trained], labels[trained])
    return roc_auc_score(labels[~trained], model.decision_function(thumbnails[~trained]))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twelve patients: every format twice."""
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, seed=3, patients=12)
    return folder


@pytest.fixture(scope="module")
def demo_sized(tmp_path_factory):
    """A phantom as large as the demo's, with its pictures as they were drawn."""
    folder, exams = tmp_path_factory.mktemp("phantom"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "draw_phantom", lambda **kw: (exams.append(exam) or exam for exam in draw_phantom(**kw)))
        make_phantom(folder)
    return folder, exams


def test_same_seed_gives_same_bytes_and_another_seed_another_phantom(small, tmp_path):
    make_phantom(tmp_path / "again", seed=3, patients=12)
    make_phantom(tmp_path / "other", seed=4, patients=12)
    assert tree(tmp_path / "again") == tree(small)
    images = [{data for name, data in tree(f).items() if "images/" in name} for f in (small, tmp_path / "other")]
    assert not images[0] & images[1]
    uids = [{pydicom.dcmread(p).SOPInstanceUID for p in f.rglob("*.dcm")} for f in (small, tmp_path / "other")]
    assert not uids[0] & uids[1]


def test_a_patient_looks_the_same_whatever_the_number_of_patients():
    few, many = list(draw_phantom(seed=5, patients=2)), list(draw_phantom(seed=5, patients=4))
    for left, right in zip(few, many, strict=False):
        assert left[:4] == right[:4]
        np.testing.assert_array_equal(left.xray.image, right.xray.image)


@pytest.mark.parametrize("seed", range(5))
def test_the_finding_lies_in_the_lungs_and_has_no_low_frequencies(seed):
    negative, positive = drawn_pair(seed)
    difference = positive.image - negative.image
    assert not negative.finding.any()
    assert positive.finding.mean() > 0.01
    assert not (positive.finding & ~positive.lungs.any(axis=0)).any()
    energy = difference**2
    near_lungs = gaussian_filter(positive.lungs.any(axis=0).astype(float), 4) > 0.02
    assert energy[near_lungs].sum() > 0.99 * energy.sum() > 0
    # A blur over a sixteenth of the width, finer than an 8 x 8 thumbnail, leaves next to nothing of it.
    assert np.abs(gaussian_filter(difference, 10)).max() < 0.03 * np.abs(difference).max()


@pytest.mark.parametrize("seed", range(5))
def test_an_x_ray_has_two_dark_lungs_beside_a_bright_heart(seed):
    xray, _ = drawn_pair(seed)
    assert xray.image.dtype == np.float32
    assert xray.image.min() >= 0
    assert xray.image.max() <= 1
    right, left = xray.lungs
    assert not (right & left).any()
    assert np.median(right.nonzero()[1]) < 0.45 * right.shape[1] < 0.55 * right.shape[1] < np.median(left.nonzero()[1])
    assert all(0.04 < lung.mean() < 0.25 for lung in (right, left))
    between = xray.image[90:120, 76:84]  # mediastinum and spine
    assert all(between.mean() > xray.image[lung].mean() + 0.1 for lung in (right, left))


def test_patients_differ_in_size_exposure_and_shape():
    exams = list(draw_phantom(seed=0, patients=30))
    assert len({exam.xray.image.shape for exam in exams}) > 5
    assert np.std([exam.xray.image.mean() for exam in exams]) > 0.02
    assert np.std([exam.xray.lungs.mean() for exam in exams]) > 0.01


def test_dicom_shows_the_drawn_picture_whatever_its_polarity(small):
    kinds = set()
    for exam in draw_phantom(seed=3, patients=12):
        stem = small / "images" / f"{exam.patient}_{exam.number}"
        if exam.format == "PNG":
            shown = np.asarray(Image.open(stem.with_suffix(".png")), dtype=float) / 255
            tolerance = 0.51 / 255
        else:
            ds = pydicom.dcmread(stem.with_suffix(".dcm"))
            values = apply_voi_lut(ds.pixel_array, ds)  # 0 to 4095
            shown = values / 4095
            if ds.PhotometricInterpretation == "MONOCHROME1":
                shown = 1 - shown
            tolerance = 0.51 / 2500
            assert exam.format == f"{ds.Modality} {ds.PhotometricInterpretation}"
            assert values.min() < 300 < 3000 < values.max() or exam.xray.image.std() < 0.3
        np.testing.assert_allclose(shown, exam.xray.image, atol=tolerance)
        kinds.add(exam.format)
    assert kinds == {"PNG", "DX MONOCHROME1", "DX MONOCHROME2", "CR MONOCHROME1", "CR MONOCHROME2"}


def test_dicom_headers_are_plausible_and_anonymous(small):
    found = [pydicom.dcmread(path) for path in sorted(small.rglob("*.dcm"))]
    assert len({ds.SOPInstanceUID for ds in found}) == len(found)
    for ds in found:
        assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (16, 12, 11, 0)
        assert ds.pixel_array.max() < 4096
        assert ds.PixelSpacing[0] * ds.Columns == pytest.approx(350, rel=1e-3)
        assert ds.SOPInstanceUID.is_valid
        assert ds.file_meta.MediaStorageSOPClassUID.name.startswith(
            {"DX": "Digital X-Ray", "CR": "Computed"}[ds.Modality]
        )
        assert Path(ds.filename).name.startswith(f"{ds.PatientID}_")
        assert ds.PatientIdentityRemoved == "YES"
        assert not any((ds.StudyDate, ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber))


def test_the_datalist_fits_the_table_and_splits_by_patient(small):
    datalist = Datalist.load(small / "datalist.json", small)
    assert (datalist.task, datalist.class_names, datalist.public_ids) == ("binary", ["negative", "positive"], True)
    assert datalist.seed == 3
    assert "make_phantom(seed=3, patients=12" in datalist.header["made_by"]
    entries = [entry for section in ("training", "validation", "test") for entry in datalist.section(section)]
    with (small / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {(row["image"], row["patient_id"], datalist.class_names.index(row["label"])) for row in rows}
    assert table == {(entry["image_id"], entry["patient"], entry["label"]) for entry in entries}
    assert {path.name for path in (small / "images").iterdir()} == {Path(row["image"]).name for row in rows}
    labels = {}
    for entry in entries:
        labels.setdefault(entry["patient"], []).append(entry["label"])
    assert all(set(found) == {0, 1} and len(found) in (2, 3) for found in labels.values())
    assert "not of real people" in (small / "README.txt").read_text()


def test_a_phantom_of_segmentation_has_the_lungs_as_masks(tmp_path):
    path = make_phantom(tmp_path, seed=3, patients=6, masks=True)
    datalist = Datalist.load(path, tmp_path)
    assert (datalist.task, datalist.class_names) == ("segmentation", ["background", "lung"])
    assert "masks=True" in datalist.header["made_by"]
    exams = {f"{exam.patient}_{exam.number}": exam for exam in draw_phantom(seed=3, patients=6)}
    items = [item for section in SECTIONS for item in datalist.section(section)]
    assert len(items) == len(exams)
    load = LoadPaird(num_classes=2)
    for item in items:
        loaded = load(item)
        xray = exams[Path(item["image"]).stem].xray
        assert np.array_equal(loaded["label"][0], xray.lungs.any(axis=0))
        np.testing.assert_allclose(loaded["image"][0], xray.image, atol=0.003)
        assert Image.open(item["label"]).convert("L").getextrema() == (0, 255)
    entry = datalist.entries["training"][0]
    for key, what in (("sha256", "image"), ("label_sha256", "label")):
        assert entry[key] == hashlib.sha256((tmp_path / entry[what]).read_bytes()).hexdigest()


def test_the_demo_of_segmentation_is_made_anew_without_its_masks(small_demo):
    path = demo_phantom(small_demo, masks=True)
    whole = tree(small_demo)
    assert sum(name.startswith("masks/") for name in whole) == sum(name.startswith("images/") for name in whole)
    next((small_demo / "masks").iterdir()).unlink()
    assert demo_phantom(small_demo, masks=True) == path
    assert tree(small_demo) == whole
    demo_phantom(small_demo)  # the other demo in the same folder takes its place
    assert not (small_demo / "masks").exists()
    assert Datalist.load(path, small_demo).task == "binary"


def test_the_demo_is_split_64_16_20_with_balanced_classes(demo_sized):
    folder, exams = demo_sized
    datalist = Datalist.load(folder / "datalist.json", folder)
    parts = [len(datalist.section(section)) / len(exams) for section in ("training", "validation", "test")]
    assert parts == pytest.approx([0.64, 0.16, 0.2], abs=0.01)
    assert max(datalist.class_weights()) < 1.1
    assert len({entry["patient"] for entry in datalist.section("test")}) == DEMO_PATIENTS / 5


def test_global_statistics_do_not_tell_the_class(demo_sized):
    folder, exams = demo_sized
    labels = np.array([exam.label for exam in exams])
    sizes = [next((folder / "images").glob(f"{exam.patient}_{exam.number}.*")).stat().st_size for exam in exams]
    png = np.array([exam.format == "PNG" for exam in exams])
    statistics = {
        "mean": [exam.xray.image.mean() for exam in exams],
        "std": [exam.xray.image.std() for exam in exams],
        "maximum": [exam.xray.image.max() for exam in exams],
        "median": [np.median(exam.xray.image) for exam in exams],
        "file size": sizes,
        "PNG": png,
        "MONOCHROME1": [exam.format.endswith("1") for exam in exams],
        "DX": [exam.format.startswith("DX") for exam in exams],
        "height": [exam.xray.image.shape[0] for exam in exams],
        "width": [exam.xray.image.shape[1] for exam in exams],
        "number": [exam.number for exam in exams],
        "patient": [int(exam.patient[1:]) for exam in exams],
    }
    areas = {name: auroc(labels, np.asarray(values, dtype=float)) for name, values in statistics.items()}
    areas["size of PNG"] = auroc(labels[png], np.array(sizes)[png])
    assert max(areas.values()) < 0.6, areas


def test_a_thumbnail_does_not_tell_the_class(demo_sized):
    folder, exams = demo_sized
    tested = {entry["patient"] for entry in Datalist.load(folder / "datalist.json", folder).section("test")}
    trained = np.array([exam.patient not in tested for exam in exams])
    labels = np.array([exam.label for exam in exams])
    assert thumbnail_auroc(np.stack([thumbnail(exam.xray.image) for exam in exams]), labels, trained) < 0.6


@pytest.mark.slow
def test_no_thumbnail_of_a_large_phantom_tells_the_class():
    thumbnails, labels, patients = [], [], []
    for exam in draw_phantom(seed=1, patients=1600):
        thumbnails.append(thumbnail(exam.xray.image))
        labels.append(exam.label)
        patients.append(int(exam.patient[1:]))
    area = thumbnail_auroc(np.stack(thumbnails), np.array(labels), np.array(patients) % 2 == 0)
    assert 0.45 < area < 0.55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 2}, "patients >= 3, one for each of training, validation, test, got 2"),
        ({"size": (64, 128)}, r"96 <= size\[0\] <= size\[1\], got patients=240, size=\(64, 128\)"),
        ({"size": (200, 160)}, r"got patients=240, size=\(200, 160\)"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_phantom(tmp_path / "phantom", **arguments)
    assert not (tmp_path / "phantom").exists()


def test_a_picture_too_small_for_the_texture_is_refused():
    with pytest.raises(ValueError, match=r"at least 96 x 96 pixels for the texture to show, got \(96, 80\)"):
        drawn_pair(0, shape=(96, 80))


@pytest.fixture
def small_demo(monkeypatch, tmp_path):
    """A demo of four patients, and where it shall lie."""
    monkeypatch.setattr(phantom, "DEMO_PATIENTS", 4)
    return tmp_path / "data" / "demo"


def test_the_demo_is_made_once_and_announced_in_one_line(small_demo, caplog):
    with caplog.at_level(logging.INFO, "ttl_monai.data"):
        path = demo_phantom(small_demo)
        made = tree(small_demo), path.stat().st_mtime_ns
        assert demo_phantom(str(small_demo)) == path == small_demo / "datalist.json"
    assert (tree(small_demo), path.stat().st_mtime_ns) == made
    assert len(Datalist.load(path, small_demo).section("training")) >= 4
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in lines] == ["made", "found"]
    for line in lines:
        assert "\n" not in line
        assert all(word in line for word in (str(small_demo), "4 patients", "--dataset_dir DIR --datalist FILE"))
    assert not small_demo.with_name(".demo.making").exists()


def cut_image(folder):
    path = sorted((folder / "images").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-100])


def remove_image(folder):
    next((folder / "images").iterdir()).unlink()


def cut_datalist(folder):
    (folder / "datalist.json").write_bytes((folder / "datalist.json").read_bytes()[:500])


def remove_datalist(folder):
    (folder / "datalist.json").unlink()


def make_of_other_edition(folder):
    path = folder / "datalist.json"
    path.write_text(path.read_text().replace(f"edition {phantom.EDITION}", "edition 0"))


@pytest.mark.parametrize("damage", [cut_image, remove_image, cut_datalist, remove_datalist, make_of_other_edition])
def test_a_damaged_or_old_demo_is_made_anew(small_demo, damage):
    demo_phantom(small_demo)
    whole = tree(small_demo)
    damage(small_demo)
    assert tree(small_demo) != whole
    demo_phantom(small_demo)
    assert tree(small_demo) == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_kill_in_the_middle_leaves_no_half_demo(small_demo, monkeypatch):
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(phantom, "_dicom", lambda *_: os._exit(9))
        demo_phantom(small_demo)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list(small_demo.with_name(".demo.making").rglob("*.png"))
    assert not small_demo.exists()
    demo_phantom(small_demo)
    Datalist.load(small_demo / "datalist.json", small_demo)
    assert not small_demo.with_name(".demo.making").exists()


def test_the_demo_is_made_once_when_several_ask_at_once(small_demo, monkeypatch):
    calls = []
    monkeypatch.setattr(
        phantom, "make_phantom", lambda folder, **kw: calls.append(folder) or make_phantom(folder, **kw)
    )
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(demo_phantom, [small_demo] * 3))
    assert paths == {small_demo / "datalist.json"}
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["notes.txt", "datalist.json", "README.txt"])
def test_a_folder_with_something_else_is_left_alone(small_demo, name):
    small_demo.mkdir(parents=True)
    (small_demo / name).write_text(json.dumps({"mine": True}))
    with pytest.raises(ValueError, match="holds something else than made chest x-rays: expected no such folder"):
        demo_phantom(small_demo)
    assert tree(small_demo) == {name: b'{"mine": true}'}


def test_an_empty_folder_is_filled(small_demo):
    small_demo.mkdir(parents=True)
    assert demo_phantom(small_demo).is_file()
