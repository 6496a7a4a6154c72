"""A linear probe on features: logistic regression, its regularisation chosen by cross-validation by patient."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

Array = NDArray[np.float64]
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]  # positions to fit on, positions held out

logger = logging.getLogger(__name__)

TASKS = ("binary", "multi-class", "multi-label")
# Inverse strengths of the L2 penalty, scikit-learn's C, from strong to weak; the features have unit variance.
REGULARISATIONS = tuple(10.0**power for power in range(-5, 3))
FOLDS = 5
_TOLERANCES = {"cross-validation": 1e-3, "final": 1e-7}  # of the gradient of the mean loss
_MAX_ITERATIONS = 2000
_CONSTANT = 1e-5  # a standard deviation below this share of the mean is rounding of a float32 network


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on features as they are: the standardisation is part of its weights.

    Attributes:
        weight: (C, D).
        bias: (C,).
        regularisation: the chosen inverse strength of the penalty (scikit-learn's C), one a label for multi-label,
            otherwise one.
        losses: for each of these, value tried -> mean log-loss of the held-out images.
        folds: for each of these, the number of folds.
    """

    weight: Array
    bias: Array
    regularisation: tuple[float, ...]
    losses: tuple[dict[float, float], ...]
    folds: tuple[int, ...]

    def logits(self, features: ArrayLike) -> Array:
        """Features (N, D) -> logits (N, C), for a softmax (binary, multi-class) or a sigmoid (multi-label)."""
        return np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias


def fit_probe(
    features: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    *,
    task: str,
    num_classes: int,
    seed: int = 0,
    splits: Sequence[Sequence[Fold]] | None = None,
) -> LinearProbe:
    """Fit a linear probe, with the regularisation of the least log-loss on held-out patients.

    Features are standardised (without looking at labels), constant ones get the weight zero. Values of the
    regularisation are tried from strong to weak, each fit starting from the last one, until the held-out loss rises.
    The solution is scikit-learn's `LogisticRegression(C=regularisation)` on the standardised features; classes are not
    reweighted.

    Args:
        features: (N, D), in any precision; N may be less than D.
        labels: class numbers (N,); for multi-label (N, C) of 0, 1 and NaN (unknown: left out for this label).
        groups: the patient of each image (N,).
        task: "binary", "multi-class" or "multi-label".
        num_classes: C; a binary task has 2.
        seed: of the folds.
        splits: what `patient_folds` returned for the same labels, to save its time when many features are probed.

    Raises:
        ValueError: shapes or labels that do not fit the task, features that are not finite, a class or label with
            images of fewer than two patients.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(60, 3))
        >>> labels = (features[:, 0] > 0).astype(int)
        >>> probe = fit_probe(features, labels, [str(n // 2) for n in range(60)], task="binary", num_classes=2)
        >>> probe.weight.shape
        (2, 3)
    """
    values = np.asarray(features, dtype=np.float64)
    columns = _columns(labels, task=task, num_classes=num_classes)
    if values.ndim != 2 or len(values) != len(columns[0]) or values.shape[1] < 1:
        raise ValueError(f"features must be (N, D) with N = {len(columns[0])} labels, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"features must be finite, got {int((~np.isfinite(values)).sum())} NaN or infinite of {values.size}; "
            "check the images' range and the weights"
        )
    if splits is None:
        splits = patient_folds(labels, groups, task=task, num_classes=num_classes, seed=seed)
    mean, std = values.mean(axis=0), values.std(axis=0)
    alive = std > _CONSTANT * np.abs(mean)
    scaled = (values[:, alive] - mean[alive]) / std[alive]
    fits = [_fit_column(scaled, column, folds) for column, folds in zip(columns, splits, strict=True)]
    coefficients, intercepts = (np.concatenate([fit[part] for fit in fits]) for part in (0, 1))
    if task != "multi-label" and len(coefficients) == 1:
        # One logit becomes two of opposite sign, with the same difference.
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((len(coefficients), values.shape[1]))
    weight[:, alive] = coefficients / std[alive]
    bias = intercepts - weight @ mean
    return LinearProbe(
        weight,
        bias,
        regularisation=tuple(min(losses, key=lambda value: losses[value]) for _, _, losses in fits),
        losses=tuple(losses for _, _, losses in fits),
        folds=tuple(len(folds) for folds in splits),
    )


def patient_folds(
    labels: ArrayLike, groups: Sequence[str], *, task: str, num_classes: int, folds: int = FOLDS, seed: int = 0
) -> list[list[Fold]]:
    """Folds for cross-validation that never split a patient and hold about the same share of each class.

    There are fewer folds where a class has images of fewer patients; each part that is fitted on has every class.

    Args:
        labels: as for `fit_probe`.
        groups: the patient of each image (N,).
        task: "binary", "multi-class" or "multi-label".
        num_classes: number of classes.
        folds: the most folds.
        seed: decides the folds.

    Returns:
        One list of folds; for multi-label one a label, over the images where it is known.

    Raises:
        ValueError: labels that do not fit the task, or a class with images of fewer than two patients.
    """
    columns = _columns(labels, task=task, num_classes=num_classes)
    if len(groups) != len(columns[0]):
        raise ValueError(f"groups must name the patient of each of the {len(columns[0])} images, got {len(groups)}")
    patients = np.unique(np.asarray(groups), return_inverse=True)[1]
    classes = 2 if task == "multi-label" else num_classes
    named = [f"label {number}: " if task == "multi-label" else "" for number in range(len(columns))]
    return [
        _folds_of_column(column, patients, classes=classes, folds=folds, seed=seed, what=what)
        for column, what in zip(columns, named, strict=True)
    ]


