import csv
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from ttl_monai.analysis import (
    auprc_trapezoid,
    auroc,
    average_precision,
    classification_intervals,
    sensitivity_specificity,
)
from ttl_monai.handlers import OperatingPoint, PredictionWriter

GENERATOR = torch.Generator().manual_seed(2)


def run(handler, probabilities, labels=None, batch_size=8):
    """Feed decollated batches to a handler, as a MONAI evaluator does."""

    def step(engine, indices):
        engine.state.batch = [
            {"patient": f"key{i}", "image_id": f"id{i}"} | ({} if labels is None else {"label": labels[i]})
            for i in indices
        ]
        return [{"pred": probabilities[i]} for i in indices]

    engine = Engine(step)
    handler.attach(engine)
    n = len(probabilities)
    engine.run([range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)])
    return engine.state.metrics


def binary(n=37):
    labels = torch.randint(0, 2, (n,), generator=GENERATOR)
    scores = torch.sigmoid(torch.randn(n, generator=GENERATOR) + labels)
    return torch.stack([1 - scores, scores], 1), labels


def test_the_operating_point_has_the_largest_youden_index():
    probabilities, labels = binary()
    metrics = run(OperatingPoint(task="binary", class_names=["no", "yes"]), probabilities, labels)
    best = max(sum(sensitivity_specificity(labels, probabilities[:, 1], t)) for t in probabilities[:, 1].tolist())
    assert metrics["val_sensitivity"] + metrics["val_specificity"] == pytest.approx(best)
    assert all(type(value) is float for value in metrics.values())


def test_tasks_of_several_classes_have_no_single_operating_point():
    metrics = run(OperatingPoint(task="multi-class", class_names="abc"), torch.eye(3), torch.arange(3))
    assert metrics == {}


def test_a_one_class_validation_gives_nan_and_no_crash():
    probabilities, _ = binary()
    metrics = run(OperatingPoint(task="binary", class_names=["no", "yes"]), probabilities, torch.ones(37))
    assert np.isnan(metrics["val_threshold"])


def test_metrics_and_csv_of_a_binary_task(tmp_path, caplog):
    caplog.set_level("INFO")
    probabilities, labels = binary()
    writer = PredictionWriter(
        task="binary", class_names=["no", "yes"], output_dir=tmp_path, threshold=0.6, facts={"strategy": "TTL"}
    )
    run(writer, probabilities, labels)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    scores = probabilities[:, 1].double().numpy()
    for name, function in (("auroc", auroc), ("auprc", average_precision), ("auprc_trapezoid", auprc_trapezoid)):
        assert metrics[f"test_{name}"] == pytest.approx(function(labels, scores), abs=1e-9)
    sensitivity, specificity = sensitivity_specificity(labels, scores, 0.6)
    assert (metrics["test_sensitivity"], metrics["test_specificity"]) == (sensitivity, specificity)
    assert metrics["strategy"] == "TTL"
    for name in ("auroc", "auprc", "sensitivity", "specificity"):
        low, high = metrics[f"test_{name}_interval"]
        assert low < metrics[f"test_{name}"] < high
        assert f"{name} {metrics[f'test_{name}']:.3f} ({low:.3f} to {high:.3f})" in caplog.text
    assert metrics["bootstrap"]["patients"] == 37
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["patient"] for row in rows] == [f"key{i}" for i in range(37)]
    assert [row["label"] for row in rows] == [["no", "yes"][i] for i in labels]
    assert [row["decision"] for row in rows] == [["no", "yes"][int(s >= 0.6)] for s in scores]
    assert (tmp_path / "roc_pr.png").exists()


