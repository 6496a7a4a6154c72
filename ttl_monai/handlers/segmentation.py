"""Dice, Jaccard and the 95th percentile of the Hausdorff distance, by structure, with empty masks counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import (
    DiceMetric,
    HausdorffDistanceMetric,
    MeanIoU,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)
from monai.networks.utils import one_hot

from ttl_monai.data.spacing import spacing_of

logger = logging.getLogger(__name__)

THRESHOLD = 0.5
# What an image has of a structure. The rows that are scored depend on the metric.
_BOTH, _MISSED, _FALSE_ALARM, _NEITHER = 0, 1, 2, 3


def find_structures(
    probabilities: torch.Tensor, *, class_names: Sequence[str], overlapping: bool = False
) -> torch.Tensor:
    """Binary masks of the structures of one image, as predicted.

    Args:
        probabilities: (C, ...), or (1, ...) for the one class beside the background. Of several classes the most
            probable one is taken, of one class or of overlapping structures what is at least 0.5.
        class_names: names of the classes, the background first; for overlapping structures of these alone.
        overlapping: a pixel may belong to several structures.

    Returns:
        (K, ...) bool, K = C for overlapping structures, else the classes without the background.

    Raises:
        ValueError: for another number of channels.
    """
    scores, count = torch.as_tensor(probabilities).detach().as_subclass(torch.Tensor), len(class_names)
    channels = {count} if overlapping or count > 2 else {1, count}
    if scores.ndim < 3 or scores.shape[0] not in channels:
        raise ValueError(
            f"expected probabilities of {' or '.join(map(str, sorted(channels)))} channels for the classes "
            f"{', '.join(class_names)}, got shape {tuple(scores.shape)}"
        )
    if overlapping or scores.shape[0] == 1:
        return scores >= THRESHOLD
    return one_hot(scores.argmax(0)[None, None], count)[0, 1:] > 0


def to_structures(
    probabilities: torch.Tensor, mask: torch.Tensor, *, class_names: Sequence[str], overlapping: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary masks of the structures of one image, as predicted and as drawn.

    Args:
        probabilities: as in `find_structures`.
        mask: (1, ...) index of the class of each pixel; for overlapping structures (C, ...) of 0 and 1.
        class_names: as in `find_structures`.
        overlapping: as in `find_structures`.

    Returns:
        Prediction and reference, (K, ...) bool, both on the device of the probabilities, K = C for overlapping
        structures, else the classes without the background.

    Raises:
        ValueError: for other shapes, or for values of the mask that are no class.
    """
    found = find_structures(probabilities, class_names=class_names, overlapping=overlapping)
    drawn, count = torch.as_tensor(mask).detach().as_subclass(torch.Tensor), len(class_names)
    expected = (count if overlapping else 1, *found.shape[1:])
    if tuple(drawn.shape) != expected:
        raise ValueError(
            f"expected for the classes {', '.join(class_names)} a mask of shape ({expected[0]}, ...) and the same size "
            f"as the prediction, {expected}, got {tuple(drawn.shape)}"
        )
    top = 1 if overlapping else count - 1
    values = torch.unique(drawn).double()
    if not torch.isin(values, torch.arange(top + 1).to(values)).all():
        raise ValueError(
            f"expected a mask with the values 0 to {top} ({', '.join(class_names)}), got {values.tolist()[:10]}"
        )
    # References of a file's own size come from the CPU, predictions from wherever the network is.
    drawn = drawn > 0 if overlapping else one_hot(drawn[None].long(), count)[0, 1:] > 0  # (1, ...) -> (C - 1, ...)
    return found, drawn.to(found.device)


