"""Second moments of the features of two networks: by patient group at each point, and between all points."""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from ttl_monai.analysis import (
    CcaResult,
    CrossMoments,
    Similarity,
    as_samples,
    excess_area,
    match_grids,
    wachter_sample,
)
from ttl_monai.networks.features import WHOLE
from ttl_monai.networks.points import Level

Null = Literal["wachter", "permute"]
Features = Mapping[str | None, torch.Tensor]
Points = Sequence[tuple[str | None, Level]]

NULLS = ("wachter", "permute")
GROUPS = 10


def check_memory(sets: Iterable[tuple[int, int]], *, remedy: str) -> None:
    """Refuse sums of second moments that this machine's free memory does not hold.

    Args:
        sets: (p, q) of each set of moments that is to be held.
        remedy: what the user can do.

    Raises:
        ValueError: they need more than is free.
    """
    needed = sum(8 * (p + q + 1) * (p + q) for p, q in sets)
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > free:
        raise ValueError(
            f"the second moments of these points need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
            f"{remedy}"
        )


def patient_group(patient: str, groups: int) -> int:
    """The group that a patient belongs to, by a hash of its key: the same in every run and on every machine."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % groups


class PatientMoments:
    """Second moments of the features of two networks at each point, one set for each group of patients.

    Holds `groups` sets of O(d^2) numbers a point, whatever the number of images.

    Args:
        points: (name, level) of each point.
        groups: number of groups of patients.
        null: "wachter" or "permute", see `compare_networks`.
        device: where the sums are held.

    Raises:
        ValueError: an unknown null, or fewer than one group.
    """

    def __init__(
        self, points: Points, *, groups: int = GROUPS, null: Null = "wachter", device: torch.device | None = None
    ) -> None:
        if null not in NULLS:
            raise ValueError(f"null must be one of {', '.join(NULLS)}, got {null!r}.")
        if groups < 1:
            raise ValueError(f"groups must be at least 1, got {groups}.")
        self.points, self.groups, self.null = tuple(points), groups, null
        self.device = device if device is not None and device.type == "cuda" else torch.device("cpu")
        self.moments: dict[str | None, dict[int, CrossMoments]] = defaultdict(dict)
        self.exchanged: dict[str | None, dict[int, CrossMoments]] = defaultdict(dict)
        self._last: tuple[str, dict[str | None, torch.Tensor]] | None = None

    @property
    def names(self) -> list[str | None]:
        """Names of the points."""
        return [name for name, _ in self.points]

    def __call__(self, before: Features, after: Features, patients: Sequence[str]) -> None:
        """Add the features of a batch."""
        if not self.moments:
            sets = [(before[name].shape[1], after[name].shape[1]) for name in self.names]
            check_memory(
                sets * self.groups * (2 if self.null == "permute" else 1),
                remedy="name fewer points, or take fewer groups of patients",
            )
        rows: dict[int, list[int]] = defaultdict(list)
        for row, patient in enumerate(patients):
            rows[patient_group(patient, self.groups)].append(row)
        for name, _ in self.points:
            for group, chosen in rows.items():
                self._add(self.moments, name, group, before[name][chosen], after[name][chosen])
        if self.null == "permute":
            self._exchange(before, after, patients)

    def _add(
        self,
        sets: dict[str | None, dict[int, CrossMoments]],
        name: str | None,
        group: int,
        x: torch.Tensor,
        y: torch.Tensor,
    ) -> None:
        if x.shape[2:] != y.shape[2:]:
            raise ValueError(
                f"expected maps of one size at {name or WHOLE}, got {tuple(x.shape[2:])} and {tuple(y.shape[2:])}: "
                "the two networks differ below this point"
            )
        if group not in sets[name]:
            sets[name][group] = CrossMoments(x.shape[1], y.shape[1], device=self.device)
        sets[name][group].update(as_samples(x), as_samples(y))

    def _exchange(self, before: Features, after: Features, patients: Sequence[str]) -> None:
        """Pair each image with the one before it in the stream, where that is another patient's."""
        earlier = [self._last[0] if self._last is not None else None, *patients[:-1]]
        rows: dict[int, list[int]] = defaultdict(list)
        for row, (patient, other) in enumerate(zip(patients, earlier, strict=True)):
            if other is not None and other != patient:
                rows[patient_group(patient, self.groups)].append(row)
        for name in self.names:
            first = after[name][:1] if self._last is None else self._last[1][name]
            shifted = torch.cat([first, after[name][:-1]])
            for group, chosen in rows.items():
                self._add(self.exchanged, name, group, before[name][chosen], shifted[chosen])
        self._last = patients[-1], {name: after[name][-1:] for name in self.names}

    def similarities(self, *, variance: float | None = None) -> list[Similarity]:
        """The similarity at each point, with each group of patients left out in turn.

        Args:
            variance: see `compare_networks`.

        Raises:
            ValueError: no images; a point at which no channel varies; nothing to exchange.
        """
        if not self.moments:
            raise ValueError("expected at least one image to compare features on, got none.")
        if self.null == "permute" and not self.exchanged:
            raise ValueError("null='permute' exchanges images of patients: expected at least two patients, got one.")
        found = []
        for name, level in self.points:
            parts, others = self.moments[name], self.exchanged[name]
            whole, whole_null = _sum(parts.values()), _sum(others.values()) if others else None
            left_out = []
            for group, part in parts.items() if len(parts) > 1 else ():
                rest_null, exchanged = whole_null, others.get(group)
                if whole_null is not None and exchanged is not None and exchanged.n < whole_null.n:
                    rest_null = whole_null - exchanged
                left_out.append(self._result(whole - part, rest_null, name, variance))
            found.append(
                Similarity.from_results(
                    name,
                    "stage" if level == "stage" else "block",
                    self._result(whole, whole_null, name, variance),
                    left_out,
                )
            )
        return found

    def _result(
        self, moments: CrossMoments, exchanged: CrossMoments | None, name: str | None, variance: float | None
    ) -> tuple[CcaResult, np.ndarray]:
        try:
            result = moments.cca(variance)
            if exchanged is None:
                return result, wachter_sample(*result.dims, result.n)
            return result, exchanged.cca(variance).coefficients
        except ValueError as error:
            raise ValueError(f"no SVCCA at {name or WHOLE}: {error}") from error


