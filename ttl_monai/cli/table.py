"""`ttl table`: write a bundle's table of results into its README."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ttl_monai.reports import results_table, update_section


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `table`."""
    text = "write the table of results into a bundle's README, from its docs/results.json"
    parser = subparsers.add_parser("table", help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, as bundles/covid_ttl")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="the file that holds <!-- begin results --> and <!-- end results -->; default: BUNDLE/docs/README.md",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the README is stale")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Bring the README up to date, or check that it is."""
    source: Path = arguments.bundle / "docs" / "results.json"
    readme: Path = arguments.readme or arguments.bundle / "docs" / "README.md"
    try:
        results = json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from error
    before = readme.read_text(encoding="utf-8")
    try:
        after = update_section(before, "results", results_table(results))
    except ValueError as error:
        raise ValueError(f"{source} -> {readme}: {error}") from error
    if before == after:
        print(f"{readme} is up to date with {source}")
        return 0
    if arguments.check:
        print(f"{readme} is stale; run: ttl table {arguments.bundle}", file=sys.stderr)
        return 1
    readme.write_text(after, encoding="utf-8", newline="\n")
    print(f"{readme} written from {source}")
    return 0
