import logging

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from ttl_monai.analysis import cca, pwcca, svcca, wachter_quantiles


def qr_coefficients(x, y):
    """Cosines of the principal angles, from orthonormal bases: no covariance is formed."""
    bases = [np.linalg.qr(each - each.mean(0))[0] for each in (x, y)]
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def published_coefficients(x, y):
    """google/svcca's formula: covariance of the stacked array, inverse square roots, one SVD."""
    d = x.shape[1]
    covariance = np.cov(np.concatenate([x, y], 1).T)

    def inverse_root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(values**-0.5) @ vectors.T

    whitened = inverse_root(covariance[:d, :d]) @ covariance[:d, d:] @ inverse_root(covariance[d:, d:])
    return np.linalg.svd(whitened, compute_uv=False)


def truncated(x, variance):
    """Scores of the leading principal directions, the fewest with this share of the squared singular values."""
    left, values, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    share = np.cumsum(values**2) / np.sum(values**2)
    kept = next(count for count in range(1, len(values) + 1) if share[count - 1] >= variance)
    return left[:, :kept] * values[:kept]


def related(n=400, p=12, q=9, seed=0, noise=1.0):
    """Two sets of features that share a part, with means and channels of unequal scale."""
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal((n, 5))
    sides = []
    for channels in (p, q):
        side = shared @ generator.standard_normal((5, channels)) + noise * generator.standard_normal((n, channels))
        sides.append(side * generator.lognormal(0, 1, channels) + 10 * generator.standard_normal(channels))
    return sides[0], sides[1]


def rotation(d, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


@pytest.mark.parametrize(("n", "p", "q"), [(400, 12, 9), (400, 9, 12), (50, 24, 24), (2000, 1, 3), (3000, 40, 5)])
@pytest.mark.parametrize("formula", [qr_coefficients, published_coefficients])
def test_cca_equals_independent_formulas(n, p, q, formula):
    x, y = related(n, p, q)
    result = cca(x, y)
    np.testing.assert_allclose(result.coefficients, formula(x, y), atol=1e-10)
    assert (result.dims, result.n, result.weights) == ((p, q), n, None)
    assert np.all(np.diff(result.coefficients) <= 0)


def test_cca_equals_scikit_learn():
    x, y = related(300, 4, 3)
    scores = CCA(3, max_iter=10_000, tol=1e-14).fit_transform(x, y)
    expected = [np.corrcoef(scores[0][:, index], scores[1][:, index])[0, 1] for index in range(3)]
    np.testing.assert_allclose(cca(x, y).coefficients, np.sort(expected)[::-1], atol=1e-6)


def test_equal_features_up_to_an_invertible_map_have_coefficients_of_one():
    x, _ = related()
    for other in (x, x @ rotation(12), x @ np.random.default_rng(2).standard_normal((12, 12)) + 3):
        np.testing.assert_allclose(cca(x, other).coefficients, 1, atol=1e-12)


def test_coefficients_do_not_change_under_invertible_maps():
    x, y = related()
    expected = cca(x, y).coefficients
    mapped = cca(x @ np.random.default_rng(3).standard_normal((12, 12)) - 7, y @ rotation(9)).coefficients
    np.testing.assert_allclose(mapped, expected, atol=1e-10)


def test_svcca_does_not_change_under_rotation_but_does_under_scale():
    x, y = related()
    expected = svcca(x, y, variance=0.9)
    np.testing.assert_allclose(svcca(x @ rotation(12), y, variance=0.9).coefficients, expected.coefficients, atol=1e-10)
    assert svcca(x * [1000, *[1] * 11], y, variance=0.9).dims[0] == 1


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 0.999])
def test_svcca_is_the_cca_of_the_leading_principal_directions(variance):
    x, y = related()
    left, right = truncated(x, variance), truncated(y, variance)
    result = svcca(x, y, variance=variance)
    assert result.dims == (left.shape[1], right.shape[1])
    np.testing.assert_allclose(result.coefficients, qr_coefficients(left, right)[: min(result.dims)], atol=1e-10)


