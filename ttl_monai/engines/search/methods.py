"""The ways to search: which cells each needs next, and what it picks once they are done.

A method never trains. It reads the results that there are and says what is missing, so a search can stop anywhere and
go on, and a cell that another method has trained is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.choice import RULES, Score, choose, score
from ttl_monai.engines.search.space import Space

PROBE_CANDIDATES = 3
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes:
        method: its name.
        determined: whether it names a cut.
        pick: the truncation point, None for the whole network (and where nothing is determined).
        reason: why this one, or why none, in one sentence.
        cells: all cells that it used, trained by itself or not.
        values: key metric of the pick on the repeats on which the candidates were compared; empty without trainings.
        before_training: for the probe, what it picked before any training, with the cells used until then.
    """

    method: str
    determined: bool
    pick: str | None
    reason: str
    cells: tuple[Cell, ...]
    values: tuple[float, ...] = ()
    before_training: Outcome | None = field(default=None)


class Method:
    """A way to search; subclasses say what they need and what they pick.

    Args:
        space: the space of the search.
        rule: see `choose`.
        quorum: share of a candidate's repeats, and of the candidates of a round, that must be done before one is
            chosen among them.
    """

    name = ""
    kinds: tuple[str, ...] = ("train",)  # of its cells

    def __init__(self, space: Space, *, rule: str = RULES[0], quorum: float = 2 / 3) -> None:
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        if not 0 < quorum <= 1:
            raise ValueError(f"quorum must be above 0 and at most 1, got {quorum!r}")
        self.space, self.rule, self.quorum = space, rule, quorum

    def rounds(self, results: Results, settled: frozenset[str]) -> list[list[Cell]]:
        """The rounds of cells as far as they can be told from the results; a round is told once the last is settled.

        Args:
            results: results of finished cells, by key.
            settled: keys of the cells that are finished or have failed.
        """
        raise NotImplementedError

    def outcome(self, results: Results, settled: frozenset[str]) -> Outcome:
        """What it picks, after all rounds are settled."""
        raise NotImplementedError

    def pending(self, results: Results, settled: frozenset[str]) -> list[Cell]:
        """Cells that are still to be done before the method can go on."""
        return [cell for cells in self.rounds(results, settled) for cell in cells if cell.key not in settled]

    def trainings(self, points: Sequence[str | None]) -> list[Cell]:
        """Cells that train these points on all repeats; the first repeats of all points come first."""
        return [self.space.cell("train", point, repeat) for repeat in range(self.space.repeats) for point in points]

    def scores(self, points: Sequence[str | None], results: Results) -> list[Score]:
        """Trained candidates with enough repeats, in the order of depth.

        Where cells have failed, all are compared on the repeats that they have in common, since splits differ more than
        candidates do; on all that each has where these are fewer than the quorum.
        """
        enough = self.quorum * self.space.repeats
        done: dict[str | None, dict[int, float]] = {}
        for each in self.space.candidates:
            if each["point"] in points:
                cells = [self.space.cell("train", each["point"], repeat) for repeat in range(self.space.repeats)]
                values = {cell.repeat: float(results[cell.key]["value"]) for cell in cells if cell.key in results}
                if values and len(values) >= enough:
                    done[each["point"]] = values
        common = set.intersection(*(set(values) for values in done.values())) if done else set()
        shared = common if len(common) >= enough else set(range(self.space.repeats))
        return [
            score(point, [value for repeat, value in values.items() if repeat in shared])
            for point, values in done.items()
        ]

    def decide(self, points: Sequence[str | None], results: Results, cells: Sequence[Cell]) -> Outcome:
        """Choose among trained candidates, or say that too few are done."""
        scores = self.scores(points, results)
        if len(scores) < self.quorum * len(points):
            reason = (
                f"only {len(scores)} of {len(points)} candidates have {self.quorum:.0%} of their repeats done: no "
                "winner is named below the quorum"
            )
            return Outcome(self.name, False, None, reason, tuple(cells))
        chosen, best = choose(scores, rule=self.rule), max(scores, key=lambda each: each.mean)
        metric = self.space.key_metric
        reason = f"highest mean {metric}, {best.mean:.4f}"
        if chosen is not best:
            reason = (
                f"smallest network within one standard deviation of the best, {best.point or 'the whole network'} "
                f"({metric} {best.mean:.4f} ± {best.std:.4f})"
            )
        if len(chosen.values) < self.space.repeats:
            reason += f", on {len(chosen.values)} of {self.space.repeats} repeats"
        return Outcome(self.name, True, chosen.point, reason, tuple(cells), chosen.values)

    def every(self) -> list[str | None]:
        """All candidates, the whole network last."""
        return [each["point"] for each in self.space.candidates]


class Exhaustive(Method):
    """Train every candidate: the reference curve."""

    name = "exhaustive"

    def rounds(self, results: Results, settled: frozenset[str]) -> list[list[Cell]]:
        """One round of everything."""
        return [self.trainings(self.every())]

    def outcome(self, results: Results, settled: frozenset[str]) -> Outcome:
        """The choice among all."""
        return self.decide(self.every(), results, self.trainings(self.every()))


