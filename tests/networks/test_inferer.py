"""Scores of slices by sliding windows, against windows cut by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from ttl_monai.networks import SeriesInferer


class Windows(nn.Module):
    """Logits that depend on all of a window, and on where in it things are; notes what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        weights = torch.linspace(0, 1, image[0].numel()).view(image.shape[1:])
        value = (image * weights).mean((1, 2, 3, 4)) * 8
        return torch.stack([-value, value], 1)


def by_hand(series, size, step):
    """Probabilities (2, K): the mean over the windows that hold a slice."""
    total, count = np.zeros((2, series.shape[2])), np.zeros(series.shape[2])
    for start in range(0, series.shape[2] - size + 1, step):
        scores = Windows()(series[:, :, start : start + size])[0].softmax(0)
        total[:, start : start + size] += scores.numpy()[:, None]
        count[start : start + size] += 1
    return total / count


@pytest.mark.parametrize(("overlap", "step"), [(0.0, 6), (0.5, 3)])
@pytest.mark.parametrize("in_plane", [(8, 8), (49, 5)])  # int(49 * (1 / 49)) is 0
@pytest.mark.parametrize("batch_size", [1, 4])
def test_slices_have_the_mean_of_their_windows(overlap, step, in_plane, batch_size):
    series = torch.rand(1, 1, 24, *in_plane, generator=torch.Generator().manual_seed(0))
    series[:, :, 8:12] += 1
    network = Windows()
    scores = SeriesInferer(6, batch_size=batch_size, overlap=overlap)(series, network)
    assert scores.shape == (1, 2, 24)
    np.testing.assert_allclose(scores[0].numpy(), by_hand(series, 6, step), atol=1e-6)
    assert scores.std() > 0.01
    assert {shape[1:] for shape in network.seen} == {(1, 6, *in_plane)}
    assert max(shape[0] for shape in network.seen) == batch_size


def test_channels_stay_apart_and_series_too():
    series = torch.rand(2, 3, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    scores = SeriesInferer(6)(series, Windows())
    for one, each in zip(series, scores, strict=True):
        np.testing.assert_allclose(each.numpy(), by_hand(one[None], 6, 6), atol=1e-6)


def test_an_overlap_out_of_range_is_refused():
    with pytest.raises(ValueError, match="overlap must be >= 0 and < 1"):
        SeriesInferer(6, overlap=1.0)(torch.zeros(1, 1, 12, 4, 4), Windows())
