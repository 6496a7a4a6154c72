"""The images of a search, decoded and resized once before the first cell, so that no method pays for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from ttl_monai.data import CachedDataset
from ttl_monai.engines.search.space import Space

# Which sections a kind of cell reads through the transforms of training and of validation: trainings read each its
# own, analyses read all with the transforms of validation.
READS = {"train": (("train", ("training",)), ("validate", ("validation",)))}
_ANALYSIS = (("validate", ("training", "validation")),)


def prepare_images(space: Space, kinds: Iterable[str], *, workers: int) -> float:
    """Fill the bundle's cache with the images of all repeats.

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
    items: dict[str, dict[str, dict[str, Any]]] = {part: {} for part, _ in wanted}
    for repeat in range(space.repeats):
        content = space.open_workflow(repeat, output_dir=space.folder).parser.get_parsed_content
        for part, sections in wanted:
            datasets[part] = content(f"{part}#dataset")
            # By image: repeats share most of them.
            items[part] |= {item["image"]: item for name in sections for item in content("data").section(name)}
    for part, dataset in datasets.items():
        if not isinstance(dataset, CachedDataset) or dataset.cache_dir is None:
            continue
        dataset.set_data(list(items[part].values()))
        # Item by item, thrown away: the reading itself fills the cache.
        loader = DataLoader(dataset, batch_size=None, num_workers=workers if len(dataset) > 64 else 0)
        for _ in tqdm(loader, total=len(dataset), desc=f"images, {part}", leave=False, disable=None):
            pass
    return time.perf_counter() - started