def _sum(parts: Iterable[CrossMoments]) -> CrossMoments:
    first, *others = parts
    total = first
    for part in others:
        total = total + part
    return total


class LayerMoments:
    """Second moments of every point of one network with every point of another.

    Args:
        points: names of the points.
        device: where the sums are held.
    """

    def __init__(self, points: Sequence[str | None], *, device: torch.device | None = None) -> None:
        self.points = tuple(points)
        self.device = device if device is not None and device.type == "cuda" else torch.device("cpu")
        self.moments: dict[tuple[str | None, str | None], CrossMoments] = {}

    def __call__(self, before: Features, after: Features, patients: Sequence[str]) -> None:
        """Add the features of a batch; the larger map of a pair is averaged to the grid of the smaller one."""
        if not self.moments:
            pairs = [(before[row].shape[1], after[column].shape[1]) for row in self.points for column in self.points]
            check_memory(pairs, remedy="name fewer points, or leave the matrix out (--no-matrix)")
        for row in self.points:
            for column in self.points:
                x, y = match_grids(before[row], after[column])
                if (row, column) not in self.moments:
                    self.moments[row, column] = CrossMoments(x.shape[1], y.shape[1], device=self.device)
                self.moments[row, column].update(as_samples(x), as_samples(y))

    def matrix(self, *, variance: float | None = None) -> dict[str, Any]:
        """Mean coefficient and excess area over the Wachter null of each pair.

        Args:
            variance: see `compare_networks`.

        Returns:
            `points`, and `mean` and `excess_area` as lists of rows: rows are points of the first network.
        """
        rows: dict[str, list[list[float]]] = {"mean": [], "excess_area": []}
        for row in self.points:
            results = [self.moments[row, column].cca(variance) for column in self.points]
            rows["mean"].append([round(each.mean, 5) for each in results])
            rows["excess_area"].append(
                [round(excess_area(each.coefficients, wachter_sample(*each.dims, each.n)), 5) for each in results]
            )
        return {"points": [point or WHOLE for point in self.points], **rows}
