import math

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_monai.analysis import PairedScores, classification_measure, mean_measure, paired_differences, t_test


def scores(seed, *, images=60, patients=20, gain=(1.0, 0.5)):
    """Labels, patients (some with several images) and the scores of a better and a worse network."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % 2)
    keys = [f"p{k}" for k in rng.integers(0, patients, images)]
    first, second = (each * labels + rng.standard_normal(images) for each in gain)
    return labels, keys, first, second


def area(labels, values):
    """AUROC as the share of pairs in the right order (Mann and Whitney)."""
    gaps = values[labels == 1][:, None] - values[labels == 0]
    return float(np.heaviside(gaps, 0.5).mean())


def paired(labels, keys, first, second):
    return PairedScores(keys, classification_measure(labels, first), classification_measure(labels, second))


def test_the_mean_is_that_of_the_metrics_of_the_repeats():
    repeats = [scores(seed) for seed in range(3)]
    found = paired_differences([paired(*each) for each in repeats], resamples=50)
    for name, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        values = np.array([[metric(labels, a), metric(labels, b)] for labels, _, a, b in repeats])
        assert found[name].mean == pytest.approx((values[:, 0] - values[:, 1]).mean())
        assert found[name].p == pytest.approx(ttest_rel(values[:, 0], values[:, 1]).pvalue)
        assert (found[name].n, found[name].patients) == (3, 20)


def test_the_interval_is_that_of_a_slow_bootstrap_that_draws_patients():
    repeats = [scores(seed, images=80, patients=25) for seed in (3, 4)]
    found = paired_differences([paired(*each) for each in repeats], resamples=2000)["auroc"]
    rng, every = np.random.default_rng(7), sorted({key for _, keys, *_ in repeats for key in keys})
    drawn = []
    for _ in range(1500):
        times = dict(zip(*np.unique(rng.choice(every, len(every)), return_counts=True), strict=True))
        gaps = []
        for labels, keys, first, second in repeats:
            rows = np.repeat(np.arange(len(keys)), [times.get(key, 0) for key in keys])
            gaps.append(area(labels[rows], first[rows]) - area(labels[rows], second[rows]))
        drawn.append(np.mean(gaps))
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)


def test_a_network_does_not_differ_from_itself():
    labels, keys, first, _ = scores(0)
    found = paired_differences([paired(labels, keys, first, first)] * 2)["auroc"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert math.isnan(found.p)


def test_exchanged_networks_give_the_opposite():
    labels, keys, first, second = scores(1)
    there, back = (
        paired_differences([paired(labels, keys, *pair)], seed=3)["auprc"]
        for pair in ((first, second), (second, first))
    )
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_the_seed_decides_the_draw_and_nothing_else():
    repeat = paired(*scores(2))
    one, same, other = (paired_differences([repeat], seed=seed)["auroc"] for seed in (0, 0, 1))
    assert one == same or (math.isnan(one.p) and (one.low, one.high) == (same.low, same.high))
    assert one.mean == other.mean
    assert (one.low, one.high) != (other.low, other.high)


def test_the_same_test_set_in_several_repeats_does_not_narrow_the_interval():
    """Repeats that are copies of each other tell nothing new about the patients."""
    repeat = paired(*scores(5))
    one, three = (paired_differences([repeat] * n, resamples=500)["auroc"] for n in (1, 3))
    assert (one.low, one.high) == pytest.approx((three.low, three.high))


def test_dice_by_structure_is_averaged_as_in_an_evaluation():
    rng = np.random.default_rng(0)
    first, second = (rng.random((30, 2)) for _ in range(2))
    first[:10, 1] = second[:10, 1] = np.nan  # not drawn there
    repeat = PairedScores(
        [f"p{k // 2}" for k in range(30)], *(mean_measure({"dice": each}) for each in (first, second))
    )
    found = paired_differences([repeat])["dice"]
    assert found.mean == pytest.approx(np.nanmean(first, axis=0).mean() - np.nanmean(second, axis=0).mean())
    assert found.low < found.mean < found.high


def test_a_metric_that_one_repeat_lacks_has_no_interval():
    labels, keys, first, second = scores(0)
    lacking = paired(np.zeros_like(labels), keys, first, second)
    found = paired_differences([paired(labels, keys, first, second), lacking], resamples=20)["auroc"]
    assert math.isnan(found.mean)
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert found.left_out == 20


@pytest.mark.parametrize(("first", "second"), [([0.5], [0.4]), ([0.5, 0.6], [0.4, 0.5]), ([0.5, math.nan], [0.4, 0.5])])
def test_no_test_without_spread(first, second):
    assert math.isnan(t_test(first, second))


def test_bad_repeats_are_refused():
    labels, keys, first, second = scores(0)
    dice = mean_measure({"dice": np.ones((len(keys), 1))})
    with pytest.raises(ValueError, match="at least one repeat, each with at least one image"):
        paired_differences([])
    with pytest.raises(ValueError, match="at least one image"):
        paired_differences([PairedScores([], dice, dice)])
    with pytest.raises(ValueError, match=r"the two networks do not have the same metrics: \['auroc', 'auprc'\]"):
        paired_differences([PairedScores(keys, classification_measure(labels, first), dice)])
    with pytest.raises(ValueError, match="the repeats do not have the same metrics"):
        paired_differences([paired(labels, keys, first, second), PairedScores(keys, dice, dice)])
