"""Strategies beside each other: what they reach, what they cost, how sure the differences are, what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ttl_monai.analysis import PairedScores, paired_differences
from ttl_monai.reports.page.blocks import NONE, Section, Table, fixed, interval, numbers, spread
from ttl_monai.reports.page.inputs import Inputs, comparable
from ttl_monai.reports.page.runs import Run
from ttl_monai.reports.search_document import duration, share
from ttl_monai.reports.tables import (
    CLASSIFICATION,
    COST_HEADS,
    COSTS,
    MILLIMETRES,
    SEGMENTATION,
    VOLUMES,
    _order,
    place_of,
)

METRICS = {**CLASSIFICATION, **VOLUMES, **SEGMENTATION, **MILLIMETRES}
HEAD_OF = {key: head for head, key in METRICS.items()}
PUBLISHED = {"test_auroc": "auroc", "test_auprc_trapezoid": "auprc"}  # the paper's AUPRC is by trapezoids
SPEEDS = {"cpu_s": "CPU", "gpu_s": "GPU"}
INTERVALS = ("auroc", "auprc", "dice", "jaccard")


def strategies_section(inputs: Inputs) -> Section:
    """The tables of experiments and of single runs, and the differences."""
    blocks: list[Table] = []
    for table in inputs.tables:
        blocks += [_experiment_table(table)] if table["rows"] else []
        # Those of maps are in their own section.
        differences = [each for each in table.get("differences") or () if is_metric(each["metric"])]
        blocks += [differences_table(differences, table["dataset"])] if differences else []
    blocks += [_starts_table(content["sources"]) for _, content in inputs.experiments if content.get("sources")]
    if inputs.runs and not inputs.tables:
        for group in comparable(inputs.runs):
            blocks.append(_runs_table(group))
            differences = run_differences(group)
            blocks += [differences_table(differences, "the same test images")] if differences else []
    missing = [] if inputs.runs or inputs.tables else ["No training and no experiment was given: no strategies."]
    return Section("strategies", "Strategies", blocks, missing)


def run_differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each run minus the first FTL run (else the first run), where both were evaluated on the same images.

    Returns:
        `a`, `b`, `metric`, and `mean`, `low`, `high`, `patients` of `paired_differences`.
    """
    scored = [(run, run.test or run.masks) for run in runs if run.labels_known and (run.test or run.masks)]
    against = next((pair for pair in scored if pair[0].record["strategy"] == "FTL"), scored[0] if scored else None)
    found = []
    for run, scores in scored:
        if against is None or run is against[0] or scores is None or against[1] is None:
            continue
        if list(scores.images) != list(against[1].images):
            continue
        for name, gap in paired_differences(
            [PairedScores(scores.patients, scores.measure, against[1].measure)]
        ).items():
            found.append(
                {
                    **{"a": run.title, "b": against[0].title, "metric": f"test_{name}"},
                    **{"mean": gap.mean, "low": gap.low, "high": gap.high, "n": 1, "p": None},
                    "patients": gap.patients,
                }
            )
    return found


