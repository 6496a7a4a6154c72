"""`ttl report`: one page about runs, searches and experiments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "report",
        help="write one HTML page about trainings, searches, `ttl svcca` and experiments",
        description="Write one self-contained HTML file: strategies, where to cut, ROC and precision-recall curves, "
        "calibration, operating points, confusion, segmentation, Grad-CAM, training, data and provenance, as far as "
        "the runs have them. It opens offline and names no patient and no path.",
        epilog="example: ttl report eval/ftl eval/ttl search --out report.html --prevalence 0.1",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders, in any mix")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file")
    parser.add_argument("--title", help="heading (default: the experiment and the data)")
    parser.add_argument(
        "--sensitivity",
        type=float,
        nargs="+",
        metavar="S",
        help="choose thresholds on the validation section for these sensitivities (default: 0.9 0.95 0.99)",
    )
    parser.add_argument(
        "--prevalence", type=float, metavar="P", help="for PPV and NPV, as 0.1 (default: that of the test section)"
    )
    parser.add_argument("--png", type=Path, metavar="DIR", help="write the figures as PNG, too")
    parser.add_argument("--csv", action="store_true", help="write the tables as CSV into FILE's <name>_tables, too")
    parser.add_argument("--json", action="store_true", help="write the tables into one JSON file beside FILE, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        ValueError: see `write_report`.
    """
    from ttl_monai.reports.page import write_report

    chosen = {} if arguments.sensitivity is None else {"sensitivities": arguments.sensitivity}
    write_report(
        arguments.runs,
        arguments.out,
        title=arguments.title,
        prevalence=arguments.prevalence,
        png=arguments.png,
        csv=arguments.csv,
        as_json=arguments.json,
        **chosen,
    )
    return 0