def test_the_table_of_a_sure_network_ranks_as_its_metrics_do(tmp_path):
    scores = torch.sigmoid(torch.linspace(14, 16.5, 30))  # all 1.000000 in six digits
    labels = torch.arange(30) % 3 == 0
    run(
        PredictionWriter(task="binary", class_names=["no", "yes"], output_dir=tmp_path, threshold=0.5),
        torch.stack([1 - scores, scores], 1),
        labels.long(),
    )
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    table = [float(row["probability_yes"]) for row in rows]
    known = json.loads((tmp_path / "metrics.json").read_text())
    assert torch.equal(torch.tensor(table), scores)
    assert auroc(labels, np.array(table)) == pytest.approx(known["test_auroc"], abs=1e-12)


def test_the_images_of_a_patient_are_drawn_together(tmp_path):
    probabilities, labels = binary()
    rows = [(number % 3, *row) for number, row in enumerate(zip(probabilities, labels, strict=True))]
    items = [{"patient": f"key{key}", "image_id": f"{n}", "label": label} for n, (key, _, label) in enumerate(rows)]
    handler = PredictionWriter(task="binary", class_names=["no", "yes"], output_dir=tmp_path)
    engine = Engine(lambda *_: [{"pred": each} for each in probabilities])
    handler.attach(engine)
    engine.run([items])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    expected = classification_intervals(labels, probabilities.double(), [key for key, *_ in rows])
    assert metrics["bootstrap"]["patients"] == 3
    assert metrics["test_auroc_interval"] == pytest.approx(expected.intervals["auroc"])


def test_multi_label_masks_unknown_labels(tmp_path):
    labels = torch.randint(0, 2, (40, 2), generator=GENERATOR).float()
    labels[::4, 0] = float("nan")
    scores = torch.rand(40, 2, generator=GENERATOR)
    run(PredictionWriter(task="multi-label", class_names=["a", "b"], output_dir=tmp_path), scores, labels)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    known = ~torch.isnan(labels[:, 0])
    each = [auroc(labels[known, 0], scores[known, 0].double()), auroc(labels[:, 1], scores[:, 1].double())]
    assert metrics["test_auroc"] == pytest.approx(np.mean(each), abs=1e-9)


def test_images_without_labels_get_predictions_but_no_metrics(tmp_path):
    probabilities, _ = binary()
    run(PredictionWriter(task="binary", class_names=["no", "yes"], output_dir=tmp_path, threshold=0.5), probabilities)
    assert (tmp_path / "predictions.csv").exists()
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("handler", [OperatingPoint, PredictionWriter])
def test_an_unknown_task_raises(handler, tmp_path):
    more = {"output_dir": tmp_path} if handler is PredictionWriter else {}
    with pytest.raises(ValueError, match="task must be one of binary, multi-class, multi-label"):
        handler(task="regression", class_names=["a"], **more)


def test_the_scores_of_the_best_validation_are_kept(tmp_path):
    probabilities, labels = binary()
    worse = torch.full_like(probabilities, 0.5)
    handler = OperatingPoint(task="binary", class_names=["no", "yes"], output_dir=tmp_path / "validation")
    for epoch, best, values in ((1, 1, probabilities), (2, 1, worse)):

        def step(engine, indices, values=values):
            engine.state.batch = [{"patient": f"key{i}", "image_id": f"id{i}", "label": labels[i]} for i in indices]
            return [{"pred": values[i]} for i in indices]

        engine = Engine(step)
        engine.add_event_handler(
            Events.STARTED, lambda engine, best=best: setattr(engine.state, "best_metric_epoch", best)
        )
        engine.add_event_handler(
            Events.EPOCH_STARTED, lambda engine, epoch=epoch: setattr(engine.state, "epoch", epoch)
        )
        handler.attach(engine)
        engine.run([range(37)])
    rows = list(csv.DictReader((tmp_path / "validation" / "predictions.csv").open()))
    assert [float(row["probability_yes"]) for row in rows] == pytest.approx(probabilities[:, 1].tolist(), abs=1e-6)
    assert [row["label"] for row in rows] == [["no", "yes"][i] for i in labels]
