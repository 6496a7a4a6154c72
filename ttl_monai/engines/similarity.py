"""Similarity of two networks on the same images: SVCCA at each point, with its null and its spread over patients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.utils import list_data_collate
from torch import nn
from torch.utils.data import DataLoader, Subset

from ttl_monai.analysis import Similarity, pick_transition
from ttl_monai.analysis.transition import STATISTICS
from ttl_monai.engines.feature_moments import GROUPS, Features, Null, PatientMoments, Points, patient_group
from ttl_monai.networks.features import PointFeatures, evaluation_mode

Batches = Iterable[tuple[torch.Tensor, Sequence[str]]]
Sink = Callable[[Features, Features, Sequence[str]], None]

QUANTILES = np.linspace(0, 1, 21)  # of a null, for a file


def image_batches(
    dataset: Any,
    prepare_batch: Callable[..., tuple[Any, Any]],
    *,
    device: torch.device,
    batch_size: int = 16,
    num_workers: int = 0,
    groups: int = GROUPS,
) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """All images of a data set with their patients, group after group and in an order without meaning within each.

    Args:
        dataset: a MONAI data set of items with `image`, `patient` and `image_id`, without random transforms.
        prepare_batch: (batch, device) -> (images, labels).
        device: where the images go.
        batch_size: images at a time.
        num_workers: of the loader.
        groups: see `compare_networks`; neighbours then are of the same group, but seldom of one patient.

    Yields:
        images (B, C, *spatial) and the B patients.

    Raises:
        ValueError: an empty data set.
    """
    if len(dataset) == 0:
        raise ValueError("SVCCA needs images to compare features on, but the data set is empty.")
    items = [  # windows of one series differ in their start
        (str(item["patient"]), f"{item.get('image_id', index)}{item.get('start', '')}")
        for index, item in enumerate(dataset.data)
    ]
    order = sorted(
        range(len(items)),
        key=lambda index: (
            patient_group(items[index][0], groups),
            hashlib.sha256(items[index][1].encode()).digest(),
        ),
    )
    loader: DataLoader[Any] = DataLoader(
        Subset(dataset, order),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list_data_collate,
        generator=torch.Generator(),
    )
    for batch in loader:
        image, _ = prepare_batch(batch, device)
        yield image, list(batch["patient"])


def feed(
    before: nn.Module, after: nn.Module, points: Sequence[str | None], batches: Batches, sinks: Sequence[Sink]
) -> None:
    """Run both networks over the images, in evaluation mode, and hand their features to each sink.

    Args:
        before: see `compare_networks`.
        after: likewise.
        points: names of the points.
        batches: likewise.
        sinks: called with {point: (B, C, *spatial)} of each network and the patients of the B images.
    """
    extract = [PointFeatures(network, points) for network in (before, after)]
    with evaluation_mode(before, after):
        for image, patients in batches:
            first, second = (each(image) for each in extract)
            for sink in sinks:
                sink(first, second, patients)


def compare_networks(
    before: nn.Module,
    after: nn.Module,
    batches: Batches,
    points: Points,
    *,
    groups: int = GROUPS,
    null: Null = "wachter",
    variance: float | None = None,
    device: torch.device | None = None,
) -> list[Similarity]:
    """SVCCA between the features of two networks on the same images, at each point.

    Source: supplement C.1, steps 2 and 3; PAPER.md section 4. Every position of every image is a sample, every channel
    a feature. Memory does not grow with the number of images. Both networks are left as they were found.

    Args:
        before: a network that `list_points` accepts, or a `TransferClassifier`.
        after: likewise, on the same device; with these points too.
        batches: images (B, C, *spatial) on the device of the networks, and the patients that they are of; for
            null="permute" in an order in which neighbours are of different patients, as `image_batches` gives.
        points: (name, level) of each point, as `choose_points` gives.
        groups: patients are put into so many groups, each left out in turn (jackknife).
        null: random features by the closed form of Wachter ("wachter"), or the features before training with those
            after it of another patient's image ("permute"): that one knows of positions and their neighbours, and has a
            heavier tail.
        variance: share of the variance to keep on each side; None keeps all, as the paper's random baseline implies.
            The null then is that of the kept dimensions.
        device: where second moments are held: memory of a CUDA device, or None.

    Returns:
        One similarity a point.

    Raises:
        ValueError: no images, a point at which no channel varies, maps of different sizes at a point, or an unknown
            null.
    """
    moments = PatientMoments(points, groups=groups, null=null, device=device)
    feed(before, after, moments.names, batches, [moments])
    return moments.similarities(variance=variance)


def to_rows(similarities: Sequence[Similarity], null: Null) -> list[dict[str, Any]]:
    """Similarities as plain values for a file.

    Args:
        similarities: what `compare_networks` returned.
        null: the null that they were made with.

    Returns:
        One row a point; the null's coefficients as 21 quantiles.
    """
    rows = []
    for each in similarities:
        quartiles, null_quartiles = each.quartiles()
        rows.append(
            {
                "point": each.point,
                "level": each.level,
                "coefficients": _rounded(each.coefficients),
                "dims": list(each.dims),
                "n": each.n,
                "null": null,
                "null_quantiles": _rounded(np.quantile(each.null, QUANTILES)),
                "mean": round(float(each.coefficients.mean()), 5),
                "quartiles": _rounded(quartiles),
                "null_quartiles": _rounded(null_quartiles),
                "overlap": round(each.overlap, 5),
                "quartile_rule": each.quartile_rule,
                "excess_area": round(each.excess_area, 5),
                "jackknife": _rounded(each.jackknife),
            }
        )
    return rows


def transitions(similarities: Sequence[Similarity]) -> dict[str, dict[str, dict[str, Any]]]:
    """What each statistic picks at stage ends and at blocks.

    Args:
        similarities: in the order of depth.

    Returns:
        {"stage" or "block": {statistic: {"point", "determined", "reason"}}}; point None is the end of the network where
        it is determined.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for level in ("stage", "block"):
        if level == "stage" and not any(each.level == "stage" for each in similarities):
            continue
        picks = {name: pick_transition(similarities, statistic=name, level=level) for name in STATISTICS}
        found[level] = {
            name: {"point": each.point, "determined": each.determined, "reason": each.reason}
            for name, each in picks.items()
        }
    return found


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]