def test_the_cut_is_on_squared_singular_values_of_centred_features():
    # Variances 90, 9 and 1: the first two hold 0.99. Of the singular values they hold 0.93, and without centring the
    # mean would be all that counts.
    normal = np.random.default_rng(0).standard_normal((200, 3))
    centred = np.linalg.qr(normal - normal.mean(0))[0]
    x = centred * np.sqrt([90, 9, 1]) + 1000
    assert svcca(x, x, variance=0.985).dims == (2, 2)
    assert svcca(x, x, variance=0.995).dims == (3, 3)
    assert svcca(x, x, variance=0.85).dims == (1, 1)


@pytest.mark.parametrize("variance", [None, 1, 1.0])
def test_svcca_without_a_cut_is_cca(variance):
    x, y = related()
    np.testing.assert_array_equal(svcca(x, y, variance=variance).coefficients, cca(x, y).coefficients)


def test_independent_noise_follows_the_law_of_wachter():
    generator = np.random.default_rng(0)
    n, p, q = 2001, 200, 150
    found = cca(generator.standard_normal((n, p)), generator.standard_normal((n, q)))
    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(
        np.quantile(found.coefficients, shares), wachter_quantiles(p, q, n - 1, shares), atol=0.015
    )


def test_coefficients_stay_within_0_and_1():
    x, _ = related(n=60, p=20)
    for result in (cca(x, x), cca(x, -x), pwcca(x, x), svcca(x, x)):
        assert result.coefficients.max() <= 1
        assert result.coefficients.min() >= 0


def test_a_loud_channel_hides_no_quiet_one():
    x, y = related()
    expected = cca(x, y)
    for loudness in (1e3, 3e5, 1e8):
        loud = x.copy()
        loud[:, 0] *= loudness
        result = cca(loud, y)
        assert result.dims == (12, 9)
        np.testing.assert_allclose(result.coefficients, expected.coefficients, atol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 3.7, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dead_channels_are_left_out(constant, dtype):
    x, y = (each.astype(dtype) for each in related())
    with_dead = np.insert(x, [0, 5, 12], constant, axis=1).astype(dtype)
    for function in (cca, svcca, pwcca):
        expected, result = function(x, y), function(with_dead, y)
        assert result.dims == expected.dims
        np.testing.assert_allclose(result.coefficients, expected.coefficients, atol=1e-9)
        assert result.mean == pytest.approx(expected.mean, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_dependences_are_left_out(dtype):
    x, y = related()
    x = x.astype(dtype)
    dependent = np.concatenate([x, x[:, :3] + x[:, 3:6], x[:, :1]], 1)
    result = cca(dependent, y)
    assert result.dims == (12, 9)
    np.testing.assert_allclose(result.coefficients, qr_coefficients(x.astype(np.float64), y), atol=1e-6)


def test_nearly_equal_channels_keep_what_tells_them_apart():
    # The difference of two channels, 1e-4 of their size, is what y is made of.
    generator = np.random.default_rng(0)
    x, secret = generator.standard_normal((500, 6)), generator.standard_normal(500)
    x[:, 1] = x[:, 0] + 1e-4 * secret
    y = np.stack([secret, generator.standard_normal(500)], 1)
    result = cca(x, y)
    assert result.dims == (6, 2)
    np.testing.assert_allclose(result.coefficients, qr_coefficients(x, y)[:2], atol=1e-9)
    assert result.coefficients[0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("n", "p", "q"), [(20, 30, 10), (20, 30, 40), (20, 20, 5)])
def test_more_channels_than_samples_is_said_to_mean_nothing(n, p, q, caplog):
    x, y = related(n, p, q)
    with caplog.at_level(logging.WARNING, logger="ttl_monai"):
        result = cca(x, y)
    assert result.dims == (min(p, n - 1), min(q, n - 1))
    np.testing.assert_allclose(result.coefficients, 1, atol=1e-9)
    assert "every coefficient is 1 by counting alone" in caplog.text


def test_a_cut_makes_few_samples_enough(caplog):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, 2)) @ generator.standard_normal((2, 100))
    y = generator.standard_normal((40, 3)) @ generator.standard_normal((3, 80))
    noise = 1e-3 * generator.standard_normal((40, 100))
    with caplog.at_level(logging.WARNING, logger="ttl_monai"):
        result = svcca(x + noise, y)
    assert result.dims[0] == 2
    assert result.dims[1] <= 3
    assert result.coefficients.max() < 0.9
    assert not caplog.records


