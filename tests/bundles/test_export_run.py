"""`ttl export` of trained runs: verified, described, and refused where it does not keep what the network gives."""

import json
import re

import pytest
import torch

from ttl_monai.cli import main
from ttl_monai.deploy.export import ExportedNetwork, export_run
from ttl_monai.deploy.export import run as export_module
from ttl_monai.engines import build_network


def export(trained, *arguments):
    return main(["export", str(trained), *arguments])


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


SIZE = {"covid_ttl": [32, 32], "ctpa_ttl": [12, 32, 32], "unet_ttl": [32, 32]}
# The other forms are made of a toy network, in 2D and 3D, by tests/deploy/export.
FORMS = [
    ("covid_ttl", "torchscript", "ts"),
    ("ctpa_ttl", "torchscript", "ts"),
    ("unet_ttl", "torchscript", "ts"),
]
ALL_FORMS = [
    pytest.param(bundle, form, suffix, marks=[] if (bundle, form, suffix) in FORMS else pytest.mark.slow)
    for bundle in SIZE
    for form, suffix in (("onnx", "onnx"), ("openvino", "xml"), ("torchscript", "ts"), ("pt2", "pt2"))
]


@pytest.mark.parametrize(("bundle", "form", "suffix"), ALL_FORMS)
def test_a_run_becomes_a_file_that_gives_the_same(bundle, form, suffix, trained, capsys):
    assert export(trained, "--to", form) == 0
    path = trained / f"export/model.{suffix}"
    shown = capsys.readouterr().out
    assert shown.startswith(f"{path}: float32, ")
    assert "(batch 1), " in shown
    assert "(batch 3); allowed 0.0001" in shown

    image = torch.rand(5, 1, *SIZE[bundle])
    exported = ExportedNetwork(path)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), build_network(trained)(image), atol=1e-4, rtol=0)

    document = json.loads((trained / f"export/model.{suffix}.json").read_text())
    assert set(document["verified"]["max_difference"]) == {"1", "3"}
    assert exported.metadata == document["metadata"]
    check_metadata(exported.metadata, json.loads((trained / "model.json").read_text()), SIZE[bundle])


def check_metadata(metadata, spec, size):
    assert metadata["class_names"] == spec["class_names"]
    assert metadata["truncate_at"] == spec["network_def"]["truncate_at"] is not None
    assert metadata["backbone"] in spec["network_def"].values()
    assert metadata["model_sha256"] == spec["sha256"]
    assert metadata["preprocessing"] == spec["preprocessing"]["transforms"]
    assert metadata["input"]["spatial_size"] == size
    assert metadata["input"]["range"] == [0, 1]
    assert metadata["input"]["window"] == ({"low": -100, "high": 900, "unit": "HU"} if len(size) == 3 else None)
    assert "truncated transfer learning" in metadata["bundle"]["name"].lower()
    assert metadata["package"].startswith("ttl-monai ")
    assert metadata["output"]["activation"] == "softmax"


