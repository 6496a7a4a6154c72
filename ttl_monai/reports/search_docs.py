"""The section of a README that reports truncation searches: tables, commands, and who agreed with whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ttl_monai.reports.search_document import (
    check_document,
    finite,
    method_name,
    one_line,
    ordered_methods,
    point_name,
    search_title,
)
from ttl_monai.reports.search_notes import READING, describe, repeat_it
from ttl_monai.reports.search_tables import methods_lines


def docs_section(documents: Sequence[Mapping[str, Any]], *, figures: Sequence[str] = (), level: int = 3) -> str:
    """Markdown for a README: a heading, a table of methods, a sentence on agreement and the notes of every search.

    Args:
        documents: contents of `search.json` files that differ in `train_patients` or candidates; shown in this order.
        figures: one link a document to its picture, relative to the README; empty: no pictures.
        level: of the headings, 1 to 6.

    Returns:
        The section, ending in a newline, for `update_section`.

    Raises:
        ValueError: no document, not a search document, two with equal headings, or a number of figures that does not
            fit.
    """
    if not documents:
        raise ValueError("docs_section needs at least one search document, got none; run `ttl search` first")
    if figures and len(figures) != len(documents):
        raise ValueError(f"figures must be one a search document or none: got {len(figures)} for {len(documents)}")
    for document in documents:
        check_document(document)
    titles = [search_title(document) for document in documents]
    if len(set(titles)) < len(titles):
        titles = [f"{title}, {len(each['candidates'])} cuts" for title, each in zip(titles, documents, strict=True)]
    if len(set(titles)) < len(titles):
        raise ValueError(
            f"the search documents must differ in data set, backbone, train_patients or candidates, got "
            f"{'; '.join(titles)}"
        )
    parts = []
    for number, (title, document) in enumerate(zip(titles, documents, strict=True)):
        parts += [f"{'#' * level} {title}", "\n".join(methods_lines(document)), agreement(document)]
        parts += [f"![{title}: the metric against the cut]({figures[number]})"] if figures else []
        parts += describe(document)
    return "\n\n".join([*parts, READING, repeat_it(documents)]) + "\n"


def agreement(document: Mapping[str, Any]) -> str:
    """One sentence on which methods agreed with the exhaustive search's pick, and which did not.

    A method agrees that picked the same cut, or one whose mean lies within one standard deviation (the exhaustive
    pick's own, over the repeats) of the exhaustive pick's mean. One repeat has no deviation: only the same cut agrees.

    Args:
        document: the content of a `search.json`.

    Returns:
        The sentence, ending in a full stop.

    Raises:
        ValueError: not a search document, see `check_document`.
    """
    check_document(document)
    rows = {row["method"]: row for row in ordered_methods(document)}
    reference = rows.pop("exhaustive", None)
    if reference is None or not reference["determined"]:
        why = "was not run" if reference is None else f"names no cut ({one_line(reference['reason'] or '')})"
        picks = [f"{method_name(name)} {_picked(row)}" for name, row in rows.items()]
        told = f": {', '.join(picks)}" if picks else ""
        return f"The exhaustive search {why}, so that there is no reference to agree with{told}."
    spread = finite(reference["std"]) if reference["n"] > 1 else math.nan
    noise = "" if math.isnan(spread) else f" ± {spread:.3f}"
    verdicts = [f"{method_name(name)} {_verdict(row, reference, spread)}" for name, row in rows.items()]
    told = "; ".join(verdicts) if verdicts else "no other method was run"
    return f"The exhaustive search picked {_cut(reference['pick'])} ({reference['mean']:.3f}{noise}); {told}."


def _verdict(row: Mapping[str, Any], reference: Mapping[str, Any], spread: float) -> str:
    """What a method did against the reference, as the predicate of a sentence."""
    if not row["determined"]:
        return _picked(row)
    if row["pick"] == reference["pick"]:
        return "agreed (the same cut)"
    cut, gap = _cut(row["pick"]), finite(row["mean"]) - finite(reference["mean"])
    if math.isnan(gap):
        return f"cannot be judged ({cut} has no trained mean)"
    size = f"{cut}, {abs(gap):.4f} {'higher' if gap > 0 else 'lower'}"
    if math.isnan(spread):
        return f"did not agree ({size}; one repeat knows no spread)"
    if abs(gap) <= spread:
        return f"agreed ({size}, within one standard deviation)"
    return f"did not agree ({size}, more than one standard deviation)"


def _picked(row: Mapping[str, Any]) -> str:
    if row["determined"]:
        return f"picked {_cut(row['pick'])}"
    return f"names no cut ({one_line(row['reason'] or '')})"


def _cut(point: str | None) -> str:
    return "the whole network" if point is None else f"`{point_name(point)}`"
