"""What a channel of a network looks for: images that are made to excite it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.networks.layers import GaussianFilter

from ttl_monai.networks.features import PointFeatures, evaluation_mode
from ttl_monai.networks.transfer import ImageInput

__all__ = ["Excitation", "excite", "mean_activations"]

_NOISE = 0.1  # standard deviation of what the logistic function turns into the first pixels
_DOUBLINGS = 6


@dataclass(frozen=True)
class Excitation:
    """Images made for channels at a point.

    Attributes:
        images: (K, C, H, W) in [0, 1], one a channel.
        start: mean activation of the channel for the noise that each image was made from, (K,).
        end: likewise, for the image.
    """

    images: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor


def excite(
    network: ImageInput,
    point: str | None,
    channels: Sequence[int],
    *,
    size: int = 160,
    steps: int = 160,
    learning_rate: float = 0.05,
    jitter: int = 12,
    blur: float = 1.5,
    total_variation: float = 1.0,
    seed: int = 0,
) -> Excitation:
    """Images that excite channels of a feature map, found by gradient ascent from noise (activation maximisation).

    Adam in the space of pixels, on the mean of the channel over its map, in units of its standard deviation over noise.
    Against patterns that no image has: the image is shifted at random in each step, its gradient is blurred, and its
    total variation is held down. Source: the supplement's E (which names no settings); Olah et al., Feature
    Visualization, Distill 2017 (https://doi.org/10.23915/distill.00007).

    Args:
        network: normalises its images itself, as `TransferClassifier` does; 2D. It is left as it was found.
        point: as in `PointFeatures`; None is the last feature map.
        channels: of the map at the point.
        size: of the images in pixels.
        steps: of the optimiser; 0 gives the noise.
        learning_rate: of the optimiser; pixels are the logistic function of what it changes.
        jitter: largest shift along each axis in pixels, around the edges.
        blur: sigma of the gradient's blur in pixels at the last step, four times that at the first: coarse shapes
            come before fine ones. 0 blurs nothing.
        total_variation: weight of the mean absolute difference of neighbours.
        seed: of the noise and the shifts.

    Returns:
        The images.

    Raises:
        ValueError: no such point or channel, or a setting out of range.
    """
    features = PointFeatures(network, [point])
    _check(channels, features.channels[point], steps, jitter, size)
    device = network.mean.device
    generator = torch.Generator().manual_seed(seed)
    noise = _NOISE * torch.randn(1, network.mean.shape[1], size, size, generator=generator).to(device)
    rows = torch.arange(len(channels), device=device)
    chosen = torch.as_tensor(list(channels), device=device)

    def respond(images: torch.Tensor) -> torch.Tensor:
        """Mean of each channel in its own image, (K,)."""
        return features(images)[point][rows, chosen].mean(dim=(1, 2))

    with evaluation_mode(network):
        latent = _wake(noise.repeat(len(channels), 1, 1, 1), respond).requires_grad_()
        optimiser = torch.optim.Adam([latent], lr=learning_rate)
        start = respond(latent.sigmoid())
        scale = features(noise.sigmoid())[point].std(dim=(0, 2, 3), correction=0)[chosen].clamp(min=1e-6)
        for step in range(steps):
            shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
            with torch.enable_grad():
                images = latent.sigmoid()
                gain = respond(images.roll(shift, dims=(2, 3))) / scale
                # Channels do not touch each other's images: the sum has the gradient of each.
                (gradient,) = torch.autograd.grad((total_variation * _variation(images) - gain).sum(), latent)
            sigma = blur * 4 ** (1 - (step + 1) / steps)
            latent.grad = GaussianFilter(2, sigma).to(device)(gradient) if blur else gradient
            latent.grad /= latent.grad.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
            optimiser.step()
        images = latent.sigmoid()
        return Excitation(images.cpu(), start.cpu(), respond(images).cpu())


def mean_activations(network: ImageInput, point: str | None, images: torch.Tensor) -> torch.Tensor:
    """Mean of each channel over its map at a point, for real images beside made ones.

    Args:
        network: is left as it was found.
        point: as in `PointFeatures`.
        images: (B, C, H, W) in [0, 1].

    Returns:
        (B, channels).
    """
    features = PointFeatures(network, [point])
    with evaluation_mode(network):
        return features(images)[point].mean(dim=(2, 3)).cpu()


def _wake(latent: torch.Tensor, respond: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Noise, doubled where a channel that ends in a ReLU is 0 all over it and so has no gradient to go by."""
    for _ in range(_DOUBLINGS):
        with torch.enable_grad():
            images = latent.sigmoid().requires_grad_()
            (gradient,) = torch.autograd.grad(respond(images).sum(), images)
        asleep = gradient.abs().amax(dim=(1, 2, 3)) == 0
        if not asleep.any():
            break
        latent = torch.where(asleep.view(-1, 1, 1, 1), 2 * latent, latent)
    return latent


def _check(channels: Sequence[int], count: int, steps: int, jitter: int, size: int) -> None:
    if not channels or not all(0 <= each < count for each in channels):
        raise ValueError(f"channels must be one or more from 0 to {count - 1}, got {list(channels)}")
    if steps < 0 or not 0 <= jitter < size:
        raise ValueError(f"expected steps >= 0 and 0 <= jitter < size, got steps={steps}, jitter={jitter}, size={size}")


def _variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbours, of each image."""
    down, across = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return down.mean(dim=(1, 2, 3)) + across.mean(dim=(1, 2, 3))
