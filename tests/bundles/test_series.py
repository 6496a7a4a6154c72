"""Windows in, series out: training, evaluation and prediction of `ctpa_ttl`."""

import csv
import json

import pytest
import torch

from ttl_monai.data import Datalist
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


def test_real_series_have_their_geometry_or_a_refusal(predict, shared_data):
    """All volumes of a folder of hard cases, by hand: one CT is sound."""
    document, rows = predict(shared_data / "dicom_series")
    (sound,) = document["series"]
    assert sound["image"] == rows[0]["image"] == "ct_totalseg_j2k"
    assert sound["volume"]["axcodes"] == "LPS"
    assert sound["top_window"]["last_mm"] > sound["top_window"]["first_mm"]
    reasons = {each["image"].split("/")[0]: " ".join(each["reasons"]) for each in document["refused"]}
    expected = {
        "bad_ct_missing_slice": "1 slice missing",
        "ct_ge_tilt_varspacing": "uneven",
        "ct_totalseg_j2k_seg.nii.gz": "no air",
        "mr_enhanced_philips": "modality MR, expected CT",
        "mr_hippocrop1": "modality MR, expected CT",
        "mr_jpegls": "modality MR, expected CT",
        "pet_like_nonisotropic": "modality MR, expected CT",
        "philips_enhanced_anatomical_001.nii.gz": "no air",
    }
    assert reasons.keys() == expected.keys()
    assert all(expected[name] in reasons[name] for name in expected)


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
    with refused("must be one of demo_ctpa_phantom, demo_lung_phantom, demo_phantom, got 'make_ctpa_phantom'"):
        make_workflow(
            "train.json", bundle="ctpa_ttl", make_demo="make_ctpa_phantom", **none | {"demo_dir": str(tmp_path / "d")}
        ).run()
