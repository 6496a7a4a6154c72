"""`ttl predict`: what is refused and why, that the rest is what inference.json gives, and that no name leaks."""

import csv
import json
import shutil
import stat
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ttl_monai.deploy.predict.conduct as conduct
from ttl_monai.cli import main
from ttl_monai.deploy.export import export_run
from ttl_monai.deploy.predict import predict_inputs

from .conftest import BUNDLES, write_tiny_data
from .predict_inputs import CANARY, by_name, leaks, predicted, write_scan, write_xray

XRAYS = {  # name -> tags, outcome, words of a reason or warning
    "a.dcm": ({}, "predicted", None),
    "ap.dcm": ({"ViewPosition": "AP", "BurnedInAnnotation": "YES"}, "predicted", "burned-in annotation: YES"),
    "unsaid.dcm": ({"ViewPosition": None, "PatientOrientation": None}, "predicted", "view: not stated"),
    "lateral.dcm": ({"ViewPosition": "LL"}, "refused", "view: LL, expected PA or AP"),
    "turned.dcm": ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "refused", "view: LATERAL"),
    "hand.dcm": ({"BodyPartExamined": "HAND"}, "refused", "body part: HAND, expected CHEST"),
    "named.dcm": ({"BodyPartExamined": "CANARY"}, "refused", "body part: another value, expected CHEST"),
    "raw.dcm": ({"PresentationIntentType": "FOR PROCESSING"}, "refused", "presentation: FOR PROCESSING"),
    "mammo.dcm": ({"Modality": "MG"}, "refused", "modality: MG, expected CR or DX"),
    "unknown.dcm": ({"Modality": None}, "refused", "modality: not stated"),
}
OTHERS = {
    "cut.dcm": ("refused", "pixels: pixel data is cut short"),
    "fake.dcm": ("refused", "files: not a DICOM file"),
    "broken.png": ("refused", "pixels: damaged"),
    "empty.png": ("refused", "the file is empty"),
    "picture.png": ("predicted", "the file states no modality"),
    "volume.nii.gz": ("refused", "files: a damaged NIfTI file"),
}


@pytest.fixture
def xrays(tmp_path):
    """A tree with all kinds of x-rays, and what is none."""
    folder = tmp_path / f"{CANARY}_study"
    for number, (name, (tags, _, _)) in enumerate(XRAYS.items()):
        write_xray(folder / f"{CANARY}_{number}" / name, seed=number, **tags)
    (folder / "cut.dcm").write_bytes(write_xray(folder / "b/whole.dcm", seed=99).read_bytes()[:3000])
    shutil.rmtree(folder / "b")
    (folder / "fake.dcm").write_text("no DICOM")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "empty.png").touch()
    (folder / "volume.nii.gz").write_bytes(b"none")
    (folder / f"{CANARY}.txt").write_text("a note")
    Image.fromarray(np.arange(60 * 50, dtype=np.uint32).reshape(60, 50).astype(np.uint8)).save(folder / "picture.png")
    write_scan(folder / f"{CANARY}_ct", slices=4)
    return folder


def test_each_image_is_predicted_or_refused_for_its_own_reason(predict, xrays, make_workflow, train_once, tmp_path):
    results = predict("covid_ttl", xrays, key_map=tmp_path / "map.json")
    report, predictions = predicted(tmp_path / "out")
    items = by_name(report, tmp_path / "map.json")
    expected = {name: row[1:] for name, row in XRAYS.items()} | OTHERS
    assert len(items) == len(expected) + 1, "the CT series is one item"
    for name, (outcome, words) in expected.items():
        item = items[name]
        assert item["outcome"] == outcome, name
        said = item["reasons"] if outcome == "refused" else item["warnings"]
        assert (words in " ".join(said)) if words else not said, (name, said)
        assert (item["key"] in predictions) == (outcome == "predicted")
    (scan,) = [each for each in items.values() if each["kind"] == "series"]
    assert "DICOM, series; expected a single image; modality: CT" in "; ".join(scan["reasons"])
    assert (results.exit_code, report["exit_code"], report["left_out"]) == (1, 1, 1)
    assert {each["patient"] for each in predictions.values()} == {items["a.dcm"]["patient"], ""}
    assert stat.S_IMODE((tmp_path / "map.json").stat().st_mode) == 0o600
    assert not leaks(tmp_path / "out")
    # The same numbers as the bundle's own inference.
    (tmp_path / "in").mkdir()
    shutil.copy(next(xrays.rglob("ap.dcm")), tmp_path / "in")
    unset = dict.fromkeys(("spatial_size", "max_epochs", "learning_rate", "network_def#weights", "datalist"), ...)
    overrides = {"dataset_dir": str(tmp_path / "in"), "run_dir": str(train_once("covid_ttl")), **unset}
    make_workflow("inference.json", workflow_type="infer", **overrides, output_dir=str(tmp_path / "own")).run()
    (row,) = csv.DictReader((tmp_path / "own/predictions.csv").open())
    found = predictions[items["ap.dcm"]["key"]]
    assert found["probabilities"]["positive"] == pytest.approx(float(row["probability_positive"]), abs=2e-4)
    assert found["predicted"] == row["decision"]


