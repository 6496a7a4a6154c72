"""The images of a search, read and prepared once before the first cell, so that no method pays for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from ttl_monai.engines.search.space import Space

# Which parts' items a kind of cell reads through the data set of training and of validation: trainings read each its
# own, analyses read all with that of validation.
READS = {"train": (("train", ("train",)), ("validate", ("validate",)))}
_ANALYSIS = (("validate", ("train", "validate")),)


def prepare_images(space: Space, kinds: Iterable[str], *, workers: int) -> float:
    """Fill the bundle's cache with the images or volumes of all repeats.

    The data sets do it, by their `prepare(items, workers=...)`; one that has no such method has nothing to prepare.

    Args:
        space: the space of the search.
        kinds: kinds of the cells to come.
        workers: processes that decode.

    Returns:
        The seconds that it took; next to none where the cache is full, or the bundle has none.
    """
    started = time.perf_counter()
    wanted = sorted({pair for kind in kinds for pair in READS.get(kind, _ANALYSIS)})
    datasets: dict[str, Any] = {}
    items: dict[str, dict[str, Any]] = {name: {} for name, _ in wanted}
    for repeat in range(space.repeats):
        content = space.open_workflow(repeat, output_dir=space.folder).parser.get_parsed_content
        for name, parts in wanted:
            if name not in datasets:
                datasets[name] = content(f"{name}#dataset")
            for part in parts:  # repeats share most of them
                items[name] |= {json.dumps(item, sort_keys=True): item for item in content(f"{part}#dataset#data")}
    for name, dataset in datasets.items():
        if hasattr(dataset, "prepare"):
            dataset.prepare(list(items[name].values()), workers=workers)
    return time.perf_counter() - started
