"""One cell of an experiment: a strategy on one repeat, trained and evaluated by the bundle's own configs, once."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from monai.bundle.config_parser import ConfigParser

from ttl_monai.engines.configs import PLACES, config_files, open_workflow, quiet
from ttl_monai.engines.search.space import KNOB
from ttl_monai.handlers.files import file_sha256

STRATEGIES = ("FTL", "HTL", "LWFT", "TF", "TTL")
_CUT = ("LWFT", "TF", "TTL")  # those that are made at a point
_LIST = "SHA-256 of the datalist"
# Ids of train.json that say where and how fast a training runs and what it records, not what is trained.
_PLACES = {
    *("_meta_", "_desc_", "imports", *PLACES),
    *("device", "num_workers", "rank", "is_not_rank0", "resume", "record", "checkpoint", "initialize", "run"),
}
# What is said while a cell is done: warnings, one line an epoch, and where an interrupted one goes on.
_LEVELS = {
    **{"ignite": logging.WARNING, "ttl_monai": logging.WARNING},
    **{"ttl_monai.handlers.record.epochs": logging.DEBUG, "ttl_monai.handlers.checkpoint": logging.INFO},
}
_STATS = ("ttl_monai.validation", "ttl_monai.evaluation")  # MONAI's StatsHandler sets the levels of these itself


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        strategy: one of `STRATEGIES`.
        cut: where it truncates (TTL), freezes (LWFT) or slims (TF); None where the whole network is meant.
        variant: what distinguishes it from another row of that strategy and cut; empty where nothing does.
        settings: config ids and their values, of this row alone.
        runs: finished runs, one a repeat, that are evaluated in place of trainings; empty where it is trained.
    """

    strategy: str
    cut: str | None = None
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Path, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Row:
        """A row from `STRATEGY[:CUT]`, where CUT is a point or the `strategy_ttl.json` that a search has left.

        Raises:
            ValueError: no such strategy, a cut for one that has none, or none for one that needs it.
        """
        name, _, cut = text.partition(":")
        strategy = name.upper()
        if strategy not in STRATEGIES:
            raise ValueError(f"a row is STRATEGY[:CUT] with one of {', '.join(STRATEGIES)}, got {text!r}")
        if bool(cut) != (strategy in _CUT):
            what = f"the point where it is cut, as {strategy}:layer3" if strategy in _CUT else "no cut"
            raise ValueError(f"{strategy} takes {what}, got {text!r}; `ttl points BACKBONE` lists the points")
        return cls(strategy, _chosen(Path(cut)) if cut.endswith(".json") else cut or None)

    @property
    def title(self) -> str:
        """The strategy as tables name it."""
        return f"{self.strategy}, {self.variant}" if self.variant else self.strategy

    @property
    def name(self) -> str:
        """Strategy, variant and cut for people, as `TTL blocks.3`."""
        return f"{self.title} {self.cut}" if self.cut else self.title

    @property
    def folder(self) -> str:
        """The same for the name of a folder."""
        parts = (self.strategy.lower(), self.cut or "none", self.variant.replace(" ", "_"))
        return "_".join(part for part in parts if part)


@dataclass(frozen=True)
class Repeat:
    """What each row is trained on once.

    Attributes:
        datalist: the datalist of the training.
        seed: of the training.
        test: the datalist of the evaluation, where it is another one; None takes the same.
    """

    datalist: Path
    seed: int
    test: Path | None = None


@dataclass(frozen=True)
class Plan:
    """The cells of one table: every row on every repeat.

    Attributes:
        rows: the lines.
        repeats: the repeats.
        bundle: folder of the bundle.
        dataset_dir: folder that the datalists' paths start from.
        cache_dir: folder of prepared images.
        folder: where the runs go, each in a folder of its own.
        name: what this table is of, where an experiment has several; it is shown with each cell.
        overlays: overlays of the bundle's train.json but for those of strategies.
        settings: config ids and their values, of all rows.
        weights: how the table calls the weights, where they are a file.
        evaluated: whether the test section is scored; the trainings of a source data set only leave their network.
    """

    rows: tuple[Row, ...]
    repeats: tuple[Repeat, ...]
    bundle: Path
    dataset_dir: Path
    cache_dir: Path
    folder: Path
    name: str = ""
    overlays: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    evaluated: bool = True

    def cell(self, row: Row, number: int) -> Path:
        """The folder of a cell: of its run, or of its evaluation where the run lies elsewhere."""
        return self.folder / f"{row.folder}_{number}"

    def run(self, row: Row, number: int) -> Path:
        """The folder of the run of a cell."""
        return row.runs[number] if row.runs else self.cell(row, number)

    def files(self, row: Row) -> list[str]:
        """Paths of train.json and the overlays of a row."""
        own = () if row.strategy == "FTL" else (f"strategy_{row.strategy.lower()}.json",)
        return config_files(self.bundle, (*self.overlays, *own))

    def overrides(self, row: Row, number: int) -> dict[str, Any]:
        """Config ids and their values for a training, but for where its data are."""
        cut = {f"cuts#{row.strategy.lower()}": row.cut} if row.cut else {}
        return {**self.settings, **cut, **row.settings, "seed": self.repeats[number].seed}