def test_series_of_a_tree_are_told_apart(predict, tmp_path):
    tree = tmp_path / "tree"
    write_scan(tree / "sound")
    write_scan(tree / "gap", series_uid="1.2.5.2", heights=[*range(0, 14, 2), *range(16, 30, 2)])
    write_scan(tree / "mr", series_uid="1.2.5.3", modality="MR")
    write_scan(tree / "head", series_uid="1.2.5.4", BodyPartExamined="HEAD")
    write_scan(tree / "broken", series_uid="1.2.5.5")[3].write_bytes(b"short")
    bright = write_scan(tree / "air", series_uid="1.2.5.6", intercept=3000)
    write_xray(tree / "x.dcm")
    results = predict("ctpa_ttl", tree, key_map=tmp_path / "map.json")
    folders = {key: files[0].split("/")[-2] for key, files in json.loads((tmp_path / "map.json").read_text()).items()}
    report, predictions = predicted(tmp_path / "out")
    said = {}
    for each in report["items"]:
        said.setdefault(folders[each["key"]], []).append(" ".join(each["reasons"]) or each["outcome"])
    assert said["sound"] == ["predicted"]
    assert "1 slice missing" in said["gap"][0]
    assert "modality: MR, expected CT" in said["mr"][0]
    assert "body part: HEAD" in said["head"][0]
    assert "1 files beside it cannot be read" in " ".join(said["broken"])
    assert "HU range" in said["air"][0], "what only the pixels tell is refused by the workflow's own reader"
    assert "modality: DX, expected CT" in said["tree"][0]
    (sound,) = predictions.values()
    assert sound["windows"]
    assert sound["probabilities"]["positive"] == pytest.approx(sound["top_window"]["score"], abs=2e-6)
    assert results.exit_code == 1
    assert len(bright) == 14


@pytest.mark.parametrize(
    ("bundle", "exit_code", "reason"),
    [("covid_ttl", 0, None), ("ctpa_ttl", 3, "picture, expected DICOM or NIfTI")],
)
def test_exit_status_and_lists(predict, tmp_path, bundle, exit_code, reason):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((40, 40), 9, np.uint8) + ord(name[0])).save(tmp_path / name)
    (tmp_path / "some.txt").write_text("# two\na.png\n\nb.png\n")
    (tmp_path / "some.json").write_text(json.dumps([{"image": "a.png"}, "b.png"]))
    results = predict(bundle, tmp_path / "some.txt", out=tmp_path / "1")
    assert (results.exit_code, len(results.results)) == (exit_code, 2)
    assert all(reason is None or reason in each.reasons[0] for each in results.results)
    again = predict(bundle, tmp_path / "some.json", out=tmp_path / "2")
    assert [each.item.key for each in again.results] == [each.item.key for each in results.results]


def test_files_without_permission_are_refused_alone(predict, tmp_path, monkeypatch):
    tree = tmp_path / CANARY
    names = ("closed.dcm", "closed", "closed.png")
    for number, name in enumerate(("open.dcm", *names)):
        write_xray(tree / name, seed=number)
    write_scan(tree / "ct", slices=4)[2].rename(tree / "ct/closed.dcm")
    opened = Path.open

    def refuse(path, *arguments, **options):  # whatever the rights of whoever runs the tests
        if path.resolve().name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    results = predict("covid_ttl", tree, key_map=tmp_path / "map.json")
    assert results.exit_code == 1
    items = by_name(predicted(tmp_path / "out")[0], tmp_path / "map.json")
    assert items["open.dcm"]["outcome"] == "predicted"
    assert items["closed"]["reasons"] == ["files: no permission to read it"]
    assert not leaks(tmp_path / "out")


def test_links_that_lead_nowhere_are_refused_by_themselves(predict, tmp_path):
    tree = tmp_path / "tree"
    write_xray(tree / "open.dcm")
    names = ("gone.dcm", "gone", "gone.png", "gone.nii.gz")
    for name in names:
        (tree / name).symlink_to(tmp_path / CANARY)
    predict("covid_ttl", tree, key_map=tmp_path / "map.json")
    items = by_name(predicted(tmp_path / "out")[0], tmp_path / "map.json")
    assert [items[name]["reasons"] for name in names] == [["files: a link that leads nowhere"]] * 4
    assert items["open.dcm"]["outcome"] == "predicted"
    assert not leaks(tmp_path / "out")