INT8 = [
    ("covid_ttl", "onnx", "onnx"),
    pytest.param("covid_ttl", "openvino", "xml", marks=pytest.mark.slow),
    pytest.param("ctpa_ttl", "onnx", "onnx", marks=pytest.mark.slow),
    pytest.param("unet_ttl", "onnx", "onnx", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("bundle", "form", "suffix"), INT8)
def test_int8_is_judged_by_the_metric_of_the_validation_section(bundle, form, suffix, trained, data_options, capsys):
    own = ["--calibration_images", "6", "--max_drop", "1", *data_options]
    assert export(trained, "--to", form, "--int8", *own) == 0
    document = json.loads((trained / f"export/model_int8.{suffix}.json").read_text())
    verified, name = document["verified"], "val_dice" if bundle == "unet_ttl" else "val_auroc"
    trained_to = json.loads((trained / "model.json").read_text())["validation"]
    assert verified["float32"][name] == pytest.approx(trained_to[name], abs=1e-6)  # what the training saw
    assert verified["difference"] == verified["int8"][name] - verified["float32"][name]
    assert f"{name} {trained_to[name]:.4f} in float32" in capsys.readouterr().out
    assert document["metadata"]["precision"] == "int8"
    image = torch.rand(3, 1, *SIZE[bundle])
    with torch.no_grad():
        expected = build_network(trained)(image)
    difference = (ExportedNetwork(trained / f"export/model_int8.{suffix}")(image) - expected).abs().max()
    assert 0 < difference < 0.5 * expected.abs().max()


def test_nothing_of_the_images_and_their_place_is_in_the_files(trained, datalist):
    export_run(trained, "torchscript")
    written = b"".join(each.read_bytes() for each in (trained / "export").iterdir())
    for private in (str(datalist.parent), str(trained), "training-0", "images/000"):
        assert private.encode() not in written


REFUSED = [
    (["--to", "tensorrt"], "--to must be one of onnx, openvino, torchscript, pt2, got 'tensorrt'"),
    (["--to", "pt2", "--int8"], "--int8 is for --to onnx and openvino, whose engines .* there is none for pt2"),
    (["--to", "torchscript", "--int8"], "there is none for torchscript"),
    (["--to", "onnx", "--out", "model.xml"], r"--out of --to onnx must end in \.onnx, got model\.xml"),
    (["--to", "onnx", "--int8", "--calibration_images", "0"], "--calibration_images must be at least 1, got 0"),
    (["--to", "onnx", "--max_drop", "0.1"], "--max_drop is for --int8: pass that, too, or leave it out"),
    (["--to", "onnx", "--int8"], "run keeps no path of the data that it was trained on: pass --dataset_dir and --data"),
    (["--to", "onnx", "--int8", "--datalist", "nowhere.json"], "nowhere.json does not exist here"),
]


@pytest.mark.parametrize(("arguments", "match"), REFUSED)
def test_what_is_refused_leaves_nothing(arguments, match, trained, capsys):
    before = files_of(trained)
    assert export(trained, *arguments) == 2
    assert re.search(match, capsys.readouterr().err)
    assert files_of(trained) == before


def test_no_run_is_named(tmp_path, capsys):
    assert export(tmp_path, "--to", "onnx") == 2
    assert "is no training run" in capsys.readouterr().err


def spoil(monkeypatch, change):
    """Let the file give something else than the network."""
    honest = ExportedNetwork.forward
    monkeypatch.setattr(ExportedNetwork, "forward", lambda self, image: change(honest(self, image)))


SPOILT = [
    (lambda output: output + 2e-4, "outputs differ from the network's by 0.0002, expected at most 0.0001"),
    (lambda output: output[:1], r"gives \(1, 2\) for a batch of 3, not \(3, 2\)"),
]


@pytest.mark.parametrize(("change", "match"), SPOILT)
def test_a_file_that_gives_something_else_is_not_kept(change, match, trained, monkeypatch, capsys):
    before = files_of(trained)
    spoil(monkeypatch, change)
    assert export(trained, "--to", "torchscript") == 2
    assert re.search(match, capsys.readouterr().err)
    assert files_of(trained) == before


def test_int8_that_loses_too_much_is_not_kept(trained, data_options, monkeypatch, capsys):
    before = files_of(trained)
    for step in ("onnx_model", "quantise", "_save_int8", "ExportedNetwork"):
        monkeypatch.setattr(export_module, step, lambda *_, **__: None)
    of_file_and_network = {True: {"val_auroc": 0.87}, False: {"val_auroc": 0.9}}
    monkeypatch.setattr(export_module.RunImages, "validate", lambda _, network: of_file_and_network[network is None])
    assert export(trained, "--to", "onnx", "--int8", *data_options) == 2
    expected = r"val_auroc is 0\.9000 in float32 and 0\.8700 in int8, expected a loss of at most 0\.02; nothing was"
    assert re.search(expected, capsys.readouterr().err)
    assert files_of(trained) == before


def test_a_file_in_another_folder_replaces_the_earlier_one(trained, tmp_path, capsys):
    out = tmp_path / "a/b/lungs.ts"
    for _ in range(2):
        assert export(trained, "--to", "torchscript", "--out", str(out)) == 0
    assert files_of(tmp_path / "a") == ["b", "b/lungs.ts", "b/lungs.ts.json"]
    document = json.loads(out.with_name("lungs.ts.json").read_text())
    assert document["files"]["lungs.ts"]["bytes"] == out.stat().st_size