def test_pwcca_weighs_directions_by_their_share_of_x():
    x, y = related()
    result = pwcca(x, y)
    # An independent way: canonical variates of x from its QR basis, then projections of the channels.
    centred = x - x.mean(0)
    basis, other = np.linalg.qr(centred)[0], np.linalg.qr(y - y.mean(0))[0]
    rotation_x, coefficients, _ = np.linalg.svd(basis.T @ other, full_matrices=False)
    weights = np.abs((basis @ rotation_x).T @ centred).sum(1)
    np.testing.assert_allclose(result.weights, weights / weights.sum(), atol=1e-10)
    assert result.mean == pytest.approx(float(weights @ coefficients / weights.sum()), abs=1e-10)
    np.testing.assert_allclose(result.coefficients, cca(x, y).coefficients, atol=1e-12)
    assert cca(x, y).mean == pytest.approx(coefficients.mean(), abs=1e-10)


def test_pwcca_of_singular_features_has_the_same_weights():
    x, y = related()
    doubled = pwcca(np.concatenate([x, x], 1), y)
    np.testing.assert_allclose(doubled.weights, pwcca(x, y).weights, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_tensors_of_any_real_type_are_taken_and_left_as_they_are(dtype):
    x, y = (torch.from_numpy(each * 10).to(dtype) for each in related())
    kept = x.clone()
    expected = qr_coefficients(x.double().numpy(), y.double().numpy())
    np.testing.assert_allclose(cca(x.requires_grad_(dtype.is_floating_point), y).coefficients, expected, atol=1e-9)
    assert torch.equal(x.detach(), kept)


@pytest.mark.parametrize("function", [cca, svcca, pwcca])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[:-1], y), ValueError, "as many samples in x as in y, got 399 and 400"),
        (lambda x, y: (x[:, 0], y), ValueError, r"x of shape \(samples, features\), got \(400,\)"),
        (lambda x, y: (x, y[:, :0]), ValueError, r"y of shape \(samples, features\), got \(400, 0\)"),
        (lambda x, y: (x[:1], y[:1]), ValueError, "at least 2 samples, got 1"),
        (lambda x, y: (x, np.where(np.arange(9) == 2, np.nan, y)), ValueError, "1 channels of y hold NaN"),
        (lambda x, y: (np.where(np.arange(12) < 2, np.inf, x), y), ValueError, "2 channels of x hold NaN or inf"),
        (lambda x, y: (x, np.ones_like(y)), ValueError, "each of the 9 channels of y is constant"),
        (lambda x, y: (x.astype(complex), y), TypeError, "x to be an array of real numbers, got ndarray of complex"),
        (lambda x, y: (x, torch.from_numpy(y).cfloat()), TypeError, "y to be a tensor of real numbers"),
        (lambda x, y: (x, "layer1"), TypeError, "y to be an array of real numbers, got str"),
    ],
)
def test_ill_input_is_refused(function, change, error, message):
    with pytest.raises(error, match=message):
        function(*change(*related()))


def test_nan_is_refused_when_there_are_few_samples_too():
    x, y = related(10, 30, 30)
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 channels of x hold NaN"):
        cca(x, y)


@pytest.mark.parametrize("variance", [0, -0.1, 1.01, 99, float("nan")])
def test_a_share_of_variance_is_checked(variance):
    with pytest.raises(ValueError, match=r"variance must be a share in \(0, 1\]"):
        svcca(*related(), variance=variance)


def test_variance_is_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        svcca(*related(), 0.9)
