"""From the files of an experiment's runs to its tables: rows with their costs, and differences between them."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser

from ttl_monai.analysis import PairedScores, classification_measure, mean_measure, paired_differences, t_test
from ttl_monai.data import Datalist
from ttl_monai.engines.configs import quiet
from ttl_monai.engines.experiments.cells import Plan, Row
from ttl_monai.engines.runs import build_network, load_spec
from ttl_monai.networks import measure_latencies
from ttl_monai.reports.published import published_row

SETTINGS = ("spatial_size", "batch_size", "max_epochs", "learning_rate")
_COMPARED = {"segmentation": ("dice", "jaccard")}  # by task; else AUROC and AUPRC
_BOOTSTRAP = "bootstrap over patients (percentile), paired by image"
_NO_INTERVAL = "no interval: predictions.csv of several labels has no unknown ones"
_P = {True: "p: paired t-test over the repeats", False: "one repeat, hence no p"}


def make_table(
    plan: Plan, *, output_dir: Path, repeated: str, pairs: Sequence[tuple[Row, Row]] | None = None
) -> dict[str, Any]:
    """The table of finished cells.

    Args:
        plan: the cells.
        output_dir: folder of the experiment, from which the paths of runs are given.
        repeated: what each repeat has of its own, as "split by patient".
        pairs: rows of which the difference, first minus second, is given; None compares each with the first row, FTL.

    Returns:
        What was trained on what, `rows` (see `make_row`) and `differences` (see `compare_rows`).
    """
    first = plan.run(plan.rows[0], 0)
    spec, record = load_spec(first), _read(first / "run.json")
    parser = ConfigParser(record["config"])
    definition = spec["network_def"]
    dataset = Datalist.load(plan.repeats[0].datalist, plan.dataset_dir, check_files=False).name
    table = {
        "dataset": dataset,
        "bundle": plan.bundle.name,
        "backbone": definition.get("backbone") or definition["encoder"],
        "weights": plan.weights or definition["weights"],
        **{name: parser.get_parsed_content(name) for name in SETTINGS},
        "threads": torch.get_num_threads(),
        "repeated": repeated,
    }
    table["rows"] = [{**row, "published": published_row(table, row)} for row in make_rows(plan, output_dir)]
    against = plan.rows[0]
    compared = [(row, against) for row in plan.rows[1:]] if pairs is None else pairs
    table["differences"] = [each for pair in compared for each in compare_rows(plan, *pair)]
    return table


def make_rows(plan: Plan, output_dir: Path) -> list[dict[str, Any]]:
    """One line a row of the plan.

    Args:
        plan: its cells are finished.
        output_dir: see `make_table`.

    Returns:
        `strategy`, `cut`, `repeats` (see `read_cell`), `metrics` (of the test section, means over the repeats; None
        where one is undefined), `params`, `trainable_params` and `macs` (the paper's
        convention), `latency_ms` of one image on the CPU and, where CUDA is there, `latency_gpu_ms`, `seconds` of all
        its trainings, and `run`, the folder of the first.
    """
    rows = []
    taken = latencies([plan.run(row, 0) for row in plan.rows])
    for row, latency in zip(plan.rows, taken, strict=True):
        repeats = [read_cell(plan, row, number) for number in range(len(plan.repeats))]
        run = plan.run(row, 0)
        record = _read(run / "run.json")
        rows.append(
            {
                "strategy": row.title,
                "cut": row.cut or ("all" if row.strategy == "HTL" else None),
                "repeats": repeats,
                "metrics": _means(repeats),
                **{name: record[name] for name in ("params", "trainable_params", "macs")},
                **latency,
                "seconds": round(sum(each["wall_s"] for each in repeats), 1),
                "run": Path(os.path.relpath(run, output_dir)).as_posix(),
            }
        )
    return rows


def _means(repeats: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    names = [name for name, value in repeats[0].items() if name.startswith("test_") and isinstance(value, float | None)]
    columns = {name: [each[name] for each in repeats if each.get(name) is not None] for name in names}
    whole = len(repeats)
    return {name: round(fmean(column), 6) if len(column) == whole else None for name, column in columns.items()}


def read_cell(plan: Plan, row: Row, number: int) -> dict[str, Any]:
    """A repeat of a row, from the files of its run and of its evaluation.

    Metrics of the validation section are those of the best epoch, which was chosen by them; those of the test section
    are of that epoch's network, and nothing was chosen by them.
    """
    run = plan.run(row, number)
    record, model = _read(run / "run.json"), _read(run / "model.json")
    test = _read(plan.cell(row, number) / "test" / "metrics.json")
    return {
        "split": number,
        "seed": record["seed"],
        **model["validation"],
        **{name: value for name, value in test.items() if name.startswith("test_") and not isinstance(value, dict)},
        "best_epoch": model["epoch"],
        "epochs": len(record["history"]),
        "wall_s": round(sum(each["seconds"] for each in record["history"]), 1),
    }


def latencies(runs: Sequence[Path]) -> list[dict[str, float]]:
    """Median milliseconds of one image through the networks of runs, on the CPU and, where it is there, by CUDA."""
    pairs = []
    for run in runs:
        with quiet("ttl_monai"):  # the weights were announced when it was trained
            network, spec = build_network(run), load_spec(run)
        size = spec["spatial_size"]
        shape = size if isinstance(size, list) else (size, size)
        pairs.append((network, torch.rand(1, spec["network_def"]["in_channels"], *shape)))
    found = [{"latency_ms": round(each, 2)} for each in measure_latencies(pairs, repeats=50)]
    if torch.cuda.is_available():
        pairs = [(network.to("cuda"), image) for network, image in pairs]
        on_gpu = measure_latencies(pairs, repeats=50)
        found = [{**each, "latency_gpu_ms": round(ms, 2)} for each, ms in zip(found, on_gpu, strict=True)]
    return found


def compare_rows(plan: Plan, first: Row, second: Row) -> list[dict[str, Any]]:
    """The difference of two rows, first minus second, in each metric of the test section.

    `mean`, `low` and `high` (95 %) are those of `paired_differences` on the scores that the evaluations have written:
    both networks on the same images of each repeat's test section, patients drawn with replacement. `p` is the paired
    t-test over the `n` repeats. Of a task with several labels an image there is no interval (`method` says why).

    Args:
        plan: its cells are finished.
        first: a row.
        second: another row.

    Raises:
        ValueError: the two were evaluated on other images.
    """
    numbers = range(len(plan.repeats))
    task = load_spec(plan.run(first, 0))["task"]
    names = _COMPARED.get(task, ("auroc", "auprc"))
    head, p = {"a": first.name, "b": second.name}, _P[len(numbers) > 1]
    if task == "multi-label":
        return [
            {**head, **_by_repeat(plan, first, second, f"test_{name}"), "method": f"{_NO_INTERVAL}; {p}"}
            for name in names
        ]
    scores = []
    for number in numbers:
        a, b = (_predicted(plan.cell(row, number), task) for row in (first, second))
        if a["images"] != b["images"]:
            raise ValueError(
                f"{plan.cell(first, number)} and {plan.cell(second, number)} were evaluated on other images: rows can "
                "be compared on the same test section alone"
            )
        scores.append(PairedScores(a["patients"], a["measure"], b["measure"]))
    found = paired_differences(scores)
    return [
        {
            **head,
            "metric": f"test_{name}",
            **{key: _plain(getattr(found[name], key)) for key in ("mean", "low", "high")},
            "n": found[name].n,
            "p": _plain(found[name].p),
            "patients": found[name].patients,
            "left_out": found[name].left_out,
            "method": f"{_BOOTSTRAP}; {p}",
        }
        for name in names
    ]


def _by_repeat(plan: Plan, first: Row, second: Row, metric: str) -> dict[str, Any]:
    """The difference of the repeats' metrics alone."""
    numbers = range(len(plan.repeats))
    values = [[read_cell(plan, row, number)[metric] for number in numbers] for row in (first, second)]
    a, b = (np.array([math.nan if each is None else each for each in column]) for column in values)
    gap, p = float((a - b).mean()), t_test(a, b)
    return {"metric": metric, "mean": _plain(gap), "low": None, "high": None, "n": len(numbers), "p": _plain(p)}


def _predicted(folder: Path, task: str) -> dict[str, Any]:
    """What an evaluation has written of each image: its id, its patient's key, and what metrics are made from."""
    name = "masks.csv" if task == "segmentation" else "predictions.csv"
    with (folder / "test" / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, Any] = {
        "images": [row["image"] for row in rows],
        "patients": [row["patient"] or row["image"] for row in rows],
    }
    heads = list(rows[0])
    if task == "segmentation":
        columns = {what: [head for head in heads if head.startswith(f"{what}_")] for what in _COMPARED[task]}
        values = {
            what: [[float(row[head] or "nan") for head in named] for row in rows] for what, named in columns.items()
        }
        return {**found, "measure": mean_measure(values)}
    classes = [head.removeprefix("probability_") for head in heads if head.startswith("probability_")]
    labels = [classes.index(row["label"]) for row in rows]
    scores = [[float(row[f"probability_{each}"]) for each in classes] for row in rows]
    return {**found, "measure": classification_measure(labels, scores)}


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
