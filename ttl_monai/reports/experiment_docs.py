"""What experiments found, for a model card: their tables and pictures, made from their committed records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttl_monai.reports.by_cut import curves_of, plot_by_cut
from ttl_monai.reports.localisation import plot_localisation
from ttl_monai.reports.similarity import plot_similarity
from ttl_monai.reports.tables import place_of, results_table

TITLES = {
    "strategies": "Strategies",
    "architectures": "Several networks",
    "pooling": "With and without pooling before the head",
    "transition": "Where features stop being reused",
    "interdomain": "Pretrained on x-rays, beside ImageNet",
    "segmentation": "Truncated U-Nets",
    "saliency": "Where the evidence lies",
}
_POOLING_KINDS = {"pooled to 1x1": "", "flattened": ", flattened"}
_DIFFERENCES = 3  # digits


def take_experiment(record: Mapping[str, Any], results: Mapping[str, Any], similarity: Any = None) -> dict[str, Any]:
    """Put the results of an experiment into a bundle's record, in place of those of the same name and networks.

    Args:
        record: `experiments`, a list of results; may be empty.
        results: `results.json` of an experiment.
        similarity: of a transition: the comparison of features of its first repeat.

    Returns:
        The new record. The folders of runs are left out: they stay where they are.

    Raises:
        ValueError: an experiment that has no tables, as `features`.
    """
    name = str(results.get("experiment"))
    if name not in TITLES or not results.get("tables"):
        raise ValueError(f"expected the results of one of {', '.join(TITLES)}, got {name}")
    tables = [{**each, "rows": [{**row, "run": None} for row in each["rows"]]} for each in results["tables"]]
    taken = {**results, "tables": tables} | ({"similarity": similarity} if similarity else {})
    others = [each for each in record.get("experiments", []) if _kind(each) != _kind(taken)]
    order = list(TITLES)
    return {"experiments": sorted([*others, taken], key=lambda each: order.index(each["experiment"]))}


def experiments_section(content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The section of a model card: a heading, a table and a picture for each experiment.

    Args:
        content: see `take_experiment`.
        pictures: by the name of a picture, its address from the card: see `plot_experiment`.
    """
    lines: list[str] = []
    for number, each in enumerate(content["experiments"]):
        title = TITLES[each["experiment"]]
        if [other["experiment"] for other in content["experiments"]].count(each["experiment"]) > 1:
            title += ": " + ", ".join(f"`{table['backbone']}` from {table['weights']}" for table in each["tables"])
        lines += [f"### {title}", ""]
        for table in each["tables"]:
            if each["experiment"] == "saliency":
                lines += [*_shares(table["rows"], each["masks"]), ""]
                lines += [f"Repeat it: `{each['command']}`", ""]
            else:
                lines += [results_table(table), *_differences(table)]
        name = picture_name(content, number)
        if name is not None and name in pictures:
            lines += [f'<img src="{pictures[name]}" width="720" alt="{_alt(each)}">', ""]
    return "\n".join(lines).rstrip() + "\n"


def picture_name(content: Mapping[str, Any], number: int) -> str | None:
    """The file name of the picture of experiment `number` of a record; None where it has none."""
    results = content["experiments"][number]
    name = results["experiment"]
    if name not in ("pooling", "saliency") and "similarity" not in results:
        return None
    before = sum(each["experiment"] == name for each in content["experiments"][:number])
    return f"{name}{before or ''}.png"


def plot_experiment(results: Mapping[str, Any], path: str | Path) -> None:
    """Draw the picture of a pooling, transition or saliency experiment from its record."""
    table = results["tables"][0]
    if results["experiment"] == "pooling":
        plot_pooling(table, path)
    elif results["experiment"] == "saliency":
        structures = results["masks"]["structures"]
        shares = shares_of(table["rows"], methods_of(table["rows"], list(structures)), list(structures))
        areas = {name: each["area"] for name, each in structures.items()}
        plot_localisation(shares, areas, [place_of(row) for row in table["rows"]], path)
    else:
        plot_similarity(results["similarity"], path)


