"""Compare the four ways to search on one's own data: the record from which `ttl table` makes table and pictures.

For each number of training patients, all methods run in one folder, the exhaustive one first, so that each has its
regret. What is finished is not done again: the whole can be run in pieces, by the same command.

    python benchmarks/search.py --dataset_dir DATA/cxr_pid --datalists datalists/cxr_pid_split*.json \
        --work RUNS --train_patients 100 400
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from ttl_monai.engines.search import TruncationSearch

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "covid_ttl"
METHODS = ("exhaustive", "two-stage", "svcca", "probe")
# More epochs where an epoch has fewer steps.
EPOCHS = {100: 8, 400: 4}
SETTINGS = {"spatial_size": 96, "batch_size": 16, "learning_rate": 1e-3}


def search(arguments: argparse.Namespace, patients: int) -> dict[str, object]:
    """All methods on one number of training patients; the document of the last holds them all."""
    settings = {**SETTINGS, "max_epochs": EPOCHS.get(patients, arguments.max_epochs)}
    shown = " ".join(f"--set {name}={value}" for name, value in settings.items())
    name = arguments.datalists[0].name.partition("_split")[0]
    document: dict[str, object] = {}
    for method in METHODS:
        document = TruncationSearch(
            BUNDLE,
            method=method,
            dataset_dir=arguments.dataset_dir,
            datalist=arguments.datalists,
            output_dir=arguments.work / f"patients{patients}",
            settings=settings,
            train_patients=patients,
            workers=arguments.workers,
            threads=1,
            evaluate=method == METHODS[-1],
            command=f"ttl search --method METHOD --bundle bundles/{BUNDLE.name} --dataset_dir DATA/{name} "
            f"--datalist datalists/{name}_split*.json --train_patients {patients} {shown}",
        ).run()
    return document


def bars(document: dict[str, Any]) -> list[str]:
    """The probe against two-stage and against a cut at random, beside what it should reach."""
    rows = {row["method"]: row for row in document["methods"]}
    before, whole = rows["probe"]["before_training"], rows["two-stage"]["seconds"]
    table = (
        ("regret before training, of that of a cut at random", before["regret"] / document["random"]["regret"], 1 / 2),
        ("time before training, of two-stage's", before["seconds"] / whole, 1 / 10),
        ("time with its candidates trained, of two-stage's", rows["probe"]["seconds"] / whole, 1 / 3),
    )
    patients = document["train_patients"]
    return [
        f"{patients} patients, probe: {what}: {value:.3f} (bar {bar:.3f}: {'met' if value <= bar else 'NOT met'})"
        for what, value, bar in table
    ]


def main() -> None:
    """Search on each number of patients, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder that the datalists' paths start from")
    parser.add_argument("--datalists", nargs="+", type=Path, required=True, help="one datalist a repeat")
    parser.add_argument("--work", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--train_patients", nargs="+", type=int, default=[100, 400])
    parser.add_argument("--max_epochs", type=int, default=4, help="for other numbers of patients than 100 and 400")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=BUNDLE / "docs" / "search.json", help="record to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    documents = []
    for patients in arguments.train_patients:
        documents.append(search(arguments, patients))
        print("\n".join(bars(documents[-1])), flush=True)
    arguments.out.write_text(json.dumps({"searches": documents}, indent=4) + "\n")


if __name__ == "__main__":
    main()
