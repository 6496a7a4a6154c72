"""Tables of results as markdown, and the generated sections of a README that hold them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import ttest_rel

from ttl_monai.reports.published import published_table

STRATEGIES = ("FTL", "HTL", "LWFT", "TF", "TTL")
# Column head and the key within one repeat.
CLASSIFICATION = {"AUROC": "test_auroc", "AUPRC": "test_auprc", "AUPRC (trapezoid)": "test_auprc_trapezoid"}
SEGMENTATION = {"Dice": "test_dice", "Jaccard": "test_jaccard", "HD95": "test_hausdorff95"}
VOLUMES = {"Dice (volumes)": "test_volume_dice"}  # where the images are slices of volumes
MILLIMETRES = {"HD95 (mm)": "test_hausdorff95_mm"}  # where files state the spacing of their pixels
SMALLER_IS_BETTER = {"test_hausdorff95", "test_hausdorff95_mm"}
ABOUT = {
    "test_auroc": "AUPRC is average precision; the trapezoid stands beside it for comparison with the paper.",
    "test_dice": "Dice and Jaccard are means over classes and over the images (of volumes: slices) in which a class is "
    "drawn, 0 where it was missed; HD95, in pixels, over those in which it is drawn and found.",
    "test_hausdorff95_mm": " HD95 (mm) is over those of them whose files state the spacing of their pixels.",
    "test_volume_dice": " Dice (volumes) takes the slices of each volume together.",
}
# Key within a row, divisor, digits.
COSTS = (("params", 1e6, 3), ("trainable_params", 1e6, 3), ("macs", 1e9, 3), ("latency_ms", 1, 1))
COST_HEADS = ("params (M)", "trainable (M)", "MACs (G)", "latency (ms)")
RESULT_KEYS = ("dataset", "backbone", "weights", "spatial_size", "max_epochs", "command", "rows")
ROW_KEYS = ("strategy", "cut", "repeats", "params", "trainable_params", "macs", "latency_ms")
SIGNIFICANCE = 0.05


def results_tables(content: Mapping[str, Any]) -> str:
    """The tables of a `results.json`, one a data set and network: see `results_table`.

    Args:
        content: `tables`, a list of results.

    Raises:
        ValueError: a key is missing, or there is nothing to show.
    """
    _require(content, ("tables",), "results")
    return "\n".join(results_table(each) for each in content["tables"])


def results_table(results: Mapping[str, Any]) -> str:
    """The markdown table of one comparison: one line a strategy and cut, then what it was measured on.

    Metrics are mean ± sample standard deviation over the repeats; one that is undefined in a repeat is NaN. A value is
    bold only where it beats every other line in a paired t-test over the same splits (two-sided p < 0.05). Of a
    segmentation with several classes a second table has the Dice of each. Rows with `published` have the published
    figures in a table of their own, marked as such.

    Args:
        results: `dataset`, `backbone`, `weights`, `spatial_size` (pixels, one number or one an axis), `max_epochs`,
            `command`, `rows` and, if known, `threads` (of the latency) and `repeated` (what each repeat has of its
            own). A row has `strategy`, `cut` (None: the whole network), `repeats` (each with `split` and the keys of
            `CLASSIFICATION`, or those of `SEGMENTATION`), `params`, `trainable_params`, `macs`, `latency_ms`.

    Returns:
        The table and the lines under it, ending in a newline.

    Raises:
        ValueError: a key is missing, or there is nothing to show.
    """
    _require(results, RESULT_KEYS, "results")
    rows = sorted(results["rows"], key=_order)
    if not rows:
        raise ValueError("results hold no rows; write them with the command that trains the strategies")
    for row in rows:
        _require(row, ROW_KEYS, f"the row {row.get('strategy')} {row.get('cut')}")
        if not row["repeats"]:
            raise ValueError(f"the row {row['strategy']} {row['cut']} has no repeats")
    first = rows[0]["repeats"][0]
    metrics = SEGMENTATION if "test_dice" in first else CLASSIFICATION
    if VOLUMES["Dice (volumes)"] in first:
        metrics = {**VOLUMES, **metrics}
    if first.get(MILLIMETRES["HD95 (mm)"]) is not None:
        metrics = {**metrics, **MILLIMETRES}
    for row in rows:
        for repeat in row["repeats"]:
            _require(repeat, ("split", *metrics.values()), f"a repeat of {row['strategy']} {row['cut']}")
    bold = {head: _clear_winner(rows, key) for head, key in metrics.items()}
    heads = ("strategy", "cut", *metrics, *COST_HEADS)
    lines = [_line(heads), _line(["---", "---"] + ["---:"] * (len(heads) - 2))]
    lines += [
        _line(_cells(row, metrics.values(), [bold[head] == number for head in metrics]))
        for number, row in enumerate(rows)
    ]
    lines += _by_class(rows)
    about = "".join(text for key, text in ABOUT.items() if key in metrics.values())
    return (
        "\n".join(
            [
                *lines,
                "",
                *_legend(results, rows, about, any(winner is not None for winner in bold.values())),
                *([""] if (published := published_table(rows)) else []),
                *published,
            ]
        )
        + "\n"
    )


def update_section(readme: str, name: str, text: str) -> str:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Args:
        readme: the document.
        name: the name of the section.
        text: the new content; blank lines around it are made here.

    Returns:
        The document with the new section; equal to `readme` when nothing changed.

    Raises:
        ValueError: the two marker lines do not stand there exactly once, in this order.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(
            f"expected one section {begin} … {end}, got {readme.count(begin)} and {readme.count(end)} of these lines; "
            "put the two lines, in this order, where the section shall stand"
        )
    head, rest = readme.split(begin)
    return f"{head}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}"


def place_of(row: Mapping[str, Any]) -> str:
    """Strategy and cut of a row, in words."""
    return " ".join(filter(None, (str(row.get("strategy", "")), row.get("cut") and str(row["cut"]))))


def _order(row: Mapping[str, Any]) -> tuple[int, float, float, str]:
    """The strategies in the paper's order, within one the smaller computation first."""
    strategy = row.get("strategy")
    position = STRATEGIES.index(strategy) if strategy in STRATEGIES else len(STRATEGIES)
    return position, row.get("macs") or 0, row.get("trainable_params") or 0, str(row.get("cut"))


