"""Sliding-window inference of a whole series with a classifier of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

__all__ = ["SeriesInferer"]


class SeriesInferer(SlidingWindowInferer):
    """Class probabilities of each slice of a series: those of its window, or the mean over the windows that hold it.

    MONAI's sliding window along the slices alone. Without overlap the windows are those of `WindowDataset`, as long as
    the series is padded to a multiple of their size, as `SeriesDataset` does.

    Args:
        size: slices in a window.
        batch_size: windows that the network sees at once.
        overlap: share of a window that the next one has too, in [0, 1).
    """

    def __init__(self, size: int, *, batch_size: int = 8, overlap: float = 0.0) -> None:
        super().__init__(roi_size=(size,), sw_batch_size=batch_size, overlap=overlap)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Score the slices of series of one length.

        Args:
            inputs: (B, C, K, H, W).
            network: (N, C, size, H, W) -> logits (N, classes).
            args: more of the network.
            kwargs: more of the network.

        Returns:
            Probabilities (B, classes, K).

        Raises:
            ValueError: an overlap out of range.
        """
        slices_last = inputs.movedim(2, -1)  # (B, C, H, W, K)

        def predict(windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            image = windows.unflatten(1, slices_last.shape[1:4]).movedim(-1, 2)  # (N, C, size, H, W)
            scores = network(image.contiguous(), *args, **kwargs).float().softmax(dim=1)
            # (N, classes, size), no view, as MONAI weights it in place
            return scores[..., None].repeat(1, 1, windows.shape[-1])

        # The slices as the one spatial axis, the pixels as channels: MONAI then gives one value a slice. It would
        # scale H and W of the output by 1 / H and 1 / W as floats, which for some sizes gives 0 (49 * (1 / 49) < 1).
        result: Any = super().__call__(slices_last.flatten(1, 3), predict, *args, **kwargs)
        return result
