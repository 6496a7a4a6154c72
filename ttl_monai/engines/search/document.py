"""The record of a search: everything that its table and its picture are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ttl_monai.analysis import mean_std
from ttl_monai.analysis.transition import THRESHOLDS
from ttl_monai.engines.search.choice import Score
from ttl_monai.engines.search.methods import Method, Outcome, Probe, Results
from ttl_monai.engines.search.space import Space
from ttl_monai.engines.search.transition import OPTIONS

SCHEMA = 1


def make_document(
    space: Space,
    methods: Sequence[Method],
    results: Results,
    failures: Mapping[str, str],
    *,
    commands: Mapping[str, str],
    test: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a search has found so far, of all methods that have run in its folder.

    Args:
        space: the space of the search.
        methods: the methods that have run.
        results: results of finished cells, by key.
        failures: reasons of failed cells, by key.
        commands: by method, the command line that repeats it.
        test: what was measured on the test section after the choice, or None.

    Returns:
        JSON values; `ttl_monai.reports` draws from them.
    """
    settled = frozenset({*results, *failures})
    outcomes = [each.outcome(results, settled) for each in methods]
    reference = _reference(methods[0], results)
    every = {cell.key: cell for outcome in outcomes for cell in outcome.cells}
    return {
        "schema": SCHEMA,
        **space.header,
        "repeats": space.repeats,
        "metric": space.key_metric,
        "rule": methods[0].rule,
        "quorum": round(methods[0].quorum, 4),
        "commands": dict(commands),
        "threads": sorted({results[key]["threads"] for key in every if "threads" in results.get(key, ())}),
        "devices": sorted({results[key]["device"] for key in every if "device" in results.get(key, ())}),
        "candidates": list(space.candidates),
        "curve": _curve(space, results),
        "probe": _probe(space, results, methods[0].quorum),
        "svcca": _svcca(space, results),
        "svcca_threshold": _threshold(space),
        "svcca_picks": _picks(space, results),
        "failed": [{"cell": every[key].name, "reason": why} for key, why in failures.items() if key in every],
        "methods": [_method(space, each, results, reference) for each in outcomes],
        "random": _random(space, reference),
        "test": None if test is None else dict(test),
    }


def _reference(method: Method, results: Results) -> dict[str | None, Score] | None:
    """The scores of all candidates where all are trained; nothing can be called a regret without them."""
    every = method.every()
    scores = {each.point: each for each in method.scores(every, results)}
    return scores if len(scores) == len(every) else None


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _curve(space: Space, results: Results) -> list[dict[str, Any]]:
    rows = []
    for candidate in space.candidates:
        point = candidate["point"]
        found = [results.get(space.cell("train", point, repeat).key) for repeat in range(space.repeats)]
        done = [each for each in found if each is not None]
        if done:
            values = [float(each["value"]) for each in done]
            rows.append(
                {
                    "point": point,
                    "values": [None if each is None else each["value"] for each in found],
                    **_mean_std(values),
                    "seconds": [each["seconds"] for each in done],
                    "epochs": [each["epoch"] for each in done],
                }
            )
    return rows


def _mean_std(values: Sequence[float]) -> dict[str, float | None]:
    mean, std = mean_std(values)
    return {"mean": _plain(mean), "std": _plain(std)}


def _probe(space: Space, results: Results, quorum: float) -> list[dict[str, Any]] | None:
    curve = Probe(space, quorum=quorum).curve(results)
    return [
        {"point": each.point, "values": list(each.values), "mean": _plain(each.mean), "std": _plain(each.std)}
        for each in curve
    ] or None


def _svcca(space: Space, results: Results) -> list[dict[str, Any]] | None:
    found = results.get(space.cell("svcca", None, 0).key)
    if found is None:
        return None
    names = ("point", "level", "quartiles", "null_quartiles", "overlap", "n", "dims")
    return [{name: each[name] for name in names} for each in found["points"]]


def _threshold(space: Space) -> float | None:
    """The overlap above which a point counted as random; None where another statistic decided."""
    options = space.options.get("svcca", OPTIONS)
    if options["statistic"] != "overlap":
        return None
    return THRESHOLDS[options["level"], "overlap"] if options["threshold"] is None else options["threshold"]


def _picks(space: Space, results: Results) -> dict[str, Any] | None:
    """What each statistic picks at stage ends and at blocks."""
    found = results.get(space.cell("svcca", None, 0).key)
    return None if found is None else found["picks"]


def _seconds(outcome: Outcome, results: Results) -> float:
    return round(sum(float(results[cell.key]["seconds"]) for cell in outcome.cells if cell.key in results), 1)


def _method(
    space: Space, outcome: Outcome, results: Results, reference: Mapping[str | None, Score] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": outcome.method,
        "pick": outcome.pick,
        "determined": outcome.determined,
        "reason": outcome.reason,
        "cells": len(outcome.cells),
        "done": sum(cell.key in results for cell in outcome.cells),
        "seconds": _seconds(outcome, results),
        "regret": None,
        **dict.fromkeys(("mean", "std", "params", "macs")),
        "n": 0,
    }
    if outcome.determined:
        cells = [space.cell("train", outcome.pick, repeat) for repeat in range(space.repeats)]
        # Those that the choice compared, where it compared trainings.
        values = list(outcome.values) or [float(results[each.key]["value"]) for each in cells if each.key in results]
        candidate = next(each for each in space.candidates if each["point"] == outcome.pick)
        row |= {"n": len(values), "params": candidate["params"], "macs": candidate["macs"]}
        row |= _mean_std(values) if values else {}
        row["regret"] = _regret(outcome.pick, reference)
    if outcome.before_training is not None:
        before = outcome.before_training
        row["before_training"] = {
            "pick": before.pick,
            "regret": _regret(before.pick, reference),
            "seconds": _seconds(before, results),
        }
    return row


def _regret(point: str | None, reference: Mapping[str | None, Score] | None) -> float | None:
    if reference is None:
        return None
    return _plain(max(each.mean for each in reference.values()) - reference[point].mean)


def _random(space: Space, reference: Mapping[str | None, Score] | None) -> dict[str, float | None] | None:
    """What a cut drawn with equal chances would lose on average, and how much the best one varies over the splits."""
    if reference is None:
        return None
    best = max(reference.values(), key=lambda each: each.mean)
    lost = [best.mean - each.mean for each in reference.values() if each.point is not None]
    return {"regret": _plain(sum(lost) / len(lost)), "std_over_splits": _plain(best.std)}
