"""Where the network can be cut: the metric and the size against the point, and the features' similarity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator

from ttl_monai.reports.figures import PALETTE
from ttl_monai.reports.page.blocks import Block, Figure, Section, Table, numbers
from ttl_monai.reports.page.inputs import Inputs
from ttl_monai.reports.page.strategies import head_of, metric_keys
from ttl_monai.reports.page.svg import legend_below, new_figure
from ttl_monai.reports.search_document import (
    check_document,
    done,
    entry_of,
    entry_score,
    one_line,
    point_name,
    search_title,
)
from ttl_monai.reports.search_figure import draw_search
from ttl_monai.reports.search_notes import describe
from ttl_monai.reports.search_tables import methods_cells
from ttl_monai.reports.similarity import WHOLE, _verdict, draw_matrix, draw_similarity
from ttl_monai.reports.tables import place_of

FEW = 8  # points whose figures need no more than half of the width


def truncation_section(inputs: Inputs) -> Section:
    """Searches, and tables of experiments with several cuts of one strategy."""
    blocks: list[Block] = []
    for number, document in enumerate(inputs.searches):
        check_document(document)
        blocks += _search(document, f"search{number}")
    for number, table in enumerate(inputs.tables):
        cuts = [row for row in table["rows"] if row.get("strategy") == "TTL" and row.get("cut")]
        keys = metric_keys(table["rows"])
        if len(cuts) > 1 and keys:
            which = f", from {table['weights']}" if len(inputs.tables) > 1 else ""
            blocks.append(_by_cut(table, keys[0], f"cuts{number}", which))
    lacking = ["No search and no experiment with several cuts was given: no metric against the truncation point."]
    return Section("truncation", "Where to cut", blocks, [] if blocks else lacking)


def similarity_section(inputs: Inputs) -> Section:
    """The SVCCA coefficients of ttl svcca with those of random features."""
    blocks: list[Block] = []
    for number, document in enumerate(inputs.similarities):
        names = " and ".join(map(str, document["runs"]))
        blocks.append(_verdict(document))
        blocks.append(
            Figure(
                f"svcca{number}",
                f"SVCCA coefficients of {names} at each point, random features beside them",
                _said(document),
                draw_similarity(document),
                "Boxes: quartiles; whiskers: the whole range. Below: overlap of the two distributions, its range with "
                "each group of patients left out as a bar.",
                wide=len(document["points"]) > FEW,
            )
        )
        if document.get("matrix"):
            blocks.append(
                Figure(
                    f"matrix{number}",
                    "Every point of one network with every point of the other",
                    f"A matrix of {len(document['matrix']['points'])} by {len(document['matrix']['points'])} points; "
                    "its diagonal is in the table.",
                    draw_matrix(document),
                    "0: as random features, 1: equal.",
                    wide=len(document["points"]) > FEW,
                    plain=True,
                )
            )
        blocks.append(_similarity_table(document, names))
    lacking = ["No folder of ttl svcca was given: no similarity of features."]
    return Section("similarity", "Which features are reused", blocks, [] if blocks else lacking)


def _search(document: Mapping[str, Any], name: str) -> list[Block]:
    heads, rows = methods_cells(document)
    picks = [
        f"{row['method']} {point_name(row['pick'])}" if row["determined"] else f"{row['method']} none"
        for row in document["methods"]
    ]
    figure = Figure(
        name,
        "Metric, overlap and size against the truncation point",
        f"{document['metric']} by cut, from the lowest of {len(document['candidates'])} cuts to the whole network, "
        f"with the picks of the methods: {', '.join(picks)}. The values are in the table of cuts.",
        draw_search(document),
        "Bands: standard deviation over the repeats; dots: single repeats; dotted lines: the picks.",
        wide=True,
    )
    table = Table(f"Methods of the search: {search_title(document)}", heads, rows, text=2)
    cuts = Table(
        "Cuts",
        ["cut", "level", "params (M)", "MACs (G)", str(document["metric"]), "repeats"],
        [_cut(document, candidate) for candidate in document["candidates"]],
        text=2,
        notes=[line.replace("`", "") for line in describe(document, tested=False)],
    )
    return [figure, table, cuts, *_tested(document)]


def _tested(document: Mapping[str, Any]) -> list[Table]:
    """What the choice reached on the test section, where that was opened."""
    test = document["test"]
    if not test:
        return []
    rows = [[row["strategy"], point_name(row["point"]), entry_score(row)] for row in test["rows"]]
    after = "after" if test["opened_after_choice"] else "BEFORE"
    note = f"The test section was opened {after} the cut was chosen."
    head = head_of(test.get("metric", "test"))
    return [Table("The choice on the test section", ["strategy", "cut", head], rows, text=2, notes=[note])]


def _cut(document: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    trained = entry_of(document["curve"], candidate["point"])
    size = f"{candidate['params'] / 1e6:.3f}", f"{candidate['macs'] / 1e9:.3f}"
    return [point_name(candidate["point"]), candidate["level"], *size, entry_score(trained), str(done(trained))]


def _by_cut(table: Mapping[str, Any], key: str, name: str, which: str) -> Figure:
    """The metric of each cut with its spread, and its parameters below."""
    rows = sorted((row for row in table["rows"] if row.get("strategy") == "TTL"), key=lambda row: row["params"] or 0)
    whole = [row for row in table["rows"] if row.get("strategy") == "FTL"][:1]
    places = np.arange(len(rows))
    figure, (score, size) = new_figure(4.6, rows=2, sharex=True, height_ratios=(2.2, 1))
    values = [np.array(numbers(row["repeats"], key)) for row in rows]
    means = np.array([each.mean() for each in values])
    stds = np.array([each.std(ddof=1) if each.size > 1 else 0 for each in values])
    score.fill_between(places, means - stds, means + stds, color=PALETTE[0], alpha=0.18, linewidth=0)
    score.plot(places, means, "o-", color=PALETTE[0], linewidth=2, markersize=5, label="TTL, mean ± std")
    for place, each in zip(places, values, strict=True):
        score.plot([place] * each.size, each, ".", color=PALETTE[0], alpha=0.5, markersize=4)
    said = [f"{place_of(row)} {mean:.3f}" for row, mean in zip(rows, means, strict=True)]
    for row in whole:
        level = float(np.mean(numbers(row["repeats"], key)))
        score.axhline(level, color="black", linestyle=(0, (6, 3)), linewidth=1.2, label=f"FTL {level:.3f}")
        size.axhline(row["params"] / 1e6, color="black", linestyle=(0, (6, 3)), linewidth=1.2)
        said.append(f"FTL {level:.3f}")
    score.set_ylabel(head_of(key))
    size.plot(places, [row["params"] / 1e6 for row in rows], "s-", color=PALETTE[3], linewidth=2, markersize=4)
    size.set(ylabel="params (M)", yscale="log", xlabel="truncation point")
    size.yaxis.set_major_formatter("{x:g}")
    size.yaxis.set_minor_locator(NullLocator())
    size.set_xticks(places, [str(row["cut"]) for row in rows], rotation=40 if len(rows) > 4 else 0)
    legend_below(figure, score, columns=2)
    title = f"{head_of(key)} and size by cut: {table['dataset']}, {table['backbone']}{which}"
    return Figure(name, title, "; ".join(said), figure, "Dots: single repeats. Dashed: the whole network.")


def _similarity_table(document: Mapping[str, Any], names: str) -> Table:
    rows = []
    for each in document["points"]:
        quartiles = [f"{value:.3f}" for value in (*each["quartiles"], *each["null_quartiles"], each["overlap"])]
        rows.append([each["point"] or WHOLE, f"{each['n']:,}", "x".join(map(str, each["dims"])), *quartiles])
    heads = ["point", "samples", "channels", "Q1", "median", "Q3", "random Q1", "random median", "random Q3", "overlap"]
    reason = one_line(str(document.get("reason") or ""))
    note = f"{document['data']['name']}, {document['data']['images']} images."
    return Table(f"SVCCA coefficients of {names}", heads, rows, notes=[note, *([f"{reason}."] if reason else [])])


def _said(document: Mapping[str, Any]) -> str:
    parts = [
        f"{each['point'] or WHOLE}: median {each['quartiles'][1]:.2f}, random {each['null_quartiles'][1]:.2f}"
        for each in document["points"]
        if math.isfinite(each["quartiles"][1])
    ]
    return "Boxes at each point. " + "; ".join(parts) + "."
