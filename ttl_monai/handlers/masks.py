"""Masks of an evaluation, scored and shown, and of an inference, written as files."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.networks import one_hot

from ttl_monai.analysis import mean_intervals
from ttl_monai.data import write_mask
from ttl_monai.data.slices import SLICE_AXCODES
from ttl_monai.data.spacing import pixel_spacing, spacing_of
from ttl_monai.handlers.files import write_atomically
from ttl_monai.handlers.predictions import gather_rows
from ttl_monai.handlers.segmentation import Dice, Hausdorff95, Jaccard, to_structures
from ttl_monai.reports import MaskPanel, plot_masks

logger = logging.getLogger(__name__)

SHOWN_SLICES = 6  # of a volume
SCORES: dict[str, Callable[..., Dice | Jaccard | Hausdorff95]] = {
    "dice": Dice,
    "jaccard": Jaccard,
    "hausdorff95": Hausdorff95,
    "hausdorff95_mm": partial(Hausdorff95, millimetres=True),
}


class MaskScores:
    """Write `masks.csv`, `metrics.json` and pictures of the worst images of an evaluation of a segmentation.

    The CSV has the patient's key and the image's id (both pseudonymous unless the list is of public data), and for each
    structure Dice and Jaccard (empty where the structure is not drawn), the 95th percentile of the Hausdorff distance
    in pixels (empty where it is not drawn or not found) and in mm (empty, too, where the image's file does not state
    its spacing), and the pixels drawn and found. `metrics.json` has the engine's
    metrics, with `section` for `val`, the 95 % intervals of Dice and Jaccard over patients (`mean_intervals`), and
    where slices of volumes were evaluated the Dice of whole volumes (`test_volume_dice`, and `_<structure>`): the
    slices of each taken together, then the mean over the volumes in which the structure is drawn.

    Attach to an evaluator whose postprocessing has put masks and images of the files' own size into the output, on
    every rank; rank 0 writes the tables.

    Args:
        class_names: names of the classes, the background first; for overlapping structures of these alone.
        output_dir: where the files go.
        overlapping: a pixel may belong to several structures.
        section: prefix of the metrics' names, such as "test".
        facts: more entries for `metrics.json`.
        pictures: how many images to draw, those of lowest Dice (of each rank).
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        output_dir: str | Path,
        overlapping: bool = False,
        section: str = "test",
        facts: Mapping[str, Any] | None = None,
        pictures: int = 8,
    ) -> None:
        self.class_names, self.output_dir, self.section = tuple(class_names), Path(output_dir), section
        self.facts, self.pictures, self.overlapping = dict(facts or {}), pictures, overlapping
        names: Any = {"class_names": self.class_names, "overlapping": overlapping}
        self._metrics = {name: metric(**names) for name, metric in SCORES.items()}
        self.structures = self._metrics["dice"].structures
        self._rows: list[dict[str, Any]] = []
        self._worst: list[tuple[float, str, MaskPanel]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose outputs are decollated (one dictionary an item)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _clear(self, engine: Engine) -> None:
        self._rows, self._worst = [], []

    def _collect(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            found, drawn = to_structures(
                output["pred"], output["label"], class_names=self.class_names, overlapping=self.overlapping
            )
            spacing = spacing_of(output["label"])
            scores = {name: metric.score(found, drawn, spacing)[0].tolist() for name, metric in self._metrics.items()}
            dims = tuple(range(1, found.ndim))
            self._rows.append(
                {
                    "patient": str(item.get("patient", "")),
                    "image_id": str(item["image_id"]),
                    **scores,
                    "drawn": drawn.sum(dims).tolist(),
                    "found": found.sum(dims).tolist(),
                    "both": (drawn & found).sum(dims).tolist(),
                    "volume": str(item["image_id"]).rpartition("#")[0] if item["axis"] in SLICE_AXCODES else None,
                }
            )
            known = [value for value in scores["dice"] if math.isfinite(value)]
            if self.pictures and known:
                dice, image = sum(known) / len(known), _picture(output["image"])
                masks = [each.cpu().numpy() for each in (found, drawn)]
                panel = MaskPanel(f"Dice {dice:.3f}", image, masks[0], masks[1], _aspect(spacing))
                self._keep(dice, str(item["image_id"]), panel)

    def _keep(self, dice: float, name: str, panel: MaskPanel) -> None:
        self._worst = sorted([*self._worst, (dice, name, panel)], key=lambda each: each[:2])[: self.pictures]

    def _end(self, engine: Engine) -> None:
        for _, name, panel in self._worst:
            plot_masks([panel], self.structures, self.output_dir / "masks" / f"{name}_mask.png")
        rows = gather_rows(self._rows)
        if idist.get_rank() != 0:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.output_dir / "masks.csv", self._csv(rows).encode())
        # JSON knows no NaN: an undefined metric is null there.
        metrics = {
            name.replace("val_", f"{self.section}_", 1): value if math.isfinite(value) else None
            for name, value in {**engine.state.metrics, **_volume_dice(rows, self.structures)}.items()
        }
        scores = {name: [row[name] for row in rows] for name in ("dice", "jaccard")}
        intervals = mean_intervals(scores, [row["patient"] or row["image_id"] for row in rows])
        means = {name: metrics.get(f"{self.section}_{name}") for name in scores}
        logger.info("%s: %s.", self.section, intervals.describe(means))
        content = {**self.facts, "n": len(rows), **metrics, **intervals.to_dict(self.section)}
        write_atomically(self.output_dir / "metrics.json", json.dumps(content, indent=4).encode())
        logger.info("Wrote masks.csv and metrics.json of %d images, and pictures, to %s.", len(rows), self.output_dir)

    def _csv(self, rows: list[dict[str, Any]]) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        columns = [f"{what}_{name}" for name in self.structures for what in (*SCORES, "drawn", "found")]
        writer.writerow(["patient", "image", *columns])
        for row in rows:
            values = []
            for k in range(len(self.structures)):
                scores = [row[name][k] for name in SCORES]
                values += ["" if math.isnan(value) else f"{value:.6f}" for value in scores]
                values += [row["drawn"][k], row["found"][k]]
            writer.writerow([row["patient"], row["image_id"], *values])
        return buffer.getvalue()


class MaskWriter:
    """Write a NIfTI mask and a picture for each image of an inference, and `volumes.json`.

    The values of a mask are the numbers of the classes, `..._mask.nii.gz`. Structures that overlap have a mask each,
    `..._mask_<structure>.nii.gz`, of 0 and 1: viewers show several files one above the other, but bits or channels in
    one file as other values or times. The slices of a volume are put together again, in the file's own orientation:
    mask and file have the same shape and affine.

    `volumes.json` has for each image and class the number of voxels, and `ml`; of a 2D image, which has no volume,
    `area_cm2` (as it is projected). Both are null where the file does not state its spacing.

    Attach to the evaluator of an inference in one process, whose postprocessing has put masks, (1, H, W) of the numbers
    of classes or (C, H, W) of 0 and 1 for structures that overlap, and images of the files' own size into the output
    and whose items, in order, are those of `segmentation_items`.

    Args:
        class_names: names of the classes, the background first; for overlapping structures of these alone.
        output_dir: where the files go.
        overlapping: a pixel may belong to several structures.
    """

    def __init__(self, *, class_names: Sequence[str], output_dir: str | Path, overlapping: bool = False) -> None:
        self.class_names, self.output_dir, self.overlapping = tuple(class_names), Path(output_dir), overlapping
        self.structures = self.class_names if overlapping else self.class_names[1:]
        self._volumes: dict[str, Any] = {}
        self._open: tuple[str, str, str] | None = None  # file, id and axis of the image whose slices arrive
        self._slices: list[tuple[np.ndarray, np.ndarray]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose outputs are decollated (one dictionary an item)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _clear(self, engine: Engine) -> None:
        self._volumes, self._open, self._slices = {}, None, []

    def _collect(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            name, axis = str(item["image_id"]), str(item["axis"])
            if axis in SLICE_AXCODES:
                name = name.rpartition("#")[0]
            here = (str(item["image_file"]), name, axis)
            if here != self._open:
                self._write()
                self._open = here
            found = output["pred"] if self.overlapping else one_hot(output["pred"][None], len(self.class_names))[0, 1:]
            self._slices.append(((found > 0).cpu().numpy(), _picture(output["image"])))

    def _write(self) -> None:
        """Write the image whose slices are all there."""
        if self._open is None:
            return
        file, name, axis = self._open
        found = np.stack([masks for masks, _ in self._slices], axis=-1)  # (K, rows, columns, slices)
        for ending, mask in self._files(found):
            write_mask(mask, file, axis, self.output_dir / f"{name}_mask{ending}.nii.gz")
        spacing = pixel_spacing(file, axis)
        self._volumes[name] = {
            each: {"voxels": int(mask.sum()), **_size(int(mask.sum()), spacing, is_volume=axis in SLICE_AXCODES)}
            for each, mask in zip(self.structures, found, strict=True)
        }
        panels = [self._panel(number, _aspect(spacing)) for number in _shown(np.asarray(found.any(axis=(0, 1, 2))))]
        plot_masks(panels, self.structures, self.output_dir / f"{name}_mask.png")
        self._slices = []

    def _files(self, found: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """What the name of each file has after "_mask", and its values."""
        if self.overlapping:  # the names of structures are free text
            return [(f"_{quote(name, safe=' ')}", mask) for name, mask in zip(self.structures, found, strict=True)]
        return [("", np.tensordot(np.arange(1, len(found) + 1, dtype=np.uint8), found, axes=1))]

    def _panel(self, number: int, aspect: float) -> MaskPanel:
        found, image = self._slices[number]
        title = f"slice {number + 1} of {len(self._slices)}" if len(self._slices) > 1 else "predicted"
        return MaskPanel(title, image, found, aspect=aspect)

    def _end(self, engine: Engine) -> None:
        self._write()
        self._open = None
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.output_dir / "volumes.json", json.dumps(self._volumes, indent=4).encode())
        logger.info("Wrote masks, pictures and volumes.json of %d images to %s.", len(self._volumes), self.output_dir)


def _volume_dice(rows: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> dict[str, float]:
    """Dice of whole volumes, as metrics; none where no row is a slice."""
    counts: dict[str, Any] = {}
    for row in rows:
        if row["volume"] is not None:
            pixels = np.array([row["drawn"], row["found"], row["both"]])  # (3, K)
            counts[row["volume"]] = counts.get(row["volume"], 0) + pixels
    if not counts:
        return {}
    drawn, found, both = np.stack(list(counts.values()), axis=1)  # (volumes, K) each
    means = {
        name: float((2 * both / (drawn + found).clip(1))[has, k].mean()) if (has := drawn[:, k] > 0).any() else math.nan
        for k, name in enumerate(structures)
    }
    known = [value for value in means.values() if math.isfinite(value)]
    further = {f"val_volume_dice_{name}": value for name, value in means.items()} if len(means) > 1 else {}
    return {"val_volume_dice": sum(known) / len(known) if known else math.nan, **further}


def _picture(image: Any) -> np.ndarray:
    """(C, H, W) -> (H, W)."""
    return torch.as_tensor(image).detach().float().mean(0).cpu().numpy()


def _aspect(spacing: Sequence[float] | None) -> float:
    """Distance of rows over that of columns."""
    return 1.0 if spacing is None else spacing[0] / spacing[1]


def _size(count: int, spacing: Sequence[float] | None, *, is_volume: bool) -> dict[str, float | None]:
    if is_volume:
        return {"ml": None if spacing is None else round(count * math.prod(spacing) / 1000, 4)}
    return {"area_cm2": None if spacing is None else round(count * spacing[0] * spacing[1] / 100, 4)}


def _shown(has: np.ndarray) -> list[int]:
    """Slices to draw: spread over those in which something was found, (slices,) bool, else over all."""
    found = np.flatnonzero(has)
    numbers = found if len(found) else np.arange(len(has))
    return sorted({int(numbers[k]) for k in np.linspace(0, len(numbers) - 1, SHOWN_SLICES).round().astype(int)})
