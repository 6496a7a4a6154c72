"""Tables of a truncation search, as markdown and as plain text: the methods beside each other, and all candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ttl_monai.reports.search_document import (
    check_document,
    done,
    entry_of,
    finite,
    method_name,
    one_line,
    ordered_methods,
    patients,
    point_name,
)
from ttl_monai.reports.tables import _line as markdown_line

RULES = {
    "best": "the highest mean, of equal ones the smaller network",
    "within-one-std": "the smallest network within one standard deviation of the highest mean",
}
READING = (
    "Regret: how far the mean lies below the best mean of the exhaustive search. Cost: the recorded time of the cells "
    "that the method asked for, whichever method had them trained. Params and MACs include the head. The probe as the "
    "model is the pretrained network up to the cut, frozen, with the probe as its head. A cut at random: the mean over "
    "all candidates."
)


class _Row(NamedTuple):
    """One line of the methods table: names and numbers, not yet text."""

    method: str
    pick: str | None  # a name to show as code, None where there is nothing to name
    mean: float = math.nan
    std: float = math.nan
    regret: float = math.nan
    regret_std: float = math.nan
    point: str | None = None  # whose params and MACs; used with `sized`
    sized: bool = False
    cells: int | None = None
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
    return "\n\n".join([table, *describe(document), READING, f"Repeat it: `{document['command']}`"]) + "\n"


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
        cells = [_code(point_name(point)) if point else point_name(point), candidate["level"], *_size(document, point)]
        cells += [_entry_score(trained), f"{done(trained)}/{document['repeats']}" if trained else "-"]
        cells += [_duration(_mean_seconds(trained))]
        cells += [_entry_score(guess)] if probe else []
        cells += [_fixed(finite((entry_of(svcca, point) or {}).get("overlap")), 2)] if svcca else []
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
    return "\n".join([*lines, "", *_notes(document, str)]) + "\n"


def methods_lines(document: Mapping[str, Any]) -> list[str]:
    """The lines of the markdown table of the methods, without what stands under it; the document is not checked."""
    heads = ["method", "pick", f"`{document['metric']}`", "regret", "params (M)", "of FTL", "MACs (G)", "cells"]
    heads += ["cost", "of two-stage's"]
    lines = [markdown_line(heads), markdown_line(["---", "---"] + ["---:"] * (len(heads) - 2))]
    return lines + [markdown_line(_texts(document, row, _code)) for row in _rows(document)]


def describe(document: Mapping[str, Any]) -> list[str]:
    """Markdown paragraphs: what the search was measured on, what failed or was not determined, and the test split."""
    settings = ", ".join(f"{key} {value}" for key, value in document["settings"].items())
    repeats = document["repeats"]
    spread = (
        f"mean ± sample standard deviation over {repeats} repeats, each with its own split by patient"
        if repeats > 1
        else "one repeat, so that no spread is known"
    )
    threads = f" Threads of one worker: {document['threads']}." if "threads" in document else ""
    text = (
        f"Dataset: {document['dataset']}, {patients(document)}. Backbone: `{document['backbone']}`, weights: "
        f"`{document['weights']}`, {settings}. `{document['metric']}` of the validation split, {spread}; picked is "
        f"{RULES.get(document['rule'], document['rule'])}, of the cuts with at least {100 * document['quorum']:.0f} % "
        f"of their repeats done.{threads}"
    )
    return [text, *_notes(document, _code), *_test_split(document)]


def _rows(document: Mapping[str, Any]) -> list[_Row]:
    """All lines of the methods table, the methods with the reference first."""
    rows, after = [], []
    for row in ordered_methods(document):
        name, costs = method_name(row["method"]), {"cells": row["cells"], "seconds": finite(row["seconds"])}
        if not row["determined"]:
            rows.append(_Row(name, None, **costs))
        else:
            scores = (finite(row["mean"]), _spread(row["n"], row["std"]), finite(row["regret"]))
            rows.append(_Row(name, point_name(row["pick"]), *scores, point=row["pick"], sized=True, **costs))
        if row.get("before_training"):
            after = _before_training(document, row["before_training"])
    if document["random"]:
        regret, std = (finite(document["random"].get(key)) for key in ("regret", "std_over_splits"))
        after.append(_Row("a cut at random", None, regret=regret, regret_std=std))
    whole = entry_of(document["curve"], None)
    if whole and not math.isnan(finite(whole["mean"])):
        mean, seconds = finite(whole["mean"]), sum(value for value in whole["seconds"] if value is not None)
        scores = (mean, _spread(done(whole), whole["std"]), _best(document) - mean)
        after.append(
            _Row("FTL", point_name(None), *scores, point=None, sized=True, cells=len(whole["values"]), seconds=seconds)
        )
    return rows + after


def _before_training(document: Mapping[str, Any], before: Mapping[str, Any]) -> list[_Row]:
    """The probe's pick as a cut to train, and the probe at that cut as a model of its own; both for the same time."""
    point, seconds = before["pick"], finite(before["seconds"])
    trained, probe = entry_of(document["curve"], point), entry_of(document["probe"], point)
    common: dict[str, Any] = {"point": point, "sized": True, "seconds": seconds}
    scores = (finite(trained["mean"]), _spread(done(trained), trained["std"])) if trained else (math.nan, math.nan)
    name = point_name(point)
    rows = [_Row("probe, before training", name, *scores, finite(before.get("regret")), **common)]
    if probe:
        mean = finite(probe["mean"])
        scores = (mean, _spread(done(probe), probe["std"]))
        rows.append(_Row("probe as the model", name, *scores, _best(document) - mean, **common))
    return rows


