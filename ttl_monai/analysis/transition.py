"""The truncation point at which feature reuse ends (supplement C.1, steps 2 to 4; PAPER.md section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ttl_monai.analysis.canonical import CcaResult
from ttl_monai.analysis.overlap import excess_area, overlap_coefficient, quartile_rule

Array = NDArray[np.float64]
Level = Literal["stage", "block"]
Statistic = Literal["overlap", "quartiles", "excess"]

STATISTICS: tuple[Statistic, ...] = ("overlap", "quartiles", "excess")
# Fewer coefficients make a histogram that is not to be trusted: with independent noise of 8 dimensions and 10 to 50
# samples each, the overlap with the null was .25 to .61, which the thresholds would call distinct; of 24, above them.
# A point with fewer must lie clearly below that.
FEW, CLEARLY = 24, 0.2
# Where a distribution counts as that of random features. At stage ends: anything in (.61, .69) of overlap and in
# (.16, .18) of excess area gives both of the paper's picks (PAPER.md section 4, Beta distributions through its
# quartiles). At blocks: the .5 of statistic 1 there, and the excess area that goes with it at those points.
THRESHOLDS = {
    ("stage", "overlap"): 0.65,
    ("block", "overlap"): 0.5,
    ("stage", "excess"): 0.17,
    ("block", "excess"): 0.26,
}


@dataclass(frozen=True)
class Similarity:
    """Coefficients of one point of a network before and after training, beside those of random features.

    Attributes:
        point: truncation point; None for the end of the whole network.
        level: "stage" if the point ends a stage (the whole network's end does), otherwise "block".
        coefficients: (K,) in [0, 1].
        dims: dimensions that were compared on each side.
        n: samples (positions of all images).
        null: (M,) coefficients of random features: a sample or evenly spaced quantiles.
        jackknife: overlap with each group of patients left out in turn; empty if that was not done.
        jackknife_quartiles: the quartile rule, likewise.
        jackknife_excess: the excess area, likewise.
    """

    point: str | None
    level: Level
    coefficients: Array
    dims: tuple[int, int]
    n: int
    null: Array
    jackknife: tuple[float, ...] = ()
    jackknife_quartiles: tuple[bool, ...] = ()
    jackknife_excess: tuple[float, ...] = ()

    @classmethod
    def from_results(
        cls,
        point: str | None,
        level: Level,
        whole: tuple[CcaResult, Array],
        left_out: Sequence[tuple[CcaResult, Array]] = (),
    ) -> Similarity:
        """Build it from CCA results.

        Args:
            point: truncation point, or None.
            level: "stage" or "block".
            whole: result with all patients, and its null.
            left_out: the same with each group of patients left out in turn.
        """
        result, null = whole
        pairs = [(each.coefficients, other) for each, other in left_out]
        return cls(
            point,
            level,
            result.coefficients,
            result.dims,
            result.n,
            np.asarray(null, np.float64),
            tuple(overlap_coefficient(*pair) for pair in pairs),
            tuple(quartile_rule(*pair) for pair in pairs),
            tuple(excess_area(*pair) for pair in pairs),
        )

    @property
    def overlap(self) -> float:
        """Overlap coefficient with the null, 50 bins."""
        return overlap_coefficient(self.coefficients, self.null)

    @property
    def quartile_rule(self) -> bool:
        """Whether the boxes touch."""
        return quartile_rule(self.coefficients, self.null)

    @property
    def excess_area(self) -> float:
        """Normalised excess area over the null."""
        return excess_area(self.coefficients, self.null)

    def quartiles(self) -> tuple[list[float], list[float]]:
        """First quartile, median and third quartile of the coefficients and of the null."""
        coefficients, null = (np.quantile(each, (0.25, 0.5, 0.75)).tolist() for each in (self.coefficients, self.null))
        return coefficients, null


@dataclass(frozen=True)
class Transition:
    """What `pick_transition` found.

    Attributes:
        point: the truncation point; None where it is undetermined, and also for the whole network: look at
            `determined`.
        determined: whether the pick can be relied on.
        reason: one sentence, why this point or why none.
        candidate: what the rule says on all patients, even where that is not to be relied on; None as for `point`.
        per_statistic: the candidate by each of the three statistics, their own default thresholds, "undetermined"
            where there is none. Statistics that contradict each other are a reason for doubt, too.
    """

    point: str | None
    determined: bool
    reason: str
    candidate: str | None = None
    per_statistic: dict[str, str | None] = field(default_factory=dict)


def pick_transition(
    similarities: Sequence[Similarity],
    *,
    statistic: Statistic = "overlap",
    level: Level = "stage",
    threshold: float | None = None,
    samples_per_channel: float = 10,
) -> Transition:
    """The last point whose features are still those of before training more than random features would be.

    At stage ends ("stage", the paper-compatible mode): the last stage end that is distinct from its null. At blocks
    ("block"): the point before the first one that is like its null and stays so up to the end of its stage.
    Distinct means: overlap below the threshold; the quartile rule does not hold; excess area at or above the threshold.

    Undetermined, with the reason, where
    - not even the first point is distinct;
    - samples are too few: n < samples_per_channel * max(dims) at the point picked, or n <= sum(dims) at the one after
      it. That one may have fewer a channel (the paper's own 3D figure rests on 2.6), which the reason then says; but
      with no more samples than dimensions in all, random features correlate up to 1 and nothing is distinct from them;
    - it has fewer than 24 coefficients and does not overlap clearly (less than .2), where overlap decides;
    - leaving out groups of patients disagrees: with any one group left out, the same rule on the statistics of the
      others picks another point, or none, than it does with all of them. Not looked at where no point has a jackknife.

    Args:
        similarities: in the order of depth, the end of the network last. Stage ends have level "stage".
        statistic: "overlap", "quartiles" or "excess".
        level: where to look.
        threshold: of the statistic; None for that of `THRESHOLDS` (overlap: 0.65 at stage ends, 0.5 at blocks). The
            quartile rule has none.
        samples_per_channel: what is too few.

    Raises:
        ValueError: no point to look at, an unknown statistic or level, jackknives of different lengths.
    """
    _check(similarities, statistic, level)
    looked_at = [each for each in similarities if level == "block" or each.level == "stage"]
    if not looked_at:
        raise ValueError("expected at least one point with level 'stage' (the network's end is one), got none.")
    limit = _threshold(level, statistic) if threshold is None else threshold
    per_statistic: dict[str, str | None] = {}
    for name in STATISTICS:
        index = _pick([_distinct(each, name, _threshold(level, name)) for each in looked_at], looked_at, level)
        per_statistic[name] = "undetermined" if index is None else looked_at[index].point
    flags = [_distinct(each, statistic, limit) for each in looked_at]
    index = _pick(flags, looked_at, level)
    if index is None:
        first = _name(looked_at[0].point)
        return Transition(None, False, f"even the first point, {first}, is like random features", None, per_statistic)
    candidate = looked_at[index].point
    doubt = _too_few(looked_at[index : index + 2], samples_per_channel, statistic) or _disagreement(
        looked_at, index, statistic, limit, level
    )
    if doubt:
        return Transition(None, False, doubt, candidate, per_statistic)
    reason = _reason(looked_at, index, statistic, level, samples_per_channel)
    return Transition(candidate, True, reason, candidate, per_statistic)


def _check(similarities: Sequence[Similarity], statistic: str, level: str) -> None:
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {statistic!r}.")
    if level not in ("stage", "block"):
        raise ValueError(f"level must be 'stage' or 'block', got {level!r}.")
    lengths = {len(each.jackknife) for each in similarities}
    if len(lengths) > 1:
        raise ValueError(f"expected as many groups left out at every point, got {sorted(lengths)}.")


def _threshold(level: str, statistic: str) -> float:
    return THRESHOLDS.get((level, statistic), math.nan)


def _is_distinct(value: float | bool, statistic: str, limit: float) -> bool:
    if statistic == "overlap":
        return value < limit
    return not value if statistic == "quartiles" else value >= limit


def _distinct(similarity: Similarity, statistic: str, limit: float, left_out: int | None = None) -> bool:
    if left_out is None:
        values = {"overlap": "overlap", "quartiles": "quartile_rule", "excess": "excess_area"}
        return _is_distinct(getattr(similarity, values[statistic]), statistic, limit)
    names = {"overlap": "jackknife", "quartiles": "jackknife_quartiles", "excess": "jackknife_excess"}
    return _is_distinct(getattr(similarity, names[statistic])[left_out], statistic, limit)


def _pick(distinct: Sequence[bool], points: Sequence[Similarity], level: str) -> int | None:
    """Index of the pick, None where not even the first point qualifies."""
    if level == "stage":
        return max((index for index, flag in enumerate(distinct) if flag), default=None)
    for index in range(len(points)):
        ends = [later for later in range(index, len(points)) if points[later].level == "stage"]
        end = ends[0] if ends else len(points) - 1
        if not any(distinct[index : end + 1]):
            return index - 1 if index else None
    return len(points) - 1


def _too_few(deciding: Sequence[Similarity], samples_per_channel: float, statistic: str) -> str | None:
    picked, *after = deciding
    if statistic == "overlap" and len(picked.coefficients) < FEW and picked.overlap > CLEARLY:
        return (
            f"too few dimensions: an overlap of {picked.overlap:.2f} by {len(picked.coefficients)} coefficients at "
            f"{_name(picked.point)} may be that of random features; keep a larger share of the variance"
        )
    needed = samples_per_channel * max(picked.dims)
    if picked.n < needed:
        return (
            f"too few samples: {picked.n} at {_name(picked.point)}, but its {max(picked.dims)} dimensions need "
            f"{needed:.0f} ({samples_per_channel:g} each)"
        )
    for each in after:
        if each.n <= sum(each.dims):
            return (
                f"too few samples: {each.n} at {_name(each.point)} after the pick, {_name(picked.point)}, where random "
                f"features of {each.dims[0]} and {each.dims[1]} dimensions correlate up to 1"
            )
    return None


def _disagreement(points: Sequence[Similarity], index: int, statistic: str, limit: float, level: str) -> str | None:
    groups = len(points[0].jackknife)
    others = []
    for group in range(groups):
        found = _pick([_distinct(each, statistic, limit, group) for each in points], points, level)
        if found != index:
            others.append("none" if found is None else _name(points[found].point))
    if not others:
        return None
    names = ", ".join(sorted(set(others)))
    return (
        f"the pick hangs on single patients: {_name(points[index].point)} with all of them, but {names} in "
        f"{len(others)} of {groups} cases with one group left out"
    )


def _reason(points: Sequence[Similarity], index: int, statistic: str, level: str, samples_per_channel: float) -> str:
    what = "stage end" if level == "stage" else "point"
    reason = f"{_name(points[index].point)} is the last {what} distinct from random features by {statistic}"
    if index + 1 < len(points):
        here, after = points[index], points[index + 1]
        reason += f" (overlap {here.overlap:.2f}, then {after.overlap:.2f} at {_name(after.point)})"
        if after.n < samples_per_channel * max(after.dims):
            each = after.n / max(after.dims)
            reason += f"; {_name(after.point)} has only {each:.1f} samples a dimension, so a later cut is not excluded"
    return reason


def _name(point: str | None) -> str:
    return "the end of the network" if point is None else point
