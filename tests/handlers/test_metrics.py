import logging
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_monai.handlers import Auprc, Auroc, is_better, to_columns

GENERATOR = torch.Generator().manual_seed(0)


def run_metric(metric, batches):
    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "value")
    return engine.run(batches).metrics["value"]


def binary_case(n=101):
    labels = torch.randint(0, 2, (n,), generator=GENERATOR)
    scores = (torch.rand(n, generator=GENERATOR) + 0.3 * labels).mul(20).round().div(26)  # ties on purpose
    return torch.stack([1 - scores, scores], 1), labels


@pytest.mark.parametrize(
    ("metric", "oracle"), [(Auroc, roc_auc_score), (Auprc, average_precision_score)], ids=["auroc", "auprc"]
)
class TestAgainstScikitLearn:
    def test_binary_scores_class_one_over_all_batches(self, metric, oracle):
        probabilities, labels = binary_case()
        batches = [(list(probabilities[i : i + 16]), list(labels[i : i + 16])) for i in range(0, 101, 16)]
        value = run_metric(metric(task="binary", class_names=["a", "b"]), batches)
        assert type(value) is float
        assert value == pytest.approx(oracle(labels, probabilities[:, 1]), abs=1e-9)

    def test_multi_class_is_the_macro_mean(self, metric, oracle):
        labels = torch.arange(60) % 3
        probabilities = torch.softmax(torch.randn(60, 3, generator=GENERATOR), 1)
        value = run_metric(metric(task="multi-class", class_names=["a", "b", "c"]), [(probabilities, labels)])
        expected = np.mean([oracle(labels == c, probabilities[:, c]) for c in range(3)])
        assert value == pytest.approx(expected, abs=1e-9)

    def test_unknown_labels_are_left_out(self, metric, oracle):
        labels = torch.randint(0, 2, (50, 2), generator=GENERATOR).float()
        labels[::3, 0] = math.nan
        scores = torch.rand(50, 2, generator=GENERATOR)
        value = run_metric(metric(task="multi-label", class_names=["a", "b"]), [(scores, labels)])
        known = ~torch.isnan(labels[:, 0])
        expected = (oracle(labels[known, 0], scores[known, 0]) + oracle(labels[:, 1], scores[:, 1])) / 2
        assert value == pytest.approx(expected, abs=1e-9)

    def test_one_class_is_a_named_nan(self, metric, oracle, caplog):
        probabilities, _ = binary_case()
        with caplog.at_level(logging.WARNING):
            value = run_metric(metric(task="binary", class_names=["sound", "ill"]), [(probabilities, torch.ones(101))])
        assert math.isnan(value)
        assert "ill" in caplog.text
        assert "NaN" in caplog.text

    def test_a_class_that_is_absent_is_named_and_left_out(self, metric, oracle, caplog):
        labels = torch.arange(40) % 2
        probabilities = torch.softmax(torch.randn(40, 3, generator=GENERATOR), 1)
        with caplog.at_level(logging.WARNING):
            value = run_metric(metric(task="multi-class", class_names=["a", "b", "rare"]), [(probabilities, labels)])
        assert value == pytest.approx(np.mean([oracle(labels == c, probabilities[:, c]) for c in range(2)]), abs=1e-9)
        assert "rare" in caplog.text

    def test_unknown_task_raises(self, metric, oracle):
        with pytest.raises(ValueError, match="task must be one of binary, multi-class, multi-label, got 'regression'"):
            metric(task="regression", class_names=["a"])


@pytest.mark.parametrize(
    ("current", "best", "expected"),
    [
        (0.6, 0.5, True),
        (0.5, 0.5, False),
        (0.4, 0.5, False),
        (math.nan, 0.5, False),
        (0.1, math.nan, True),
        (math.nan, math.nan, False),
    ],
)
def test_a_nan_is_never_better(current, best, expected):
    assert is_better(current, best) is expected


def test_columns_of_wrong_shape_raise():
    with pytest.raises(ValueError, match=r"shaped like the scores \(4, 3\), got \(4, 2\)"):
        to_columns(torch.zeros(4, 3), torch.zeros(4, 2), task="multi-label")
    with pytest.raises(ValueError, match="4 predictions but 3 labels"):
        to_columns(torch.zeros(4, 2), torch.zeros(3), task="binary")


@pytest.mark.parametrize(
    ("task", "labels"), [("binary", torch.ones(3)), ("multi-class", torch.ones(3)), ("multi-label", torch.ones(3, 2))]
)
def test_labels_follow_the_scores_to_their_device(task, labels):
    # "meta" stands for a GPU: a device that is not the labels', on any machine.
    scores, targets = to_columns(torch.empty(3, 2, device="meta"), labels, task=task)
    assert scores.device == targets.device == torch.device("meta")
