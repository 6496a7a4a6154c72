"""Maps of saliency of several networks on the same masked images, and their scores at equal size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from monai.utils import convert_to_tensor
from numpy.typing import NDArray

from ttl_monai.analysis import localise, rank_correlation, spread_of
from ttl_monai.data import SECTIONS, Datalist
from ttl_monai.data.masks import check_geometry, name_pair, read_mask, to_classes
from ttl_monai.engines.runs import build_preprocessing, load_spec
from ttl_monai.networks import TransferClassifier, evidence, fit_map, randomise_down

EQUAL, OWN = "equal", "own"  # size at which maps are scored
_INSIDE = 0.5  # of a pixel's area, for it to belong to a mask that was resized


class MaskedImages:
    """Images and masks of their structures, cut and resized as the networks of some runs take them.

    Args:
        runs: folders of the runs; all must have one preprocessing.
        data: a datalist of segmentation.
        structures: bits of the masks by name of the structure.
        images: how many, drawn by `seed`; None takes all of all sections.
        seed: see `images`.

    Raises:
        ValueError: runs of different preprocessing, or data of another task.
    """

    def __init__(
        self,
        runs: Sequence[str | Path],
        data: Datalist,
        structures: Mapping[str, Sequence[int]],
        *,
        images: int | None = None,
        seed: int = 0,
    ) -> None:
        first, *others = [load_spec(run)["preprocessing"] for run in runs]
        if any(each != first for each in others):
            raise ValueError("the runs differ in their preprocessing: maps can be compared on the same pixels alone")
        steps = build_preprocessing(runs[0]).transforms
        loading = [step for step in steps if isinstance(step, LoadImaged | EnsureChannelFirstd)]
        self._load, self._cut = Compose(loading), Compose([step for step in steps if step not in loading])
        self.items = masked_items(data, images=images, seed=seed)
        self.structures = {name: list(bits) for name, bits in structures.items()}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, NDArray[np.bool_]]:
        """The image (C, H, W) in [0, 1] and the masks (structures, H, W)."""
        item = self.items[index]
        where = name_pair(item["image"], item["label"])
        image = self._load({"image": item["image"]})["image"]
        values = read_mask(item["label"], item["image"], overlapping=True)
        check_geometry(image.shape[1:], values.shape, where)
        bits = list(self.structures.values())
        masks = torch.from_numpy(to_classes(values, len(bits), bits=bits, where=where)).float()
        shares = self._cut({"image": masks})["image"]
        return convert_to_tensor(self._cut({"image": image})["image"]), np.asarray(shares) >= _INSIDE


def masked_items(data: Datalist, *, images: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The images of all sections of a datalist of segmentation, or a number of them drawn by a seed, in its order.

    Raises:
        ValueError: another task, or a number below 1.
    """
    if data.task != "segmentation":
        raise ValueError(f"maps are scored against masks: expected a datalist of segmentation, got one of {data.task}")
    items = [item for section in SECTIONS if data.entries[section] for item in data.section(section)]
    if images is None or images >= len(items):
        return items
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    chosen = np.random.default_rng(seed).choice(len(items), images, replace=False)
    return [items[index] for index in np.sort(chosen)]


