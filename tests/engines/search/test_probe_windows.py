"""The cells of a search on windows of CT series, whose volumes are prepared before the first of them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import ResNet
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_monai.cli import main
from ttl_monai.data import Datalist, VolumeCache, make_ctpa_phantom
from ttl_monai.engines.search.prepare import prepare_images
from ttl_monai.engines.search.probe import probe_cell
from ttl_monai.engines.search.run_cell import train_cell
from ttl_monai.engines.search.survey import survey
from ttl_monai.engines.search.transition import svcca_cell
from ttl_monai.networks import backbones
from ttl_monai.networks.features import PointFeatures

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "ctpa_ttl"
SETTINGS = {
    **{"spatial_size": [12, 32, 32], "crop_from": 36, "field_size": 48, "batch_size": 8, "min_slices": 3},
    **{"max_epochs": 1, "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    datalist = make_ctpa_phantom(folder / "scans", seed=2, patients=14, shape=(30, 64, 64))
    return survey(
        folder=folder,
        bundle=BUNDLE,
        overlays=[],
        settings={**SETTINGS, "cache_dir": str(folder / "cache")},
        dataset_dir=datalist.parent,
        datalists=[datalist],
        repeats=1,
        train_patients=None,
        candidates=["layer1"],
        seed=0,
        options={},
    )


def test_the_probe_is_fitted_on_windows_and_scored_by_series(space, tmp_path):
    result = probe_cell(space, space.cell("probe", None, 0), tmp_path)
    workflow = space.open_workflow(0, output_dir=tmp_path / "w", cache_features=True)
    content = workflow.parser.get_parsed_content
    training, validation = content("train#dataset"), content("validate#dataset")
    assert result["images"] == {"training": len(training), "validation": len(validation)}
    assert {item["label"] for item in training.data} == {0, 1}
    labels = {item["image_id"]: item["label"] for item in validation.data}
    assert len(validation) == 3 * len(labels)

    weights = load_file(tmp_path / "probe.safetensors")
    row = result["points"]["layer1.0"]
    # The seed of the workflow gives the same random weights as in the probe.
    features = PointFeatures(content("network").eval(), ["layer1.0"])
    scores = {name: [] for name in labels}
    with torch.no_grad():
        for item in validation:
            pooled = features(item["image"][None])["layer1.0"].flatten(2).mean(2)
            logits = pooled @ weights["layer1.0.weight"].T + weights["layer1.0.bias"]
            scores[item["image_id"]].append(float(logits.softmax(1)[0, 1]))
    expected = np.array([max(values) for values in scores.values()])
    truth = np.array(list(labels.values()))
    assert row["metrics"]["val_auprc"] == pytest.approx(average_precision_score(truth, expected), abs=1e-6)
    assert row["metrics"]["val_auroc"] == pytest.approx(roc_auc_score(truth, expected), abs=1e-6)
    called = expected >= row["threshold"] - 1e-6
    assert row["metrics"]["val_sensitivity"] == pytest.approx(called[truth == 1].mean())


def test_volumes_are_prepared_once_before_the_first_cell(tmp_path_factory, monkeypatch, caplog):
    """Later cells read no file of the data set; and the cells of the SVCCA search run on windows, as `ttl svcca`."""
    few = partial(ResNet, "basic", [1, 1, 1, 1], [4, 8, 8, 8], spatial_dims=3, n_input_channels=1)  # channels
    monkeypatch.setitem(backbones.REGISTRY, "few3d", few)
    folder = tmp_path_factory.mktemp("svcca")
    datalist = make_ctpa_phantom(folder / "scans", seed=2, patients=5, shape=(24, 64, 64))
    space = survey(
        folder=folder,
        bundle=BUNDLE,
        overlays=[],
        settings={**SETTINGS, "network_def#backbone": "few3d", "cache_dir": str(folder / "cache")},
        dataset_dir=datalist.parent,
        datalists=[datalist],
        repeats=1,
        train_patients=None,
        candidates=["layer1"],
        seed=0,
        options={},
    )
    read, make = [], VolumeCache._make
    monkeypatch.setattr(VolumeCache, "_make", lambda self, source, entry: read.append(1) or make(self, source, entry))
    prepare_images(space, ("svcca", "train"), workers=0)
    data = Datalist.load(datalist, datalist.parent)
    series = len(data.section("training")) + len(data.section("validation"))
    assert len(read) == series
    whole = space.cell("train", None, 0)
    result = train_cell(space, whole, folder / "runs/whole")
    (folder / "results").mkdir()
    (folder / "results" / f"{whole.key}.json").write_text(json.dumps({**result, "run": "runs/whole"}))
    compared = svcca_cell(space, space.cell("svcca", None, 0), folder / "cell")
    assert len(read) == series
    assert compared["images"] == 2 * series  # windows
    assert [row["point"] for row in compared["points"]] == ["layer1.0", None]
    assert all(0 < row["mean"] < 1 for row in compared["points"])
    out = folder / "out"
    words = ["--dataset_dir", str(datalist.parent), "--datalist", str(datalist), "--points", "layer1"]
    assert main(["svcca", "initial", str(folder / "runs/whole"), *words, "--out", str(out)]) == 0
    assert "another datalist" not in caplog.text
    (row,) = json.loads((out / "similarity.json").read_text())["points"]
    assert row["mean"] == pytest.approx(compared["points"][0]["mean"], abs=1e-3)
