"""The paper's figures, to stand beside ours: marked as published, with their source and with what differs."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

HEADS = ("published", "cut", "network", "AUROC", "AUPRC", "params (M)", "MACs (G)", "source", "what differs")
RULES = ("---", "---", "---", "---:", "---:", "---:", "---:", "---", "---")
_OURS = " (ours: "
FIGURES = ("auroc", "auprc", "params", "macs", "cpu_s", "gpu_s")


@functools.cache
def published_figures() -> dict[str, Any]:
    """The content of `published.json`: `sets`, each with its `rows`."""
    return dict(json.loads(files("ttl_monai.reports").joinpath("published.json").read_text(encoding="utf-8")))


def published_row(table: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the paper or its authors published for a row.

    Of the rows of the same strategy, and of the same weights and variant where these are not the usual ones, the one
    that is nearest is taken: of the same network and cut, of the same network, of ResNet50; among equal ones the first.

    Args:
        table: `bundle`, `dataset`, `backbone`, `weights`, `spatial_size`, `max_epochs`.
        row: `strategy` and `cut`.

    Returns:
        `auroc` and `auprc` (text, mean and standard deviation as printed), `params`, `macs`, `cpu_s`, `gpu_s`,
        `strategy`, `cut`, `backbone`, `source`, and `differs`, what is not as in ours; None where there is
        nothing.
    """
    found = next((each for each in published_figures()["sets"] if each["bundle"] == table.get("bundle")), None)
    if found is None:
        return None
    weights = str(table["weights"])
    weights = weights if weights.startswith("source ") else "imagenet"  # a network from `none` has no row of its own
    rows = [
        each
        for each in found["rows"]
        if each["strategy"] == row["strategy"] and each.get("weights", "imagenet") == weights
    ]
    if not rows:
        return None
    backbone = table["backbone"].rpartition(":")[2]

    def distance(each: Mapping[str, Any]) -> tuple[bool, bool]:
        same = each["backbone"] == backbone
        return (not same, not (same and row["cut"] in (each["cut"], *each.get("aliases", ()))))

    best = min(rows, key=distance)
    return {
        **{name: best.get(name) for name in FIGURES},
        **{name: best[name] for name in ("strategy", "cut", "backbone", "source")},
        "differs": _differs(found, best, table, row),
    }


def published_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown lines of the published figures beside our rows, each once; none where there are none.

    Args:
        rows: rows of a table; those with `published` (see `published_row`) count.

    Returns:
        A heading line, the table, and a line with what differs in all of them.
    """
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    # What differs, and where it is a value the values of all rows of ours that stand beside one published row.
    differing: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for row in rows:
        if row.get("published"):
            each = row["published"]
            key = each["strategy"], each["cut"], each["backbone"]
            found.setdefault(key, each)
            for text in each["differs"].split("; "):
                what, _, ours = text.partition(_OURS)
                values = differing.setdefault(key, {}).setdefault(what, [])
                if ours and ours[:-1] not in values:
                    values.append(ours[:-1])
    if not found:
        return []
    said = {
        key: [f"{what}{_OURS}{', '.join(ours)})" if ours else what for what, ours in texts.items()]
        for key, texts in differing.items()
    }
    shared = [text for text in next(iter(said.values())) if all(text in texts for texts in said.values())]
    lines = ["Published by the paper's authors, not measured here:", "", *(_line(each) for each in (HEADS, RULES))]
    for key, each in found.items():
        own = "; ".join(text for text in said[key] if text not in shared)
        cut = "-" if each["cut"] is None else f"`{each['cut']}`"
        size = [_number(each["params"], 1e6, 3), _number(each["macs"], 1e9, 3)]
        values = [each["auroc"] or "-", each["auprc"] or "-", *size]
        lines.append(_line([each["strategy"], cut, f"`{each['backbone']}`", *values, each["source"], own or "-"]))
    return [*lines, "", f"What differs in all of these: {'; '.join(shared)}."] if shared else lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{value / scale:.{digits}f}"


def _differs(
    found: Mapping[str, Any], best: Mapping[str, Any], table: Mapping[str, Any], row: Mapping[str, Any]
) -> str:
    """Published, then ours, of everything that is not the same; then what is known of the published figure."""
    size = table["spatial_size"]
    sides = size if isinstance(size, list) else [size, size]
    pairs = [
        ("data", found["data"], table["dataset"]),
        ("network", best["backbone"], table["backbone"]),
        ("weights", best.get("weights", found["weights"]), table["weights"]),
        ("cut", best["cut"] or "none", row["cut"] or "none"),
        ("size", found["size"], "x".join(map(str, sides))),
        ("epochs at most", str(found["max_epochs"] or "not stated"), str(table["max_epochs"])),
    ]
    said = [
        f"{what} {theirs}{_OURS}{ours})"
        for what, theirs, ours in pairs
        if theirs != ours and not (what == "cut" and row["cut"] in best.get("aliases", ()))
    ]
    return "; ".join([*said, *found["notes"], *([best["note"]] if "note" in best else [])])
