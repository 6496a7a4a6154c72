"""`ttl experiment`: the experiments of the paper and its supplement, on one's own data or on made ones."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttl_monai.settings import read_setting

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
# Options by the id of the experiments' configs that they set.
_OPTIONS = (
    *("dataset_dir", "datalist", "seeds", "resplit", "source_dir", "sources", "search", "bundle", "overlays"),
    *("rows", "backbones", "only", "set"),
)
_PATHS = ("bundle", "dataset_dir", "datalist", "source_dir", "search")


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    names = available()
    parser = subparsers.add_parser(
        "experiment",
        help="run an experiment of the paper or its supplement: results and a report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run an experiment of the paper or its supplement. Each is a committed config; --out gets\n"
        "results.json, report.html and the runs. What is done is not done again: the same command goes on with an\n"
        "experiment that was stopped.\n\n" + "\n".join(f"  {name:<15}{text}" for name, text in names.items()),
        epilog="examples: ttl experiment strategies --demo --out OUT\n"
        "  ttl experiment strategies --dataset_dir DATA/cxr_pid --datalist datalists/cxr_pid_split*.json --out OUT",
    )
    parser.add_argument("name", metavar="NAME", choices=list(names), help="one of the above")
    parser.add_argument("--out", "--output_dir", type=Path, required=True, metavar="DIR", help="folder to write to")
    _add_data(parser)
    _add_what(parser)
    parser.set_defaults(run=run, parser=parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Options that say on what."""
    data = parser.add_argument_group("on what")
    data.add_argument("--demo", action="store_true", help="on made data, in the size of a test, with settings to match")
    data.add_argument("--dataset_dir", "--dataset-dir", type=Path, metavar="DIR", help="folder of the images")
    data.add_argument(
        "--datalist", "--datalists", type=Path, nargs="+", metavar="FILE", help="one a repeat, or one for all seeds"
    )
    data.add_argument("--seeds", type=int, nargs="+", metavar="N", help="one a repeat, or one for all datalists")
    data.add_argument(
        "--resplit",
        action="store_true",
        default=None,
        help="draw a new split by patient (64/16/20 %%) of the one datalist for each seed, as the paper does",
    )
    data.add_argument(
        "--source_dir", "--source-dir", type=Path, metavar="DIR", help="interdomain: folder of the source's images"
    )
    data.add_argument(
        "--sources",
        nargs="+",
        metavar="NAME=FILE",
        help="interdomain: datalists of the source, as full=chexpert_split0.json, below --source_dir or elsewhere",
    )
    data.add_argument(
        "--search",
        type=Path,
        metavar="DIR",
        help="pooling: take the pooled trainings, data and settings of this search, instead of data",
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Options that say what is compared."""
    what = parser.add_argument_group("what")
    what.add_argument("--bundle", type=Path, metavar="DIR", help="folder of the bundle, as bundles/covid_ttl")
    what.add_argument("--overlays", nargs="+", metavar="FILE", help="overlays of its train.json, by file name")
    what.add_argument(
        "--rows", nargs="+", metavar="STRATEGY[:CUT]", help="rows of the table, as FTL TTL:layer3; CUT may be the "
        "strategy_ttl.json that `ttl search` has left"
    )  # fmt: skip
    what.add_argument(
        "--backbones", nargs="+", metavar="NAME[=CUT]", help="architectures: networks to compare, as resnet50=layer3"
    )
    what.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="ID=VALUE",
        help="a value of the experiment's config (experiments/NAME.json), or else of the bundle's train.json, as "
        "max_epochs=20; may be repeated",
    )
    what.add_argument("--only", nargs="+", metavar="ROW", help="do these rows alone and write no results yet, so that "
        "several processes share the work")  # fmt: skip


def available() -> dict[str, str]:
    """Names of the experiments, and what each is, from their configs."""
    texts = {path.stem: json.loads(path.read_text(encoding="utf-8"))["_desc_"] for path in EXPERIMENTS.glob("*.json")}
    return {name: texts[name].removeprefix("Entry point. ") for name in sorted(texts)}


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment.

    Raises:
        ValueError: what the experiment refuses, or an option that it does not have.
    """
    path = EXPERIMENTS / f"{arguments.name}.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    overrides = read_overrides(arguments, config)
    from ttl_monai.engines.configs import open_workflow

    try:
        workflow = open_workflow([str(path)], overrides)
        workflow.run()
        workflow.finalize()
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:  # MONAI wraps what an experiment's constructor refuses
        from ttl_monai.engines.workflow import told_cause

        cause = told_cause(error)
        if cause is None:
            raise
        raise ValueError(str(cause)) from error
    return 0


def read_overrides(arguments: argparse.Namespace, config: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of the experiment's config that the command line sets.

    Raises:
        ValueError: neither data nor --demo, both, or an option that the experiment does not have.
    """
    places = [arguments.demo, arguments.dataset_dir is not None, arguments.search is not None]
    if "dataset_dir" in config and sum(places) != 1:
        raise ValueError("pass either --demo, for made data, or --dataset_dir and --datalist")
    own: list[str] = []  # settings of the experiment; the others are those of the training
    training: list[str] = []
    for text in arguments.set:
        (own if text.partition("=")[0].partition("#")[0] in config else training).append(text)
    given = {name: getattr(arguments, name) for name in _OPTIONS}
    overrides = {name: _plain(value) for name, value in given.items() if value not in (None, [])} | {"set": training}
    if not training:
        del overrides["set"]
    if arguments.demo and "small" in config:  # an experiment without data has its demo in the size alone
        overrides["small"] = True
    if unknown := sorted(overrides.keys() - config.keys()):
        raise ValueError(f"the experiment {arguments.name} has no --{unknown[0]}; its config is {arguments.name}.json")
    if own:
        overrides |= dict(read_setting(text) for text in own)
    return {**overrides, "output_dir": str(arguments.out.absolute()), "command": command_line(arguments)}


def command_line(arguments: argparse.Namespace) -> str:
    """The command that repeats the experiment anywhere: without folders of this machine and without defaults."""
    words = ["ttl", "experiment", arguments.name] + (["--demo"] if arguments.demo else [])
    for name in _OPTIONS:
        value = getattr(arguments, name)
        if value in (None, []) or name == "only":
            continue
        if name == "set":
            # Where prepared images are kept changes nothing in the results.
            kept = [_without_places(each) for each in value if not each.startswith("cache_dir=")]
            words += ["--set", *map(shlex.quote, kept)] if kept else []
            continue
        words.append(f"--{name}")
        if name == "sources":  # a path of this machine may follow the name
            words += [
                shlex.quote(f"{text.partition('=')[0]}=LISTS/{Path(text.partition('=')[2]).name}") for text in value
            ]
        elif value is not True:
            values = value if isinstance(value, list) else [value]
            words += _places(name, values) if name in _PATHS else [shlex.quote(str(each)) for each in values]
    return " ".join([*words, "--out", "OUT"])


def _without_places(setting: str) -> str:
    """A setting whose absolute paths are those of data or of runs, by their last name alone."""
    place = "DATA" if setting.partition("=")[0].endswith("_dir") else "RUNS"
    return re.sub(r"(?<=[='\"])\s*/[^'\",}\]]*", lambda found: f"{place}/{Path(found[0].strip()).name}", setting)


def _places(name: str, paths: list[Path]) -> list[str]:
    """Paths without folders of this machine."""
    folders = {"dataset_dir": "DATA", "bundle": "bundles", "datalist": "LISTS", "source_dir": "DATA", "search": "OUT"}
    if name == "datalist" and all(path.resolve().parent == EXPERIMENTS.parent / "datalists" for path in paths):
        folders["datalist"] = "datalists"
    names = [path.resolve().name for path in paths]
    pattern = paths[0].stem.rstrip("0123456789") + "*.json"
    # As a record reads best, where the shell would find these files and no others.
    if len(names) > 1 and sorted(names) == sorted(path.name for path in paths[0].resolve().parent.glob(pattern)):
        return [f"{folders[name]}/{pattern}"]
    return [shlex.quote(f"{folders[name]}/{each}") for each in names]


def _plain(value: Any) -> Any:
    """JSON values with absolute paths: a config's folder is not the caller's."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value
