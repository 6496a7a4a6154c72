import numpy as np
import pytest
from scipy import integrate

from ttl_monai.analysis import (
    cca,
    wachter_atom,
    wachter_cdf,
    wachter_density,
    wachter_edges,
    wachter_quantiles,
    wachter_sample,
)

# PAPER.md section 4: features of x and y, samples, quartiles and maximum to the printed precision.
BLOCKS = [
    (256, 256, 2_960_384, (0.004, 0.007, 0.012), "0.0186"),
    (512, 512, 740_096, (0.010, 0.021, 0.033), "0.0526"),
    (1024, 1024, 185_024, (0.030, 0.060, 0.095), "0.148"),
    (2048, 2048, 46_256, (0.085, 0.173, 0.268), "0.411"),
]
LAWS = [
    (50, 50, 1000),
    (30, 80, 500),
    (80, 30, 500),
    (1, 5, 100),
    (200, 201, 5000),
    (50, 50, 100),
    (30, 40, 60),
    (60, 60, 61),
    (2048, 2048, 46_256),
]


@pytest.mark.parametrize(("p", "q", "n", "quartiles", "largest"), BLOCKS)
def test_the_papers_random_boxes_are_reproduced(p, q, n, quartiles, largest):
    # The quartiles printed there are rough in the last digit (.007 for .00751, .095 for .0945).
    np.testing.assert_allclose(wachter_quantiles(p, q, n, [0.25, 0.5, 0.75]), quartiles, atol=0.0006)
    assert wachter_edges(p, q, n)[1] == pytest.approx(float(largest), abs=0.51 * 10.0 ** -(len(largest) - 2))
    assert wachter_quantiles(p, q, n, 1.0) == pytest.approx(wachter_edges(p, q, n)[1], abs=1e-9)


@pytest.mark.parametrize(
    ("p", "q", "n", "edges"),
    [(512, 2048, 46_256, (0.106, 0.312)), (1024, 2048, 46_256, (0.063, 0.354)), (2048, 1024, 46_256, (0.063, 0.354))],
)
def test_the_papers_ranges_between_layers_are_reproduced(p, q, n, edges):
    np.testing.assert_allclose(wachter_edges(p, q, n), edges, atol=0.00051)


@pytest.mark.parametrize(("p", "q", "n"), LAWS)
def test_density_integrates_to_the_cdf(p, q, n):
    low, high = wachter_edges(p, q, n)

    def on_angle(angle):  # the density's square-root edges are smooth in the angle
        rho = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
        return float(wachter_density(p, q, n, rho)) * (high - low) / 2 * np.sin(angle)

    total = integrate.quad(on_angle, 0, np.pi, limit=500)[0]
    assert total + wachter_atom(p, q, n) == pytest.approx(1, abs=1e-6)
    for share in (0.2, 0.5, 0.7):
        angle = np.pi * share
        rho = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
        part = integrate.quad(on_angle, 0, angle, limit=500)[0]
        assert float(wachter_cdf(p, q, n, rho)) == pytest.approx(part, abs=1e-6)


@pytest.mark.parametrize(("p", "q", "n"), LAWS)
def test_quantiles_invert_the_cdf(p, q, n):
    shares = np.linspace(0, 1 - wachter_atom(p, q, n), 101)[1:-1]
    values = wachter_quantiles(p, q, n, shares)
    assert np.all(np.diff(values) > 0)
    np.testing.assert_allclose(wachter_cdf(p, q, n, values), shares, atol=1e-9)
    low, high = wachter_edges(p, q, n)
    np.testing.assert_allclose(wachter_quantiles(p, q, n, [0]), [low], atol=1e-9)
    assert np.all((values >= low) & (values <= high))
    np.testing.assert_array_equal(wachter_quantiles(p, q, n, shares), wachter_quantiles(q, p, n, shares))


def test_small_ratios_have_a_semicircle():
    # For p = q much smaller than n the density is a quarter circle of radius 2 sqrt(p / n).
    p, n = 100, 10_000_000
    radius = 2 * np.sqrt(p / n)
    t = np.linspace(0.01, 0.99, 50)
    expected = 4 / (np.pi * radius) * np.sqrt(1 - t**2)
    np.testing.assert_allclose(wachter_density(p, p, n, t * radius), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("p", "q", "n", "ones"),
    [(30, 40, 60, 10), (40, 30, 60, 10), (60, 60, 61, 59), (10, 70, 60, 10), (80, 70, 60, 60), (20, 40, 60, 0)],
)
def test_subspaces_that_must_intersect_give_ones(p, q, n, ones):
    share = wachter_atom(p, q, n)
    assert share == pytest.approx(ones / min(p, q, n))
    generator = np.random.default_rng(0)
    found = cca(generator.standard_normal((n + 1, p)), generator.standard_normal((n + 1, q)))  # n + 1: one for the mean
    assert int((found.coefficients > 1 - 1e-9).sum()) == ones
    quantiles = wachter_sample(p, q, n, 1000)
    assert (quantiles == 1).mean() == pytest.approx(share, abs=1e-3)
    assert float(wachter_cdf(p, q, n, 1)) == 1
    assert float(wachter_cdf(p, q, n, 0.999999)) < 1 - 0.9 * share


@pytest.mark.parametrize(("p", "q", "n"), [(60, 60, 600), (40, 90, 600), (90, 40, 300), (80, 80, 130)])
def test_simulated_noise_follows_the_law(p, q, n):
    generator = np.random.default_rng(1)
    draws = [
        cca(generator.standard_normal((n + 1, p)), generator.standard_normal((n + 1, q))).coefficients for _ in range(8)
    ]
    shares = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(
        np.quantile(np.concatenate(draws), shares), wachter_quantiles(p, q, n, shares), atol=0.012
    )


def test_a_sample_is_evenly_spaced_quantiles():
    np.testing.assert_array_equal(
        wachter_sample(20, 30, 400, 4), wachter_quantiles(20, 30, 400, [0.125, 0.375, 0.625, 0.875])
    )
    assert wachter_sample(20, 30, 400).shape == (1000,)


def test_shapes_are_kept_and_nothing_lies_outside_the_edges():
    assert wachter_quantiles(20, 30, 400, 0.5).shape == ()
    values = np.array([[0, 0.01], [0.6, 1]])
    assert wachter_density(20, 30, 400, values).shape == (2, 2)
    assert np.all(wachter_density(20, 30, 400, values) == 0)
    np.testing.assert_array_equal(wachter_cdf(20, 30, 400, values), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(wachter_density(20, 90, 60, values), 0)
    np.testing.assert_array_equal(wachter_cdf(20, 90, 60, values), [[0, 0], [0, 1]])
    np.testing.assert_array_equal(wachter_quantiles(20, 90, 60, [0, 0.5]), [1, 1])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: wachter_edges(0, 3, 10), "got p=0, q=3, n=10"),
        (lambda: wachter_quantiles(2, 3, 0, 0.5), "got p=2, q=3, n=0"),
        (lambda: wachter_quantiles(2, 3, 10, [0.5, 1.1]), r"probabilities in \[0, 1\], got \[0.5, 1.1\]"),
        (lambda: wachter_quantiles(2, 3, 10, np.nan), r"probabilities in \[0, 1\]"),
        (lambda: wachter_sample(2, 3, 10, 0), "at least one quantile, got count=0"),
    ],
)
def test_numbers_are_checked(action, message):
    with pytest.raises(ValueError, match=message):
        action()
