"""`ttl search`: find how little of a pretrained network is needed."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from ttl_monai.settings import read_setting

# Where and how fast, not what: left out of the command that a record names.
_PLACES = {"verb", "run", "output_dir", "workers", "threads", "storage", "study", "retry_failed", "parser"}

_SVCCA = ("null", "statistic", "level", "threshold", "variance")


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "search",
        help="find the truncation point that a data set needs",
        description="Find how little of a pretrained network is needed. Cuts are compared on the validation section "
        "over repeats; the test section stays sealed until one is chosen. Trainings are kept in a ledger: an "
        "interrupted search goes on by the same command, and methods share what is trained.",
        epilog="example: ttl search --bundle bundles/covid_ttl --method probe --dataset_dir DATA/cxr_pid "
        "--datalist datalists/cxr_pid_split*.json --set max_epochs=4 --set spatial_size=96",
    )
    parser.add_argument(
        "--method",
        choices=("two-stage", "probe", "svcca", "exhaustive"),
        default="two-stage",
        help="two-stage: ends of stages, then the blocks around the best (the paper's); probe: linear probes on the "
        "pretrained features pick three cuts, which are trained; svcca: one training of the whole network tells "
        "where features stop being reused; exhaustive: every cut (default: %(default)s)",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle, as bundles/covid_ttl")
    parser.add_argument(
        "--dataset_dir", "--dataset-dir", type=Path, help="folder of the images; default: data that the bundle makes"
    )
    parser.add_argument(
        "--datalist", type=Path, nargs="+", help="one datalist a repeat, or one from which all repeats are drawn"
    )
    _add_what(parser)
    _add_how(parser)
    parser.set_defaults(run=run, parser=parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Options that decide what is searched."""
    parser.add_argument("--repeats", type=int, help="trainings of a cut (default: one a datalist, 3 of a single one)")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="overlay on train.json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="a value of the config, as max_epochs=20"
    )
    parser.add_argument("--train_patients", "--train-patients", type=int, metavar="N", help="train on N patients only")
    parser.add_argument("--candidates", nargs="+", metavar="POINT", help="only these points (default: stages, blocks)")
    parser.add_argument(
        "--rule",
        choices=("within-one-std", "best"),
        default="within-one-std",
        help="smallest network within one standard deviation of the best mean, or the best (default: %(default)s)",
    )
    parser.add_argument(
        "--quorum", type=float, default=2 / 3, help="share of cells that must be done to name a winner (default: 2/3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first repeat (default: %(default)s)")
    parser.add_argument(
        "--null",
        choices=("wachter", "permute"),
        help="svcca: random baseline by the closed form or by exchanging images (default: wachter)",
    )
    parser.add_argument(
        "--statistic",
        choices=("overlap", "quartiles", "excess"),
        help="svcca: what tells a point from random features (default: overlap)",
    )
    parser.add_argument(
        "--level", choices=("stage", "block"), help="svcca: decide at stage ends, or at blocks, too (default: stage)"
    )
    parser.add_argument(
        "--threshold", type=float, help="svcca: of the statistic (default: overlap .65 at stage ends, .5 at blocks)"
    )
    parser.add_argument(
        "--variance",
        type=float,
        metavar="SHARE",
        help="svcca: keep the principal directions with this share of the variance, so that fewer samples suffice "
        "(default: all directions)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Options that decide where and how fast."""
    parser.add_argument("--output_dir", "--out", type=Path, help="folder of the search (default: BUNDLE/eval/search)")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes (default: one a GPU, or up to 4 that share the CPU; 0: only `ttl worker`)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of a worker (default: an equal share)")
    parser.add_argument("--storage", help="queue: sqlite:///FILE or postgresql://USER@HOST/DB (default: in the folder)")
    parser.add_argument(
        "--study", default="truncation", help="name of the search, where one database holds many (default: %(default)s)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="try failed cells again")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="after the choice, evaluate it and the whole network on the test section",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the search.

    Raises:
        ValueError: what the search refuses.
    """
    settings = dict(read_setting(text) for text in arguments.set)  # before the slow imports
    from ttl_monai.engines.search import TruncationSearch

    search = TruncationSearch(
        arguments.bundle,
        method=arguments.method,
        dataset_dir=arguments.dataset_dir,
        datalist=arguments.datalist,
        output_dir=arguments.output_dir,
        repeats=arguments.repeats,
        overlays=arguments.overlay,
        settings=settings,
        train_patients=arguments.train_patients,
        candidates=arguments.candidates,
        rule=arguments.rule,
        quorum=arguments.quorum,
        seed=arguments.seed,
        svcca={name: value for name in _SVCCA if (value := getattr(arguments, name)) is not None},
        workers=arguments.workers,
        threads=arguments.threads,
        storage=arguments.storage,
        study=arguments.study,
        retry_failed=arguments.retry_failed,
        evaluate=arguments.evaluate,
        command=command_line(arguments),
    )
    try:
        document = search.run()
    except KeyboardInterrupt:
        return 130
    return 0 if all(row["determined"] for row in document["methods"] if row["method"] == arguments.method) else 1


def command_line(arguments: argparse.Namespace) -> str:
    """The command that repeats the search anywhere: without folders of this machine and without defaults."""
    words = ["ttl", "search"]
    for option, value in vars(arguments).items():
        if option in _PLACES or value == arguments.parser.get_default(option):
            continue
        values = value if isinstance(value, list) else [value]
        if option in ("set", "overlay"):
            values = [each for each in values if not each.partition("=")[0].endswith("_dir")]
            words += [word for each in values for word in (f"--{option}", shlex.quote(each))]
            continue
        words.append(f"--{option}")
        if value is not True:
            words += [shlex.quote(_place(option, each)) for each in values]
    return " ".join(words)


def _place(option: str, value: Any) -> str:
    if isinstance(value, Path) and value.is_absolute():
        folders = {"dataset_dir": "DATA/", "bundle": "bundles/"}
        return folders.get(option, "") + value.name
    return str(value)
