"""`ttl table`: write a bundle's results, and what its searches found, into its README."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttl_monai.reports import docs_section, emboli_table, plot_search, results_tables, update_section
from ttl_monai.reports.experiment_docs import experiments_section, picture_name, plot_experiment, take_experiment


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `table`."""
    text = "write what was found into a bundle's README, from docs/{results,emboli,search,experiments}.json"
    parser = subparsers.add_parser("table", help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, as bundles/covid_ttl")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="the file that holds <!-- begin results --> and <!-- end results -->; default: BUNDLE/docs/README.md",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="first take the tables of this results.json of an experiment into BUNDLE/docs/results.json; one of the "
        "same data set and network is replaced",
    )
    parser.add_argument(
        "--experiment",
        type=Path,
        metavar="DIR",
        help="first take what `ttl experiment` left in DIR into BUNDLE/docs/experiments.json; one of the same name, "
        "data set and networks is replaced",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the README is stale")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Bring the README up to date, or check that it is; draw the pictures of searches."""
    docs: Path = arguments.bundle / "docs"
    readme: Path = arguments.readme or docs / "README.md"
    if arguments.results is not None:
        _take_tables(arguments.results, docs / "results.json")
    if arguments.experiment is not None:
        _take_experiment(arguments.experiment, docs / "experiments.json")
    before = readme.read_text(encoding="utf-8")
    after = _updated(before, "results", docs / "results.json", readme, results_tables)

    def searches(content: dict[str, Any]) -> str:
        return _searches(content["searches"], docs, readme, draw=not arguments.check)

    def experiments(content: dict[str, Any]) -> str:
        return _experiments(content, docs, readme, draw=not arguments.check)

    for name, make in (("emboli", emboli_table), ("search", searches), ("experiments", experiments)):
        source = docs / f"{name}.json"
        if source.is_file() and (arguments.readme is None or f"<!-- begin {name} -->" in before):
            after = _updated(after, name, source, readme, make)
    if before == after:
        print(f"{readme} is up to date with the records in {docs}")
        return 0
    if arguments.check:
        own = "" if arguments.readme is None else f" --readme {arguments.readme}"
        print(f"{readme} is stale; run: ttl table {arguments.bundle}{own}", file=sys.stderr)
        return 1
    readme.write_text(after, encoding="utf-8", newline="\n")
    print(f"{readme} written from the records in {docs}")
    return 0


def _take_tables(source: Path, record: Path) -> None:
    """Put the tables of an experiment into the record of a bundle, in place of those of the same data and network."""
    tables = _json(record)["tables"] if record.is_file() else []
    same = ("dataset", "backbone", "weights")
    for table in _json(source)["tables"]:
        for row in table["rows"]:
            row["run"] = None  # the runs stay where they are
        found = [k for k, each in enumerate(tables) if all(each[key] == table[key] for key in same)]
        if found:
            tables[found[0]] = table
        else:
            tables.append(table)
    record.write_text(json.dumps({"tables": tables}, indent=4) + "\n", encoding="utf-8", newline="\n")


def _take_experiment(folder: Path, record: Path) -> None:
    """Put the results of an experiment into the record of a bundle."""
    results = _json(folder / "results.json")
    similarity = _json(folder / "figures" / "svcca0.json") if results.get("experiment") == "transition" else None
    known = _json(record) if record.is_file() else {}
    content = take_experiment(known, results, similarity)
    record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def _experiments(content: dict[str, Any], docs: Path, readme: Path, *, draw: bool) -> str:
    """The section on experiments, with their pictures in the folder of the record."""
    links = {}
    for number, each in enumerate(content["experiments"]):
        if name := picture_name(content, number):
            if draw:
                plot_experiment(each, docs / name)
            links[name] = Path(os.path.relpath(docs / name, readme.parent)).as_posix()
    return experiments_section(content, links)


def _updated(text: str, name: str, source: Path, readme: Path, make: Callable[[dict[str, Any]], str]) -> str:
    """The text with one section made anew from its record."""
    try:
        return update_section(text, name, make(_json(source)))
    except ValueError as error:
        raise ValueError(f"{source} -> {readme}: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _searches(documents: list[dict[str, Any]], docs: Path, readme: Path, *, draw: bool) -> str:
    """The section on searches, with a picture of each in the folder of the record."""
    pictures = [docs / f"search{number}.png" for number in range(len(documents))]
    for document, picture in zip(documents if draw else [], pictures, strict=draw):
        plot_search(document, picture)
    links = [Path(os.path.relpath(picture, readme.parent)).as_posix() for picture in pictures]
    return docs_section(documents, figures=links)