def _best(document: Mapping[str, Any]) -> float:
    """The best mean of the exhaustive search, as the regrets of the methods imply it; NaN without a reference."""
    sums = (finite(row["mean"]) + finite(row["regret"]) for row in document["methods"] if row["determined"])
    return next((value for value in sums if not math.isnan(value)), math.nan)


def _texts(document: Mapping[str, Any], row: _Row, code: Callable[[str], str]) -> list[str]:
    """The line's cells as text: method, pick, metric, regret, params, share, MACs, cells, cost, share of two-stage."""
    named = "any" if row.method == "a cut at random" else "undetermined"
    pick = named if row.pick is None else code(row.pick) if row.point else row.pick
    size = _size(document, row.point) if row.sized else ["-"] * 3
    full = next((finite(each["seconds"]) for each in document["methods"] if each["method"] == "two-stage"), math.nan)
    return [
        *(row.method, pick, _score(row.mean, row.std, 3), _score(row.regret, row.regret_std, 4), *size),
        *("-" if row.cells is None else str(row.cells), _duration(row.seconds), _share(row.seconds, full)),
    ]


def _size(document: Mapping[str, Any], point: str | None) -> list[str]:
    """Params, their share of the whole network's, and MACs of a candidate."""
    candidate, whole = (entry_of(document["candidates"], each) or {} for each in (point, None))
    params = finite(candidate.get("params"))
    return [
        *(_fixed(params / 1e6, 3), _share(params, finite(whole.get("params")))),
        _fixed(finite(candidate.get("macs")) / 1e9, 3),
    ]


def _notes(document: Mapping[str, Any], code: Callable[[str], str]) -> list[str]:
    """How many trainings are done and what failed, and why a method names no cut."""
    count = sum(done(entry) for entry in document["curve"])
    failed: dict[str, list[str]] = {}
    for each in document["failed"]:
        failed.setdefault(one_line(each["reason"]), []).append(code(each["cell"]))
    reasons = "; ".join(f"{', '.join(cells)} ({reason})" for reason, cells in failed.items())
    lines = [f"Trainings: {count} done. Cells: {len(document['failed'])} failed{f': {reasons}' if failed else ''}."]
    for row in ordered_methods(document):
        if not row["determined"]:
            lines.append(f"{method_name(row['method'])} names no cut: {one_line(row['reason'] or '')}.")
    return lines


def _test_split(document: Mapping[str, Any]) -> list[str]:
    """The test values of what was chosen, with how they came about, as two paragraphs."""
    test = document["test"]
    if not test:
        return ["The test split was not opened."]
    opened = "opened once the cut was chosen" if test["opened_after_choice"] else "NOT sealed until the cut was chosen"
    rows = [markdown_line(["strategy", "cut", "test"]), markdown_line(["---", "---", "---:"])]
    for row in test["rows"]:
        cut = _code(row["point"]) if row["point"] else point_name(None)
        rows.append(markdown_line([row["strategy"], cut, _entry_score(row)]))
    return [f"The test split was {opened}:", "\n".join(rows)]


def _entry_score(entry: Mapping[str, Any] | None) -> str:
    return "-" if entry is None else _score(finite(entry["mean"]), _spread(done(entry), entry["std"]), 3)


def _spread(count: int, std: float | None) -> float:
    """The standard deviation; NaN (not shown) where one value cannot have any."""
    return finite(std) if count > 1 else math.nan


def _mean_seconds(entry: Mapping[str, Any] | None) -> float:
    seconds = [value for value in (entry or {}).get("seconds") or () if value is not None]
    return sum(seconds) / len(seconds) if seconds else math.nan


def _code(text: str) -> str:
    return f"`{text}`"


def _fixed(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _score(mean: float, std: float, digits: int) -> str:
    return _fixed(mean, digits) + ("" if math.isnan(mean) or math.isnan(std) else f" ± {std:.{digits}f}")


def _share(part: float, whole: float) -> str:
    """Percent, one digit below ten; a dash where there is nothing to compare with."""
    if math.isnan(part) or math.isnan(whole) or whole <= 0:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
