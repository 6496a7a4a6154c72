"""Where in a series the network sees the finding: Grad-CAM as a volume that lies on the scan, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import affine_transform

from ttl_monai.data.volume_cache import CachedVolume
from ttl_monai.networks import TransferClassifier, grad_cam
from ttl_monai.reports import plot_heat

SHOWN_SLICES = 6
PERCENT = 100


class GradCamWriter:
    """Write the Grad-CAM of a window of a series: a NIfTI volume and a picture of its highest slices.

    The volume has the shape and the affine of the series as it was read, so that a viewer shows it over the scan. Its
    values are percent of the highest value in the window, 0 outside of the window and of what the network sees.

    Args:
        network: the classifier.
        output_dir: where the files go.
        size: slices in a window.
        class_name: name of class 1, for which it is.
    """

    def __init__(self, *, network: TransferClassifier, output_dir: str | Path, size: int, class_name: str) -> None:
        self.network, self.output_dir, self.size, self.class_name = network, Path(output_dir), size, class_name

    def write(
        self, name: str, item: Mapping[str, Any], window: Mapping[str, float], volume: CachedVolume
    ) -> dict[str, str]:
        """Write the files of one series.

        Args:
            name: how they begin.
            item: what `SeriesDataset` gives.
            window: its `start` and `score`.
            volume: the series in the cache.

        Returns:
            The names of the `volume` and the `picture`.

        Raises:
            ValueError: no report of the reader, or a network of other than two classes.
        """
        if volume.report is None:
            raise ValueError("a Grad-CAM needs the shape of the series from the reader's report: use VolumeReader")
        start, places = int(window["start"]), np.asarray(item["slice_mm"], dtype=np.float64)
        image = torch.as_tensor(item["image"])[:, start : start + self.size]  # (1, size, H, W)
        device = next(self.network.parameters()).device
        heat = grad_cam(self.network, image[None].to(device))[0].cpu().numpy()
        heat = heat[: len(places) - start]  # without the padding
        names = {"volume": f"{name}_gradcam.nii.gz", "picture": f"{name}_gradcam.png"}
        affine = np.asarray(item["affine"], dtype=np.float64).copy()
        affine[:3, 3] += affine[:3, 2] * start
        lies_on = _resample(heat.transpose(2, 1, 0), affine, volume.read_affine, volume.report["shape"])
        _save(lies_on, volume.read_affine, self.output_dir / names["volume"])
        self._draw(names["picture"], image[0].numpy(), heat, window, places, affine)
        return names

    def _draw(
        self,
        name: str,
        image: np.ndarray,
        heat: np.ndarray,
        window: Mapping[str, float],
        places: np.ndarray,
        affine: np.ndarray,
    ) -> None:
        shown = np.sort(np.argsort(-heat.sum(axis=(1, 2)), kind="stable")[:SHOWN_SLICES])
        start = int(window["start"])
        across, down, _ = np.linalg.norm(affine[:3, :3], axis=0)
        what = f"Grad-CAM for '{self.class_name}'" if heat.any() else f"nothing speaks for '{self.class_name}'"
        if heat.any() and heat.min() == heat.max():
            what += ", the same everywhere: the last feature map has one place (a lower cut has more)"
        plot_heat(
            image[shown],
            heat[shown],
            [f"slice {start + k}, {places[start + k]:.1f} mm" for k in shown],
            self.output_dir / name,
            title=f"Highest window, score {window['score']:.3f}: {what} (CT from -100 to 900 HU)",
            label="Grad-CAM, share of its maximum in the window",
            aspect=float(down / across),
        )


def _resample(heat: np.ndarray, affine: np.ndarray, onto: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map (I, J, K) in percent on another grid, uint8; only the box that it covers is computed."""
    corners = np.array(np.meshgrid(*[(-1, size) for size in heat.shape])).reshape(3, 8)
    there = (np.linalg.inv(onto) @ affine @ np.vstack([corners, np.ones(8)]))[:3]
    low = np.clip(np.floor(there.min(axis=1)), 0, shape).astype(int)
    high = np.clip(np.ceil(there.max(axis=1)) + 1, 0, shape).astype(int)
    to_map = np.linalg.inv(affine) @ onto
    # "grid-constant": a place a rounding error beyond the last voxel still has its value.
    inside = affine_transform(
        heat,
        to_map[:3, :3],
        (to_map @ [*low, 1])[:3],
        output_shape=tuple(high - low),
        order=1,
        mode="grid-constant",
    )
    result = np.zeros(shape, np.uint8)
    box = tuple(slice(first, end) for first, end in zip(low, high, strict=True))
    result[box] = np.rint(inside * PERCENT)
    return result


def _save(values: np.ndarray, affine: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)
