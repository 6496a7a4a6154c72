"""What all experiments that train have in common: their data, their cells one after the other, their tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ttl_monai.data import Datalist
from ttl_monai.engines.configs import config_files, open_workflow, quiet
from ttl_monai.engines.experiments.cells import Plan, Repeat, Row, do_cell, is_done
from ttl_monai.engines.experiments.repeats import made_data, make_repeats
from ttl_monai.engines.experiments.results import make_table
from ttl_monai.networks import count_params
from ttl_monai.networks.features import backbone_of, points_of
from ttl_monai.networks.points import Point, find_point
from ttl_monai.settings import read_setting

logger = logging.getLogger(__name__)

# Config ids that an experiment sets in its cells, and how to say them to it.
_OWN = {
    "dataset_dir": "--dataset_dir",
    "datalist": "--datalist",
    "output_dir": "--out",
    "seed": "--seeds",
    "strategy": "--rows",
    "resume": "an experiment always goes on where it stopped",
}


class Comparison:
    """Train rows of strategies and cuts on several repeats, evaluate each once on its test section, compare them.

    Everything is checked before the first training. Cells that are done are not done again, those that were
    interrupted go on, so that the same call goes on with an experiment that was stopped.

    Args:
        bundle: folder of the bundle.
        output_dir: folder of the runs and results.
        dataset_dir: folder that the images' paths start from; None takes data that are made (`data`).
        datalist: one datalist a repeat, or one for all seeds.
        seeds: one seed a repeat, or one for all datalists.
        resplit: draw a new split of the one datalist for each seed (64/16/20 %, by patient).
        overlays: overlays of the bundle after train.json, such as `backbone_resnet50.json`.
        settings: config ids of train.json and their values; None takes the bundle's own.
        set: further ones, as `ID=VALUE`.
        repeated: what each repeat has of its own, for the table; None says whether it is the split, the seed or both.
        data: what is made where `dataset_dir` is None: `make`, the name of a function of `ttl_monai.data`, and its
            arguments.
        only: do these rows alone, and write no results yet.

    Raises:
        ValueError: anything that a training would refuse.
    """

    def __init__(
        self,
        *,
        bundle: str | Path,
        output_dir: str | Path,
        dataset_dir: str | Path | None = None,
        datalist: str | Path | Sequence[str | Path] | None = None,
        seeds: Sequence[int] = (0,),
        resplit: bool = False,
        overlays: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        set: Sequence[str] = (),
        repeated: str | None = None,
        data: Mapping[str, Any] | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        if (dataset_dir is None) != (datalist is None):
            raise ValueError("pass both dataset_dir and datalist, or neither to run on made data")
        self.settings = {**(settings or {}), **dict(read_setting(text) for text in set)}
        if own := sorted(_OWN.keys() & self.settings.keys()):
            raise ValueError(f"settings must leave {own[0]!r} to the experiment: {_OWN[own[0]]}")
        self.bundle, self.overlays = Path(bundle).absolute(), tuple(overlays)
        config_files(self.bundle, self.overlays)
        self.output_dir, self.only = Path(output_dir).absolute(), None if only is None else tuple(only)
        if dataset_dir is None:
            options = dict(data or {})
            if "make" not in options:
                raise ValueError("no data: pass dataset_dir and datalist; this experiment makes none for this bundle")
            datalist = made_data(self.output_dir / "data", options.pop("make"), options)
            dataset_dir = datalist.parent
        self.dataset_dir = Path(dataset_dir).absolute()
        lists = [datalist] if isinstance(datalist, (str, Path)) else list(datalist or [])
        self.repeats = make_repeats(
            self.dataset_dir, lists, seeds, resplit=resplit, folder=self.output_dir / "datalists"
        )
        self.repeated = repeated or _what_differs(self.repeats)

    def plan(self, rows: Sequence[Row], *, name: str = "", **changes: Any) -> Plan:
        """The cells of one table on the experiment's own data, checked.

        Args:
            rows: its lines, the one that the others are compared with first.
            name: of the table, where there are several; its runs lie in a folder of that name.
            changes: what is otherwise than in the experiment, by attribute of `Plan`; `settings` are added.

        Raises:
            ValueError: an unknown cut, weights that cannot be had, data that do not fit, a row given twice.
        """
        given = {
            "repeats": self.repeats,
            "bundle": self.bundle,
            "dataset_dir": self.dataset_dir,
            "overlays": self.overlays,
            **changes,
            "settings": {**self.settings, **changes.get("settings", {})},
        }
        folder = self.output_dir / "runs" / name if name else self.output_dir / "runs"
        plan = Plan(rows=tuple(rows), folder=folder, cache_dir=self.output_dir / "cache", name=name, **given)
        names = [row.name for row in plan.rows]
        if not names or len(names) > len({*names}):
            raise ValueError(f"expected at least one row and none twice, got {', '.join(names) or 'none'}")
        check_plan(plan)
        return plan

    def work(self, plan: Plan, *, whole: bool = False) -> None:
        """Do the cells of a plan that are not done, with a line on each: what it is, and how many are left.

        Args:
            plan: the plan.
            whole: do all of them, also where only some rows were asked for, which need them.
        """
        rows = (
            plan.rows
            if self.only is None or whole
            else [row for row in plan.rows if {*_words(plan, row)} & {*self.only}]
        )
        cells = [(row, number) for number in range(len(plan.repeats)) for row in rows]
        waiting = [each for each in cells if not is_done(plan, *each)]
        label = f"{plan.name}: " if plan.name else ""
        if done := len(cells) - len(waiting):
            logger.info("%s%d of %d cells are done already.", label, done, len(cells))
        started = time.monotonic()
        for index, (row, number) in enumerate(waiting):
            each = (time.monotonic() - started) / index if index else None
            left = len(waiting) - index
            eta = f", about {each * left / 60:.0f} min" if each is not None else ""
            logger.info("%s%s, repeat %d: %d of %d cells left%s.", label, row.name, number, left, len(cells), eta)
            do_cell(plan, row, number)

    def table(self, plan: Plan, **options: Any) -> dict[str, Any]:
        """The table of a plan whose cells are done; see `make_table`."""
        return make_table(plan, output_dir=self.output_dir, repeated=self.repeated, **options)

    def check_only(self, plans: Sequence[Plan]) -> None:
        """Refuse words of `only` that name no row.

        Raises:
            ValueError: naming the first of them, and what there is.
        """
        known = {word: None for plan in plans for row in plan.rows for word in _words(plan, row)}
        if strange := [word for word in self.only or () if word not in known]:
            raise ValueError(f"only {strange[0]!r} names no row: expected some of {', '.join(known)}")


def _what_differs(repeats: Sequence[Repeat]) -> str:
    """What each repeat has of its own."""
    differ = {
        "split by patient": len({each.datalist for each in repeats}) > 1,
        "seed": len({each.seed for each in repeats}) > 1,
    }
    return " and ".join(name for name, does in differ.items() if does) or "nothing"


def _words(plan: Plan, row: Row) -> list[str]:
    """How `only` may call a cell's row: the row, the table, or both."""
    text = f"{row.title}:{row.cut}" if row.cut else row.title
    return [text, plan.name, f"{plan.name}/{text}"] if plan.name else [text]


