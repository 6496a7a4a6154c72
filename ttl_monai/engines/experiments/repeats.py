"""The repeats of an experiment: whose data, which split, which seed (supplement, A.1: a new split each)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

import ttl_monai.data
from ttl_monai.data import Datalist
from ttl_monai.data.build import to_json
from ttl_monai.data.seal import split_anew
from ttl_monai.engines.experiments.cells import Repeat
from ttl_monai.handlers.files import write_atomically


def make_repeats(
    dataset_dir: str | Path, datalists: Sequence[str | Path], seeds: Sequence[int], *, resplit: bool, folder: Path
) -> tuple[Repeat, ...]:
    """One datalist and one seed a repeat.

    Args:
        dataset_dir: folder that the datalists' paths start from.
        datalists: one a repeat, or one for all seeds.
        seeds: one a repeat, or one for all datalists.
        resplit: draw a new split (64 % training, 16 % validation, 20 % test, by patient) of the one datalist for each
            seed, and write it to `folder`.
        folder: see `resplit`.

    Raises:
        ValueError: numbers that do not fit, a seed given twice, a list that is refused, or several data sets.
    """
    number = max(len(datalists), len(seeds))
    if not datalists or not seeds or {len(datalists), len(seeds)} - {1, number}:
        raise ValueError(
            f"expected as many seeds as datalists, or one of either, got {len(seeds)} seeds for {len(datalists)} lists"
        )
    if resplit and len(datalists) > 1:
        raise ValueError(f"resplit draws the splits from one datalist, got {len(datalists)}: give one, or leave it out")
    lists = [Datalist.load(path, dataset_dir, check_files=False) for path in datalists]
    kinds = {(each.name, each.task, tuple(each.class_names)) for each in lists}
    if len(kinds) > 1:
        raise ValueError(
            "the datalists must be splits of one data set with the same classes; got "
            + ", ".join(f"{name} ({', '.join(names)})" for name, _, names in sorted(kinds))
        )
    paths = [Path(path).absolute() for path in datalists]
    if resplit:
        paths = [_write_split(lists[0], seed, folder) for seed in seeds]
    pairs = [(paths[k % len(paths)], int(seeds[k % len(seeds)])) for k in range(number)]
    if len(set(pairs)) < number:
        raise ValueError(f"two repeats have the same datalist and seed: {', '.join(map(str, seeds))}")
    return tuple(Repeat(*pair) for pair in pairs)


def made_data(folder: Path, make: str, options: Mapping[str, Any]) -> Path:
    """Data of a demo, made on first use.

    Args:
        folder: where it lies or shall lie.
        make: name of the function of `ttl_monai.data` that makes it, such as `make_phantom`.
        options: its arguments.

    Returns:
        The path of its datalist.json.

    Raises:
        ValueError: there is no such function.
    """
    makers = [name for name in ttl_monai.data.__all__ if name.startswith("make_")]
    if make not in makers:  # of these alone: a config must not name any function to be called
        raise ValueError(f"the data of a demo are made by one of {', '.join(makers)}, got {make!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder / "datalist.json"  # what a maker writes last
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not path.is_file():
            getattr(ttl_monai.data, make)(folder, **options)
    return path


def _write_split(datalist: Datalist, seed: int, folder: Path) -> Path:
    path = folder / f"{datalist.name}_seed{seed}.json"
    text = to_json(split_anew(datalist, seed=seed)).encode()
    if not path.is_file() or path.read_bytes() != text:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return path