class _StructureMetric(IgniteMetricHandler):
    """A MONAI metric by structure: the mean over the images that can be scored, then over the structures."""

    metric_class: type
    title: str
    scored: tuple[int, ...]

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        overlapping: bool = False,
        output_transform: Callable = lambda output: output,
    ) -> None:
        """See `Dice`, `Jaccard` and `Hausdorff95`."""
        if len(class_names) < (1 if overlapping else 2):
            raise ValueError(
                "class_names must have the background and at least one class (or, overlapping, one structure), got "
                f"{list(class_names)}"
            )
        self.class_names = tuple(class_names)
        self.overlapping = overlapping
        self.structures = self.class_names if overlapping else self.class_names[1:]
        super().__init__(metric_fn=self.metric_class(), output_transform=output_transform, save_details=False)

    def measure(
        self, prediction: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float] | None
    ) -> torch.Tensor:
        """Value of one structure of one image: binary float masks (1, 1, ...), distances in mm if known -> (1, 1)."""
        raise NotImplementedError

    def update(self, output: Sequence[Sequence[torch.Tensor]]) -> None:
        """Add a batch.

        Args:
            output: probabilities and masks, each a list of one tensor an item or a batch-first tensor.
        """
        for probabilities, mask in zip(*output, strict=True):
            found, drawn = to_structures(
                probabilities, mask, class_names=self.class_names, overlapping=self.overlapping
            )
            values, states = self.score(found, drawn, spacing_of(mask))
            self.metric_fn.extend(values[None], states[None])

    def score(
        self, found: torch.Tensor, drawn: torch.Tensor, spacing: Sequence[float] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score one image.

        Args:
            found: predicted structures, (K, ...) bool, as `to_structures` gives them.
            drawn: the reference, likewise.
            spacing: distances of the pixels along each axis in mm, None where they are not known.

        Returns:
            The value of each structure, (K,), NaN where it cannot be scored, and what the image has of it, (K,).
        """
        dims = tuple(range(1, found.ndim))
        is_found, is_drawn = found.any(dims), drawn.any(dims)  # (K,)
        states = torch.where(
            is_drawn, torch.where(is_found, _BOTH, _MISSED), torch.where(is_found, _FALSE_ALARM, _NEITHER)
        )
        values = torch.full(states.shape, torch.nan, device=found.device)
        for index, state in enumerate(states.tolist()):
            if state in self.scored:
                prediction, reference = (each[index][None, None].float() for each in (found, drawn))
                values[index] = self.measure(prediction, reference, spacing).squeeze()
        return values, states

    def compute(self) -> float:
        """The mean over structures as a Python float; NaN, with the reason in the log, where none can be scored.

        Gathers the values of all ranks first, so every rank gets the same. Beside its own value it puts into the
        engine's metrics, under its name with these endings: `_<structure>` (where there are several), `_left_out` (how
        many images have a structure that could not be scored, one count a structure) and `_false_alarms` (how many of
        them have it in the prediction alone).
        """
        buffers = self.metric_fn.get_buffer()
        if not isinstance(buffers, list):
            raise ValueError(f"{self.title}: no image was given; the validation section must not be empty")
        values, states = buffers  # (N, K)
        means: dict[str, float] = {}
        for index, name in enumerate(self.structures):
            known = values[:, index][~torch.isnan(values[:, index])].double()
            means[name] = float(known.mean()) if len(known) else float("nan")
        defined = [value for value in means.values() if value == value]
        if undefined := [name for name, value in means.items() if value != value]:
            outcome = "left out of the mean" if defined else "the result is NaN"
            logger.warning("%s: no image can be scored for %s: %s.", self.title, ", ".join(undefined), outcome)
        if self._engine is not None and self._name is not None:
            further = {f"_{name}": value for name, value in means.items()} if len(means) > 1 else {}
            further["_left_out"] = float(torch.isnan(values).sum())
            further["_false_alarms"] = float((states == _FALSE_ALARM).sum())
            self._engine.state.metrics.update({self._name + ending: value for ending, value in further.items()})
        return sum(defined) / len(defined) if defined else float("nan")


class Dice(_StructureMetric):
    """Dice coefficient (MONAI's), 2 |A and B| / (|A| + |B|).

    An image without a structure says nothing about how well it is found: it is left out of the structure's mean and
    counted (see `compute`). A structure that is there and not found counts as 0.

    Args:
        class_names: names of the classes, the background first; for overlapping structures of these alone.
        overlapping: a pixel may belong to several structures: masks and probabilities have a channel for each.
        output_transform: from the engine's output to (probabilities, masks).

    Raises:
        ValueError: if there are too few names.

    Example:
        ``{"val_dice": {"_target_": "ttl_monai.handlers.Dice", "class_names": "@class_names", "output_transform":
        "$monai.handlers.from_engine(['pred', 'label'])"}}``
    """

    metric_class = DiceMetric
    title = "Dice"
    scored = (_BOTH, _MISSED)

    def measure(
        self, prediction: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float] | None
    ) -> torch.Tensor:
        """See `_StructureMetric.measure`."""
        return compute_dice(prediction, reference)


class Jaccard(_StructureMetric):
    """Jaccard index (intersection over union, MONAI's), |A and B| / |A or B|; empty masks as in `Dice`.

    Args:
        class_names: as in `Dice`.
        overlapping: as in `Dice`.
        output_transform: as in `Dice`.

    Raises:
        ValueError: if there are too few names.
    """

    metric_class = MeanIoU
    title = "Jaccard"
    scored = (_BOTH, _MISSED)

    def measure(
        self, prediction: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float] | None
    ) -> torch.Tensor:
        """See `_StructureMetric.measure`."""
        return compute_iou(prediction, reference)


class Hausdorff95(_StructureMetric):
    """95th percentile of the distances between the surfaces (MONAI's), the larger of the two directions.

    In pixels; or in millimetres, of the images that state how far apart their pixels are (their masks come from
    `ttl_monai.data.LoadPaird`): all others are left out and counted, so that no mean mixes the two.

    It is defined only where a structure is drawn and found: all other images are left out and counted, so look at
    `Dice` beside it, which counts a structure that was missed as 0.

    Args:
        class_names: as in `Dice`.
        overlapping: as in `Dice`.
        millimetres: measure in mm, not in pixels.
        output_transform: as in `Dice`.

    Raises:
        ValueError: if there are too few names.
    """

    metric_class = HausdorffDistanceMetric
    title = "Hausdorff distance"
    scored = (_BOTH,)

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        overlapping: bool = False,
        millimetres: bool = False,
        output_transform: Callable = lambda output: output,
    ) -> None:
        """See the class."""
        super().__init__(class_names=class_names, overlapping=overlapping, output_transform=output_transform)
        self.millimetres = millimetres
        if millimetres:
            self.title = "Hausdorff distance in mm (of images that state their spacing)"

    def measure(
        self, prediction: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float] | None
    ) -> torch.Tensor:
        """See `_StructureMetric.measure`."""
        if self.millimetres and spacing is None:
            return prediction.new_full((1, 1), torch.nan)
        unit: Any = spacing if self.millimetres else None
        return compute_hausdorff_distance(prediction, reference, include_background=True, percentile=95, spacing=unit)
