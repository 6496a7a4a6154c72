"""Windows of slices: cut, augmented, and their scores put together."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import rotate

from ttl_monai.data import WindowAugment, hu_to_unit, series_scores
from ttl_monai.data.windows import count_slices, cut_window, window_starts


def test_hu_to_unit_is_penets_formula():
    hu = torch.tensor([-1000, -100, 0, 400, 900, 3000], dtype=torch.int16)
    expected = np.clip((hu.numpy() + 100.0) / 1000, 0, 1) - 0.15897
    np.testing.assert_allclose(hu_to_unit(hu), expected, atol=1e-6)
    assert hu_to_unit(hu, mean=0).tolist() == pytest.approx([0, 0, 0.1, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("slices", "size", "starts"), [(48, 24, [0, 24]), (49, 24, [0, 24, 48]), (10, 24, [0]), (1, 1, [0])]
)
def test_windows_cover_every_slice_once(slices, size, starts):
    assert window_starts(slices, size) == starts
    volume = np.arange(slices, dtype=np.int16)[:, None, None] * np.ones((1, 2, 3), np.int16)
    joined = np.concatenate([cut_window(volume, start, size) for start in starts])
    np.testing.assert_array_equal(joined[:slices], volume)
    assert (joined[slices:] == -1000).all()
    assert joined.dtype == np.int16


@pytest.mark.parametrize(("slices", "size"), [(0, 24), (5, 0)])
def test_no_windows_of_nothing(slices, size):
    with pytest.raises(ValueError, match="expected at least one slice"):
        window_starts(slices, size)


def test_count_slices():
    assert count_slices([3, 4, 23, 24, 30], [0, 24, 48], 24).tolist() == [3, 2, 0]
    assert count_slices([], [0, 24], 24).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("method", "k", "expected"),
    [("max", 3, [0.9, 0.4]), ("mean", 3, [0.5, 0.4]), ("top-k", 2, [0.7, 0.4]), ("top-k", 9, [0.5, 0.4])],
)
def test_series_scores(method, k, expected):
    scores = series_scores([0.1, 0.4, 0.9, 0.5], ["b", "a", "b", "b"], method=method, k=k)
    assert list(scores) == ["b", "a"]
    assert list(scores.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([0.1], ["a"], "sum", 1), "method must be one of max, mean, top-k, got 'sum'"),
        (([0.1], ["a"], "top-k", 0), "k must be at least 1"),
        (([0.1], ["a", "b"], "max", 1), "1 scores and 2 series"),
        (([float("nan")], ["a"], "max", 1), "expected finite scores"),
    ],
)
def test_scores_that_make_no_sense_are_refused(arguments, reason):
    scores, series, method, k = arguments
    with pytest.raises(ValueError, match=reason):
        series_scores(scores, series, method=method, k=k)


# ---- augmentation


def windows(batch=3, depth=4, side=40):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(-1000, 900, (batch, 1, depth, side, side)).astype(np.int16))


def test_evaluation_crops_the_middle_and_scales():
    images = windows()
    out = WindowAugment(32, crop_from=40, training=False)(images)
    assert out.shape == (3, 1, 4, 32, 32)
    torch.testing.assert_close(out, hu_to_unit(images[..., 4:36, 4:36]))


def test_all_slices_of_a_window_move_alike():
    images = windows()
    images[:] = images[:, :, :1]
    torch.manual_seed(0)
    out = WindowAugment(32, crop_from=40)(MetaTensor(images))
    assert type(out) is torch.Tensor
    assert out.shape == (3, 1, 4, 32, 32)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))
    assert not torch.allclose(out[0], out[1])
    assert not torch.allclose(out, hu_to_unit(images[..., 4:36, 4:36]))


def test_crops_and_flips_copy_pixels():
    images = windows(batch=16)
    augment = WindowAugment(32, crop_from=40, rotate_degrees=0, mean=0)
    torch.manual_seed(1)
    out = augment(images)
    unit = hu_to_unit(images, mean=0)
    mirrored = 0
    for one, source in zip(out, unit, strict=True):
        places = [
            (flip, top, left)
            for flip in (False, True)
            for top in range(9)
            for left in range(9)
            if torch.equal(one.flip(-1) if flip else one, source[..., top : top + 32, left : left + 32])
        ]
        assert len(places) == 1
        mirrored += places[0][0]
    assert 2 < mirrored < 14


def test_rotation_is_on_hu_with_air_outside():
    yy, xx = np.indices((41, 41)) - 20
    picture = (400 * np.exp(-((yy / 12) ** 2) - ((xx / 5) ** 2)) + 300).astype(np.int16)  # nothing clips but air
    images = torch.from_numpy(picture)[None, None, None].repeat(8, 1, 2, 1, 1)
    torch.manual_seed(3)
    out = WindowAugment(41, crop_from=41, rotate_degrees=15, flip=False, mean=0)(images)[:, 0, 0].numpy()
    for one in out:
        turned = [
            np.clip((rotate(picture.astype(float), angle, reshape=False, order=1, cval=-1000) + 100) / 1000, 0, 1)
            for angle in np.arange(-15, 15.01, 0.5)
        ]
        assert min(np.abs(one - each).mean() for each in turned) < 0.004
    assert (out[:, 0, 0] == 0).sum() + (out[:, 0, -1] == 0).sum() >= 8  # the corners are air, not zero HU (0.1)


@pytest.mark.parametrize("shape", [(3, 4, 40, 40), (3, 2, 4, 40, 40), (3, 1, 4, 40, 41)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, 1, D, 40, 40\)"):
        WindowAugment(32, crop_from=40)(torch.zeros(shape))
