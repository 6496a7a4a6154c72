"""The training losses of classification and of segmentation, on logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss, FocalLoss

KINDS = ("cross_entropy", "focal")


class ClassificationLoss(torch.nn.Module):
    """Cross-entropy of C logits for binary and multi-class, binary cross-entropy for multi-label; focal on request.

    Unknown labels (NaN) of a multi-label task are masked: they add neither loss nor gradient.

    Args:
        task: "binary", "multi-class" or "multi-label".
        class_weights: a weight a class (for multi-label: of the class's positives), from the training list; None for
            equal weights.
        kind: "cross_entropy", or "focal" (Lin et al. 2017, gamma 2).

    Raises:
        ValueError: if task or kind is unknown.
    """

    class_weights: torch.Tensor | None

    def __init__(self, *, task: str, class_weights: Sequence[float] | None = None, kind: str = "cross_entropy") -> None:
        super().__init__()
        if task not in ("binary", "multi-class", "multi-label"):
            raise ValueError(f"task must be binary, multi-class or multi-label, got {task!r}.")
        if kind not in KINDS:
            raise ValueError(f"loss kind must be one of {', '.join(KINDS)}, got {kind!r}.")
        self.task, self.kind = task, kind
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)
        self.focal = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0, weight=weights, reduction="none")

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch.

        Args:
            logits: (B, C).
            labels: class indices (B,) or (B, 1); for multi-label (B, C) of 0, 1 and NaN.

        Returns:
            A scalar; 0 if every label of a multi-label batch is unknown.
        """
        if self.task == "multi-label":
            return self._multi_label(logits, labels)
        index = labels.reshape(-1).long()
        if self.kind == "focal":
            return self.focal(logits, index[:, None]).sum(dim=1).mean()  # (B, C): zero but for the true class
        return torch.nn.functional.cross_entropy(logits, index, weight=self.class_weights)

    def _multi_label(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = ~torch.isnan(labels)
        targets = torch.where(known, labels, torch.zeros_like(labels)).to(logits.dtype)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=self.class_weights, reduction="none"
        )
        if self.kind == "focal":
            probability = torch.sigmoid(logits)
            loss = loss * torch.where(targets == 1, 1 - probability, probability) ** 2
        return (loss * known).sum() / known.sum().clamp(min=1)


class MaskLoss(DiceCELoss):
    """Dice plus cross-entropy, MONAI's `DiceCELoss`; with `sigmoid` the binary cross-entropy of each channel.

    MONAI's own takes the softmax over several channels even then, as if a pixel belonged to one of them, so that
    structures that overlap could not be learned. The arguments are those of MONAI.

    Example:
        ``{"_target_": "ttl_monai.networks.MaskLoss", "sigmoid": true, "batch": true}``
    """

    def ce(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits (B, C, ...) and masks, (B, C, ...) or, exclusive, (B, 1, ...) index of the class."""
        return self.bce(input, target) if self.dice.sigmoid else super().ce(input, target)
