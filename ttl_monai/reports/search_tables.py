"""Tables of a truncation search, as markdown and as plain text: the methods beside each other, and all candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ttl_monai.reports.search_document import (
    check_document,
    code,
    done,
    duration,
    entry_of,
    entry_score,
    failures,
    finite,
    fixed,
    method_name,
    ordered_methods,
    point_name,
    score,
    share,
    spread,
)
from ttl_monai.reports.search_notes import READING, describe, notes, repeat_it
from ttl_monai.reports.tables import _line as markdown_line


class _Row(NamedTuple):
    """One line of the methods table: names and numbers, not yet text."""

    method: str
    pick: str | None  # a name to show as code, None where there is nothing to name
    mean: float = math.nan
    std: float = math.nan
    regret: float = math.nan
    point: str | None = None  # whose params and MACs; used with `sized`
    sized: bool = False
    cells: str = "-"
    seconds: float = math.nan


def search_table(document: Mapping[str, Any]) -> str:
    """The markdown table of the methods of one search, then what it was measured on and how to repeat it.

    One line a method, then the probe's pick before any training, the probe itself as a model, a cut drawn at random,
    and the whole network. A method that is not `determined` names no cut; its reason stands under the table.

    Args:
        document: the content of a `search.json`.

    Returns:
        The table and the lines under it, ending in a newline.

    Raises:
        ValueError: not a search document, see `check_document`.
    """
    check_document(document)
    table = "\n".join(methods_lines(document))
    return "\n\n".join([table, *describe(document), READING, repeat_it([document])]) + "\n"


def candidates_table(document: Mapping[str, Any]) -> str:
    """The markdown table of all candidates: size, trained metric, probe, SVCCA overlap, and which methods picked it.

    Args:
        document: the content of a `search.json`.

    Returns:
        The table, ending in a newline. Probe and SVCCA have no column where they were not run.

    Raises:
        ValueError: not a search document, see `check_document`.
    """
    check_document(document)
    probe, svcca, metric = document["probe"], document["svcca"], f"`{document['metric']}`"
    heads = ["point", "level", "params (M)", "of FTL", "MACs (G)", metric, "done", "cost of one"]
    heads += [f"probe {metric}"] * bool(probe) + ["SVCCA overlap"] * bool(svcca) + ["picked by"]
    lines = [markdown_line(heads), markdown_line(["---", "---"] + ["---:"] * (len(heads) - 3) + ["---"])]
    for candidate in document["candidates"]:
        point = candidate["point"]
        trained, guess = entry_of(document["curve"], point), entry_of(probe, point)
        picked = [row["method"] for row in ordered_methods(document) if row["determined"] and row["pick"] == point]
        cells = [code(point_name(point)) if point else point_name(point), candidate["level"], *_size(document, point)]
        tried = trained or failures(document, point)
        cells += [entry_score(trained), f"{done(trained)}/{document['repeats']}" if tried else "-"]
        cells += [duration(_mean_seconds(trained))]
        cells += [entry_score(guess)] if probe else []
        cells += [fixed(finite((entry_of(svcca, point) or {}).get("overlap")), 2)] if svcca else []
        lines.append(markdown_line([*cells, ", ".join(map(method_name, picked)) or "-"]))
    return "\n".join(lines) + "\n"


def console_table(document: Mapping[str, Any]) -> str:
    """The methods table as plain text in columns, for a terminal of about 110 characters.

    Args:
        document: the content of a `search.json`.

    Returns:
        Lines of aligned columns, then what failed or was not determined, ending in a newline.

    Raises:
        ValueError: not a search document, see `check_document`.
    """
    check_document(document)
    heads = ("method", "pick", document["metric"], "regret", "params M", "of FTL", "MACs G", "cells", "cost")
    table = [heads, *(_texts(document, row, str)[: len(heads)] for row in _rows(document))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *notes(document, str)]) + "\n"


def methods_lines(document: Mapping[str, Any]) -> list[str]:
    """The lines of the markdown table of the methods, without what stands under it; the document is not checked."""
    heads, rows = methods_cells(document, code)
    lines = [markdown_line(heads), markdown_line(["---", "---"] + ["---:"] * (len(heads) - 2))]
    return lines + [markdown_line(cells) for cells in rows]


def methods_cells(document: Mapping[str, Any], quote: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table of the methods; the document is not checked.

    Args:
        document: the content of a `search.json`.
        quote: what is done with names of points and of the metric.
    """
    heads = ["method", "pick", quote(document["metric"]), "regret", "params (M)", "of FTL", "MACs (G)", "cells"]
    return [*heads, "cost", "of two-stage's"], [_texts(document, row, quote) for row in _rows(document)]


