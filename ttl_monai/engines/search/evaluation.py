"""The test section, opened once the choice is made."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttl_monai.analysis import mean_std
from ttl_monai.engines.configs import config_files, open_workflow, quiet
from ttl_monai.engines.search.methods import Outcome
from ttl_monai.engines.search.space import Space

logger = logging.getLogger(__name__)


def evaluate_choice(
    space: Space, outcome: Outcome, results: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Any] | None:
    """Evaluate the chosen cut, the whole network and the probe, as far as they are there, on the test section.

    Args:
        space: the space of the search.
        outcome: the choice; it is not changed by what is seen here.
        results: results of finished cells, by key.
        folder: folder of the search.

    Returns:
        One row a network with the test metric of each repeat, and whether the section was sealed until now; None where
        nothing was chosen.
    """
    if not outcome.determined:
        return None
    runs: list[tuple[str, str | None, list[tuple[int, Path]]]] = []
    for strategy, point in (("TTL", outcome.pick), ("FTL", None)):
        cells = [space.cell("train", point, repeat) for repeat in range(space.repeats)]
        found = [(cell.repeat, folder / results[cell.key]["run"]) for cell in cells if cell.key in results]
        if found and (strategy, point) != ("TTL", None):
            runs.append((strategy, point, found))
    before = outcome.before_training
    if before is not None:
        probes = [(repeat, folder / "probe" / f"repeat{repeat}") for repeat in range(space.repeats)]
        done = {cell.repeat for cell in before.cells if cell.key in results}
        runs.append(("PROBE", before.pick, [(repeat, path) for repeat, path in probes if repeat in done]))
    metric = space.key_metric.replace("val_", "test_", 1)
    # Somebody may have looked at the test section for another method's choice, which this one then could follow.
    sealed = not any(folder.glob("runs/*/*/test/metrics.json")) and not any(folder.glob("probe/*/test/metrics.json"))
    rows = []
    for strategy, point, found in runs:
        values = [float(_evaluate(space, repeat, run)[metric]) for repeat, run in found]
        mean, std = mean_std(values)
        rows.append(
            {
                "strategy": strategy,
                "point": point,
                "values": values,
                "mean": round(mean, 6),
                "std": round(std, 6) if std == std else None,
            }
        )
    return {"opened_after_choice": sealed, "method": outcome.method, "metric": metric, "rows": rows}


def _evaluate(space: Space, repeat: int, run: Path) -> dict[str, Any]:
    """Metrics of one run on the test section of the list that its training was sealed from."""
    metrics = run / "test" / "metrics.json"
    if not metrics.is_file():
        original = space.originals[repeat]
        place = {} if original is None else {"dataset_dir": space.dataset_dir, "datalist": original}
        keep = {
            key: value for key, value in space.settings.items() if key in ("batch_size", "num_workers", "cache_dir")
        }
        files = [*config_files(space.bundle, ()), *config_files(space.bundle, ("evaluate.json",))[1:]]
        with quiet("", logging.WARNING), quiet("ttl_monai.evaluation", logging.WARNING):  # the table says it all
            workflow = open_workflow(files, {**keep, **place, "run_dir": str(run)})
            workflow.run()
            workflow.finalize()
    return dict(json.loads(metrics.read_text()))
