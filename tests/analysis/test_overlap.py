import math

import numpy as np
import pytest
from scipy import integrate, stats

from ttl_monai.analysis import bhattacharyya, excess_area, overlap_coefficient, quartile_rule, wachter_sample


def beta_sample(a, b, count=20_000):
    return stats.beta.ppf((np.arange(count) + 0.5) / count, a, b)


@pytest.mark.parametrize(
    ("first", "second"), [((2, 5), (5, 2)), ((2, 2), (2, 2)), ((1, 1), (3, 1)), ((20, 80), (80, 20))]
)
def test_overlap_and_bhattacharyya_are_the_integrals(first, second):
    grid = np.linspace(0, 1, 20_001)
    densities = [stats.beta.pdf(grid, *each) for each in (first, second)]
    samples = [beta_sample(*each) for each in (first, second)]
    assert overlap_coefficient(*samples) == pytest.approx(integrate.trapezoid(np.minimum(*densities), grid), abs=0.01)
    assert bhattacharyya(*samples) == pytest.approx(integrate.trapezoid(np.sqrt(np.prod(densities, 0)), grid), abs=0.01)
    assert overlap_coefficient(*samples[::-1]) == pytest.approx(overlap_coefficient(*samples))


def test_bins_decide_what_is_the_same():
    assert overlap_coefficient([0.01, 0.51], [0.03, 0.99], bins=2) == 1
    assert overlap_coefficient([0.01, 0.51], [0.03, 0.99]) == 0
    assert overlap_coefficient([0.1, 0.1, 0.1, 0.9], [0.1]) == pytest.approx(0.75)
    assert bhattacharyya([0.1, 0.1, 0.1, 0.9], [0.1]) == pytest.approx(math.sqrt(0.75))


def test_equal_features_lie_apart_from_the_null_and_the_null_on_itself():
    null = wachter_sample(50, 40, 1000)
    assert overlap_coefficient(np.ones(40), null) == 0
    assert overlap_coefficient(wachter_sample(50, 40, 1000, 400), null) > 0.98
    assert (excess_area(np.ones(40), null), excess_area(null, null)) == (1, 0)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, True), (0.19, True), (0.21, False)])
def test_the_boxes_touch_up_to_the_null_s_third_quartile(shift, expected):
    null = np.linspace(0.1, 0.5, 101)  # quartiles .2, .3, .4
    coefficients = np.linspace(0.1, 0.5, 11) + shift
    assert quartile_rule(coefficients, null) is expected


def test_excess_area_is_the_share_of_what_the_null_leaves():
    assert excess_area([0.7, 0.8], [0.2, 0.6]) == pytest.approx((0.75 - 0.4) / 0.6)
    assert excess_area([0.1], [0.5]) == pytest.approx(-0.8)
    assert math.isnan(excess_area([1.0], [1.0, 1.0]))


@pytest.mark.parametrize("function", [overlap_coefficient, bhattacharyya, quartile_rule, excess_area])
@pytest.mark.parametrize(
    ("coefficients", "null", "message"),
    [
        ([], [0.5], "coefficients to be numbers in .0, 1., got 0 values"),
        ([0.5], [0.5, 1.2], "null to be numbers in .0, 1., got 2 values from 0.5 to 1.2"),
        ([0.5, math.nan], [0.5], "coefficients to be numbers in .0, 1., got 2 values"),
    ],
)
def test_values_are_checked(function, coefficients, null, message):
    with pytest.raises(ValueError, match=message):
        function(coefficients, null)


def test_bins_are_checked():
    with pytest.raises(ValueError, match="at least one bin, got bins=0"):
        overlap_coefficient([0.5], [0.5], bins=0)
