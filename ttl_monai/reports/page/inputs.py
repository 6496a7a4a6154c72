"""What folders of trainings, searches, comparisons and experiments hold, read for the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ttl_monai.reports.page.blocks import px
from ttl_monai.reports.page.runs import Run, read_json

KEY = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}([#_-]\d+)?")  # a pseudonym, and the number of a slice or series


@dataclass
class Inputs:
    """Everything that a page is made of.

    Attributes:
        runs: trainings.
        searches: contents of `search.json`.
        similarities: contents of `similarity.json`, of `ttl svcca`.
        experiments: folders and contents of `results.json`.
        pictures: Grad-CAM pictures.
    """

    runs: list[Run] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    similarities: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The tables of all experiments."""
        return [table for _, content in self.experiments for table in content["tables"]]


def read_inputs(folders: Sequence[str | Path]) -> Inputs:
    """Read what lies in folders of trainings, searches, `ttl svcca`, experiments and inferences with Grad-CAM.

    Args:
        folders: any mix; the file that names what was done may be given instead of its folder.

    Raises:
        ValueError: no folder, or one that holds nothing of the kind.
    """
    if not folders:
        raise ValueError("a report needs at least one folder of a training, a search, `ttl svcca` or an experiment")
    found = Inputs()
    for each in folders:
        path = Path(each)
        _read_folder(path.parent if path.suffix == ".json" else path, found)
    for key in ("runs", "pictures"):
        setattr(found, key, list({_place(each): each for each in getattr(found, key)}.values()))
    found.runs = _named(found.runs)
    return found


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in groups of the same data, task and backbone, which may stand in one table."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data, run.spec["task"], run.network), []).append(run)
    return list(groups.values())


def shown_key(image: str, row: int) -> str:
    """What to call an image in a page: a pseudonym by its first digits, anything else by its row in the table.

    An id that is no pseudonym may be a name; the row of `predictions.csv` says as much to whoever has the file.
    """
    match = KEY.fullmatch(image)
    return f"{match[1]}…{match[2] or ''}" if match else f"row {row + 1}"


def _read_folder(folder: Path, found: Inputs) -> None:
    known = False
    if (folder / "results.json").is_file():
        content, known = read_json(folder / "results.json"), True
        if not isinstance(content.get("tables"), list):
            raise ValueError(f"{folder / 'results.json'} must have `tables`, a list; write it by `ttl experiment`")
        found.experiments.append((folder, content))
        found.runs += [
            run for table in content["tables"] for row in table["rows"] for run in _run_of(folder, table, row)
        ]
    if (folder / "search.json").is_file():
        content, known = read_json(folder / "search.json"), True
        found.searches += content.get("searches", [content])
    if (folder / "similarity.json").is_file():
        found.similarities.append(read_json(folder / "similarity.json"))
        known = True
    if (folder / "run.json").is_file():
        found.runs.append(_read_run(folder, folder))
        known = True
    pictures = sorted(folder.glob("*_gradcam.png")) or sorted(folder.glob("*/*_gradcam.png"))
    found.pictures += pictures
    if not (known or pictures):
        raise ValueError(
            f"{folder} holds nothing to report: expected run.json (a training), search.json, similarity.json, "
            "results.json (an experiment) or pictures *_gradcam.png"
        )


def _read_run(folder: Path, evaluated: Path) -> Run:
    missing = [name for name in ("run.json", "model.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}: has its training finished an epoch?")
    return Run(folder, read_json(folder / "run.json"), read_json(folder / "model.json"), evaluated)


def _run_of(folder: Path, table: Mapping[str, Any], row: Mapping[str, Any]) -> list[Run]:
    """The run of a row of an experiment, that of its first repeat, where it is still there."""
    named = row.get("run")
    there = folder / named if named else None
    if there is None or not (there / "run.json").is_file():
        return []
    return [replace(_read_run(there, there), start=str(table["weights"]), repeats=len(row["repeats"]))]


def _place(each: Run | Path) -> Path:
    return (each.evaluated if isinstance(each, Run) else each).resolve()


def _named(runs: Sequence[Run]) -> list[Run]:
    """The runs with titles: strategy and cut, then network, start, size, seed, a number, as it takes to tell them."""
    titles = [" ".join(filter(None, (run.record["strategy"], run.cut))) for run in runs]
    starts = [f", from {run.start}" if run.start else "" for run in runs]
    pixels = [f", {px(run.spec['spatial_size'])}" for run in runs]
    networks, seeds = [f", {run.network}" for run in runs], [f", seed {run.record['seed']}" for run in runs]
    for more in (networks, starts, pixels, seeds):
        longer = [title + end for title, end in zip(titles, more, strict=True)]
        if len(set(longer)) > len(set(titles)):
            titles = [long if titles.count(title) > 1 else title for title, long in zip(titles, longer, strict=True)]
    named = []
    for number, (title, run) in enumerate(zip(titles, runs, strict=True)):
        again = f" ({titles[: number + 1].count(title)})" if titles.count(title) > 1 else ""
        named.append(replace(run, title=title + again))
    return named
