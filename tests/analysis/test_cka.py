import logging
import math

import numpy as np
import pytest
import torch

from ttl_monai.analysis import linear_cka


def kernel_cka(x, y):
    """Song et al.'s unbiased HSIC written with (n, n) kernels without their diagonals, features not centred."""
    n = len(x)

    def hsic(first, second):
        k, m = (each @ each.T for each in (first, second))
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        return (
            np.trace(k @ m)
            + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)
        )

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def related(n=60, p=8, q=5, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, p)) * generator.lognormal(0, 1, p) + 2
    return x, x[:, : min(p, q)] @ generator.standard_normal((min(p, q), q)) + generator.standard_normal((n, q))


@pytest.mark.parametrize(("n", "p", "q"), [(60, 8, 5), (60, 5, 8), (20, 50, 40), (6, 2, 2)])
def test_it_equals_the_kernel_formula(n, p, q):
    x, y = related(n, p, q)
    assert linear_cka(x, y) == pytest.approx(kernel_cka(x, y), abs=1e-10)
    assert linear_cka(torch.from_numpy(x).float(), y) == pytest.approx(kernel_cka(x, y), abs=1e-5)


def test_it_does_not_change_with_rotation_shift_or_one_scale_but_with_other_maps():
    x, y = related()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    expected = linear_cka(x, y)
    assert linear_cka(x @ rotation * 1e6 + 3, y * 1e-6) == pytest.approx(expected, abs=1e-9)
    assert linear_cka(x, x @ rotation) == pytest.approx(1)
    assert abs(linear_cka(x * [100, *[1] * 7], y) - expected) > 0.01


def test_independent_features_have_none_on_average_however_many_they_are():
    generator = np.random.default_rng(0)
    values = []
    for _ in range(50):
        base = generator.standard_normal((50, 3))  # a strong common part, so that either side's own strength is known
        x = base @ generator.standard_normal((3, 100)) + generator.standard_normal((50, 100))
        y = generator.standard_normal((50, 3)) @ generator.standard_normal((3, 100))
        values.append(linear_cka(x, y))
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(50)
    assert min(values) < 0


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_samples_that_are_all_equally_far_apart_give_nan_and_say_so(scale, caplog):
    with caplog.at_level(logging.WARNING, logger="ttl_monai"):
        assert math.isnan(linear_cka(scale * np.eye(10) + 3, np.arange(20.0).reshape(10, 2)))
    assert "the 10 samples of one side are all equally far apart" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:3], y[:3]), "at least 4 samples, got 3"),
        (lambda x, y: (x, y[:-1]), "as many samples in x as in y, got 60 and 59"),
        (lambda x, y: (x, np.full_like(y, 2.5)), "y is constant"),
        (lambda x, y: (np.where(np.arange(8) == 1, np.nan, x), y), "x holds NaN"),
        (lambda x, y: (x[None], y), r"x of shape \(samples, features\), got \(1, 60, 8\)"),
    ],
)
def test_ill_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        linear_cka(*change(*related()))
