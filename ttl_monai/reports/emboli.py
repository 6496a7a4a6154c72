"""The table of the synthetic-embolus experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttl_monai.reports.tables import _line as markdown_line
from ttl_monai.reports.tables import _mean_std as mean_std
from ttl_monai.reports.tables import _require as require_keys

# Column head and the key within one repeat.
COLUMNS = {
    "AUROC": "test_auroc",
    "AUPRC": "test_auprc",
    "pairs": "pairs_won",
    "elsewhere": "elsewhere_auroc",
}
HEADS = ("network", "weights", "strategy", "cut", *COLUMNS, "params (M)")
RESULT_KEYS = ("pairs", "diameters_mm", "margin_mm", "spatial_size", "command", "rows")
ROW_KEYS = ("backbone", "weights", "strategy", "cut", "shuffled", "params", "repeats")


def emboli_table(results: Mapping[str, Any]) -> str:
    """The markdown table of `emboli.json`, written by benchmarks/synthetic_emboli.py, and what it says.

    Metrics are mean ± sample standard deviation over the seeds.

    Args:
        results: RESULT_KEYS; each of `rows` has ROW_KEYS, each of their `repeats` the keys of COLUMNS.

    Returns:
        The table and the lines under it, ending in a newline.

    Raises:
        ValueError: a key is missing, or there is nothing to show.
    """
    require_keys(results, RESULT_KEYS, "results")
    if not results["rows"]:
        raise ValueError("results hold no rows; write them with benchmarks/synthetic_emboli.py")
    lines = [markdown_line(HEADS), markdown_line(["---"] * 4 + ["---:"] * (len(HEADS) - 4))]
    for row in results["rows"]:
        name = f"the row {row.get('backbone')} {row.get('cut')}"
        require_keys(row, ROW_KEYS, name)
        if not row["repeats"]:
            raise ValueError(f"{name} has no repeats")
        for repeat in row["repeats"]:
            require_keys(repeat, tuple(COLUMNS.values()), f"a repeat of {name}")
        lines.append(markdown_line(_cells(row)))
    pairs, (low, high) = results["pairs"], results["diameters_mm"]
    seeds = {len(row["repeats"]) for row in results["rows"]}
    note = (
        "Artificial defects in one CT of one patient: whether the pipeline learns them, at positions that it has not "
        "seen; nothing follows from it for patients. Mean ± standard deviation of "
        f"{' to '.join(map(str, sorted(seeds)))} seeds, each with other positions, {pairs['training']}, "
        f"{pairs['validation']} and {pairs['test']} pairs of scans for training, validation and test, defects of "
        f"{low:g} to {high:g} mm, positions of sections at least {results['margin_mm']:g} mm apart, windows (whole "
        f"scans) of {' x '.join(map(str, results['spatial_size']))}. AUROC and AUPRC are of test scans. Pairs: how "
        "often the scan with defects scores higher than its twin without. Elsewhere: AUROC against scans with equal "
        "defects in veins, heart and aorta, none of which were in training."
    )
    return "\n".join([*lines, "", note, "", f"Repeat it: `{results['command']}`"]) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    values = {head: [float(repeat[key]) for repeat in row["repeats"]] for head, key in COLUMNS.items()}
    return [
        f"`{row['backbone']}`",
        row["weights"],
        row["strategy"] + (", labels shuffled" if row["shuffled"] else ""),
        "-" if row["cut"] is None else f"`{row['cut']}`",
        *(mean_std(each) for each in values.values()),
        f"{row['params'] / 1e6:.3f}",
    ]
