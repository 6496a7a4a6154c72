"""AUROC and AUPRC as key metrics of an evaluator: Python floats, masked labels, a named NaN on one-class data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler
from monai.metrics import AveragePrecisionMetric, ROCAUCMetric, compute_average_precision, compute_roc_auc

from ttl_monai.handlers.pooling import check_labels, check_pooling, pool_rows

logger = logging.getLogger(__name__)

TASKS = ("binary", "multi-class", "multi-label")


def to_columns(probabilities: torch.Tensor, labels: torch.Tensor, *, task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring predictions and labels of any classification task into one column a scored class.

    Args:
        probabilities: (N, C).
        labels: class indices (N,) or (N, 1); for multi-label (N, C) with NaN where a label is unknown.
        task: one of `TASKS`. A binary task is scored by its class 1 alone, as in the paper's tables.

    Returns:
        Scores and targets, both (N, K) float64 on the device of the probabilities: K = 1 for binary, else C. Targets
        are 0, 1 or NaN (unknown).

    Raises:
        ValueError: if the task is unknown or the shapes do not fit it.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    scores = torch.as_tensor(probabilities).double()
    if task == "multi-label":
        targets = torch.as_tensor(labels).to(scores.device).double()
        if targets.shape != scores.shape:
            raise ValueError(
                f"multi-label targets must be shaped like the scores {tuple(scores.shape)}, got {tuple(targets.shape)}."
            )
        return scores, targets
    index = torch.as_tensor(labels).to(scores.device).long().reshape(-1)
    if len(index) != len(scores):
        raise ValueError(f"{len(scores)} predictions but {len(index)} labels.")
    targets = torch.nn.functional.one_hot(index, scores.shape[1]).double()  # (N, C)
    return (scores[:, 1:], targets[:, 1:]) if task == "binary" else (scores, targets)


def is_better(current: float, best: float) -> bool:
    """Compare two values of a key metric so that a NaN is never the better one (for MONAI's `metric_cmp_fn`)."""
    return current == current and (best != best or current > best)


class _PerClassMetric(IgniteMetricHandler):
    """A MONAI metric taken class by class over known labels, then averaged over the classes that have both values."""

    metric_class: type
    function: Callable[..., Any]
    title: str

    def __init__(
        self,
        *,
        task: str,
        class_names: Sequence[str],
        output_transform: Callable = lambda output: output,
        pooling: str | None = None,
        label_key: str | None = None,
    ) -> None:
        """See `Auroc` and `Auprc`."""
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
        check_pooling(pooling)
        self.task, self.pooling, self.label_key = task, pooling, label_key
        self.class_names = tuple(class_names)
        self._items: Iterator[Any] = iter(())
        super().__init__(metric_fn=self.metric_class(), output_transform=output_transform, save_details=False)

    def iteration_completed(self, engine: Engine) -> None:
        """Add a batch; its items say which image each row is of."""
        batch: Any = engine.state.batch
        self._items = iter(batch)  # ignite calls `update` for each item of a list
        super().iteration_completed(engine)

    def update(self, output: Sequence[Sequence[torch.Tensor]]) -> None:
        """Add a batch.

        Args:
            output: probabilities and labels, each a list of one tensor an item or a batch-first tensor.
        """
        probabilities, labels = (torch.stack([torch.as_tensor(item) for item in part]) for part in output)
        asked = self.label_key is not None or self.pooling is not None
        items = [next(self._items) for _ in probabilities] if asked else []
        if self.label_key is not None:
            labels = torch.stack([torch.as_tensor(item[self.label_key]) for item in items])
        scores, targets = to_columns(probabilities, labels, task=self.task)
        if self.pooling is None:
            self.metric_fn(scores, targets)
            return
        # Numbers for the ids, because processes exchange tensors only.
        ids = torch.tensor([_number(str(item["image_id"])) for item in items])
        self.metric_fn.extend(scores, targets, ids)

    def compute(self) -> float:
        """The mean over classes as a Python float; NaN, with the reason in the log, where no class can be scored.

        Gathers the predictions of all ranks first, so every rank gets the same value.
        """
        scores, targets, *ids = self.metric_fn.get_buffer()
        if self.pooling is not None:
            numbers = ids[0].tolist()
            rows, pooled = pool_rows(numbers, scores.cpu().numpy(), pooling=self.pooling)
            check_labels(numbers, targets.cpu().numpy(), rows)
            scores, targets = torch.from_numpy(pooled), targets.cpu()[rows]
        names = self.class_names[1:] if self.task == "binary" else self.class_names
        values, undefined = [], []
        for name, score, target in zip(names, scores.T, targets.T, strict=True):
            known = ~torch.isnan(target)
            if target[known].unique().numel() < 2:
                undefined.append(name)
                continue
            values.append(float(type(self).function(score[known], target[known])))
        if undefined:
            outcome = "left out of the mean" if values else "the result is NaN"
            logger.warning(
                "%s: only one of positive and negative is present for %s: %s.",
                self.title,
                ", ".join(undefined),
                outcome,
            )
        return sum(values) / len(values) if values else float("nan")


class Auroc(_PerClassMetric):
    """Area under the ROC curve (MONAI's, equal to scikit-learn's), class 1 for binary, else the macro mean.

    Args:
        task: "binary", "multi-class" or "multi-label".
        class_names: names in the order of the network's outputs.
        output_transform: from the engine's output to (probabilities, labels).
        pooling: "max", "mean" or "top-k" puts the rows of one `image_id` together before they are scored: windows
            become series. None scores each row. Batches must be lists of items, as MONAI's evaluator leaves them.
        label_key: take the labels from this key of the batch's items instead of from the output.

    Raises:
        ValueError: if task or pooling is unknown, or the rows of one id differ in their labels.
    """

    metric_class = ROCAUCMetric
    function = staticmethod(compute_roc_auc)
    title = "AUROC"


class Auprc(_PerClassMetric):
    """Average precision (MONAI's, equal to scikit-learn's), class 1 for binary, else the macro mean.

    The published tables use the trapezoid area instead, which is a little larger: tables that stand beside them show
    `auprc_trapezoid` as well.

    Args:
        task: "binary", "multi-class" or "multi-label".
        class_names: names in the order of the network's outputs.
        output_transform: from the engine's output to (probabilities, labels).
        pooling: "max", "mean" or "top-k" puts the rows of one `image_id` together before they are scored: windows
            become series. None scores each row. Batches must be lists of items, as MONAI's evaluator leaves them.
        label_key: take the labels from this key of the batch's items instead of from the output.

    Raises:
        ValueError: if task or pooling is unknown, or the rows of one id differ in their labels.
    """

    metric_class = AveragePrecisionMetric
    function = staticmethod(compute_average_precision)
    title = "AUPRC"


def _number(text: str) -> int:
    """63 bits that stand for a text, equal in all processes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
