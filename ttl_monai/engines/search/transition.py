"""The transition: the whole network before and after its fine-tuning, and where its features stop being reused."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ttl_monai.analysis import pick_transition
from ttl_monai.analysis.canonical import check_variance
from ttl_monai.analysis.transition import STATISTICS
from ttl_monai.engines.feature_moments import GROUPS, NULLS
from ttl_monai.engines.runs import build_dataset, build_network
from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.space import Space
from ttl_monai.engines.similarity import compare_networks, image_batches, to_rows, transitions

# What a search may ask for, as `Space.options["svcca"]`.
OPTIONS = {
    "null": "wachter",
    "statistic": "overlap",
    "level": "stage",
    "threshold": None,
    "groups": GROUPS,
    "variance": None,
}


def svcca_cell(space: Space, cell: Cell, folder: Path) -> dict[str, Any]:
    """Compare the whole network before and after its fine-tuning on one repeat, at all candidates.

    Source: supplement C.1, steps 2 to 4; PAPER.md section 4. The network after is that of the repeat's finished
    training of the whole network; the one before is built as that training built it. The images are those of training
    and validation, with the evaluation preprocessing.

    Args:
        space: the space of the search; `options["svcca"]` may have the keys of `OPTIONS` (see `compare_networks` and
            `pick_transition`).
        cell: a cell of kind "svcca".
        folder: its folder, to which nothing is written.

    Returns:
        `points` (see `to_rows`), `picks` by level and statistic, and the `pick` with its `reason`: None where nothing
        is determined, and (`determined` is true) where the features are reused up to the end of the network.

    Raises:
        ValueError: an unknown option, or a repeat whose whole network is not trained.
    """
    started = time.perf_counter()
    options = svcca_options(space.options.get(cell.kind, {}))
    run = _whole_run(space, cell.repeat)
    workflow = space.open_workflow(cell.repeat, output_dir=folder)
    content = workflow.parser.get_parsed_content
    device: torch.device = content("device")
    before, after = content("network_def").to(device), build_network(run).to(device)
    items = [*content("train#dataset#data"), *content("validate#dataset#data")]
    dataset, batch_size = build_dataset(run, items, content("cache_dir")), content("batch_size")
    batches = image_batches(
        dataset,
        content("validate#prepare_batch"),
        device=device,
        batch_size=batch_size,
        num_workers=content("num_workers"),
        groups=options["groups"],
    )
    shown = tqdm(batches, total=-(-len(dataset) // batch_size), desc="features", leave=False, disable=None)
    similarities = compare_networks(
        before,
        after,
        shown,
        [(each["point"], each["level"]) for each in space.candidates],
        groups=options["groups"],
        null=options["null"],
        variance=options["variance"],
        device=device,
    )
    found = pick_transition(
        similarities, statistic=options["statistic"], level=options["level"], threshold=options["threshold"]
    )
    return {
        "points": to_rows(similarities, options["null"]),
        "picks": transitions(similarities),
        "statistic": options["statistic"],
        "level": options["level"],
        "pick": found.point,
        "determined": found.determined,
        "candidate": found.candidate,
        "reason": found.reason,
        "images": len(dataset),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "seconds": round(time.perf_counter() - started, 1),
    }


def svcca_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of the comparison, with the defaults of what was not.

    Raises:
        ValueError: an unknown option, or a value that it cannot have.
    """
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise ValueError(f"svcca takes {', '.join(OPTIONS)}, got {', '.join(unknown)}")
    options = {**OPTIONS, **given}
    for name, values in (("null", NULLS), ("statistic", STATISTICS), ("level", ("stage", "block"))):
        if options[name] not in values:
            raise ValueError(f"svcca's {name} must be one of {', '.join(values)}, got {options[name]!r}")
    threshold, groups = options["threshold"], options["groups"]
    if threshold is not None and not (isinstance(threshold, (int, float)) and 0 < threshold < 1):
        raise ValueError(f"svcca's threshold must lie between 0 and 1, got {threshold!r}")
    if threshold is not None and options["statistic"] == "quartiles":
        raise ValueError("svcca's statistic 'quartiles' has no threshold: the boxes touch or they do not")
    if not isinstance(groups, int) or groups < 2:
        raise ValueError(f"svcca's groups of patients must be at least 2, got {groups!r}")
    check_variance(options["variance"])
    return options


def _whole_run(space: Space, repeat: int) -> Path:
    """The run of the whole network, which the ledger keeps."""
    whole = space.cell("train", None, repeat)
    result = Path(space.folder, "results", f"{whole.key}.json")
    if not result.is_file():
        raise ValueError(f"{whole.name} has no result: the whole network must be trained before it is compared")
    return Path(space.folder, json.loads(result.read_text())["run"])