@dataclass
class MapScores:
    """Scores of maps, image by image.

    Attributes:
        rows: of each image, network, method and size: `patient`, `image`, `network`, `method`, `size` ("equal" or
            "own") and the scores by name.
        seconds: to make one map, by network and method.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    def select(self, network: str, method: str, size: str = EQUAL) -> list[dict[str, Any]]:
        """The rows of one network, method and size, in the order of the images."""
        wanted = (network, method, size)
        return [row for row in self.rows if (row["network"], row["method"], row["size"]) == wanted]


def score_maps(
    networks: Mapping[str, TransferClassifier],
    images: MaskedImages,
    *,
    methods: Sequence[str],
    target: int | None = None,
    multi_label: bool = False,
    batch_size: int = 8,
) -> MapScores:
    """Score the maps of several networks on the same images against the same masks.

    A map is as coarse as the feature map that it comes from, and a finer one looks more local for that reason alone.
    So each map is scored at "equal" size, after means over the areas of the coarsest map among the networks, and at its
    "own"; both are then brought to the size of the image by linear interpolation.

    Args:
        networks: by title.
        images: what they are shown.
        methods: as in `evidence`.
        target: likewise.
        multi_label: likewise.
        batch_size: images at a time.

    Returns:
        `STRUCTURE_share`, `_area`, `_pointing` and `_auroc` (`localise`) of each structure that the image has, NaN
        where it has none; `half_area` and `entropy` (`spread_of`). All but the area are NaN where a map is 0, as
        nothing speaks for the class.
    """
    scores = MapScores(seconds={(title, method): 0.0 for title in networks for method in methods})
    for numbers, batch, masks in _batches(images, batch_size):
        for method in methods:
            found = {}
            for title, network in networks.items():
                started = time.perf_counter()
                found[title] = evidence(
                    network, batch.to(network.mean.device), method=method, target=target, multi_label=multi_label
                ).cpu()
                scores.seconds[title, method] += (time.perf_counter() - started) / len(images)
            grid = np.min([each.shape[1:] for each in found.values()], axis=0).tolist()
            for title, each in found.items():
                for size, onto in ((EQUAL, grid), (OWN, None)):
                    for number, heat, mask in zip(
                        numbers, fit_map(each, batch.shape[2:], grid=onto), masks, strict=True
                    ):
                        item = images.items[number]
                        head = {"patient": item["patient"], "image": item["image_id"]}
                        head |= {"network": title, "method": method, "size": size}
                        scores.rows.append({**head, **_score(heat.numpy(), mask, images.structures)})
    return scores


def randomised_similarity(
    network: TransferClassifier,
    batch: torch.Tensor,
    *,
    methods: Sequence[str],
    seed: int = 0,
    **options: Any,
) -> list[dict[str, Any]]:
    """How like the maps of a network stay while its weights are drawn anew from the head down (`randomise_down`).

    Args:
        network: the trained one.
        batch: images (B, C, H, W).
        methods: as in `evidence`.
        seed: of the draw.
        options: more for `evidence`.

    Returns:
        For each method and step: `method`, `drawn` (what was drawn last), `rank_correlation` (Spearman's, mean over the
        images; None where it has none) with the maps of the trained network, and `maps`, how many had one.
    """
    batch = batch.to(network.mean.device)
    before = {method: evidence(network, batch, method=method, **options).cpu() for method in methods}
    steps = []
    for drawn, changed in randomise_down(network, batch, seed=seed):
        for method in methods:
            after = evidence(changed, batch, method=method, **options).cpu()
            values = np.array([rank_correlation(*pair) for pair in zip(before[method], after, strict=True)])
            known = values[~np.isnan(values)]
            mean = round(float(known.mean()), 4) if known.size else None
            steps.append({"method": method, "drawn": drawn, "rank_correlation": mean, "maps": int(known.size)})
    return steps


def _batches(
    images: MaskedImages, batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, list[NDArray[np.bool_]]]]:
    for start in range(0, len(images), batch_size):
        numbers = list(range(start, min(start + batch_size, len(images))))
        pictures, masks = zip(*(images[number] for number in numbers), strict=True)
        yield numbers, torch.stack(pictures), list(masks)


def _score(
    heat: NDArray[np.float32], masks: NDArray[np.bool_], structures: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    found = dict(vars(spread_of(heat)))
    for name, mask in zip(structures, masks, strict=True):
        scores = vars(localise(heat, mask))
        found |= {f"{name}_{what}": value if mask.any() else np.nan for what, value in scores.items()}
    return {name: float(value) for name, value in found.items()}
