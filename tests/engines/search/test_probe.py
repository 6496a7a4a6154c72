"""The probe as a cell of a search, and as a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ttl_monai.engines.runs import build_network
from ttl_monai.engines.search import probe as probe_module
from ttl_monai.engines.search.probe import probe_cell, write_probe_run
from ttl_monai.engines.search.survey import survey
from ttl_monai.networks import TransferClassifier, count_params, truncate
from ttl_monai.networks.features import PointFeatures

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "covid_ttl"
POINTS = ("blocks.0.0", "blocks.1.1")
SIZE = 32


def write_images(folder, counts=(24, 12, 8)):
    """Noise, brighter in the middle for odd numbers; two images a patient. Returns the datalist."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    sections, number = {}, 0
    for name, count in zip(("training", "validation", "test"), counts, strict=True):
        sections[name] = []
        for _ in range(count):
            pixels = generator.integers(0, 120, (40, 40), dtype=np.uint8)
            pixels[12:28, 12:28] += 40 * (number % 2)
            path = f"images/{number:03d}.png"
            Image.fromarray(pixels).save(folder / path)
            sections[name].append({"image": path, "label": number % 2, "patient": f"{name}-{number // 2}"})
            number += 1
    names = ["negative", "positive"]
    header = {"name": "tiny", "task": "binary", "class_names": names, "seed": 0, "public_ids": True}
    path = folder / "tiny.json"
    path.write_text(json.dumps({**header, **sections}))
    return path


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    datalist = write_images(folder / "data")
    return survey(
        folder=folder / "search",
        bundle=BUNDLE,
        overlays=(),
        settings={"spatial_size": SIZE, "batch_size": 8, "cache_dir": str(folder / "cache"), "device": "cpu"},
        dataset_dir=datalist.parent,
        datalists=[datalist],
        repeats=1,
        train_patients=None,
        candidates=POINTS,
        seed=0,
        options={},
    )


@pytest.fixture(scope="module")
def probed(space, tmp_path_factory):
    """The folder of a finished probe and what it returned."""
    folder = tmp_path_factory.mktemp("probed")
    return folder, probe_cell(space, space.cell("probe", None, 0), folder)


def read_images(space, section):
    """The images as evaluation sees them, by the bundle's own preprocessing without a cache, and the labels."""
    content = space.open_workflow(0, output_dir=space.folder).parser.get_parsed_content
    items, preprocessing = content("data").section(section), content("validate#preprocessing")
    images = torch.stack([torch.as_tensor(preprocessing({"image": each["image"]})["image"]) for each in items])
    return images.half().float(), np.array([each["label"] for each in items])  # the cache keeps 16 bits


@pytest.fixture(scope="module")
def oracle(space, probed):
    """For each point scikit-learn's own pipeline on the features of a network cut there; no probe code is involved."""
    images, labels = zip(*(read_images(space, section) for section in ("training", "validation")), strict=True)
    network = space.open_workflow(0, output_dir=space.folder).parser.get_parsed_content("network_def").eval()
    found = {}
    for point in (*POINTS, None):
        cut = truncate(network.backbone, point)
        with torch.no_grad():
            known, new = (cut(network.normalise(each)).double().mean(dim=(2, 3)).numpy() for each in images)
        c = probed[1]["points"][point or "whole"]["regularisation"]
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-9, max_iter=50_000))
        shares = pipeline.fit(known, labels[0]).predict_proba(new)
        found[point] = SimpleNamespace(images=images[1], labels=labels[1], shares=shares)
    return found