def check_plan(plan: Plan) -> None:
    """Build what the first training would build: its data, its network with its weights, and look at every cut.

    Raises:
        ValueError: what a training would refuse.
    """
    for repeat in plan.repeats:
        sections = {repeat.datalist: "training", **({repeat.test or repeat.datalist: "test"} if plan.evaluated else {})}
        for path, section in sections.items():
            Datalist.load(path, plan.dataset_dir).section(section)
    first = build_network_of(plan, plan.rows[0])  # with its weights: an error comes now
    cuts = [row.cut for row in plan.rows if row.cut is not None]
    if cuts:
        points = points_of(
            first if plan.rows[0].strategy == "FTL" else build_network_of(plan, Row("FTL"), weights="none")
        )
        for cut in cuts:
            find_point(points, cut)


def build_network_of(plan: Plan, row: Row, *, weights: str | None = None) -> nn.Module:
    """The network of a row before training.

    Args:
        plan: the plan.
        row: the row.
        weights: in place of those of the plan.

    Raises:
        ValueError: what its config refuses.
    """
    place = {"dataset_dir": str(plan.dataset_dir), "datalist": str(plan.repeats[0].datalist)}
    other = {} if weights is None else {"network_def#weights": weights}
    with quiet("ttl_monai"):
        workflow = open_workflow(plan.files(row), {**plan.overrides(row, 0), **place, **other})
        network: nn.Module = workflow.parser.get_parsed_content("network_def")
    return network


def candidate_points(plan: Plan, level: str) -> list[Point]:
    """The points of a plan's network below its last feature map.

    Args:
        plan: the plan.
        level: "stage" for the ends of stages, "block" for blocks, too.

    Raises:
        ValueError: an unknown level, or there are none.
    """
    if level not in ("stage", "block"):
        raise ValueError(f"level must be 'stage' or 'block', got {level!r}")
    network = build_network_of(plan, Row("FTL"))
    whole = count_params(backbone_of(network))
    levels = ("stage",) if level == "stage" else ("stage", "block")
    found = [each for each in points_of(network) if each.level in levels and each.params < whole]
    if not found:
        raise ValueError(f"the network has no points of level {level!r} below its last feature map")
    return found
