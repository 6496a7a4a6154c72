"""What MONAI lacks: the square crop, and augmentation of a whole batch in one step."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import monai.engines
import torch
import torch.nn.functional as F
from monai.transforms import CenterSpatialCrop, MapTransform
from monai.utils import ensure_tuple_rep

__all__ = ["BatchAugment", "CenterSquareCropd", "PrepareBatch"]


class CenterSquareCropd(MapTransform):
    """Crop the centre of the in-plane axes to a square of the short side (the supplement's A.1).

    The in-plane axes are the first two after the channel: (C, H, W) -> (C, S, S) and (C, H, W, D) -> (C, S, S, D),
    with S = min(H, W).

    Args:
        keys: the items to crop, channel first.
        allow_missing_keys: skip keys that an item does not have instead of raising.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Crop each key; the others pass unchanged."""
        cropped = dict(data)
        for key in self.key_iterator(cropped):
            shape = cropped[key].shape
            if len(shape) not in (3, 4):
                raise ValueError(f"'{key}' must be (C, H, W) or (C, H, W, D), got shape {tuple(shape)}")
            side = min(shape[1:3])
            cropped[key] = CenterSpatialCrop((side, side, -1)[: len(shape) - 1])(cropped[key])
        return cropped


class BatchAugment:
    """Random crop and rotation of a batch of 2D images in one resampling (the supplement's A.1).

    Each image gets its own window of `spatial_size` at a whole-pixel place, turned about its centre. Pixels come from
    the full image by bilinear interpolation, so that the corners of a turned window show what is there; only places
    beyond the image are black (zero), as torchvision's rotation fills them. The random numbers come from torch's
    global generator on the CPU, the same number for each batch whatever the settings and the device.

    Args:
        spatial_size: height and width of the result in pixels, one number or two.
        crop_from: height and width that the images have.
        rotate_degrees: angles are uniform in [-rotate_degrees, rotate_degrees].
        flip: mirror left and right with probability 1/2 (off: the heart is on the left).
        quarter_turns: turn by 0, 90, 180 or 270 degrees besides, as suits images without an up (square windows only).
    """

    def __init__(
        self,
        spatial_size: int | Sequence[int],
        *,
        crop_from: int | Sequence[int] = 256,
        rotate_degrees: float = 10.0,
        flip: bool = False,
        quarter_turns: bool = False,
    ) -> None:
        self.spatial_size = ensure_tuple_rep(spatial_size, 2)
        self.crop_from = ensure_tuple_rep(crop_from, 2)
        if not all(0 < size <= full for size, full in zip(self.spatial_size, self.crop_from, strict=True)):
            raise ValueError(
                f"spatial_size must be between 1 and crop_from {self.crop_from}, got {self.spatial_size}; "
                "raise crop_from (and the size that images are resized to) or lower spatial_size"
            )
        if not 0 <= rotate_degrees <= 180:
            raise ValueError(f"rotate_degrees must be between 0 and 180, got {rotate_degrees}")
        if quarter_turns and self.spatial_size[0] != self.spatial_size[1]:
            raise ValueError(f"quarter_turns need a square spatial_size, got {self.spatial_size}")
        self.rotate_degrees = rotate_degrees
        self.flip = flip
        self.quarter_turns = quarter_turns

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: (B, C, H, W), float, with H, W = crop_from.

        Returns:
            (B, C, h, w) with h, w = spatial_size, in the value range of the input (and 0 beyond its border).

        Raises:
            ValueError: for another shape.
            TypeError: for integer images.
        """
        return self._augment(images, None)[0]

    def augment_pairs(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch of images and their masks in the same way.

        Args:
            images: as at a call.
            masks: (B, K, H, W), any type; pixels are taken from the nearest place, so that no new values arise.

        Returns:
            The images as at a call, and the masks (B, K, h, w) of their type, 0 beyond the border.

        Raises:
            ValueError: for another shape.
            TypeError: for integer images.
        """
        if masks.ndim != 4 or masks.shape[0] != images.shape[0] or masks.shape[2:] != images.shape[2:]:
            raise ValueError(
                f"masks must be (B, K, H, W) with a pixel for each of the images {tuple(images.shape)}, got "
                f"{tuple(masks.shape)}"
            )
        return self._augment(images, masks)

    def _augment(self, images: torch.Tensor, masks: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """Both moved in the same way; the second is None where no masks are given."""
        if images.ndim != 4 or tuple(images.shape[2:]) != self.crop_from:
            height, width = self.crop_from
            raise ValueError(f"images must be (B, C, {height}, {width}) as crop_from says, got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"images must be of a floating type, got {images.dtype}")
        images = images.as_subclass(torch.Tensor)  # MetaTensor's bookkeeping has no meaning for a batch
        masks = None if masks is None else masks.as_subclass(torch.Tensor)
        top, left, angle, mirrored = self._draw(len(images))
        if self.rotate_degrees == 0:
            cropped = None if masks is None else self._crop(masks, top, left, angle, mirrored)
            return self._crop(images, top, left, angle, mirrored), cropped
        grid = self._grid(top, left, angle, mirrored, images.device).to(images.dtype)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if masks is None:
            return images, None
        nearest = F.grid_sample(masks.to(grid), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return images, nearest.to(masks.dtype)

    def _draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Top and left of the windows in pixels, angles in radians, and which are mirrored; each (B,)."""
        draws = torch.rand(4, count)
        # The product of a number just below 1 can round up to the next place, hence the clamp.
        room = [full - size for full, size in zip(self.crop_from, self.spatial_size, strict=True)]
        top, left = ((draws[i] * (room[i] + 1)).floor().clamp(max=room[i]) for i in range(2))
        angle = (2 * draws[2] - 1) * math.radians(self.rotate_degrees)
        if self.quarter_turns:  # of one draw the half of the range mirrors and the eighth of it turns
            angle = angle + (draws[3] * 8).floor() % 4 * (math.pi / 2)
        return top, left, angle, (draws[3] < 0.5) & self.flip

    def _crop(
        self,
        images: torch.Tensor,
        top: torch.Tensor,
        left: torch.Tensor,
        angle: torch.Tensor,
        mirrored: torch.Tensor,
    ) -> torch.Tensor:
        """Without rotation but by quarter turns nothing is resampled: the pixels are copied."""
        height, width = self.spatial_size
        turns = (angle / (math.pi / 2)).round().int()
        moves = (each.tolist() for each in (top.int(), left.int(), turns, mirrored))
        windows = [
            (image[:, y : y + height, x : x + width].rot90(k, (-2, -1)), m)
            for image, y, x, k, m in zip(images, *moves, strict=True)
        ]
        return torch.stack([window.flip(-1) if m else window for window, m in windows])

    def _grid(
        self,
        top: torch.Tensor,
        left: torch.Tensor,
        angle: torch.Tensor,
        mirrored: torch.Tensor,
        device: torch.device,
    ) -> torch.Tensor:
        """Where each pixel of the windows comes from, (B, h, w, 2) as `grid_sample` counts: -1 to 1 over the image.

        Two sums of a row and a column; `affine_grid`'s matrix product takes three times as long.
        """
        (height, width), (full_height, full_width) = self.spatial_size, self.crop_from
        top, left, angle = (one[:, None].to(device) for one in (top, left, angle))  # (B, 1)
        sign = 1 - 2 * mirrored[:, None].to(angle)
        across = sign * (torch.arange(width, device=device) - (width - 1) / 2)  # (B, w): pixels from the centre
        down = torch.arange(height, device=device) - (height - 1) / 2  # (h,)
        x_of_row = left + width / 2 - angle.sin() * down  # (B, h)
        y_of_row = top + height / 2 + angle.cos() * down
        x = (angle.cos() * across * (2 / full_width))[:, None, :] + (x_of_row * (2 / full_width) - 1)[:, :, None]
        y = (angle.sin() * across * (2 / full_height))[:, None, :] + (y_of_row * (2 / full_height) - 1)[:, :, None]
        return torch.stack([x, y], dim=-1)


class PrepareBatch(monai.engines.PrepareBatch):
    """Image and label of a batch on the device, augmented there: the image, and a label that is a mask with it.

    Args:
        augment: applied to the batch; give it to the trainer's instance only, the evaluator's has none.
    """

    def __init__(self, augment: BatchAugment | None = None) -> None:
        self.augment = augment

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Move and augment.

        Args:
            batchdata: has "image" (B, C, ...) and, except at inference, "label".
            device: where to.
            non_blocking: as in `Tensor.to`.
            kwargs: further arguments of `Tensor.to`.

        Returns:
            The image, and the label or None.
        """
        image, label = monai.engines.default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        if self.augment is None:
            return image, label
        if label is not None and label.ndim == image.ndim:
            return self.augment.augment_pairs(image, label)
        return self.augment(image), label