@pytest.mark.parametrize("point", [*POINTS, None])
def test_metrics_are_those_of_scikit_learn_on_the_cut_network(probed, oracle, point):
    row = probed[1]["points"][point or "whole"]
    labels, scores = oracle[point].labels, oracle[point].shares[:, 1]
    assert row["value"] == row["metrics"]["val_auprc"] == pytest.approx(average_precision_score(labels, scores))
    assert row["metrics"]["val_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    called = scores >= row["threshold"]
    assert row["metrics"]["val_sensitivity"] == pytest.approx(called[labels == 1].mean())
    assert row["metrics"]["val_specificity"] == pytest.approx(1 - called[labels == 0].mean())


def test_result_is_json_and_tells_the_size_of_each_network(space, probed):
    folder, result = probed
    assert json.loads(json.dumps(result)) == result == json.loads((folder / "probe.json").read_text())
    assert list(result["points"]) == [*POINTS, "whole"]
    assert result["metric"] == "val_auprc"
    assert result["images"] == {"training": 24, "validation": 12}
    params = [row["params"] for row in result["points"].values()]
    assert params == [each["params"] for each in space.candidates] == sorted(params)
    assert result["seconds"] >= result["seconds_forward"] > 0
    assert load_file(folder / "probe.safetensors")["whole.weight"].shape == (2, 1280)


def test_each_image_passes_the_network_once(space, tmp_path, monkeypatch):
    seen = []
    original = TransferClassifier.normalise
    monkeypatch.setattr(TransferClassifier, "normalise", lambda self, x: seen.append(len(x)) or original(self, x))
    probe_cell(space, space.cell("probe", None, 0), tmp_path)
    assert sum(seen) == 24 + 12
    assert max(seen) == 8  # the config's batch_size


@pytest.fixture(scope="module", params=[POINTS[0], None], ids=["cut", "whole"])
def run_dir(request, space, probed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "probe"
    write_probe_run(space, request.param, 0, probed[0], folder)
    return SimpleNamespace(path=folder, point=request.param)


def test_run_predicts_as_scikit_learn_does(oracle, run_dir):
    expected = oracle[run_dir.point]
    with torch.no_grad():
        found = build_network(run_dir.path)(expected.images).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected.shares, atol=1e-5)


def test_run_is_described_like_any_other(space, probed, run_dir):
    row = probed[1]["points"][run_dir.point or "whole"]
    spec, record = (json.loads((run_dir.path / name).read_text()) for name in ("model.json", "run.json"))
    definition = spec["network_def"]
    assert (definition["truncate_at"], definition["freeze_up_to"]) == (run_dir.point, "all")
    assert spec["strategy"] == record["strategy"] == "PROBE"
    assert spec["threshold"] == row["threshold"] == record["best"]["val_threshold"]
    assert spec["validation"]["val_auprc"] == record["best"]["val_auprc"] == row["value"]
    assert record["status"] == "finished"
    assert record["params"] == row["params"]
    network = build_network(run_dir.path)
    assert record["trainable_params"] == count_params(network.head)


def open_config(*names, workflow_type, **overrides):
    files = [str(BUNDLE / "configs" / name) for name in names]
    workflow = ConfigWorkflow(files, logging_file=False, workflow_type=workflow_type, **overrides)
    workflow.initialize()
    return workflow


def test_evaluate_accepts_the_run(space, probed, run_dir):
    place = {"dataset_dir": space.dataset_dir, "datalist": space.originals[0], "cache_dir": None, "batch_size": 8}
    names = ("train.json", "evaluate.json")
    open_config(*names, workflow_type="train", run_dir=str(run_dir.path), section="validation", **place).run()
    metrics = json.loads((run_dir.path / "validation" / "metrics.json").read_text())
    row = probed[1]["points"][run_dir.point or "whole"]
    assert metrics["same_datalist_as_training"]
    assert metrics["validation_auprc"] == pytest.approx(row["value"], abs=1e-6)
    assert metrics["validation_sensitivity"] == pytest.approx(row["metrics"]["val_sensitivity"])


def test_inference_accepts_the_run(space, run_dir, tmp_path):
    place = {"dataset_dir": str(Path(space.dataset_dir, "images")), "output_dir": str(tmp_path), "batch_size": 8}
    open_config("inference.json", workflow_type="infer", run_dir=str(run_dir.path), **place).run()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 24 + 12 + 8


def test_same_run_is_left_and_another_is_moved_aside(space, probed, tmp_path):
    folder = tmp_path / "probe"
    write_probe_run(space, POINTS[0], 0, probed[0], folder)
    (folder / "mark").touch()
    write_probe_run(space, POINTS[0], 0, probed[0], folder)
    assert (folder / "mark").exists()
    write_probe_run(space, POINTS[1], 0, probed[0], folder)
    assert not (folder / "mark").exists()
    assert json.loads((folder / "model.json").read_text())["network_def"]["truncate_at"] == POINTS[1]
    assert [path.name for path in tmp_path.iterdir() if (path / "mark").exists()] != []


def test_volumes_are_pooled_over_all_positions():
    """Generic in 2D and 3D: the stand-in for a workflow holds two volumes."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 6, 3, stride=2), nn.ReLU())
    network = TransferClassifier(body, weights="none", in_channels=1).eval()
    volumes = torch.rand(2, 1, 8, 10, 12)
    items = [{"image": volume, "label": number, "patient": str(number)} for number, volume in enumerate(volumes)]
    content = {
        "device": torch.device("cpu"),
        "batch_size": 1,
        "num_workers": 0,
        "train#dataset": items,
        "validate#prepare_batch": lambda batch, device: (batch["image"].to(device), batch["label"].to(device)),
    }
    workflow = SimpleNamespace(parser=SimpleNamespace(get_parsed_content=content.__getitem__))
    found = probe_module._pool(workflow, PointFeatures(network, ["1", None]), "train")
    with torch.no_grad():
        expected = {"1": body[:2](volumes).mean(dim=(2, 3, 4)), "whole": body(volumes).mean(dim=(2, 3, 4))}
    for point, value in expected.items():
        np.testing.assert_allclose(found.features[point], value.numpy(), atol=1e-6)
    assert [item["patient"] for item in found.items] == ["0", "1"]
    assert found.labels.tolist() == [0, 1]


def rewrite(space, change, folder):
    """The space with its sealed datalist changed."""
    path = Path(space.folder, space.datalists[0])
    content = json.loads(path.read_text())
    for key in ("counts", "num_images", "num_patients"):
        content.pop(key, None)
    change(content)
    (folder / "list.json").write_text(json.dumps(content))
    return replace(space, datalists=(str(folder / "list.json"),))


def as_multi_label(content):
    content["task"] = "multi-label"
    for section in ("training", "validation"):
        for number, entry in enumerate(content[section]):
            entry["label"] = [entry["label"], None if number % 5 == 0 else number // 2 % 2]


def test_multi_label_with_unknown_labels(space, tmp_path):
    space = rewrite(space, as_multi_label, tmp_path)
    result = probe_cell(space, space.cell("probe", None, 0), tmp_path / "cell")
    row = result["points"][POINTS[1]]
    assert len(row["regularisation"]) == 2
    assert row["threshold"] is None
    write_probe_run(space, POINTS[1], 0, tmp_path / "cell", tmp_path / "run")
    images, _ = read_images(space, "validation")
    items = json.loads(Path(space.datalists[0]).read_text())["validation"]
    known = [index for index, item in enumerate(items) if item["label"][1] is not None]
    assert 0 < len(known) < len(items)
    with torch.no_grad():
        scores = build_network(tmp_path / "run")(images).numpy()
    bright = average_precision_score([item["label"][0] for item in items], scores[:, 0])
    other = average_precision_score([items[index]["label"][1] for index in known], scores[known, 1])
    assert row["value"] == pytest.approx((bright + other) / 2, abs=1e-6)


def as_segmentation(content):
    content["task"] = "segmentation"
    for section in ("training", "validation"):
        for entry in content[section]:
            entry["label"] = entry["image"]


def one_class(content):
    content["validation"] = [entry for entry in content["validation"] if entry["label"] == 0]


def one_patient(content):
    kept = [entry for entry in content["training"] if entry["label"] == 0]
    content["training"] = kept + [entry for entry in content["training"] if entry["label"] == 1][:1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (as_segmentation, "nothing of where a pixel lies"),
        (one_class, "no finite val_auprc: does the validation section of repeat 0"),
        (one_patient, "class 1 has training images of 1 patients"),
    ],
)
def test_probe_refuses_data_that_it_cannot_read(space, tmp_path, change, match):
    other = rewrite(space, change, tmp_path)
    with pytest.raises(ValueError, match=match):
        probe_cell(other, other.cell("probe", None, 0), tmp_path / "cell")


def test_run_of_no_probe_is_refused(space, probed, tmp_path):
    with pytest.raises(ValueError, match=r"holds no probe: expected .* probe.safetensors"):
        write_probe_run(space, None, 0, tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match=r"no probe was fitted at 'blocks.5'; points: blocks.0.0"):
        write_probe_run(space, "blocks.5", 0, probed[0], tmp_path / "run")
    assert not (tmp_path / "run").exists()
