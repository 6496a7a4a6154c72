"""What a worker does with a cell."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.space import Space

logger = logging.getLogger(__name__)


def run_cell(space: Space, cell: Cell, folder: Path) -> dict[str, Any]:
    """Train or analyse; the result is what the ledger keeps.

    Args:
        space: the space of the search.
        cell: the cell.
        folder: where its files go; a training that was interrupted goes on from what lies there.

    Returns:
        The content of the result file, as JSON values.
    """
    try:
        return _kind(cell.kind)(space, cell, folder)
    finally:
        gc.collect()  # workflows hold their networks in cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _kind(name: str) -> Callable[[Space, Cell, Path], dict[str, Any]]:
    """What does a kind of cell; the analyses are imported where they are needed, as many workers only train."""
    if name == "probe":
        from ttl_monai.engines.search.probe import probe_cell

        return probe_cell
    if name == "svcca":
        from ttl_monai.engines.search.transition import svcca_cell

        return svcca_cell
    return train_cell


def train_cell(space: Space, cell: Cell, folder: Path) -> dict[str, Any]:
    """Fine-tune the network at one cut by the bundle's own training.

    Args:
        space: the space of the search.
        cell: a cell of kind "train".
        folder: folder of the run.

    Returns:
        The best epoch's metrics, the network's size and the seconds that it took, start-up included.

    Raises:
        ValueError: no epoch had a finite key metric.
    """
    started, before = time.perf_counter(), _seconds_so_far(folder)
    workflow = space.open_workflow(cell.repeat, output_dir=folder, point=cell.point, resume="auto")
    workflow.run()
    workflow.finalize()
    record = json.loads((folder / "run.json").read_text())
    best = record["best"]
    if best is None or best.get(space.key_metric) is None:
        raise ValueError(
            f"no epoch had a finite {space.key_metric}: does the validation section of repeat {cell.repeat} hold every "
            "class?"
        )
    (folder / "last.pt").unlink(missing_ok=True)  # twice the size of the model, and nothing goes on from here
    return {
        "metric": space.key_metric,
        "value": best[space.key_metric],
        "metrics": {name: value for name, value in best.items() if name.startswith("val_") and name != "val_threshold"},
        "epoch": best["epoch"],
        "epochs": len(record["history"]),
        "params": record["params"],
        "trainable_params": record["trainable_params"],
        "macs": record["macs"],
        "threads": record["threads"],
        "device": record["device"],
        "seconds": round(before + time.perf_counter() - started, 1),
    }


def _seconds_so_far(folder: Path) -> float:
    """Seconds of the epochs that an interrupted attempt had finished."""
    record = folder / "run.json"
    if not (folder / "last.pt").is_file() or not record.is_file():
        return 0.0
    return float(sum(row["seconds"] for row in json.loads(record.read_text())["history"]))
