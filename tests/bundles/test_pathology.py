"""Colour patches of three classes end to end: made on first use, trained, evaluated, predicted."""

import csv
import json

import pytest
import torch
from monai.bundle import ConfigWorkflow

from ttl_monai.data import make_tissue_phantom, phantom_tissue

from .conftest import BUNDLES, refused

CLASSES = ["lymphoid", "tumour", "mitosis"]
OWN_DATA = {"dataset_dir": ..., "datalist": ...}  # takes the tiny x-rays of the tests away


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """A demo of few and small patches, and the settings with which it is made and used."""
    monkeypatch.setattr(phantom_tissue, "DEMO_PATIENTS", 8)
    monkeypatch.setattr(phantom_tissue, "SIZE", (64, 64))
    return OWN_DATA | {"demo_dir": str(tmp_path / "demo")}


@pytest.mark.slow
def test_the_demo_is_trained_evaluated_and_predicted(make_workflow, demo, tmp_path, monkeypatch):
    workflow = make_workflow("train.json", "data_pathology.json", "strategy_ttl.json", **demo)
    workflow.run()
    spec = json.loads((tmp_path / "run/model.json").read_text())
    assert (spec["class_names"], spec["task"], spec["make_demo"]) == (CLASSES, "multi-class", "demo_tissue_phantom")
    assert spec["network_def"]["in_channels"] == 3
    folder = {"output_dir": ..., "run_dir": str(tmp_path / "run")}
    make_workflow("train.json", "data_pathology.json", "evaluate.json", **demo, **folder).run()
    metrics = json.loads((tmp_path / "run/test/metrics.json").read_text())
    assert metrics["n"] == 6
    assert 0 <= metrics["test_auroc"] <= 1
    # Without the overlay the made x-rays would be meant.
    monkeypatch.setattr("ttl_monai.data.phantom.DEMO_PATIENTS", 4)
    xrays = demo | {"demo_dir": str(tmp_path / "xrays")}
    with refused("the run was not trained on the made images"):
        make_workflow("train.json", "evaluate.json", **xrays, **folder).run()
    own = {"demo_dir": demo["demo_dir"], **OWN_DATA, **folder}
    make_workflow("inference.json", **own).run()
    rows = list(csv.DictReader((tmp_path / "run/predictions/predictions.csv").open()))
    assert len(rows) == 6
    for row in rows:
        assert sum(float(row[f"probability_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-3)


def test_patches_keep_their_colours_and_are_mirrored_and_turned(make_workflow, tmp_path):
    datalist = make_tissue_phantom(tmp_path / "own", patients=4, size=(64, 64))
    data = {"dataset_dir": str(datalist.parent), "datalist": str(datalist)}
    content = make_workflow("train.json", "data_pathology.json", **data).parser.get_parsed_content
    item = content("train#dataset")[0]["image"]
    assert item.shape == (3, 37, 37)
    means = item.mean(dim=(1, 2))
    assert means[1] < means[2] < means[0]  # purple and pink: green is what the dyes absorb
    augment = content("train#augment")
    assert (augment.flip, augment.quarter_turns, augment.rotate_degrees) == (True, True, 10)
    torch.manual_seed(0)
    shown = augment(item[None].repeat(64, 1, 1, 1))
    assert shown.shape == (64, 3, 32, 32)
    assert (shown.mean(dim=(2, 3)) - means).abs().max() < 0.1


def test_folders_of_made_data_differ_by_what_makes_them():
    configs = str(BUNDLES / "covid_ttl/configs/")
    for names, folder in ((["train"], "demo_phantom"), (["train", "data_pathology"], "demo_tissue_phantom")):
        workflow = ConfigWorkflow([f"{configs}/{name}.json" for name in names], logging_file=False)
        workflow.initialize()
        assert workflow.parser.get_parsed_content("demo_dir") == str(BUNDLES / "covid_ttl/data" / folder)
