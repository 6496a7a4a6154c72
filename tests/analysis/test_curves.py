import numpy as np
import pytest
from sklearn import metrics

from ttl_monai.analysis import (
    classification_intervals,
    curve_bands,
    operating_intervals,
    reliability,
    sensitivity_specificity,
    threshold_at_sensitivity,
)

GENERATOR = np.random.default_rng(3)
LABELS = GENERATOR.integers(0, 2, 60)
SCORES = np.round(1 / (1 + np.exp(-(GENERATOR.normal(size=60) + 1.5 * LABELS))), 2)  # with ties
PATIENTS = [f"key{k // 2}" for k in range(60)]


def test_bands_are_the_quantiles_of_curves_of_redrawn_patients():
    roc, pr = curve_bands(LABELS, SCORES, PATIENTS, resamples=200, seed=5)
    generator, grid = np.random.default_rng(5), np.linspace(0, 1, 101)
    rows = np.arange(60)
    curves = {"roc": [], "pr": []}
    for counts in generator.multinomial(30, np.full(30, 1 / 30), size=200):
        drawn = np.repeat(rows, counts[rows // 2])
        false_rate, true_rate, _ = metrics.roc_curve(LABELS[drawn], SCORES[drawn], drop_intermediate=False)
        curves["roc"].append(np.interp(grid, false_rate, true_rate))
        precision, recall, _ = metrics.precision_recall_curve(LABELS[drawn], SCORES[drawn])
        # The precision of the highest threshold that reaches the recall.
        curves["pr"].append([precision[:-1][recall[:-1] >= x - 1e-9][-1] for x in grid])
    for band, name in ((roc, "roc"), (pr, "pr")):
        low, high = np.quantile(curves[name], [0.025, 0.975], axis=0)
        np.testing.assert_allclose((band.low, band.high), (low, high), atol=1e-9)
        np.testing.assert_allclose(band.x, grid)


def test_a_band_of_one_patient_is_unknown():
    roc, _ = curve_bands([0, 1], [0.2, 0.7], ["a", "a"], resamples=20)
    assert np.isnan(roc.low).all()


def test_reliability_by_hand():
    found = reliability([0, 1, 1, 1], [0.1, 0.3, 0.95, 1.0], bins=2)
    np.testing.assert_allclose(found.predicted, [0.2, 0.975])
    np.testing.assert_allclose(found.observed, [0.5, 1.0])
    assert found.counts.tolist() == [2, 2]
    assert found.ece == pytest.approx(0.5 * 0.3 + 0.5 * 0.025)
    assert found.brier == pytest.approx((0.1**2 + 0.7**2 + 0.05**2) / 4)


@pytest.mark.parametrize("sensitivity", [0.3, 0.5, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_highest_of_the_wanted_sensitivity(sensitivity):
    threshold = threshold_at_sensitivity(LABELS, SCORES, sensitivity)
    assert sensitivity_specificity(LABELS, SCORES, threshold)[0] >= sensitivity
    above = SCORES[threshold < SCORES]
    assert not above.size or sensitivity_specificity(LABELS, SCORES, above.min())[0] < sensitivity


@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_predictive_values_at_the_prevalence_of_the_data_are_those_of_the_data(threshold):
    called = threshold <= SCORES
    values, intervals = operating_intervals(LABELS, SCORES, PATIENTS, threshold, float(LABELS.mean()))
    assert values["ppv"] == pytest.approx(metrics.precision_score(LABELS, called))
    assert values["npv"] == pytest.approx(metrics.precision_score(LABELS, called, pos_label=0))
    known = classification_intervals(LABELS, SCORES, PATIENTS, threshold=threshold).intervals
    for name in ("sensitivity", "specificity"):
        assert intervals.intervals[name] == pytest.approx(known[name])


def test_predictive_values_follow_the_prevalence():
    rare, common = (operating_intervals(LABELS, SCORES, PATIENTS, 0.5, share)[0] for share in (0.01, 0.5))
    assert rare["ppv"] < common["ppv"]
    assert rare["npv"] > common["npv"]
    assert rare["sensitivity"] == common["sensitivity"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability([0, 1], [0.2, 1.5]), "probabilities from 0 to 1"),
        (lambda: threshold_at_sensitivity([0, 1], [0.2, 0.5], 0), "above 0 and at most 1, got 0"),
        (lambda: threshold_at_sensitivity([0, 0], [0.2, 0.5], 0.9), "the labels hold none"),
        (lambda: operating_intervals([0, 1], [0.2, 0.5], ["a", "b"], 0.3, 1.0), "between 0 and 1, got 1"),
        (lambda: curve_bands([0, 1], [0.2, 0.5], ["a"]), "one patient for each"),
    ],
)
def test_bad_cases(call, message):
    with pytest.raises(ValueError, match=message):
        call()