def _rows(document: Mapping[str, Any]) -> list[_Row]:
    """All lines of the methods table, the methods with the reference first."""
    rows, after = [], []
    for row in ordered_methods(document):
        finished = row.get("done", row["cells"])
        count = str(row["cells"]) if finished == row["cells"] else f"{finished} of {row['cells']}"
        name = method_name(row["method"])
        costs: dict[str, Any] = {"cells": count, "seconds": finite(row["seconds"])}
        if not row["determined"]:
            rows.append(_Row(name, None, **costs))
        else:
            scores = (finite(row["mean"]), spread(row["n"], row["std"]), finite(row["regret"]))
            rows.append(_Row(name, point_name(row["pick"]), *scores, point=row["pick"], sized=True, **costs))
        if row.get("before_training"):
            after = _before_training(document, row["before_training"])
    if document["random"]:
        after.append(_Row("a cut at random", None, regret=finite(document["random"]["regret"])))
    whole = entry_of(document["curve"], None)
    if whole and not math.isnan(finite(whole["mean"])):
        mean, seconds = finite(whole["mean"]), sum(value for value in whole["seconds"] if value is not None)
        scores = (mean, spread(done(whole), whole["std"]), _best(document) - mean)
        after.append(
            _Row("FTL", point_name(None), *scores, point=None, sized=True, cells=str(done(whole)), seconds=seconds)
        )
    return rows + after


def _before_training(document: Mapping[str, Any], before: Mapping[str, Any]) -> list[_Row]:
    """The probe's pick as a cut to train, and the probe at that cut as a model of its own; both for the same time."""
    point, seconds = before["pick"], finite(before["seconds"])
    trained, probe = entry_of(document["curve"], point), entry_of(document["probe"], point)
    common: dict[str, Any] = {"point": point, "sized": True, "seconds": seconds}
    scores = (finite(trained["mean"]), spread(done(trained), trained["std"])) if trained else (math.nan, math.nan)
    name = point_name(point)
    rows = [_Row("probe, before training", name, *scores, finite(before.get("regret")), **common)]
    if probe:
        mean = finite(probe["mean"])
        scores = (mean, spread(done(probe), probe["std"]))
        rows.append(_Row("probe as the model", name, *scores, _best(document) - mean, **common))
    return rows


def _best(document: Mapping[str, Any]) -> float:
    """The best mean of the exhaustive search, as the regrets of the methods imply it; NaN without a reference."""
    sums = (finite(row["mean"]) + finite(row["regret"]) for row in ordered_methods(document) if row["determined"])
    return next((value for value in sums if not math.isnan(value)), math.nan)


def _texts(document: Mapping[str, Any], row: _Row, quote: Callable[[str], str]) -> list[str]:
    """The line's cells as text: method, pick, metric, regret, params, share, MACs, cells, cost, share of two-stage."""
    named = "any" if row.method == "a cut at random" else "undetermined"
    pick = named if row.pick is None else quote(row.pick) if row.point else row.pick
    size = _size(document, row.point) if row.sized else ["-"] * 3
    full = next((finite(each["seconds"]) for each in document["methods"] if each["method"] == "two-stage"), math.nan)
    return [
        *(row.method, pick, score(row.mean, row.std, 3), fixed(row.regret, 4), *size),
        *(row.cells, duration(row.seconds), share(row.seconds, full)),
    ]


def _size(document: Mapping[str, Any], point: str | None) -> list[str]:
    """Params, their share of the whole network's, and MACs of a candidate."""
    candidate, whole = (entry_of(document["candidates"], each) or {} for each in (point, None))
    params = finite(candidate.get("params"))
    return [
        *(fixed(params / 1e6, 3), share(params, finite(whole.get("params")))),
        fixed(finite(candidate.get("macs")) / 1e9, 3),
    ]


def _mean_seconds(entry: Mapping[str, Any] | None) -> float:
    seconds = [value for value in (entry or {}).get("seconds") or () if value is not None]
    return sum(seconds) / len(seconds) if seconds else math.nan
