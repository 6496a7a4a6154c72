"""Run an experiment, and leave its results and its report."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any, Protocol

from ttl_monai.engines.search.search import _program
from ttl_monai.handlers.files import write_atomically
from ttl_monai.handlers.record import versions
from ttl_monai.reports.page import write_report

logger = logging.getLogger(__name__)


class Runnable(Protocol):
    """An experiment: its constructor has checked everything."""

    def run(self) -> dict[str, Any] | None:
        """Do it; the results, or None where it was asked for a part of the cells."""


def conduct(experiment: Runnable, *, name: str, output_dir: str | Path, command: str | None = None) -> None:
    """Run an experiment and write `results.json` and `report.html` into its folder.

    Args:
        experiment: the experiment.
        name: its name, that of its config.
        output_dir: its folder.
        command: the command that repeats it, for the record; it must name no folder of this machine.

    Raises:
        ValueError: the folder holds the results of another experiment.
        KeyboardInterrupt: after the command that goes on was printed.
    """
    folder = Path(output_dir)
    path = folder / "results.json"
    if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8")).get("experiment")) != name:
        raise ValueError(f"{folder} holds the results of the experiment {found!r}, not of {name!r}: give another --out")
    try:
        results = experiment.run()
    except KeyboardInterrupt:
        logger.info("\nStopped. Finished cells are kept; this goes on:\n  %s %s", _program(), shlex.join(sys.argv[1:]))
        raise
    if results is None:
        logger.info("Some cells were asked for, and they are done: no results are written. Leave out --only for them.")
        return
    command = command or f"python -m monai.bundle run --config_file experiments/{name}.json"
    document = {"experiment": name, "command": command, "versions": versions(), **results}
    for table in document["tables"]:
        table["command"] = command
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(document, indent=4) + "\n").encode())
    write_report([folder], folder / "report.html")
    logger.info("Results and report: %s", folder)