def _columns(labels: ArrayLike, *, task: str, num_classes: int) -> list[Array]:
    """One array (N,) a classifier to be fitted: class numbers, NaN for unknown."""
    if task not in TASKS:
        raise ValueError(f"a linear probe is for the tasks {', '.join(TASKS)}, got {task!r}")
    values = np.asarray(labels, dtype=np.float64)
    if task == "multi-label":
        if values.ndim != 2 or values.shape[1] != num_classes:
            raise ValueError(f"multi-label labels must be (N, {num_classes}), got {values.shape}")
        columns, classes, known = list(values.T), 2, values[~np.isnan(values)]
    else:
        if task == "binary" and num_classes != 2:
            raise ValueError(f"a binary task has 2 classes, got num_classes={num_classes}")
        if values.ndim != 1:
            raise ValueError(f"{task} labels must be class numbers (N,), got {values.shape}")
        columns, classes, known = [values], num_classes, values
    strange = sorted(set(known.tolist()) - set(range(classes)), key=str)
    if strange:
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, got {strange[:5]}")
    return columns


def _folds_of_column(
    column: Array, patients: NDArray[np.intp], *, classes: int, folds: int, seed: int, what: str
) -> list[Fold]:
    known = np.flatnonzero(~np.isnan(column))
    target, owner = column[known].astype(int), patients[known]
    counts = [len(np.unique(owner[target == number])) for number in range(classes)]
    rare = int(np.argmin(counts))
    if counts[rare] < 2:
        raise ValueError(
            f"{what}class {rare} has training images of {counts[rare]} patients, but at least 2 are needed to choose "
            "the regularisation by cross-validation by patient; add patients of this class, or leave it out"
        )
    for number in range(min(folds, counts[rare]), 1, -1):
        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
        parts = [(known[fit], known[held]) for fit, held in splitter.split(known, target, owner)]
        if all(len(held) and len(np.unique(column[fit])) == classes for fit, held in parts):
            return parts
    raise ValueError(
        f"{what}no two folds by patient both leave images of every class to fit on (patients a class: {counts}); "
        f"add patients of class {rare}"
    )


def _fit_column(scaled: Array, column: Array, folds: Sequence[Fold]) -> tuple[Array, Array, dict[float, float]]:
    """Coefficients (K, D), intercepts (K,) with K = 1 for two classes, and the loss of each value tried."""
    known = np.flatnonzero(~np.isnan(column))
    if scaled.shape[1] == 0:  # nothing but constants: the classes' shares are all there is to know
        scaled = np.zeros((len(scaled), 1))
        coefficients, intercepts, losses = _fit_column(scaled, column, folds)
        return coefficients[:, :0], intercepts, losses
    losses = _cross_validate(scaled, column, folds)
    best = min(losses, key=lambda value: losses[value])
    model = LogisticRegression(C=best, tol=_TOLERANCES["final"], max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in words of ours
        model.fit(scaled[known], column[known].astype(int))
    if model.n_iter_.max() >= _MAX_ITERATIONS:
        logger.warning("the linear probe on %d features stopped after %d steps", scaled.shape[1], _MAX_ITERATIONS)
    return model.coef_, model.intercept_, losses


def _cross_validate(scaled: Array, column: Array, folds: Sequence[Fold]) -> dict[float, float]:
    """Regularisation -> mean log-loss over all held-out images, up to the first that is worse than a stronger one."""
    # Positions are sliced once a fold: that costs as much time as a fit.
    parts = [(scaled[fit], column[fit].astype(int), scaled[held], column[held].astype(int)) for fit, held in folds]
    models = [
        LogisticRegression(warm_start=True, tol=_TOLERANCES["cross-validation"], max_iter=_MAX_ITERATIONS)
        for _ in parts
    ]
    losses: dict[float, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # far along, a weak penalty on separable classes
        for value in REGULARISATIONS:
            total = 0.0
            for model, (fit_x, fit_y, held_x, held_y) in zip(models, parts, strict=True):
                model.set_params(C=value).fit(fit_x, fit_y)
                total += _log_loss(model.decision_function(held_x), held_y)
            losses[value] = total / sum(len(part[3]) for part in parts)
            if losses[value] > min(losses.values()):
                break  # the weaker ones cost the most time
    return losses


def _log_loss(decision: Array, target: NDArray[np.int_]) -> float:
    """Sum over images; decision (N,) for two classes, else (N, C)."""
    logits = np.stack([np.zeros_like(decision), decision], axis=1) if decision.ndim == 1 else decision
    return -float(log_softmax(logits, axis=1)[np.arange(len(target)), target].sum())
