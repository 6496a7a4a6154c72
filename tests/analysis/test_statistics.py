import math

import numpy as np
import pytest
from sklearn import metrics

from ttl_monai.analysis import (
    auprc_trapezoid,
    auroc,
    average_precision,
    mean_std,
    operating_point,
    sensitivity_specificity,
)

METRICS = [auroc, average_precision, auprc_trapezoid]


def pair_counting_auroc(labels, scores):
    """The share of (positive, negative) pairs in the right order, a tie counting one half."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    difference = positive[:, None] - negative[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def ranked_average_precision(labels, scores):
    """The mean, over the positives, of the precision among all that score at least as high."""
    return float(np.mean([labels[scores >= score].mean() for score in scores[labels == 1]]))


@pytest.fixture(params=range(5))
def binary(request):
    generator = np.random.default_rng(request.param)
    labels = generator.integers(0, 2, 60)
    labels[:2] = 0, 1
    return labels, np.round(generator.random(60) + 0.3 * labels, 1)  # rounded: many ties


def test_auroc_equals_the_counted_pairs(binary):
    assert auroc(*binary) == pytest.approx(pair_counting_auroc(*binary), abs=1e-12)


def test_average_precision_equals_the_mean_precision_at_the_positives(binary):
    assert average_precision(*binary) == pytest.approx(ranked_average_precision(*binary), abs=1e-12)


def test_trapezoid_joins_the_points_by_lines():
    # Highest score right, second wrong, third right: (recall, precision) = (0, 1), (.5, 1), (.5, .5), (1, 2/3).
    assert auprc_trapezoid([1, 0, 1], [0.9, 0.8, 0.7]) == pytest.approx(0.5 + 0.5 * (0.5 + 2 / 3) / 2)
    assert average_precision([1, 0, 1], [0.9, 0.8, 0.7]) == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.parametrize("metric", METRICS)
def test_two_columns_mean_the_positive_class(metric, binary):
    labels, scores = binary
    assert metric(labels, np.stack([1 - scores, scores], 1)) == metric(labels, scores)


@pytest.mark.parametrize("metric", METRICS)
def test_multi_class_is_the_mean_of_one_against_the_rest(metric):
    generator = np.random.default_rng(0)
    labels, scores = np.arange(40) % 4, generator.random((40, 4))
    each = [metric((labels == k).astype(int), scores[:, k]) for k in range(4)]
    assert metric(labels, scores) == pytest.approx(np.mean(each), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_unknown_labels_are_left_out_class_by_class(metric):
    labels = np.array([[0, 1], [1, np.nan], [np.nan, 0], [1, 1], [0, 0]])
    scores = np.array([[0.2, 0.7], [0.9, 0.99], [0.95, 0.4], [0.1, 0.3], [0.3, 0.1]])
    first = metric([0, 1, 1, 0], [0.2, 0.9, 0.1, 0.3])
    second = metric([1, 0, 1, 0], [0.7, 0.4, 0.3, 0.1])
    assert metric(labels, scores) == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_a_named_nan(metric, label, caplog):
    assert math.isnan(metric([label] * 4, [0.1, 0.2, 0.3, 0.4]))
    assert "NaN: the labels hold one class only" in caplog.text
    assert ("auroc" if metric is auroc else "auprc") in caplog.text


def test_a_class_without_positives_is_left_out_and_named(caplog):
    labels, scores = np.array([0, 1, 0, 1]), np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.7, 0.3, 0]])
    assert auroc(labels, scores) == pytest.approx(0.75)
    assert "undefined for [2] of 3 classes" in caplog.text


@pytest.mark.parametrize("metric", [*METRICS, operating_point])
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.1, 0.2], r"labels \(3,\) and scores \(2,\)"),
        ([0, 1], [0.1, np.nan], "finite, got 1 NaN"),
        ([0, 2], [0.1, 0.2], r"from 0 to 1, got \[2"),
        ([0, 0.5], [0.1, 0.2], r"from 0 to 1, got \[0.5"),
    ],
)
def test_bad_input_is_refused(metric, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, scores)


def test_operating_point_is_the_best_of_all_thresholds(binary):
    labels, scores = binary
    chosen = sum(sensitivity_specificity(labels, scores, operating_point(labels, scores)))
    each = [sum(sensitivity_specificity(labels, scores, threshold)) for threshold in np.unique(scores)]
    assert chosen == pytest.approx(max(each), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8], 0.4),  # halfway across the gap
        ([1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2], 0.3),  # two equally good: the more sensitive
        ([0, 1] * 3, [0.5] * 6, 0.5),  # nothing to tell apart
        ([1, 0], [0.2, 0.8], 0.2),  # worse than chance: all are positive
        ([0, 1, np.nan], [0.0, 1.0, 0.6], 0.5),  # unknown left out
    ],
)
def test_operating_point_of_small_cases(labels, scores, expected):
    assert operating_point(labels, scores) == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(len(labels))
    assert operating_point(np.array(labels)[order], np.array(scores)[order]) == pytest.approx(expected)


def test_operating_point_between_neighbouring_floats_keeps_the_upper():
    low, high = 0.5, np.nextafter(0.5, 1)
    assert sensitivity_specificity([0, 1], [low, high], operating_point([0, 1], [low, high])) == (1.0, 1.0)


def test_operating_point_of_one_class_is_nan_and_so_are_its_rates(caplog):
    threshold = operating_point([1, 1], [0.2, 0.4])
    assert math.isnan(threshold)
    assert "one class only" in caplog.text
    assert all(math.isnan(rate) for rate in sensitivity_specificity([0, 1], [0.2, 0.4], threshold))


def test_operating_point_decides_about_one_class():
    with pytest.raises(ValueError, match="got 3 classes"):
        operating_point([0, 1, 2], np.eye(3))


def test_sensitivity_and_specificity_are_the_confusion_matrix(binary):
    labels, scores = binary
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, scores >= 0.6)
    assert sensitivity_specificity(labels, scores, 0.6) == pytest.approx((tp / (tp + fn), tn / (tn + fp)))


def test_the_rate_of_an_absent_class_is_nan():
    sensitivity, specificity = sensitivity_specificity([0, 0], [0.1, 0.9], 0.5)
    assert math.isnan(sensitivity)
    assert specificity == 0.5


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [([1, 2, 3], 2, 1), ([0.5], 0.5, math.nan), ([1, 1], 1, 0), ([1, math.nan, 2], math.nan, math.nan)],
)
def test_mean_std_is_the_sample_spread(values, mean, std):
    assert mean_std(values) == pytest.approx((mean, std), nan_ok=True)


def test_mean_std_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one repeat"):
        mean_std([])