def metric_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that every repeat of every row has: those of the tables, else all of the test, else of validation."""
    repeats = [repeat for row in rows for repeat in row.get("repeats") or ()]
    if not repeats:
        return []
    shared = [key for key in repeats[0] if all(_is_number(repeat.get(key, "")) for repeat in repeats)]
    empty = {key for key in MILLIMETRES.values() if all(repeat.get(key) is None for repeat in repeats)}
    known = [key for key in METRICS.values() if key in shared and key not in empty]
    tested = [key for key in shared if key.startswith("test_")]
    return known or tested or [key for key in shared if key.startswith("val_")]


def is_metric(key: str) -> bool:
    """Whether a key is of a metric of the network, and not of its maps."""
    return key.startswith(("test_", "val_"))


def head_of(key: str) -> str:
    """The name of a metric for readers."""
    section, _, name = key.partition("_")
    known = HEAD_OF.get(f"test_{name}", name.replace("_", " "))
    return f"validation {known}" if section == "val" else known if section == "test" else key.replace("_", " ")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _experiment_table(table: Mapping[str, Any]) -> Table:
    rows = sorted(table["rows"], key=_order)
    keys = metric_keys(rows)
    if not keys:
        return _plain_table(table)
    if not any(row.get("published") for row in rows) and "test_auprc" in keys:
        keys = [key for key in keys if key != "test_auprc_trapezoid"]  # it is for comparison with the paper
    whole = next((row.get("params") for row in rows if row.get("strategy") == "FTL"), None)
    gpu, timed = (any(row.get(key) is not None for row in rows) for key in ("latency_gpu_ms", "seconds"))
    heads = ["strategy", "cut", *map(head_of, keys), COST_HEADS[0], "of FTL", *COST_HEADS[1:]]
    heads += ["GPU (ms)"] * gpu + ["training"] * timed
    lines, published = [], set()
    for row in rows:
        costs = [fixed(_scaled(row.get(key), scale), digits) for key, scale, digits in COSTS]
        costs.insert(1, share(_nan(row.get("params")), _nan(whole)))
        costs += [fixed(row.get("latency_gpu_ms"), 2)] * gpu + [duration(_nan(row.get("seconds")))] * timed
        scores = [spread(numbers(row["repeats"], key)) for key in keys]
        lines.append([str(row["strategy"]), str(row.get("cut") or NONE), *scores, *costs])
        if row.get("published"):
            published.add(len(lines))
            lines.append(_published(row["published"], keys, len(heads)))
    return Table(
        caption=f"{table['dataset']}: {table['backbone']}, weights {table['weights']}, {_size(table)}, "
        f"at most {table['max_epochs']} epochs",
        heads=heads,
        rows=lines,
        text=2,
        published=frozenset(published),
        notes=[*_about(table, rows), *_sources(rows)],
    )


def _starts_table(sources: Sequence[Mapping[str, Any]]) -> Table:
    """The trainings on other data that the networks started from."""
    keys = [key for key in ("val_auroc", "val_auprc") if all(key in each for each in sources)]
    heads = ["source", "data", "labels", *map(head_of, keys), "epochs", "model (SHA-256)"]
    rows = [
        [
            *(str(each["name"]), str(each["dataset"]), ", ".join(each["class_names"])),
            *(fixed(each[key]) for key in keys),
            *(str(each["epochs"]), str(each["sha256"])[:16]),
        ]
        for each in sources
    ]
    return Table("What the networks were pretrained on", heads, rows, text=3)


def _published(figures: Mapping[str, Any], keys: Sequence[str], width: int) -> list[str]:
    """The line of what the paper has, in the columns of the table."""
    scores = [str(figures.get(PUBLISHED.get(key, ""), None) or NONE) for key in keys]
    costs = [NONE] * (width - 2 - len(keys))
    costs[0] = fixed(_scaled(figures.get("params"), 1e6), 3)
    costs[3] = fixed(_scaled(figures.get("macs"), 1e9), 3)
    return ["published", str(figures.get("cut") or NONE), *scores, *costs]


def _about(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = sorted({len(row["repeats"]) for row in rows})
    repeats = " or ".join(map(str, counts))
    own = table.get("repeated", "split by patient")
    said = (
        "One run: no spread is known."
        if counts == [1]
        else f"Mean ± sample standard deviation of {repeats} " + (f"repeats, each with its own {own}.")
    )
    many = "s" if table.get("threads") != 1 else ""
    threads = f" with {table['threads']} thread{many}" if table.get("threads") else ""
    nothing = "The paper's figures at hand have nothing for these rows."
    unpublished = all("published" in row and not row["published"] for row in rows)
    about = [f"Test section. {said} Latency: one image on the CPU{threads}.", *table.get("notes", ())]
    return [*about, *([nothing] if unpublished else [])]


def _sources(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the published lines are and what differs; what all of them share stands once, at the end."""
    named = [(place_of(row), row["published"]) for row in rows if row.get("published")]
    differs = [str(each.get("differs") or "").split("; ") for _, each in named]
    shared = [text for text in differs[0] if all(text in texts for texts in differs)] if len(named) > 1 else []
    said: dict[str, list[str]] = {}
    for (place, each), texts in zip(named, differs, strict=True):
        own = "; ".join(text for text in texts if text and text not in shared)
        speed = [f"{each[key]:g} s on the {unit}" for key, unit in SPEEDS.items() if each.get(key) is not None]
        text = f"{each.get('source', 'source not stated')}{', ' if speed else ''}{' and '.join(speed)}."
        said.setdefault(text + (f" Differs: {own}." if own else ""), []).append(place)
    lines = [f"Published beside {', '.join(places)}: {text}" for text, places in said.items()]
    return [*lines, f"Differs in all of these: {'; '.join(shared)}."] if any(shared) else lines


