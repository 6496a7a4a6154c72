"""Do two workers of one thread each finish a grid of trainings in at most 0.65 of the time of one?

The same grid is trained twice, in fresh folders, once by one worker and once by two; start-up is counted. Prints both
times and their ratio, and writes `benchmarks/workers.json`.

    python benchmarks/workers.py
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path

from ttl_monai.data import make_phantom
from ttl_monai.engines.search import TruncationSearch

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundles" / "covid_ttl"
LIMIT = 0.65


def seconds(folder: Path, data: Path, workers: int, repeats: int) -> float:
    """Wall time of the grid with so many workers."""
    search = TruncationSearch(
        BUNDLE,
        method="exhaustive",
        dataset_dir=data.parent,
        datalist=data,
        output_dir=folder / f"workers{workers}",
        repeats=repeats,
        candidates=["blocks.1", "blocks.2", "blocks.3"],
        settings={
            "spatial_size": 128,
            "batch_size": 16,
            "max_epochs": 2,
            "learning_rate": 1e-3,
            "cache_dir": str(folder / "cache"),
        },
        workers=workers,
        threads=1,
    )
    started = time.perf_counter()
    search.run()
    return time.perf_counter() - started


def main() -> None:
    """Time one worker and two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each of the four networks")
    parser.add_argument("--patients", type=int, default=120, help="patients of the made data")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_phantom(folder / "data", patients=arguments.patients)
        seconds(folder / "warm", data, 2, 1)  # fills the cache of images, which is shared
        (folder / "warm" / "cache").rename(folder / "cache")
        one, two = (seconds(folder, data, workers, arguments.repeats) for workers in (1, 2))
    result = {
        "one_worker_s": round(one, 1),
        "two_workers_s": round(two, 1),
        "ratio": round(two / one, 3),
        "limit": LIMIT,
        "met": two / one <= LIMIT,
        "cells": 4 * arguments.repeats,
        "cores": os.cpu_count(),
        "command": f"python benchmarks/workers.py --repeats {arguments.repeats} --patients {arguments.patients}",
    }
    (HERE / "workers.json").write_text(json.dumps(result, indent=4) + "\n")
    print(json.dumps(result, indent=4))


if __name__ == "__main__":
    main()
