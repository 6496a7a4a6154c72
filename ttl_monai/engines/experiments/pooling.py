"""With and without the pooling layer before the head, at every point (supplement, B.2 and Fig. 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttl_monai.engines.experiments.cells import Repeat, Row
from ttl_monai.engines.experiments.comparison import Comparison, candidate_points
from ttl_monai.engines.search.ledger import Ledger
from ttl_monai.engines.search.space import Space
from ttl_monai.reports.experiment_docs import plot_pooling

FLATTENED = "flattened"
_FLAT = {"network_def#head": "flatten"}


class Pooling(Comparison):
    """Compare networks that pool the last feature map to 1x1 with networks that flatten it, at every cut.

    Source: supplement B.2 (`AdaptiveAvgPool2d` to 1x1, or the whole map into the linear layer) and Fig. 6.

    Args:
        level: "stage" for the ends of stages, "block" for all blocks.
        points: these points in place of those of a level.
        search: folder of a search whose ledger holds the pooled trainings, which are then not done again: bundle, data,
            settings and repeats are those of the search.
        options: see `Comparison`.

    Raises:
        ValueError: anything that a training would refuse, a network without a pooling knob, a search with options of
            its own, or points that it has not trained.
    """

    def __init__(
        self,
        *,
        level: str = "stage",
        points: Sequence[str] | None = None,
        search: str | Path | None = None,
        **options: Any,
    ) -> None:
        runs: Mapping[str | None, tuple[Path, ...]] = {}
        repeats: tuple[Repeat, ...] = ()
        if search is not None:
            options, repeats, runs = _from_search(Path(search), options)
        super().__init__(**options)
        self.repeats = repeats or self.repeats
        self._search = None if search is None else Path(search)
        whole = self.plan([Row("FTL")])
        found = [each.name for each in candidate_points(whole, level)] if points is None else list(points)
        if search is not None:
            if missing := [name for name in points or () if name not in runs]:
                trained = ", ".join(str(name) for name in runs if name is not None)
                raise ValueError(f"the search in {search} has not trained {', '.join(missing)}; it has {trained}")
            found = [name for name in found if name in runs]
            if not found:
                raise ValueError(f"the search in {search} has trained no point of level {level!r} on all its repeats")
        cuts: list[str | None] = [None, *found]
        self._pairs = []
        for cut in cuts:
            row = Row("FTL" if cut is None else "TTL", cut)
            flat = replace(row, variant=FLATTENED, settings=_FLAT)
            self._pairs.append((replace(row, runs=runs.get(cut, ())), flat))
        self._plan = self.plan([row for pair in self._pairs for row in pair])
        self.check_only([self._plan])

    def run(self) -> dict[str, Any] | None:
        """Do the cells that are not done.

        Returns:
            `tables`, whose differences are those of each cut, pooled minus flattened, and `figures`; None where only
            some rows were asked for.
        """
        self.work(self._plan)
        if self.only is not None:
            return None
        table = self.table(self._plan, pairs=self._pairs)
        if made := self._commands():
            table["notes"] = [*(table.get("notes") or ()), *made]
        file = "figures/pooling.png"
        plot_pooling(table, self.output_dir / file)
        figure = {
            "file": file,
            "title": "With and without pooling before the head",
            "alt": "Test metrics against the truncation point, with the feature map pooled to 1x1 and flattened.",
            "caption": "Mean over the repeats and one sample standard deviation to each side. Nothing was chosen by "
            "these metrics. Compare supplement, Fig. 6, whose AUPRC is by trapezoids and not the average precision.",
        }
        return {"tables": [table], "figures": [figure]}

    def _commands(self) -> list[str]:
        """How the search was made, in words; nothing where it has no document yet."""
        if self._search is None or not (document := self._search / "search.json").is_file():
            return []
        commands = json.loads(document.read_text(encoding="utf-8")).get("commands") or {}
        return [f"The pooled rows are those of the search `{command} --out SEARCH`." for command in commands.values()]


def _from_search(
    folder: Path, options: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[Repeat, ...], dict[str | None, tuple[Path, ...]]]:
    """What a search has trained: the options of the experiment, its repeats, and by point the runs of each repeat."""
    if options.get("dataset_dir") is not None or options.get("overlays") or options.get("set"):
        raise ValueError("data, overlays and settings are those of the search: leave them out, or leave out the search")
    if not (folder / "ledger.db").is_file():
        raise ValueError(f"{folder} is no folder of a search: expected ledger.db, as `ttl search` leaves it")
    ledger = Ledger.join(f"sqlite:///{folder.absolute() / 'ledger.db'}", folder=folder.absolute())
    space, results = Space.from_json(ledger.space), ledger.results()
    made = Path(space.dataset_dir, "datalist.json")
    repeats = tuple(
        Repeat(Path(folder, sealed).absolute(), space.seed + k, Path(original) if original else made)
        for k, (sealed, original) in enumerate(zip(space.datalists, space.originals, strict=True))
    )
    runs: dict[str | None, tuple[Path, ...]] = {}
    for candidate in space.candidates:
        keys = [space.cell("train", candidate["point"], repeat).key for repeat in range(space.repeats)]
        if all(key in results for key in keys):
            runs[candidate["point"]] = tuple(folder.absolute() / results[key]["run"] for key in keys)
    if not runs:
        raise ValueError(f"the search in {folder} has no point that is trained on all its repeats")
    given = {
        **options,
        "bundle": space.bundle,
        "dataset_dir": space.dataset_dir,
        "datalist": [repeat.test for repeat in repeats][:1],
        "seeds": [repeat.seed for repeat in repeats],
        "resplit": False,
        "overlays": list(space.overlays),
        "settings": dict(space.settings),
        "repeated": "split by patient and seed",
    }
    return given, repeats, runs
