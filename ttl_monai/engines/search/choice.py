"""Choosing one candidate from its scores over the repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttl_monai.analysis import mean_std

RULES = ("within-one-std", "best")


@dataclass(frozen=True)
class Score:
    """The key metric of one candidate over the repeats that are done.

    Attributes:
        point: truncation point; None is the whole network.
        values: one a finished repeat.
        mean: their mean.
        std: their sample standard deviation; NaN for a single one.
    """

    point: str | None
    values: tuple[float, ...]
    mean: float
    std: float


def score(point: str | None, values: Sequence[float]) -> Score:
    """Mean and sample standard deviation of a candidate's finished repeats."""
    mean, std = mean_std(values)
    return Score(point, tuple(values), mean, std)


def choose(scores: Sequence[Score], *, rule: str) -> Score:
    """The chosen candidate.

    Source: the two-stage search (supplement, C.1; here on validation means), with ties, and under the default rule
    everything within one standard deviation of the best, decided for the smaller network.

    Args:
        scores: candidates in the order of depth, smallest network first.
        rule: "best" takes the highest mean; "within-one-std" the smallest network whose mean is not lower than that
            mean less its standard deviation over the repeats. With one repeat there is none, and only ties count.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    best = max(scores, key=lambda each: each.mean)
    margin = best.std if rule == "within-one-std" and math.isfinite(best.std) else 0.0
    return next(each for each in scores if each.mean >= best.mean - margin)
