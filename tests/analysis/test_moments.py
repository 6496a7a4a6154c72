import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional

from ttl_monai.analysis import CrossMoments, as_samples, cca, match_grids, pwcca, svcca
from ttl_monai.analysis.moments import CHUNK


def features(n=600, p=10, q=7, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    sides = [
        shared @ torch.randn(4, channels, generator=generator, dtype=torch.float64)
        + torch.randn(n, channels, generator=generator, dtype=torch.float64)
        for channels in (p, q)
    ]
    return sides[0] + mean, sides[1] - mean


def moments_of(x, y, batches=1):
    moments = CrossMoments(x.shape[1], y.shape[1])
    for left, right in zip(x.tensor_split(batches), y.tensor_split(batches), strict=True):
        moments.update(left, right)
    return moments


def same(left, right, atol=1e-9):
    """Means and covariances agree."""
    first, second = left.covariances(), right.covariances()
    for name in ("xx", "yy", "xy", "mean_x", "mean_y"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=atol)
    return first.n == second.n


@pytest.mark.parametrize("n", [2, 600, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("mean", [0, 1e4])
def test_covariances_are_those_of_numpy(n, mean):
    x, y = features(n, mean=mean)
    found = moments_of(x, y).covariances()
    expected = np.cov(torch.cat([x, y], 1).T.numpy(), ddof=0)
    np.testing.assert_allclose(found.xx, expected[:10, :10], atol=1e-9)
    np.testing.assert_allclose(found.yy, expected[10:, 10:], atol=1e-9)
    np.testing.assert_allclose(found.xy, expected[:10, 10:], atol=1e-9)
    np.testing.assert_allclose(found.mean_x, x.mean(0), atol=1e-9)


@pytest.mark.parametrize("batches", [1, 2, 7, 600])
@pytest.mark.parametrize("mean", [0, 1e4])
def test_batches_give_what_all_samples_at_once_give(batches, mean):
    x, y = features(mean=mean)
    moments = moments_of(x, y, batches)
    assert same(moments, moments_of(x, y))
    for found, expected in (
        (moments.cca(), cca(x, y)),
        (moments.cca(0.9), svcca(x, y, variance=0.9)),
        (moments.cca(weighted=True), pwcca(x, y)),
    ):
        assert (found.dims, found.n) == (expected.dims, 600)
        np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-8)
        assert found.mean == pytest.approx(expected.mean, abs=1e-8)


@pytest.mark.parametrize("variance", [None, 0.9, 0.99])
def test_the_closed_form_agrees_with_singular_vectors_of_the_samples(variance):
    x, y = features(p=40, q=30, mean=100)
    found = moments_of(x, y, 5).cca(variance)
    bases = []
    for each, kept in zip((x, y), found.dims, strict=True):
        bases.append(np.linalg.svd((each - each.mean(0)).numpy(), full_matrices=False)[0][:, :kept])
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    np.testing.assert_allclose(found.coefficients, expected, atol=1e-8)


def test_dependent_and_dead_channels_do_not_trouble_the_closed_form():
    x, y = features()
    ill = torch.cat([x, x[:, :2] * 1e6, torch.full((600, 1), 5.5, dtype=torch.float64), x.sum(1, keepdim=True)], 1)
    found = moments_of(ill.float(), y, 6).cca()
    assert found.dims == (10, 7)
    np.testing.assert_allclose(found.coefficients, cca(x, y).coefficients, atol=1e-6)


def test_memory_does_not_grow_with_the_samples():
    x, y = features()
    moments = CrossMoments(10, 7)
    before = sum(value.numel() for value in vars(moments).values() if isinstance(value, torch.Tensor))
    for _ in range(20):
        moments.update(x, y)
    assert moments.n == 12_000
    assert sum(value.numel() for value in vars(moments).values() if isinstance(value, torch.Tensor)) == before
    assert before <= (10 + 7 + 1) * (10 + 7)


@pytest.mark.parametrize("mean", [0, 1e4])
def test_groups_are_added_and_left_out(mean):
    x, y = features(mean=mean)
    whole, first, rest = moments_of(x, y), moments_of(x[:100], y[:100]), moments_of(x[100:], y[100:], 3)
    assert same(first + rest, whole)
    assert same(whole - first, rest)
    assert same(sum([first, rest], CrossMoments(10, 7)), whole)
    assert same(whole - CrossMoments(10, 7), whole)
    # What they were made of is as it was.
    assert (first.n, rest.n, whole.n) == (100, 500, 600)
    assert same(whole, moments_of(x, y))


@pytest.mark.parametrize("mean", [0, 1e4, 1e7])
def test_the_sum_over_processes_keeps_the_digits_and_can_be_updated(mean):
    x, y = features(mean=mean)
    parts = [moments_of(x[:250], y[:250]), moments_of(x[250:500], y[250:500]), CrossMoments(10, 7)]
    # One thread a process; all_reduce waits until each has brought its tensor.
    brought: list = [None] * 3
    barrier = threading.Barrier(3)

    def process(rank):
        def all_reduce(tensor):
            brought[rank] = tensor
            barrier.wait(10)
            total = sum(brought)
            barrier.wait(10)
            return total

        return parts[rank].sum_over(all_reduce)

    with ThreadPoolExecutor(3) as pool:
        finished = list(pool.map(process, range(3)))
    for total in finished:
        total.update(x[500:], y[500:])
        assert same(total, moments_of(x, y), atol=1e-9 if mean < 1e7 else 1e-7)


def test_a_copy_is_a_copy():
    x, y = features()
    moments = moments_of(x, y)
    copied = moments.to("cpu")
    copied.update(x, y)
    assert (moments.n, copied.n, str(copied.device)) == (600, 1200, "cpu")
    assert same(moments, moments_of(x, y))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sums_on_a_gpu_are_those_on_the_cpu():
    x, y = features(3 * CHUNK)
    moments = CrossMoments(10, 7, device="cuda")
    moments.update(x.cuda().float(), y.cuda().float())
    assert same(moments.to("cpu"), moments_of(x.float(), y.float()))
    np.testing.assert_allclose(moments.cca().coefficients, cca(x.float(), y.float()).coefficients, atol=1e-9)


def test_a_non_contiguous_batch_that_needs_a_gradient_is_taken_and_left_alone():
    x, y = features()
    wide = torch.cat([x, x], 1).requires_grad_()
    kept = wide.detach().clone()
    assert same(moments_of(wide[:, ::2], y), moments_of(torch.cat([x, x], 1)[:, ::2].contiguous(), y))
    assert torch.equal(wide.detach(), kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :9], y), r"x of shape \(n, 10\), got \(600, 9\)"),
        (lambda x, y: (x, y[0]), r"y of shape \(n, 7\), got \(7,\)"),
        (lambda x, y: (x, y[:-1]), "as many samples in x as in y, got 600 and 599"),
        (lambda x, y: (x.index_fill(0, torch.tensor([599]), torch.nan), y), "10 channels of x hold NaN"),
        (lambda x, y: (x, y.index_fill(1, torch.tensor([2, 3]), torch.inf)), "2 channels of y hold NaN"),
    ],
)
def test_an_ill_batch_is_refused_and_adds_nothing(change, message):
    x, y = features()
    moments = moments_of(x, y)
    with pytest.raises(ValueError, match=message):
        moments.update(*change(x, y))
    assert same(moments, moments_of(x, y))


