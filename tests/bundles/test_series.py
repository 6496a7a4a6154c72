"""Windows in, series out: training, evaluation and prediction of `ctpa_ttl`."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from ttl_monai.data import Datalist, VolumeReader
from ttl_monai.engines import build_dataset, build_network

from .conftest import refused


@pytest.fixture
def bundle():
    return "ctpa_ttl"


@pytest.fixture
def predict(make_workflow, trained, tmp_path):
    """Predict what lies in a folder; gives the content of series.json and the rows of predictions.csv."""

    def run(folder, **options):
        settings = {"cache_dir": ..., "datalist": ..., "dataset_dir": str(folder), "output_dir": str(tmp_path / "out")}
        settings |= options
        workflow = make_workflow(
            "inference.json",
            workflow_type="infer",
            bundle="ctpa_ttl",
            run_dir=str(trained),
            file_names=True,
            **settings,
        )
        assert workflow.check_properties() == []
        workflow.run()
        table = tmp_path / "out/predictions.csv"
        rows = list(csv.DictReader(table.open())) if table.exists() else []
        return json.loads((tmp_path / "out/series.json").read_text()), rows

    return run


def test_prediction_of_the_folder_equals_the_evaluation(make_workflow, trained, tiny_scans, predict, tmp_path):
    workflow = make_workflow("train.json", "evaluate.json", bundle="ctpa_ttl", output_dir=..., run_dir=str(trained))
    workflow.run()
    evaluated = list(csv.DictReader((trained / "test/predictions.csv").open()))
    items = Datalist.load(tiny_scans, tiny_scans.parent).section("test")
    assert [row["image"] for row in evaluated] == [item["image_id"] for item in items], "one row a series"
    assert [row["label"] == "positive" for row in evaluated] == [item["label"] == 1 for item in items]
    assert json.loads((trained / "test/metrics.json").read_text())["n"] == len(items)

    document, rows = predict(tiny_scans.parent)
    assert len(document["series"]) == len(rows) == 16
    scores = {row["image"]: float(row["probability_positive"]) for row in rows}
    for row in evaluated:
        assert scores[row["image"]] == pytest.approx(float(row["probability_positive"]), abs=1e-6)
    for each in document["series"]:
        assert each["score"] == pytest.approx(scores[each["image"]], abs=2e-6)
        assert each["score"] == max(window["score"] for window in each["windows"])
        # 30 slices of 8 mm about the middle, in windows of 12, whichever way the files are numbered
        assert [(w["first_mm"], w["last_mm"]) for w in each["windows"]] == [(-116, -28), (-20, 68), (76, 116)]
        assert each["volume"]["suitable"]
        assert (tmp_path / "out" / each["plot"]).stat().st_size > 1000
    written = {each["image"]: each for each in document["series"]}
    windows = build_dataset(trained, items[:2], tmp_path / "cache")
    with torch.no_grad():
        evaluated = build_network(trained)(torch.stack([each["image"] for each in windows])).softmax(1)[:, 1]
    found = [each["score"] for item in items[:2] for each in written[item["image_id"]]["windows"]]
    assert found == pytest.approx(evaluated.tolist(), abs=1e-6)


# What lies in shared/data/dicom_series, by hand: the one sound CT, and why the others are refused.
SOUND = "ct_totalseg_j2k"
REASONS = {
    "bad_ct_missing_slice": "1 slice missing",
    "ct_ge_tilt_varspacing": "uneven",
    "mr_enhanced_philips": "modality MR, expected CT",
    "mr_hippocrop1": "modality MR, expected CT",
    "mr_jpegls": "modality MR, expected CT",
    "pet_like_nonisotropic": "modality MR, expected CT",
}
NO_SCANS = {"ct_totalseg_j2k_seg.nii.gz": "no air", "philips_enhanced_anatomical_001.nii.gz": "no air"}


def check_sound(series):
    """20 slices of 512 x 512 pixels of 0.9766 mm, one every 2 mm, from -804.5 to -766.5 mm."""
    volume = series["volume"]
    assert (volume["shape"], volume["axcodes"], volume["slices"]) == ([512, 512, 20], "LPS", 20)
    assert volume["spacing_mm"] == pytest.approx([0.9765625, 0.9765625, 2])
    places = [(each["first_mm"], each["last_mm"]) for each in series["windows"]]
    assert places == [(-804.5, -782.5), (-780.5, -766.5)], "windows of 12 slices"
    assert series["top_window"] in series["windows"]


def test_each_real_series_has_its_geometry_or_its_refusal_alone_and_in_a_tree(predict, shared_data):
    for name, reason in {SOUND: None, **REASONS}.items():
        document, rows = predict(shared_data / "dicom_series" / name)
        found = [*document["series"], *document["refused"]]
        assert len(found) == 1, name
        assert len(rows) == len(document["series"]) == (reason is None), name
        if reason is None:
            check_sound(found[0])
        else:
            assert reason in " ".join(found[0]["reasons"]), name
    document, rows = predict(shared_data / "dicom_series")
    (sound,) = document["series"]
    assert sound["image"] == rows[0]["image"] == SOUND
    check_sound(sound)
    reasons = {each["image"].split("/")[0]: " ".join(each["reasons"]) for each in document["refused"]}
    expected = REASONS | NO_SCANS
    assert len(document["refused"]) == len(expected)
    assert reasons.keys() == expected.keys()
    assert all(expected[name] in reasons[name] for name in expected)


def test_grad_cam_and_overlap_on_request(predict, tiny_scans, tmp_path):
    folder = tiny_scans.parent / "images/P0001_0"
    (plain,) = predict(folder)[0]["series"]
    assert "gradcam" not in plain
    assert not list((tmp_path / "out").glob("*gradcam*"))
    (series,) = predict(folder, gradcam=True, overlap=0.5)[0]["series"]
    assert [each["start"] for each in series["windows"]] == [each["start"] for each in plain["windows"]]
    assert series["windows"] != plain["windows"]
    found = nib.load(tmp_path / "out" / series["gradcam"]["volume"])
    array, meta = VolumeReader("CT").get_data((folder,))
    assert found.shape == array.shape
    np.testing.assert_allclose(found.affine, meta["affine"], atol=1e-4)
    assert Image.open(tmp_path / "out" / series["gradcam"]["picture"]).width > 1000


def test_a_folder_of_refusals_alone_is_reported(predict, tiny_scans, tmp_path):
    source = tiny_scans.parent / "images/P0001_0"
    (tmp_path / "in").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        if number != 7:
            (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    document, rows = predict(tmp_path / "in")
    assert (document["series"], rows) == ([], [])
    (one,) = document["refused"]
    assert "1 slice missing" in one["reasons"][0]


def test_the_made_scans_never_stand_in_for_own_data(make_workflow, trained, tmp_path):
    none = dict.fromkeys(("cache_dir", "datalist", "dataset_dir", "output_dir"), ...)
    with refused("must be one of demo_ctpa_phantom, demo_lung_phantom, demo_phantom, demo_tissue.*'make_ctpa_phantom'"):
        make_workflow(
            "train.json", bundle="ctpa_ttl", make_demo="make_ctpa_phantom", **none | {"demo_dir": str(tmp_path / "d")}
        ).run()
