"""Scores of maps whose shares can be counted by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ttl_monai.analysis import localise, rank_correlation, spread_of

MASK = np.zeros((8, 8), dtype=bool)
MASK[:2, :4] = True  # 8 of 64 pixels


def one_pixel(row, column):
    heat = np.zeros((8, 8))
    heat[row, column] = 3
    return heat


@pytest.mark.parametrize(
    ("heat", "share", "pointing", "auroc"),
    [
        (np.full((8, 8), 0.3), 1 / 8, 1 / 8, 0.5),  # what the area gets
        (MASK.astype(float), 1, 1, 1),
        ((~MASK).astype(float), 0, 0, 0),
        (MASK * 7.0 + ~MASK * 1.0, 0.5, 1, 1),
        (one_pixel(0, 0), 1, 1, 0.5 + 0.5 / 8),
        (one_pixel(7, 7), 0, 0, 0.5 - 0.5 / 56),
        (one_pixel(0, 0) + one_pixel(7, 7), 0.5, 0.5, 0.5 + 0.5 / 8 - 0.5 / 56),
    ],
)
def test_localisation_by_hand(heat, share, pointing, auroc):
    found = localise(heat, MASK)
    assert (found.share, found.area, found.pointing) == pytest.approx((share, 1 / 8, pointing))
    assert found.auroc == pytest.approx(auroc)
    assert localise(5 * heat, MASK).share == pytest.approx(share), "whatever its scale"


def test_the_auroc_of_pixels_is_that_of_scikit_learn_in_3d():
    generator = np.random.default_rng(0)
    heat, mask = generator.random((5, 6, 7)), generator.random((5, 6, 7)) > 0.8
    assert localise(heat, mask).auroc == pytest.approx(roc_auc_score(mask.ravel(), heat.ravel()))


@pytest.mark.parametrize(
    ("heat", "half_area", "entropy"),
    [
        (np.ones((8, 8)), 0.5, 1),
        (MASK.astype(float), 0.5 / 8, math.log(8) / math.log(64)),
        (one_pixel(3, 3), 0.5 / 64, 0),
        (MASK * 7.0 + ~MASK * 1.0, 1 / 8, (0.5 * math.log(16) + 0.5 * math.log(112)) / math.log(64)),
    ],
)
def test_extent_by_hand(heat, half_area, entropy):
    found = spread_of(heat)
    assert (found.half_area, found.entropy) == pytest.approx((half_area, entropy))


def test_a_map_of_zeros_has_no_scores_but_the_area():
    found, extent = localise(np.zeros((8, 8)), MASK), spread_of(np.zeros((8, 8)))
    assert found.area == 1 / 8
    assert all(
        math.isnan(each) for each in (found.share, found.pointing, found.auroc, extent.half_area, extent.entropy)
    )


@pytest.mark.parametrize("mask", [np.zeros((8, 8), bool), np.ones((8, 8), bool)])
def test_an_empty_and_a_full_mask_have_no_auroc(mask):
    found = localise(np.ones((8, 8)), mask)
    assert found.share == found.area == found.pointing == mask.mean()
    assert math.isnan(found.auroc)


def test_ranks_alone_are_compared():
    heat = np.random.default_rng(0).random((6, 6))
    assert rank_correlation(heat, heat**3) == pytest.approx(1)
    assert rank_correlation(heat, 1 - heat) == pytest.approx(-1)
    assert math.isnan(rank_correlation(heat, np.ones((6, 6))))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: localise(np.ones((8, 8)), MASK.astype(int)), r"mask of bool of the shape \(8, 8\), got int64"),
        (lambda: localise(np.ones((4, 4)), MASK), r"shape \(4, 4\), got bool \(8, 8\)"),
        (lambda: localise(-np.ones((8, 8)), MASK), "none negative"),
        (lambda: spread_of(np.array([1.0, np.nan])), "finite values"),
        (lambda: spread_of(np.ones(1)), "at least two pixels, got 1"),
        (lambda: rank_correlation(np.ones(4), np.ones(5)), r"one shape, got \(4,\) and \(5,\)"),
    ],
)
def test_what_is_no_map_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
