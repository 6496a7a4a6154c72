"""What was found, in a few sentences and numbers made from the records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ttl_monai.reports.page.blocks import fixed, interval, numbers, px, spread
from ttl_monai.reports.page.inputs import Inputs, comparable
from ttl_monai.reports.page.runs import Run
from ttl_monai.reports.page.strategies import head_of, metric_keys, run_differences
from ttl_monai.reports.search_document import method_name, patients, point_name, share
from ttl_monai.reports.tables import place_of

MOST = 4  # sentences


@dataclass
class Summary:
    """The top of the page.

    Attributes:
        sentences: what was found.
        tiles: a number, what it is, and what stands under it.
    """

    sentences: list[str] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)


def summarise(inputs: Inputs) -> Summary:
    """The truncated network that is named is the best on the validation section, never by the test section."""
    found = Summary()
    for table in inputs.tables:
        _of_table(table, found, several=len(inputs.tables) > 1)
    if not inputs.tables:
        for group in comparable(inputs.runs):
            _of_runs(group, found)
    for document in inputs.searches:
        _of_search(document, found)
    for document in inputs.similarities:
        names = " and ".join(map(str, document["runs"]))
        place = document["pick"] or "the end of the network"
        said = f"the transition lies at {place}" if document["determined"] else "no transition is determined"
        found.sentences.append(f"SVCCA of {names}: {said}.")
    found.sentences, found.tiles = found.sentences[:MOST], found.tiles[:MOST]
    return found


def _of_table(table: Mapping[str, Any], found: Summary, *, several: bool) -> None:
    rows, keys = [row for row in table["rows"] if row.get("repeats")], metric_keys(table["rows"])
    whole = next((row for row in rows if row.get("strategy") == "FTL"), None)
    cuts = [row for row in rows if row.get("strategy") == "TTL"]
    if not keys or not cuts:
        return
    row = max(cuts, key=_on_validation)
    key, name = keys[0], place_of(row)
    parts = _kept(name, row, whole)
    gap = next(
        (
            each
            for each in table.get("differences") or ()
            if each["a"] == name and whole is not None and each["b"] == place_of(whole) and each["metric"] == key
        ),
        None,
    )
    values = numbers(row["repeats"], key)
    if gap is not None and gap["mean"] is not None:
        parts += _gap(head_of(key), gap)
    elif whole is not None:
        parts.append(f"{head_of(key)} {spread(values)}, FTL {spread(numbers(whole['repeats'], key))}")
    else:
        parts.append(f"{head_of(key)} {spread(values)}")
    pixels = f" at {px(table['spatial_size'])}" if table.get("spatial_size") is not None else ""
    which = f", {table['backbone']} from {table['weights']}{pixels}" if several else ""
    found.sentences.append(f"On {table['dataset']}{which}, {'; '.join(parts)}.")
    _tiles(found, name, head_of(key), spread(values), row, whole)
    if whole is not None and row.get("latency_ms") and whole.get("latency_ms"):
        times = f"{whole['latency_ms'] / row['latency_ms']:.1f}x"
        under = f"{row['latency_ms']:.1f} ms, FTL {whole['latency_ms']:.1f} ms"
        found.tiles.append((times, "as fast on the CPU", under))


def _of_runs(runs: Sequence[Run], found: Summary) -> None:
    scored = [(run, key) for run in runs for key in ("auroc", "dice") if run.metrics.get(f"test_{key}") is not None]
    whole = next((run for run in runs if run.record["strategy"] == "FTL"), None)
    cuts = [(run, key) for run, key in scored if run.record["strategy"] == "TTL"]
    if not scored:
        return
    run, key = max(cuts or scored, key=lambda pair: _best(pair[0]))
    size, of = run.record, whole.record if whole is not None and whole is not run else None
    parts = _kept(run.title, size, of)
    gap = next((d for d in run_differences(runs) if d["a"] == run.title and d["metric"] == f"test_{key}"), None)
    value = interval(run.metrics[f"test_{key}"], run.metrics.get(f"test_{key}_interval"))
    head = head_of(f"test_{key}")
    parts += _gap(head, gap, run_b=gap["b"]) if gap is not None and of is not None else [f"{head} {value}"]
    found.sentences.append(f"On {run.data}, {'; '.join(parts)}.")
    pair = run.metrics.get(f"test_{key}_interval")
    between = f", 95 % CI {fixed(pair[0])} to {fixed(pair[1])}" if pair else ""
    _tiles(found, run.title + between, head, fixed(run.metrics[f"test_{key}"]), size, of)


def _of_search(document: Mapping[str, Any], found: Summary) -> None:
    whole = next((each for each in document["candidates"] if each["point"] is None), None)
    sizes = {each["point"]: each["params"] for each in document["candidates"]}
    picks = [
        f"{method_name(row['method'])} {point_name(row['pick'])}"
        + (f" ({share(sizes[row['pick']], whole['params'])} of the parameters)" if whole else "")
        for row in document["methods"]
        if row["determined"]
    ]
    if picks:
        found.sentences.append(f"The search on {document['dataset']} ({patients(document)}) picks: {', '.join(picks)}.")


def _kept(name: str, row: Mapping[str, Any], whole: Mapping[str, Any] | None) -> list[str]:
    if whole is None or not row.get("params") or not whole.get("params"):
        return [name]
    return [f"{name} keeps {share(row['params'], whole['params'])} of the parameters of FTL"]


def _gap(head: str, gap: Mapping[str, Any], run_b: str = "FTL") -> list[str]:
    known = gap.get("low") is not None and math.isfinite(gap["low"])
    between = f" (95 % CI {gap['low']:+.3f} to {gap['high']:+.3f})" if known else ""
    p = f", p = {gap['p']:.2f} over {gap['n']} repeats" if gap.get("p") is not None else ""
    return [f"{head} difference to {run_b} {gap['mean']:+.3f}{between}{p}"]


def _tiles(
    found: Summary, name: str, head: str, value: str, row: Mapping[str, Any], whole: Mapping[str, Any] | None
) -> None:
    found.tiles.append((value, f"{head}, test section", name))
    for key, scale, unit, what in (("params", 1e6, "M", "parameters"), ("macs", 1e9, "G", "multiplications")):
        if not row.get(key):
            continue
        size = f"{row[key] / scale:.3f} {unit}"
        if whole is not None and whole.get(key):
            of = f"{size} of {whole[key] / scale:.3f} {unit}"
            found.tiles.append((share(row[key], whole[key]), f"of the {what}", of))
        else:
            found.tiles.append((size, what, name))


def _on_validation(row: Mapping[str, Any]) -> float:
    """Mean of the first validation metric: what a cut may be chosen by."""
    repeats = row["repeats"]
    key = next((key for key in ("val_auprc", "val_jaccard", "val_dice", "val_auroc") if key in repeats[0]), None)
    values = [] if key is None else [each[key] for each in repeats if each.get(key) is not None]
    return fmean(values) if values else -math.inf


def _best(run: Run) -> float:
    best = run.record.get("best") or {}
    values = [best[key] for key in ("val_auprc", "val_jaccard", "val_dice") if best.get(key) is not None]
    return float(values[0]) if values else -math.inf