class TwoStage(Method):
    """The paper's: the ends of stages and the whole network, then all blocks on both sides of the best one.

    Source: the paper, section 3.2; supplement C.1. Blocks below the coarse optimum are candidates of the fine round
    too: the paper's TTL-2 lies below its TTL-1.
    """

    name = "two-stage"

    def coarse(self) -> list[str | None]:
        """The coarse candidates.

        Raises:
            ValueError: the network has no stages.
        """
        stages = self.space.points("stage")
        if not stages:
            raise ValueError(
                "two-stage search needs a network with stages, and this one has none: use --method exhaustive or probe"
            )
        return [*stages, None]

    def fine(self, results: Results) -> list[str | None]:
        """The fine candidates: everything between the coarse neighbours of the best coarse one."""
        coarse = self.coarse()
        scores = self.scores(coarse, results)
        if not scores or len(scores) < self.quorum * len(coarse):
            return []
        best = coarse.index(max(scores, key=lambda each: each.mean).point)
        every = self.every()
        low = every.index(coarse[best - 1]) if best else -1
        high = every.index(coarse[min(best + 1, len(coarse) - 1)])
        return [point for point in every[low + 1 : high] if point not in coarse]

    def rounds(self, results: Results, settled: frozenset[str]) -> list[list[Cell]]:
        """Coarse, then fine."""
        coarse = self.trainings(self.coarse())
        if not all(cell.key in settled for cell in coarse):
            return [coarse]
        return [coarse, self.trainings(self.fine(results))]

    def outcome(self, results: Results, settled: frozenset[str]) -> Outcome:
        """The choice among all cuts of both rounds."""
        points = [*self.coarse(), *self.fine(results)]
        return self.decide(points, results, self.trainings(points))


class Probe(Method):
    """Ours: linear probes on the pretrained features pick a few candidates, and only these are trained."""

    name = "probe"
    kinds = ("probe", "train")

    def probes(self) -> list[Cell]:
        """One forward pass a repeat."""
        return [self.space.cell("probe", None, repeat) for repeat in range(self.space.repeats)]

    def curve(self, results: Results) -> list[Score]:
        """The probes' scores in the order of depth, the whole network last."""
        done = [results[cell.key] for cell in self.probes() if cell.key in results]
        if len(done) < self.quorum * self.space.repeats:
            return []
        return [
            score(point, [float(each["points"][point or "whole"]["value"]) for each in done]) for point in self.every()
        ]

    def shortlist(self, results: Results) -> list[str | None]:
        """The pick of the rule, the best, and the next best until there are three; in the order of depth."""
        curve = self.curve(results)
        if not curve:
            return []
        ranked = [choose(curve, rule=self.rule), *sorted(curve, key=lambda each: -each.mean)]
        chosen = list(dict.fromkeys(each.point for each in ranked))[:PROBE_CANDIDATES]
        return [point for point in self.every() if point in chosen]

    def rounds(self, results: Results, settled: frozenset[str]) -> list[list[Cell]]:
        """The probes, then the trainings of the short list."""
        probes = self.probes()
        if not all(cell.key in settled for cell in probes):
            return [probes]
        return [probes, self.trainings(self.shortlist(results))]

    def outcome(self, results: Results, settled: frozenset[str]) -> Outcome:
        """The choice among the trained ones; before training, the probes' own."""
        probes, curve = self.probes(), self.curve(results)
        if not curve:
            return Outcome(self.name, False, None, "too few probes are done for a choice", tuple(probes))
        first = choose(curve, rule=self.rule)
        reason = f"probe's {self.space.key_metric} {first.mean:.4f}"
        before = Outcome(self.name, True, first.point, reason, tuple(probes))
        points = self.shortlist(results)
        after = self.decide(points, results, [*probes, *self.trainings(points)])
        return Outcome(self.name, after.determined, after.pick, after.reason, after.cells, after.values, before)


class Svcca(Method):
    """The paper's exploratory one: train the whole network once, cut where its features come to be as random.

    Source: supplement C.1, steps 1 to 5; all on the first repeat.
    """

    name = "svcca"
    kinds = ("svcca", "train")

    def rounds(self, results: Results, settled: frozenset[str]) -> list[list[Cell]]:
        """The whole network, the comparison, the network that it suggests."""
        whole, compare = self.space.cell("train", None, 0), self.space.cell("svcca", None, 0)
        if whole.key not in results:
            return [[whole]]
        if compare.key not in results:
            return [[whole], [compare]]
        pick = results[compare.key]["pick"]
        return [[whole], [compare], [self.space.cell("train", pick, 0)] if pick else []]

    def outcome(self, results: Results, settled: frozenset[str]) -> Outcome:
        """What the comparison suggests, or why it suggests nothing."""
        rounds = self.rounds(results, settled)
        cells = tuple(cell for cells in rounds for cell in cells)
        missing = [cell for cell in cells if cell.key not in results]
        if missing:
            state = "has failed" if missing[0].key in settled else "is not done"
            return Outcome(self.name, False, None, f"{missing[0].name} {state}", cells)
        found = results[self.space.cell("svcca", None, 0).key]
        return Outcome(self.name, found["determined"], found["pick"], found["reason"], cells)


METHODS: dict[str, type[Method]] = {each.name: each for each in (TwoStage, Probe, Svcca, Exhaustive)}


def make_method(name: str, space: Space, **settings: Any) -> Method:
    """The method of this name.

    Raises:
        ValueError: an unknown name, rule or quorum.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name](space, **settings)