def test_large_values_are_no_infinities():
    x, y = features()
    huge = x.half().clone()
    huge[:, 0] = 60_000.0  # the sum overflows in float16, the values do not
    assert moments_of(huge, y).n == 600


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: CrossMoments(0, 3), "at least one channel on each side, got p=0, q=3"),
        (lambda: CrossMoments(2, 2).cca(), "at least 2 samples, got 0"),
        (lambda: CrossMoments(2, 3) + CrossMoments(3, 2), "moments of 2 and 3 channels, got 3 and 2"),
        (lambda: moments_of(*features()) - moments_of(*features()), "cannot take 600 samples from 600"),
        (lambda: moments_of(*features()).cca(2.0), "variance must be a share"),
    ],
)
def test_what_makes_no_sense_is_refused(action, message):
    with pytest.raises(ValueError, match=message):
        action()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_positions_become_samples_and_channels_features(shape):
    maps = torch.rand(shape)
    samples = as_samples(maps)
    assert samples.shape == (maps.numel() // 3, 3)
    image, *position = 1, *(size - 1 for size in shape[2:])
    assert torch.equal(samples[-1], maps[(image, slice(None), *position)])
    for channel in range(3):
        assert torch.equal(samples[:, channel], maps[:, channel].flatten())


def test_a_single_vector_is_no_feature_map():
    with pytest.raises(ValueError, match=r"shape \(N, C, \*spatial\), got \(3,\)"):
        as_samples(torch.rand(3))


@pytest.mark.parametrize(
    ("left", "right", "grid"),
    [
        ((8, 8), (4, 4), (4, 4)),
        ((4, 4), (8, 8), (4, 4)),
        ((8, 3), (4, 6), (4, 3)),
        ((6, 8, 8), (3, 4, 4), (3, 4, 4)),
        ((7, 7), (3, 3), (3, 3)),
    ],
)
def test_the_larger_map_is_averaged_to_the_smaller_grid(left, right, grid):
    x, y = torch.rand(2, 3, *left), torch.rand(2, 5, *right)
    a, b = match_grids(x, y)
    assert (tuple(a.shape[2:]), tuple(b.shape[2:])) == (grid, grid)
    for given, made in ((x, a), (y, b)):
        if tuple(given.shape[2:]) == grid:
            assert made is given
    if left == (8, 8):
        np.testing.assert_allclose(a, functional.avg_pool2d(x, 2))
    if left == (6, 8, 8):
        np.testing.assert_allclose(a, functional.avg_pool3d(x, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "y"),
    [((2, 3, 4, 4), (1, 3, 4, 4)), ((2, 3, 4, 4), (2, 3, 4, 4, 4)), ((2, 3, 4), (2, 3, 4)), ((2, 3), (2, 3))],
)
def test_maps_that_cannot_be_matched_are_refused(x, y):
    with pytest.raises(ValueError, match="of the same images, both 2D or both 3D, got"):
        match_grids(torch.rand(x), torch.rand(y))
