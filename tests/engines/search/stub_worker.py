"""A worker whose cells only sleep, for the tests of faults: `stub_worker.py URL SECONDS [NAME OF A CELL THAT FAILS]`.

A cell writes into the search's `events.txt` when it begins and when it ends, and a line a step into its own folder.
"""

import logging
import os
import sys
import time
import types
from pathlib import Path

import ttl_monai

# The real package would import torch and MONAI, some eight seconds a process, which a queue does not need.
engines = types.ModuleType("ttl_monai.engines")
engines.__path__ = [str(Path(ttl_monai.__file__).parent / "engines")]
sys.modules["ttl_monai.engines"] = engines
workflow = types.ModuleType("ttl_monai.engines.workflow")
workflow.told_cause = lambda error: error
sys.modules["ttl_monai.engines.workflow"] = workflow

from ttl_monai.engines.search.ledger import Ledger  # noqa: E402
from ttl_monai.engines.search.worker import work  # noqa: E402

STEPS = 10


def main(url, seconds, failing=None):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ledger = Ledger.join(url, patience_s=2.0)

    def tell(event, cell):
        with (ledger.folder / "events.txt").open("a") as file:
            file.write(f"{event} {cell.name} {os.getpid()}\n")

    def run(cell, folder):
        tell("begin", cell)
        if cell.name == failing:
            raise ValueError("this cell\ncannot be done")
        steps = folder / "steps.txt"
        before = len(steps.read_text().splitlines()) if steps.exists() else 0
        for _ in range(before, STEPS):
            time.sleep(float(seconds) / STEPS)
            with steps.open("a") as file:
                file.write(f"{os.getpid()}\n")
        tell("end", cell)
        return {"value": 0.5, "resumed_after": before}

    try:
        work(ledger, run, poll_s=0.1)
    except OSError as error:  # as the command line does
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