def _require(mapping: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if key not in mapping]
    if missing:
        raise ValueError(f"{where} must have the keys {', '.join(keys)}; missing: {', '.join(missing)}")


def _values(row: Mapping[str, Any], key: str) -> dict[int, float]:
    """Split -> value; a metric that was undefined is null in JSON and NaN here."""
    return {repeat["split"]: math.nan if repeat[key] is None else float(repeat[key]) for repeat in row["repeats"]}


def _clear_winner(rows: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """The number of the row that beats every other one on the same splits, if there is one."""
    sign = -1 if key in SMALLER_IS_BETTER else 1
    values = [{split: sign * value for split, value in _values(row, key).items()} for row in rows]
    splits = sorted(values[0])
    comparable = all(sorted(each) == splits and not any(map(math.isnan, each.values())) for each in values)
    if len(rows) < 2 or len(splits) < 2 or not comparable:
        return None
    columns = [[each[split] for split in splits] for each in values]
    best = max(range(len(rows)), key=lambda number: fmean(columns[number]))
    for number, column in enumerate(columns):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # equal columns: p is NaN, which is no win
            beaten = number == best or ttest_rel(columns[best], column).pvalue < SIGNIFICANCE
        if not beaten:
            return None
    return best


def _by_class(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A second table, of the Dice of each class; nothing where there is one class, or another task."""
    start, others = "test_dice_", ("left_out", "false_alarms", "interval")
    keys = [key for key in rows[0]["repeats"][0] if key.startswith(start) and key.removeprefix(start) not in others]
    if not keys:
        return []
    heads = ("strategy", "cut", *(f"Dice, {key.removeprefix(start)}" for key in keys))
    return [
        "",
        _line(heads),
        _line(["---", "---"] + ["---:"] * len(keys)),
        *(_line([*_place(row), *_scores(row, keys)]) for row in rows),
    ]


def _place(row: Mapping[str, Any]) -> list[str]:
    return [row["strategy"], "-" if row["cut"] is None else f"`{row['cut']}`"]


def _scores(row: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    return [_mean_std(list(_values(row, key).values())) for key in keys]


def _cells(row: Mapping[str, Any], keys: Iterable[str], bold: Sequence[bool]) -> list[str]:
    scores = _scores(row, keys)
    return [
        *_place(row),
        *(f"**{score}**" if heavy else score for score, heavy in zip(scores, bold, strict=True)),
        *(_number(row[key], scale, digits) for key, scale, digits in COSTS),
    ]


def _number(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{value / scale:.{digits}f}"


def _mean_std(values: Sequence[float]) -> str:
    if any(math.isnan(value) for value in values):
        return "NaN"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _legend(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], about: str, bold: bool) -> list[str]:
    size = results["spatial_size"]
    sides = size if isinstance(size, Sequence) else (size, size)
    pixels = "x".join(map(str, sides)) + (" pixels" if len(sides) == 2 else " voxels")
    source = results.get("repeated", "split by patient")
    counts = sorted({len(row["repeats"]) for row in rows})
    repeats = " or ".join(str(count) for count in counts)
    spread = (
        "one run, so that no spread is known"
        if counts == [1]
        else f"mean ± sample standard deviation over {repeats} repeats, each with its own {source}"
    )
    count = results.get("threads")
    threads = "" if count is None else f", {count} thread{'' if count == 1 else 's'}"
    test = "every other line in a paired t-test over the splits (p < 0.05)."
    noise = f" Bold: better than {test}" if bold else f" No value is bold: none beats {test}"
    return [
        f"Dataset: {results['dataset']}. Backbone: `{results['backbone']}`, weights: `{results['weights']}`, "
        f"{pixels}, at most {results['max_epochs']} epochs. Test set, {spread}. {about} Latency: "
        f"one image on the CPU{threads}.{'' if counts == [1] else noise}",
        *(line for note in results.get("notes", ()) for line in ("", note)),
        "",
        f"Repeat it: `{results['command']}`",
    ]
