"""Where the network sees the finding: Grad-CAM as a picture, of a series also as a volume that lies on the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from scipy.ndimage import affine_transform

from ttl_monai.data.volume_cache import CachedVolume
from ttl_monai.networks import TransferClassifier, grad_cam
from ttl_monai.reports import plot_heat

SHOWN_SLICES = 6
PERCENT = 100
_ONE_PLACE = "the last feature map has one place (a lower cut has more)"


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
        what = _describe(heat, self.class_name)
        plot_heat(
            image[shown],
            heat[shown],
            [f"slice {start + k}, {places[start + k]:.1f} mm" for k in shown],
            self.output_dir / name,
            title=f"Highest window, score {window['score']:.3f}: {what} (CT from -100 to 900 HU)",
            label="Grad-CAM, share of its maximum in the window",
            aspect=float(down / across),
        )


class GradCamPictures:
    """Write the Grad-CAM of each image of an inference as a picture: `image_000_gradcam.png` for the first one.

    The picture is of the image as the network saw it, cut to a square. The numbers are those of the rows of
    `predictions.csv`. Of a binary task the evidence for class 1 is shown, else that for the likeliest class. Attach to
    the evaluator of an inference in one process, before or after `PredictionWriter`.

    Args:
        network: the classifier.
        output_dir: where the files go.
        task: "binary", "multi-class" or "multi-label".
        class_names: names in the order of the network's outputs.
    """

    def __init__(
        self, *, network: TransferClassifier, output_dir: str | Path, task: str, class_names: Sequence[str]
    ) -> None:
        self.network, self.output_dir, self.task = network, Path(output_dir), task
        self.class_names = tuple(class_names)
        self._written = 0

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose outputs are decollated (one dictionary an item)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._written = 0

    def _write(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            probabilities = torch.as_tensor(output["pred"]).float()
            target = 1 if self.task == "binary" else int(probabilities.argmax())
            self._draw(item, target, float(probabilities[target]))
            self._written += 1

    def _draw(self, item: Mapping[str, Any], target: int, probability: float) -> None:
        image = torch.as_tensor(item["image"]).float()  # (C, H, W)
        device = next(self.network.parameters()).device
        heat = grad_cam(
            self.network, image[None].to(device), target=target, multi_label=self.task == "multi-label"
        ).cpu()
        plot_heat(
            image.mean(dim=0, keepdim=True).cpu().numpy(),
            heat.numpy(),
            [str(item["image_id"])],
            self.output_dir / f"image_{self._written:03}_gradcam.png",
            title=f"{probability:.3f}: {_describe(heat.numpy(), self.class_names[target])}",
            label="Grad-CAM, share of its maximum",
        )


def _describe(heat: np.ndarray, class_name: str) -> str:
    """What a map shows, in words."""
    if not heat.any():
        return f"nothing speaks for '{class_name}'"
    if heat.min() == heat.max():
        return f"Grad-CAM for '{class_name}', the same everywhere: {_ONE_PLACE}"
    return f"Grad-CAM for '{class_name}'"


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
