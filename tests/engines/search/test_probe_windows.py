"""The probe on windows of CT series: fitted on windows with their own labels, scored by series."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_monai.data import make_ctpa_phantom
from ttl_monai.engines.search.probe import probe_cell
from ttl_monai.engines.search.survey import survey
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