def plot_pooling(table: Mapping[str, Any], path: str | Path) -> None:
    """Draw the metrics of a table of `ttl experiment pooling` against the cut, pooled and flattened."""
    curves = curves_of(table["rows"], _POOLING_KINDS)
    plot_by_cut(curves, path, title=f"{table['dataset']}, {table['backbone']}")


def shares_of(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], structures: Sequence[str]
) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """By method and structure, mean and 95 % interval of the share of each network's maps; NaN where unknown."""

    def triple(row: Mapping[str, Any], key: str) -> tuple[float, float, float]:
        mean = row["metrics"][key]
        low, high = row["intervals"].get(key) or (mean, mean)
        mean, low, high = (math.nan if each is None else float(each) for each in (mean, low, high))
        return mean, low, high

    return {
        method: {name: [triple(row, f"{method}_{name}_share") for row in rows] for name in structures}
        for method in methods
    }


def methods_of(rows: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> list[str]:
    """The methods of which the rows have shares, in their order."""
    ending = f"_{structures[0]}_share"
    return [key.removesuffix(ending) for key in rows[0]["metrics"] if key.endswith(ending)]


def _kind(results: Mapping[str, Any]) -> tuple[Any, ...]:
    tables = results["tables"]
    return results["experiment"], tuple((each["dataset"], each["backbone"], each["weights"]) for each in tables)


def _alt(results: Mapping[str, Any]) -> str:
    return {
        "pooling": "Test metrics against the truncation point, with the feature map pooled to 1x1 and flattened",
        "saliency": "Share of each network's maps inside of each structure, beside what an even map gets",
        "transition": "SVCCA coefficients of features before and after training at each point, beside chance",
    }[results["experiment"]]


def _differences(table: Mapping[str, Any]) -> list[str]:
    found = [each for each in table.get("differences") or () if each["low"] is not None]
    if not found:
        return []
    lines = ["| difference | metric | mean | 95 % interval | n | p |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for each in found:
        p = "-" if each["p"] is None else f"{each['p']:.2f}"
        cells = [f"{each['a']} minus {each['b']}", each["metric"].removeprefix("test_"), f"{each['mean']:+.3f}"]
        lines.append(f"| {' | '.join([*cells, _interval(each), str(each['n']), p])} |")
    methods = dict.fromkeys(each["method"] for each in found if each.get("method"))
    return [*lines, "", f"Differences: {'; '.join(methods)}.", ""]


def _interval(each: Mapping[str, Any]) -> str:
    return f"{each['low']:+.{_DIFFERENCES}f} to {each['high']:+.{_DIFFERENCES}f}"


def _shares(rows: Sequence[Mapping[str, Any]], masks: Mapping[str, Any]) -> list[str]:
    structures = masks["structures"]
    lines = ["| map | structure | network | share inside (95 % interval) | share of the image |"]
    lines.append("| --- | --- | --- | ---: | ---: |")
    for method, found in shares_of(rows, methods_of(rows, list(structures)), list(structures)).items():
        for name, triples in found.items():
            for row, (mean, low, high) in zip(rows, triples, strict=True):
                share = f"{mean:.3f} ({low:.3f} to {high:.3f})"
                lines.append(f"| {method} | {name} | {place_of(row)} | {share} | {structures[name]['area']:.3f} |")
    images = ", ".join(f"{each['images']} with {name}" for name, each in structures.items())
    about = (
        f"Maps on {masks['dataset']}: {images}. Share inside: of a map's mass, how much lies in the structure; an even "
        "map gets the structure's share of the image."
    )
    return [*lines, "", about, *_checked(rows)]


def _checked(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How like the maps stay when all weights are drawn anew; nothing where that was not tried."""
    found: dict[str, list[str]] = {}
    for row in rows:
        last = {step["method"]: step["rank_correlation"] for step in row.get("randomised") or ()}  # from the head down
        for method, value in last.items():
            if value is not None:
                found.setdefault(method, []).append(f"{place_of(row)} {value:+.2f}")
    if not found:
        return []
    said = "; ".join(f"{method}: {', '.join(values)}" for method, values in found.items())
    return [
        "",
        f"Rank correlation of the maps with those under weights that were all drawn anew, {said}. Maps that stay alike "
        "do not show what was learnt (Adebayo et al. 2018).",
    ]
