"""The search document: what `ttl search` writes to `search.json`, checked and read by its tables and its figure.

A point is the dotted name of a module; `None` is the whole network (FTL). Whether a method chose at all is told by
`determined`, not by `pick`: a determined pick of `None` is the choice of the whole network. Optional keys: `threads`
and `devices` (all that the cells were done with), `svcca_threshold` (of the overlap, drawn as a line), `svcca_picks`
(by level and statistic), and `done` (finished cells) of a method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ttl_monai.reports.tables import _require as require_keys

SCHEMA = 1
METHODS = {"exhaustive": "exhaustive", "two-stage": "two-stage", "svcca": "SVCCA", "probe": "probe"}
DOCUMENT_KEYS = (
    *("schema", "dataset", "backbone", "weights", "settings", "train_patients", "repeats", "metric", "rule", "quorum"),
    *("commands", "candidates", "curve", "probe", "svcca", "failed", "methods", "random", "test"),
)
CANDIDATE_KEYS = ("point", "level", "params", "macs")
METHOD_KEYS = ("method", "pick", "determined", "reason", "mean", "std", "n", "regret", "cells", "seconds")


def check_document(document: Mapping[str, Any]) -> None:
    """Refuse what is not a search document of this schema, or contradicts itself.

    Args:
        document: the content of a `search.json`.

    Raises:
        ValueError: another schema, a missing key, no candidates, a candidate twice, or a point in the curve, the
            probe, the SVCCA or the picks that is no candidate.
    """
    if document.get("schema") != SCHEMA:
        raise ValueError(
            f"expected a search document of schema {SCHEMA}, got {document.get('schema')!r}; "
            "write search.json anew with this version's `ttl search`"
        )
    require_keys(document, DOCUMENT_KEYS, "a search document")
    for number, candidate in enumerate(document["candidates"]):
        require_keys(candidate, CANDIDATE_KEYS, f"candidate {number} of the search document")
    points = [candidate["point"] for candidate in document["candidates"]]
    if not points or len(set(points)) < len(points):
        names = ", ".join(map(point_name, points)) or "none"
        raise ValueError(f"a search document needs candidates, each once, got {names}")
    for key in ("curve", "probe", "svcca"):
        _known(points, [entry["point"] for entry in document[key] or []], key)
    for row in document["methods"]:
        require_keys(row, METHOD_KEYS, f"the method {row.get('method')} of the search document")
        before = row.get("before_training")
        picks = [row["pick"]] * bool(row["determined"]) + ([before["pick"]] if before else [])
        _known(points, picks, f"the picks of {row['method']}")


def point_name(point: str | None) -> str:
    """The point's name for readers; `None` is the whole network."""
    return "whole network" if point is None else point


def method_name(method: str) -> str:
    """The method's name for readers; an unknown one is its own name."""
    return METHODS.get(method, method)


def ordered_methods(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods' rows, the reference first, unknown ones last."""
    return sorted(document["methods"], key=lambda row: (*METHODS, row["method"]).index(row["method"]))


def finite(value: float | None) -> float:
    """The number; NaN where it is undefined, which is null in JSON."""
    return math.nan if value is None else float(value)


def entry_of(entries: Sequence[Mapping[str, Any]] | None, point: str | None) -> Mapping[str, Any] | None:
    """The entry of `curve`, `probe`, `svcca` or `candidates` for this point, if there is one."""
    return next((entry for entry in entries or () if entry["point"] == point), None)


def done(entry: Mapping[str, Any] | None) -> int:
    """How many repeats of this entry have a value."""
    return 0 if entry is None else sum(value is not None for value in entry["values"])


def failures(document: Mapping[str, Any], point: str | None) -> int:
    """How many repeats of this cut's training have failed; a cell is named as `train-blocks.3.2-0`."""
    failed = {each["cell"] for each in document["failed"]}
    return sum(f"train-{point or 'whole'}-{repeat}" in failed for repeat in range(document["repeats"]))


def one_line(reason: str) -> str:
    """A reason as it goes into a sentence: one line, no full stop at its end."""
    return " ".join(reason.split()).rstrip(".") or "no reason was recorded"


def command_lines(document: Mapping[str, Any]) -> list[str]:
    """The commands that repeat the methods, each once."""
    return list(dict.fromkeys(document["commands"].values()))


def patients(document: Mapping[str, Any]) -> str:
    """How much was trained on, in words."""
    count = document["train_patients"]
    return "all training patients" if count is None else f"{count} training patients"


def search_title(document: Mapping[str, Any]) -> str:
    """What was searched, for a heading: data set, backbone, training patients."""
    return f"{document['dataset']}, {document['backbone']}, {patients(document)}"


def entry_score(entry: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation of an entry's repeats; a dash where there is none."""
    return "-" if entry is None else score(finite(entry["mean"]), spread(done(entry), entry["std"]), 3)


def spread(count: int, std: float | None) -> float:
    """The standard deviation; NaN (not shown) where one value cannot have any."""
    return finite(std) if count > 1 else math.nan


def code(text: str) -> str:
    """As code in markdown."""
    return f"`{text}`"


def fixed(value: float, digits: int) -> str:
    """The number with so many digits; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def score(mean: float, std: float, digits: int) -> str:
    """Mean ± standard deviation, this only where it is known."""
    return fixed(mean, digits) + ("" if math.isnan(mean) or math.isnan(std) else f" ± {std:.{digits}f}")


def share(part: float, whole: float) -> str:
    """Percent, one digit below ten; a dash where there is nothing to compare with."""
    if math.isnan(part) or math.isnan(whole) or whole <= 0:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best; a dash for NaN."""
    if math.isnan(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _known(points: Sequence[str | None], named: Sequence[str | None], where: str) -> None:
    strangers = [point_name(point) for point in named if point not in points]
    if strangers:
        raise ValueError(
            f"{where} names {', '.join(strangers)}, which is none of the candidates "
            f"{', '.join(point_name(point) for point in points)}"
        )
