"""The demonstration's bars, by trainings on the phantom with the settings of `train.json`'s `demo` block."""

import csv
import json
import random

import pytest

from ttl_monai.data import make_phantom

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def shuffle_training_labels(datalist):
    content = json.loads(datalist.read_text())
    labels = [item["label"] for item in content["training"]]
    random.Random(0).shuffle(labels)
    for item, label in zip(content["training"], labels, strict=True):
        item["label"] = label
    datalist.write_text(json.dumps(content))


@pytest.fixture
def auroc(make_workflow, tmp_path):
    """Train and evaluate on a phantom; gives the test AUROC."""

    def run(datalist, *overlays):
        data = {"dataset_dir": str(datalist.parent), "datalist": str(datalist)}
        demo = make_workflow("train.json").parser["demo"]
        settings = {name: value for name, value in demo.items() if name != "_desc_"}
        folder = tmp_path / "-".join(("run", *overlays))
        make_workflow(
            "train.json", *overlays, output_dir=str(folder), **data, **settings, **{"network_def#weights": "imagenet"}
        ).run()
        make_workflow("train.json", "evaluate.json", output_dir=..., batch_size=16, run_dir=str(folder), **data).run()
        return json.loads((folder / "test/metrics.json").read_text())["test_auroc"]

    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns_but_not_all_and_the_cut_network_as_well(auroc, tmp_path, seed):
    datalist = make_phantom(tmp_path / "phantom", seed=seed)
    whole, cut = auroc(datalist), auroc(datalist, "strategy_ttl.json")
    assert 0.75 <= whole <= 0.98
    assert 0.75 <= cut <= 0.98
    assert cut >= whole - 0.05


def test_shuffled_labels_teach_nothing(auroc, tmp_path):
    datalist = make_phantom(tmp_path / "phantom", seed=0)
    shuffle_training_labels(datalist)
    assert auroc(datalist) == pytest.approx(0.5, abs=0.1)


def test_the_files_name_no_one(tmp_path):
    datalist = make_phantom(tmp_path / "phantom", seed=0, patients=30)
    rows = list(csv.DictReader((datalist.parent / "labels.csv").open()))
    assert {row["patient_id"][0] for row in rows} == {"P"}
