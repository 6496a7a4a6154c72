"""`ttl lint`: check a bundle before anything of it is executed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttl_monai.deploy.findings import findings_table
from ttl_monai.deploy.lint import lint_bundle, vendored_packages


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "lint",
        help="check a bundle before anything of it is executed",
        description="Check a bundle before anything of it is executed: expressions, targets, keys, paths, pickles, "
        "links, and the hashes of a packed bundle. The files are read as data. Exit status 1 when there are findings.",
        epilog="example: ttl lint bundles/covid_ttl",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings.

    Returns:
        0, or 1 when there are findings.
    """
    findings = lint_bundle(arguments.bundle)
    if arguments.json:
        print(json.dumps({"bundle": str(arguments.bundle), "findings": [asdict(each) for each in findings]}, indent=2))
    elif findings:
        print(findings_table(findings))
        number = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        print(f"{number}: run nothing of {arguments.bundle} before that is cleared")
    else:
        print(f"{arguments.bundle}: no findings")
        for name in sorted(vendored_packages(arguments.bundle)):
            print(f"  {name} is code of whoever packed it: its hashes fit the MANIFEST; what it does was not judged")
    return 1 if findings else 0