def do_cell(plan: Plan, row: Row, number: int) -> None:
    """Train and evaluate one row on one repeat; what is done already is left, what was interrupted goes on.

    Several processes may ask for the same cell: one does it, the others wait.

    Args:
        plan: what it belongs to.
        row: the row.
        number: of the repeat.

    Raises:
        ValueError: anything that the training refuses, or a run that was made with other settings or data.
    """
    repeat, folder, run = plan.repeats[number], plan.cell(row, number), plan.run(row, number)
    folder.parent.mkdir(parents=True, exist_ok=True)
    data = {"dataset_dir": str(plan.dataset_dir), "cache_dir": str(plan.cache_dir)}
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _check_given(plan, row, number)
        if not row.runs and not _is_trained(plan, row, number):
            overrides = {**plan.overrides(row, number), **data, "datalist": str(repeat.datalist)}
            _run(plan.files(row), {**overrides, "resume": "auto", "output_dir": str(folder)})
        if plan.evaluated and not _is_evaluated(folder, run):
            files = [*config_files(plan.bundle, ()), *config_files(plan.bundle, ("evaluate.json",))[1:]]
            place = {"datalist": str(repeat.test or repeat.datalist), "run_dir": str(run), "output_dir": str(folder)}
            _run(files, {**data, **place})


def is_done(plan: Plan, row: Row, number: int) -> bool:
    """Whether a cell is trained and evaluated.

    Raises:
        ValueError: it was made with other settings or data.
    """
    _check_given(plan, row, number)
    trained = bool(row.runs) or _is_trained(plan, row, number)
    return trained and (not plan.evaluated or _is_evaluated(plan.cell(row, number), plan.run(row, number)))


def _check_given(plan: Plan, row: Row, number: int) -> None:
    """Refuse a run that was made elsewhere, on another list: its training images may be test images here."""
    if not row.runs:
        return
    listed, record = plan.repeats[number].datalist, json.loads((row.runs[number] / "run.json").read_text("utf-8"))
    if record["data"]["sha256"] != file_sha256(listed):
        raise ValueError(
            f"the run given for {row.name} was trained on another datalist than {listed.name} (its SHA-256 differs): "
            "its training images may be test images here. Give the datalist that it was trained on"
        )


def _is_trained(plan: Plan, row: Row, number: int) -> bool:
    """Whether the run of a cell is finished, after checking that it is that run."""
    path = plan.cell(row, number) / "run.json"
    if not path.is_file():
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    _check(plan, row, number, record)
    return bool(record["status"] == "finished")


def _check(plan: Plan, row: Row, number: int, record: Mapping[str, Any]) -> None:
    """Refuse a run that was made with other settings or data than are asked for, naming what differs."""
    parser = ConfigParser()
    parser.read_config(plan.files(row))
    parser.update(plan.overrides(row, number))
    parser.parse()  # as a workflow does: ids and references get their full form
    asked = json.loads(json.dumps(parser.config, default=str))
    made = dict(record["config"])
    for name in ("train", "validate"):  # handlers record, too
        asked[name], made[name] = ({**each[name], "handlers": None} for each in (asked, made))
    asked[_LIST], made[_LIST] = file_sha256(plan.repeats[number].datalist), record["data"]["sha256"]
    wrong = sorted(name for name in (asked.keys() | made.keys()) - _PLACES if asked.get(name) != made.get(name))
    if wrong:
        shown = "; ".join(f"{name} {_brief(made.get(name))} instead of {_brief(asked.get(name))}" for name in wrong)
        raise ValueError(
            f"{plan.cell(row, number)} was made with other settings or data than are asked for: {shown}. Give another "
            "--out, or repeat the command that this folder was begun with"
        )


def _brief(value: Any, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _is_evaluated(folder: Path, run: Path) -> bool:
    """Whether the model as it stands is evaluated."""
    metrics, model = folder / "test" / "metrics.json", run / "model.json"
    if not metrics.is_file() or not model.is_file():
        return False
    return bool(json.loads(metrics.read_text())["model_sha256"] == json.loads(model.read_text())["sha256"])


def _run(files: list[str], overrides: Mapping[str, Any]) -> None:
    """Run a bundle config to its end."""
    try:
        with _calm():
            workflow = open_workflow(files, overrides)
            workflow.run()
            workflow.finalize()
    finally:
        gc.collect()  # workflows hold their networks in cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _calm() -> Iterator[None]:
    """Let the loggers of a training say what an experiment of many trainings needs: see `_LEVELS`."""
    with ExitStack() as stack:
        for name, level in _LEVELS.items():
            stack.enter_context(quiet(name, level))
        for stats in map(logging.getLogger, _STATS):
            stats.addFilter(_is_warning)
            stack.callback(stats.removeFilter, _is_warning)
        yield


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _chosen(path: Path) -> str:
    """The cut in the overlay that a search has left."""
    if not path.is_file():
        raise ValueError(f"there is no {path}: expected a point, or the strategy_ttl.json that `ttl search` has left")
    cut = json.loads(path.read_text(encoding="utf-8")).get(KNOB)
    if not isinstance(cut, str) or cut.startswith("@"):
        raise ValueError(f"{path} names no cut: expected {KNOB!r} with a point, as in the overlay that a search leaves")
    return cut