def _plain_table(table: Mapping[str, Any]) -> Table:
    """Rows without repeats, as they are: every value that is text or a number."""
    flat = [{**row, **(row.get("metrics") or {})} for row in table["rows"]]
    plain = {
        key: None for row in flat for key, value in row.items() if isinstance(value, str | int | float) and key != "run"
    }
    text = [key for key in plain if any(isinstance(row.get(key), str) for row in flat)]
    heads = [*text, *(key for key in plain if key not in text)]
    cells = [[_cell(row.get(key)) for key in heads] for row in flat]
    caption = ", ".join(str(table[key]) for key in ("dataset", "backbone", "weights") if table.get(key))
    return Table(caption, [head.replace("_", " ") for head in heads], cells, text=max(len(text), 1))


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _runs_table(runs: Sequence[Run]) -> Table:
    names = [name for name in INTERVALS if any(f"test_{name}" in run.metrics for run in runs)]
    whole = next((run.record["params"] for run in runs if run.record["strategy"] == "FTL"), None)
    heads = ["run", *(HEAD_OF[f"test_{name}"] for name in names), COST_HEADS[0], "of FTL", *COST_HEADS[1:3]]
    lines = []
    for run in runs:
        scores = [interval(run.metrics.get(f"test_{name}"), run.metrics.get(f"test_{name}_interval")) for name in names]
        costs = [fixed(_scaled(run.record.get(key), scale), digits) for key, scale, digits in COSTS[:3]]
        costs.insert(1, share(_nan(run.record.get("params")), _nan(whole)))
        lines.append([run.title, *scores, *costs, duration(_nan(run.record.get("wall_s")))])
    patients = {run.metrics["bootstrap"]["patients"] for run in runs if "bootstrap" in run.metrics}
    drawn = f" over {' or '.join(map(str, sorted(patients)))} patients" if patients else ""
    notes = [f"Test section. In brackets: 95 % intervals by the bootstrap{drawn}."] if names else []
    return Table(f"{runs[0].data}: {runs[0].network}", [*heads, "training"], lines, notes=notes)


def differences_table(differences: Sequence[Mapping[str, Any]], where: str) -> Table:
    """One row a difference between two networks, with its interval and, over repeats, its p."""
    tested = any(each.get("p") is not None for each in differences)
    lines = [
        [
            f"{each['a']} minus {each['b']}",
            head_of(each["metric"]),
            f"{each['mean']:+.3f}" if _is_finite(each["mean"]) else NONE,
            f"{each['low']:+.3f} to {each['high']:+.3f}" if _is_finite(each.get("low")) else NONE,
            *([fixed(each.get("p"), 2), str(each["n"])] if tested else []),
        ]
        for each in differences
    ]
    methods = list(dict.fromkeys(str(each["method"]) for each in differences if each.get("method")))
    notes = methods or ["Paired bootstrap over patients: both networks on the same images; the trainings held fixed."]
    heads = ["difference", "metric", "mean", "95 % interval", *(["p", "repeats"] if tested else [])]
    return Table(f"Differences, {where}", heads, lines, text=2, notes=notes)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _scaled(value: Any, scale: float) -> float:
    return _nan(value) / scale


def _size(table: Mapping[str, Any]) -> str:
    size = table["spatial_size"]
    sides = size if isinstance(size, Sequence) else (size, size)
    return "x".join(map(str, sides)) + (" pixels" if len(sides) == 2 else " voxels")