def test_what_is_refused_as_a_whole(predict, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "list.txt").write_text("CANARY.png\n")
    (tmp_path / "odd.json").write_text('{"CANARY": 1}')
    for source, options, match in (
        (tmp_path / CANARY, {}, "the input does not exist"),
        (tmp_path / "list.txt", {}, "1 of 1 entries of the list are not there: entry 1"),
        (tmp_path / "odd.json", {}, "the list cannot be read"),
        (tmp_path / "full", {"out": tmp_path / "full"}, "expected a new or empty folder"),
        (tmp_path / "full", {"key_map": tmp_path / "out/map.json"}, "write it to another place than --out"),
        (tmp_path / "full", {}, "no image was found among the 1 files"),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            predict("covid_ttl", source, **options)
        assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert not (tmp_path / "out").exists()


def test_a_misspelt_setting_is_one_line(predict, tmp_path):
    write_xray(tmp_path / "in/a.dcm")
    with pytest.raises(ValueError, match=r"^'batch_sise' is no setting here; did you mean 'batch_size'\? Nothing was"):
        predict("covid_ttl", tmp_path / "in", settings={"batch_sise": 4})
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_bundle_is_refused(train_once, site_key, tmp_path):
    write_xray(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"expected a bundle .* or a finished run"):
        predict_inputs(tmp_path, tmp_path / "a.dcm", tmp_path / "out", site_key=site_key)
    with pytest.raises(ValueError, match="lies in no bundle: name the bundle that trained it by --bundle"):
        predict_inputs(train_once("covid_ttl"), tmp_path / "a.dcm", tmp_path / "out", site_key=site_key)
    options = {"configs": BUNDLES / "unet_ttl", "site_key": site_key}
    with pytest.raises(ValueError, match="TransferClassifier, but the bundle unet_ttl is for"):
        predict_inputs(train_once("covid_ttl"), tmp_path / "a.dcm", tmp_path / "out", **options)


def test_a_bundle_predicts_with_a_model_of_its_own(train_once, site_key, tmp_path):
    write_xray(tmp_path / "a.dcm")
    bundle = shutil.copytree(
        BUNDLES / "covid_ttl", tmp_path / "covid_ttl", ignore=shutil.ignore_patterns("eval", "data")
    )
    with pytest.raises(ValueError, match=r"has no models/model\.pt: name a finished run, or a packed bundle"):
        predict_inputs(bundle, tmp_path / "a.dcm", tmp_path / "out", site_key=site_key)
    (bundle / "models").mkdir()
    for name in ("model.pt", "model.json"):
        shutil.copy(train_once("covid_ttl") / name, bundle / "models")
    assert predict_inputs(bundle, tmp_path / "a.dcm", tmp_path / "out", site_key=site_key).exit_code == 0
    (bundle / "MANIFEST.json").write_text('{"sha256": {}}')
    with pytest.raises(ValueError, match="nothing was predicted"):
        predict_inputs(bundle, tmp_path / "a.dcm", tmp_path / "out2", site_key=site_key)


def test_no_name_leaks_through_screen_logs_and_tracebacks(train_once, site_key, tmp_path, capfd, monkeypatch):
    folder = tmp_path / f"{CANARY}_study"
    write_xray(folder / CANARY / f"{CANARY}.dcm")
    write_xray(folder / f"{CANARY}_hand.dcm", BodyPartExamined=CANARY)
    (folder / f"{CANARY}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / f"{CANARY}.dcm").write_bytes((folder / f"{CANARY}_hand.dcm").read_bytes()[:900])
    arguments = [str(train_once("covid_ttl")), str(folder), "--bundle", str(BUNDLES / "covid_ttl")]
    arguments = ["predict", *arguments, "--site-key", str(site_key)]
    assert main([*arguments, "--out", str(tmp_path / "1")]) == 1
    shown = capfd.readouterr()
    assert "1 predicted, 3 refused, 0 files left out" in shown.out
    assert CANARY not in shown.out + shown.err

    def fail(*_):
        raise RuntimeError("an error that nobody expects")

    monkeypatch.setattr(conduct, "collect_results", fail)
    with pytest.raises(RuntimeError) as caught:
        main([*arguments, "--out", str(tmp_path / "2")])
    # Lines of code are quoted by a traceback, values are not.
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err


@pytest.mark.slow
def test_no_name_of_the_data_is_in_a_run(make_workflow, tmp_path, capfd):
    """Run folder, checkpoint, ONNX, cache, TensorBoard, screen; of images and of the folder of all."""
    data = tmp_path / f"{CANARY}_data"
    listed = write_tiny_data(data, counts=(8, 4, 4)).rename(data / f"{CANARY}.json")
    content = json.loads(listed.read_text())
    for number, entry in enumerate(entry for name in ("training", "validation", "test") for entry in content[name]):
        name = f"{CANARY}_patient{number % 3}/{CANARY}_{number}.dcm"
        write_xray(data / name, size=(40, 40), seed=number)
        entry |= {"image": name, "id": f"{number:016x}", "patient": entry["patient"].encode().hex().ljust(64, "0")}
    content["public_ids"] = False
    listed.write_text(json.dumps(content))
    settings = {"dataset_dir": str(data), "datalist": str(listed), "strategy": "TTL"}
    make_workflow("train.json", **settings, **{"network_def#truncate_at": "blocks.0"}).run()
    settings = {"dataset_dir": str(data), "datalist": str(listed), "run_dir": str(tmp_path / "run")}
    make_workflow("train.json", "evaluate.json", **settings, output_dir=str(tmp_path / "run/test")).run()
    export_run(tmp_path / "run", "onnx")
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.pt", "run.json", "test", "tensorboard", "export"} <= made
    assert not leaks(tmp_path / "run")
    assert not leaks(tmp_path / "cache")
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err
