"""Intervals over patients against scikit-learn on drawn rows, SciPy's bootstrap, and what clusters must do to them."""

import time

import numpy as np
import pytest
import scipy.stats

from ttl_monai.analysis import auroc, average_precision, classification_intervals, mean_intervals
from ttl_monai.analysis.bootstrap import _areas


def binary(n, seed=0, digits=2):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, np.round(generator.normal(size=n) + labels, digits)  # few digits: many ties


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_weighted_areas_are_those_of_the_rows_repeated(digits):
    labels, scores = binary(50, digits=digits)
    weights = np.random.default_rng(1).multinomial(50, np.full(50, 1 / 50), size=20)
    found = _areas(labels.astype(float), scores, weights.astype(float))
    for (area, average), counts in zip(found.T, weights, strict=True):
        repeated = np.repeat(labels, counts), np.repeat(scores, counts)
        assert area == pytest.approx(auroc(*repeated), abs=1e-12)
        assert average == pytest.approx(average_precision(*repeated), abs=1e-12)


def counted_auroc(labels, scores):
    positive, negative = scores[labels == 1], scores[labels == 0]
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def ranked_precision(labels, scores):
    return np.mean([labels[scores >= score].mean() for score in scores[labels == 1]])


METRICS = {
    "auroc": counted_auroc,
    "auprc": ranked_precision,
    "sensitivity": lambda labels, scores: (scores >= 0.5)[labels == 1].mean(),
    "specificity": lambda labels, scores: (scores < 0.5)[labels == 0].mean(),
}


@pytest.mark.parametrize("name", METRICS)
def test_one_image_a_patient_is_scipys_bootstrap(name):
    labels, scores = binary(80)
    found = classification_intervals(labels, scores, range(80), threshold=0.5, resamples=4000)
    expected = scipy.stats.bootstrap(
        (labels, scores), METRICS[name], paired=True, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert found.intervals[name] == pytest.approx(tuple(expected), abs=0.08 * width)
    assert found.intervals[name][0] < METRICS[name](labels, scores) < found.intervals[name][1]


def test_clusters_widen_the_interval_and_copies_change_nothing():
    """Eight copies of an image say no more than one: drawn by patient they keep the interval, by image they do not."""
    labels, scores = binary(60)
    patients = np.repeat(np.arange(60), 8)
    copies = np.repeat(labels, 8), np.repeat(scores, 8)
    alone = classification_intervals(labels, scores, range(60)).intervals["auroc"]
    clustered = classification_intervals(*copies, patients.tolist()).intervals["auroc"]
    naive = classification_intervals(*copies, range(480)).intervals["auroc"]
    assert clustered == alone
    assert np.ptp(clustered) == pytest.approx(np.sqrt(8) * np.ptp(naive), rel=0.15)


def test_resamples_of_one_class_are_left_out_and_counted():
    labels, scores = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.95])
    found = classification_intervals(labels, scores, "abcd", threshold=0.5)
    # drawn without the positive patient (3/4 each of four times), or with that one alone
    assert found.left_out / found.resamples == pytest.approx(0.75**4 + 0.25**4, abs=0.04)
    assert all(0 <= low <= high <= 1 for low, high in found.intervals.values())
    assert (found.patients, found.resamples, found.level) == (4, 1000, 0.95)


@pytest.mark.parametrize(
    ("labels", "patients", "left_out"), [([0, 0, 0], "abc", 1000), ([0, 1, 1], "aaa", 0)], ids=["class", "patient"]
)
def test_one_class_or_one_patient_has_no_interval(labels, patients, left_out):
    found = classification_intervals(labels, [0.1, 0.2, 0.3], patients)
    assert found.intervals == {"auroc": None, "auprc": None}
    assert found.left_out == left_out
    assert found.to_dict("test")["test_auroc_interval"] is None
    assert "no metric is defined" in found.describe({"auroc": None, "auprc": None})


def test_several_classes_are_averaged_and_unknown_labels_left_out():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, (90, 2)).astype(float), generator.random((90, 2))
    labels[:30, 0] = np.nan

    def both(rows):
        rows = rows.astype(int)
        first = rows[~np.isnan(labels[rows, 0])]
        areas = [counted_auroc(labels[each, k], scores[each, k]) for k, each in enumerate((first, rows))]
        return np.mean(areas)

    found = classification_intervals(labels, scores, range(90), resamples=4000).intervals["auroc"]
    expected = scipy.stats.bootstrap(
        (np.arange(90),), both, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.1 * (expected.high - expected.low))
    classes = generator.integers(0, 3, 90)
    three = classification_intervals(classes, np.eye(3)[classes], range(90))
    assert three.intervals["auroc"] == (1, 1)


def test_means_by_structure_are_those_of_scipy_and_follow_the_patients():
    generator = np.random.default_rng(0)
    dice = generator.beta(5, 2, (60, 2))
    dice[:20, 1] = np.nan

    def mean(rows):
        return np.nanmean(dice[rows.astype(int)], axis=0).mean()

    alone = mean_intervals({"dice": dice}, range(60), resamples=4000).intervals["dice"]
    expected = scipy.stats.bootstrap(
        (np.arange(60),), mean, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    assert alone == pytest.approx(tuple(expected), abs=0.08 * (expected.high - expected.low))
    copies = mean_intervals({"dice": np.repeat(dice, 5, 0)}, np.repeat(range(60), 5).tolist(), resamples=4000)
    assert copies.intervals["dice"] == pytest.approx(alone)
    undefined = mean_intervals({"dice": np.full((3, 1), np.nan), "jaccard": [[1], [1], [1]]}, "abc")
    assert (undefined.intervals["dice"], undefined.left_out) == (None, 1000)


def test_the_seed_decides():
    data = (*binary(30), range(30))
    first, again, other = (classification_intervals(*data, seed=seed).intervals for seed in (0, 0, 1))
    assert first == again != other


def test_a_thousand_images_take_less_than_two_seconds():
    labels, scores = binary(1000)
    began = time.process_time()
    classification_intervals(labels, scores, [number // 3 for number in range(1000)], threshold=0.5)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("labels", "scores", "options", "reason"),
    [
        ([], [], {}, "at least one row, got 0 for 0 rows"),
        ([0, 1, 2], np.eye(3), {"threshold": 0.5}, "but there are 3; leave it None"),
        ([0, 1, 1], [0.1, 0.2, np.nan], {}, "scores must be finite"),
    ],
    ids=["none", "classes", "NaN"],
)
def test_what_gives_no_interval_is_refused(labels, scores, options, reason):
    with pytest.raises(ValueError, match=reason):
        classification_intervals(labels, scores, range(len(labels)), **options)


def test_each_row_needs_its_patient():
    with pytest.raises(ValueError, match="got 2 for 3 rows"):
        mean_intervals({"dice": np.ones((3, 1))}, "ab")
