"""Windows put together to series: in the metrics, the operating point and the predictions."""

import csv
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import from_engine
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_monai.handlers import Auprc, Auroc, OperatingPoint, PredictionWriter
from ttl_monai.handlers.pooling import check_labels, pool_rows

TAKE = {"max": np.max, "mean": np.mean, "top-k": lambda values: np.sort(values)[-3:].mean()}
NAMES = ["negative", "positive"]


def windows(seed=0, series=24):
    """Rows of 1 to 5 windows a series, in no order, as MONAI's evaluator leaves them: items and outputs."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(series):
        for start in range(rng.integers(1, 6)):
            score = float(rng.uniform(0, 0.8) + 0.2 * (number % 2) * (start == 0))
            item = {"image_id": f"s{number}", "patient": f"p{number // 2}", "label": number % 2, "start": start}
            item["window_label"] = int(number % 2 and start == 0)
            rows.append((item, {"pred": torch.tensor([1 - score, score]), "label": torch.tensor(number % 2)}))
    return [rows[index] for index in rng.permutation(len(rows))]


def run(rows, *handlers, batch_size=7, **metrics):
    engine = Engine(lambda engine, batch: engine.state.outputs.pop(0))
    for name, metric in metrics.items():
        metric.attach(engine, name)
    for handler in handlers:
        handler.attach(engine)
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    engine.state.outputs = [[output for _, output in batch] for batch in batches]
    engine.run([[item for item, _ in batch] for batch in batches])
    return engine.state.metrics


def series_of(rows, pooling):
    """The series in the order of their first window, by plain Python."""
    found = {}
    for item, output in rows:
        found.setdefault(item["image_id"], (item["label"], []))[1].append(float(output["pred"][1]))
    return list(found), [label for label, _ in found.values()], [TAKE[pooling](values) for _, values in found.values()]


@pytest.mark.parametrize("pooling", TAKE)
@pytest.mark.parametrize(("metric", "oracle"), [(Auroc, roc_auc_score), (Auprc, average_precision_score)])
def test_metrics_score_series(metric, oracle, pooling):
    rows = windows()
    settings = {"task": "binary", "class_names": NAMES, "output_transform": from_engine(["pred", "label"])}
    found = run(
        rows,
        series=metric(pooling=pooling, **settings),
        single=metric(**settings),
        windows=metric(label_key="window_label", **settings),
    )
    _, labels, scores = series_of(rows, pooling)
    assert found["series"] == pytest.approx(oracle(labels, scores), abs=1e-7)
    every = [float(output["pred"][1]) for _, output in rows]
    assert found["single"] == pytest.approx(oracle([item["label"] for item, _ in rows], every), abs=1e-7)
    assert found["windows"] == pytest.approx(oracle([item["window_label"] for item, _ in rows], every), abs=1e-7)
    assert len({round(value, 6) for value in found.values()}) == 3


def test_one_row_an_id_changes_nothing():
    rows = [({**item, "image_id": str(n)}, output) for n, (item, output) in enumerate(windows())]
    settings = {"task": "binary", "class_names": NAMES, "output_transform": from_engine(["pred", "label"])}
    found = run(rows, pooled=Auprc(pooling="max", **settings), plain=Auprc(**settings))
    assert found["pooled"] == found["plain"]


@pytest.mark.parametrize("pooling", TAKE)
def test_the_operating_point_and_the_files_are_those_of_series(tmp_path, pooling):
    rows = windows()
    settings = {"task": "binary", "class_names": NAMES, "pooling": pooling}
    point = OperatingPoint(**settings)
    metrics = run(rows, point, PredictionWriter(output_dir=tmp_path, threshold=0.5, **settings))
    names, labels, scores = series_of(rows, pooling)
    written = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["image"] for row in written] == names
    assert [row["label"] == "positive" for row in written] == [label == 1 for label in labels]
    np.testing.assert_allclose([float(row["probability_positive"]) for row in written], scores, atol=1e-6)
    np.testing.assert_allclose([float(row["probability_negative"]) for row in written], 1 - np.array(scores), atol=1e-6)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["n"] == len(names)
    assert content["test_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-7)
    called = np.array(scores) >= metrics["val_threshold"]
    assert metrics["val_sensitivity"] == pytest.approx(called[np.array(labels) == 1].mean())


def test_rows_of_several_classes_are_pooled_class_by_class():
    order, pooled = pool_rows(["b", "a", "b"], np.array([[0.1, 0.7], [0.5, 0.5], [0.6, 0.2]]), pooling="max")
    assert order == [0, 1]
    np.testing.assert_allclose(pooled, [[0.6, 0.7], [0.5, 0.5]])


def test_labels_that_are_unknown_in_all_windows_agree():
    check_labels(["a", "a"], np.array([[np.nan, 1], [np.nan, 1]]), [0])


@pytest.mark.parametrize("make", [Auroc, Auprc, OperatingPoint], ids=lambda each: each.__name__)
def test_an_unknown_pooling_is_refused(make):
    with pytest.raises(ValueError, match="pooling must be one of max, mean, top-k or None, got 'median'"):
        make(task="binary", class_names=NAMES, pooling="median")


def test_windows_of_one_series_with_different_labels_are_refused(tmp_path):
    rows = windows()
    rows[0][0]["label"] = 1 - rows[0][0]["label"]
    writer = PredictionWriter(task="binary", class_names=NAMES, output_dir=tmp_path, pooling="max")
    with pytest.raises(ValueError, match=r"windows of a series have different labels.*WindowDataset"):
        run(rows, writer)
    metric = Auroc(
        task="binary", class_names=NAMES, pooling="max", label_key="label", output_transform=from_engine(["pred"] * 2)
    )
    with pytest.raises(ValueError, match="windows of a series have different labels"):
        run(rows, auroc=metric)
