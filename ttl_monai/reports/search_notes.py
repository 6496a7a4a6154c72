"""What stands under the table of a search: what was measured on, what failed, and the test split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttl_monai.reports.search_document import (
    code,
    command_lines,
    done,
    entry_score,
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
    "model is the pretrained network up to the cut, frozen, with the probe as its head. A cut at random: the mean "
    "regret of the cuts. Repeats are splits of one data set, as in the paper: a patient whom one split tests may train "
    "in another."
)


def repeat_it(documents: Sequence[Mapping[str, Any]]) -> str:
    """The commands of all methods of all searches, as a block."""
    lines = [line for document in documents for line in command_lines(document)]
    return "\n".join(["Repeat it:", "", "```", *lines, "```"])


def describe(document: Mapping[str, Any], *, tested: bool = True) -> list[str]:
    """Markdown paragraphs: what the search was measured on, what failed or was not determined, and the test split.

    Args:
        document: the content of a `search.json`.
        tested: with the values of the test split.
    """
    settings = ", ".join(f"{key} {value}" for key, value in document["settings"].items())
    repeats = document["repeats"]
    spread = (
        f"mean ± sample standard deviation over {repeats} repeats, each with its own split by patient"
        if repeats > 1
        else "one repeat, so that no spread is known"
    )
    threads = " and ".join(str(each) for each in document.get("threads") or ())
    devices = " and ".join(document.get("devices") or ())
    worker = f" Threads of one worker: {threads}{f', on {devices}' if devices else ''}." if threads else ""
    if " and " in threads or " and " in devices:
        worker += " Costs of cells that were done differently do not compare."
    text = (
        f"Dataset: {document['dataset']}, {patients(document)}. Backbone: `{document['backbone']}`, weights: "
        f"`{document['weights']}`, {settings}. `{document['metric']}` of the validation split, {spread}; picked is "
        f"{RULES.get(document['rule'], document['rule'])}, of the cuts with at least {100 * document['quorum']:.0f} % "
        f"of their repeats done.{worker}"
    )
    return [text, *notes(document, code), *(_test_split(document) if tested else [])]


def notes(document: Mapping[str, Any], quote: Callable[[str], str]) -> list[str]:
    """How many trainings are done and what failed, and why a method names no cut."""
    count = sum(done(entry) for entry in document["curve"])
    failed: dict[str, list[str]] = {}
    for each in document["failed"]:
        failed.setdefault(one_line(each["reason"]), []).append(quote(each["cell"]))
    reasons = "; ".join(f"{', '.join(cells)} ({reason})" for reason, cells in failed.items())
    lines = [f"Trainings: {count} done. Cells: {len(document['failed'])} failed{f': {reasons}' if failed else ''}."]
    for row in ordered_methods(document):
        if not row["determined"]:
            lines.append(f"{method_name(row['method'])} names no cut: {one_line(row['reason'] or '')}.")
    if picks := document.get("svcca_picks"):
        lines.append(f"SVCCA by all statistics: {_by_statistic(picks, quote)}.")
    if document.get("prepare_seconds"):
        seconds = document["prepare_seconds"]
        lines.append(f"Images were decoded and resized once, in {seconds:.1f} s, which no method is charged for.")
    noise = finite((document["random"] or {}).get("std_over_splits"))
    if not math.isnan(noise):
        lines.append(f"The best cut itself varies by {noise:.4f} (standard deviation) over the repeats.")
    return lines


def _by_statistic(picks: Mapping[str, Mapping[str, Mapping[str, Any]]], quote: Callable[[str], str]) -> str:
    """What each statistic picks at stage ends and at blocks."""
    levels = []
    for level, found in picks.items():
        said = [
            f"{name} {quote(point_name(each['point'])) if each['determined'] else 'undetermined'}"
            for name, each in found.items()
        ]
        levels.append(f"at {'stage ends' if level == 'stage' else 'blocks'} {', '.join(said)}")
    return "; ".join(levels)


def _test_split(document: Mapping[str, Any]) -> list[str]:
    """The test values of what was chosen, with how they came about, as two paragraphs."""
    test = document["test"]
    if not test:
        return ["The test split was not opened."]
    by = f" by {method_name(test['method'])}" if "method" in test else ""
    opened = f"opened once the cut was chosen{by}"
    if not test["opened_after_choice"]:
        opened = f"NOT sealed until the cut was chosen{by}: it had been opened for another choice"
    head = code(test["metric"]) if "metric" in test else "test"
    rows = [markdown_line(["strategy", "cut", head]), markdown_line(["---", "---", "---:"])]
    for row in test["rows"]:
        cut = code(row["point"]) if row["point"] else point_name(None)
        rows.append(markdown_line([row["strategy"], cut, entry_score(row)]))
    return [f"The test split was {opened}:", "\n".join(rows)]
