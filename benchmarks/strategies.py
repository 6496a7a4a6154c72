"""Compare transfer strategies on one's own data: the tables of results in a bundle's model card.

Trains each row on each of the given datalists or seeds (one a repeat), evaluates it on its test section once, and
writes a table into the bundle's `results.json`, from which `ttl table` makes the text. A training that is finished is
not done again, one that was interrupted goes on, so the whole can be run in pieces, and by several processes that have
different rows in --only.

    python benchmarks/strategies.py --dataset_dir DATA/cxr_pid --datalists datalists/cxr_pid_split*.json \
        --work RUNS --out bundles/covid_ttl/docs/results.json
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from ttl_monai.engines import build_network, load_spec
from ttl_monai.networks import measure_latency

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
# Strategy, and where it cuts, freezes or slims.
ROWS = ("FTL", "HTL", "LWFT:blocks.1", "TF:blocks.3", "TTL:blocks.3", "TTL:blocks.2")
SETTINGS = ("spatial_size", "batch_size", "max_epochs", "learning_rate")
logger = logging.getLogger("strategies")


def run(configs: list[Path], **overrides: object) -> None:
    """Run a bundle config to its end."""
    workflow = ConfigWorkflow([str(path) for path in configs], logging_file=False, **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def one_cell(folder: Path, row: str, datalist: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Train and evaluate one strategy on one repeat, unless that is done."""
    configs = BUNDLES / arguments.bundle / "configs"
    strategy, _, cut = row.lower().partition(":")
    overlays = [*arguments.overlays, *([] if strategy == "ftl" else [f"strategy_{strategy}.json"])]
    cuts = {f"cuts#{strategy}": cut} if cut else {}
    data = {"dataset_dir": arguments.dataset_dir, "datalist": str(datalist), "cache_dir": str(arguments.work / "cache")}
    record = folder / "run.json"
    if record.is_file():
        check_cell(json.loads(record.read_text()), datalist, seed, arguments.settings)
    if not record.is_file() or json.loads(record.read_text())["status"] != "finished":
        run(
            [configs / name for name in ("train.json", *overlays)],
            **{**data, **cuts, **arguments.settings, "seed": seed, "resume": "auto", "output_dir": str(folder)},
        )
    metrics = folder / "test/metrics.json"
    model = json.loads((folder / "model.json").read_text())["sha256"]
    if not metrics.is_file() or json.loads(metrics.read_text())["model_sha256"] != model:
        run([configs / "train.json", configs / "evaluate.json"], **data, run_dir=str(folder))


def check_cell(record: dict[str, Any], datalist: Path, seed: int, settings: dict[str, Any]) -> None:
    """Refuse a run that was made with other settings or data than are asked for."""
    asked = {**settings, "seed": seed, "datalist": hashlib.sha256(datalist.read_bytes()).hexdigest()}
    config = ConfigParser(record["config"])
    made = {name: config.get(name.replace("#", "::")) for name in settings}
    made |= {"seed": record["seed"], "datalist": record["data"]["sha256"]}
    if made != asked:
        raise ValueError(f"a run in --work was made with {made}, but {asked} is asked for: use another --work folder")


def read_cell(folder: Path, repeat: int) -> dict[str, object]:
    """A repeat of a row, from the files of its run."""
    record, model, test = (
        json.loads((folder / name).read_text()) for name in ("run.json", "model.json", "test/metrics.json")
    )
    return {
        "split": repeat,
        "seed": record["seed"],
        **model["validation"],
        **{name: value for name, value in test.items() if name.startswith("test_") and not isinstance(value, dict)},
        "best_epoch": model["epoch"],
        "epochs": len(record["history"]),
        "wall_s": round(sum(row["seconds"] for row in record["history"]), 1),
    }


def latency(folder: Path) -> float:
    """Milliseconds of one image through the trained network."""
    network, spec = build_network(folder), load_spec(folder)
    size = spec["spatial_size"]
    shape = size if isinstance(size, list) else (size, size)
    image = torch.rand(1, spec["network_def"]["in_channels"], *shape)
    return round(measure_latency(network, image, repeats=50), 2)


def read_arguments() -> argparse.Namespace:
    """The command line, with `settings` by name and one datalist and seed a repeat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="covid_ttl", help="name of the bundle (default: %(default)s)")
    parser.add_argument("--overlays", nargs="*", default=[], help="other overlays of its train.json, by file name")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="STRATEGY[:CUT]", help="default: %(default)s")
    parser.add_argument("--dataset_dir", required=True, help="folder that the datalists' paths start from")
    parser.add_argument("--datalists", nargs="+", type=Path, required=True, help="one a repeat, or one for all seeds")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one a repeat, or one for all datalists")
    parser.add_argument(
        "--repeated", default="split by patient", help="what each repeat has of its own (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="results.json; a table of other data or nets stays")
    parser.add_argument("--only", nargs="+", help="train only these rows, and write no results yet")
    parser.add_argument("--spatial_size", type=int, nargs="+", default=[128])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--set", nargs="+", default=[], metavar="ID=VALUE", help="other values of train.json")
    arguments = parser.parse_args()
    repeats = max(len(arguments.datalists), len(arguments.seeds))
    if {len(arguments.datalists), len(arguments.seeds)} - {1, repeats}:
        parser.error("expected as many --seeds as --datalists, or one of either")
    arguments.repeats = [
        (arguments.datalists[k % len(arguments.datalists)].resolve(), arguments.seeds[k % len(arguments.seeds)])
        for k in range(repeats)
    ]
    arguments.settings = {name: getattr(arguments, name) for name in SETTINGS}
    if len(arguments.spatial_size) == 1:
        arguments.settings["spatial_size"] = arguments.spatial_size[0]
    for each in arguments.set:
        name, _, value = each.partition("=")
        try:
            arguments.settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments.settings[name] = value
    return arguments


def command(arguments: argparse.Namespace, dataset: str) -> str:
    """The command without folders of this machine."""
    lists = arguments.datalists
    folder = "datalists" if lists[0].resolve().parent == BUNDLES.parent / "datalists" else "LISTS"
    words = ["python benchmarks/strategies.py"]
    words += [] if arguments.bundle == "covid_ttl" else [f"--bundle {arguments.bundle}"]
    words += [f"--overlays {' '.join(arguments.overlays)}"] if arguments.overlays else []
    words += [f"--rows {' '.join(arguments.rows)}"] if tuple(arguments.rows) != ROWS else []
    name = lists[0].name if len(lists) == 1 else f"{lists[0].stem.rstrip('0123456789')}*.json"
    words += [f"--dataset_dir DATA/{dataset} --datalists {folder}/{name}"]
    words += [f"--seeds {' '.join(map(str, arguments.seeds))}"] if arguments.seeds != [0] else []
    words += [f"--repeated {shlex.quote(arguments.repeated)}"] if arguments.repeated != "split by patient" else []
    words += [f"--work RUNS --out bundles/{arguments.bundle}/docs/results.json"]
    words += [f"--spatial_size {' '.join(map(str, arguments.spatial_size))}"]
    words += [f"--{name} {getattr(arguments, name)}" for name in SETTINGS[1:]]
    words += [f"--set {' '.join(map(shlex.quote, arguments.set))}"] if arguments.set else []
    return " ".join(words)


def main() -> None:
    """Run every cell, then write the results."""
    arguments = read_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    rows = []
    for row in arguments.only or arguments.rows:
        strategy, _, cut = row.partition(":")
        repeats = []
        for number, (datalist, seed) in enumerate(arguments.repeats):
            folder = (arguments.work / f"{strategy.lower()}_{cut or 'none'}_{number}").resolve()
            one_cell(folder, row, datalist, seed, arguments)
            repeats.append(read_cell(folder, number))
            logger.info("%s repeat %d: %s", row, number, repeats[-1])
        if arguments.only:
            continue
        record = json.loads((folder / "run.json").read_text())
        size = {name: record[name] for name in ("params", "trainable_params", "macs")}
        cut = cut or ("all" if strategy == "HTL" else None)
        rows.append({"strategy": strategy, "cut": cut, "repeats": repeats, **size, "latency_ms": latency(folder)})
    if arguments.only:
        return
    dataset = json.loads(arguments.datalists[0].read_text())["name"]
    network = load_spec(folder)["network_def"]
    results = {
        "dataset": dataset,
        "backbone": network.get("backbone") or network["encoder"],
        "weights": network["weights"],
        **{name: arguments.settings[name] for name in SETTINGS},
        "threads": torch.get_num_threads(),
        "repeated": arguments.repeated,
        "command": command(arguments, dataset),
        "rows": rows,
    }
    tables = json.loads(arguments.out.read_text())["tables"] if arguments.out.is_file() else []
    same = [k for k, each in enumerate(tables) if all(each[key] == results[key] for key in ("dataset", "backbone"))]
    if same:
        tables[same[0]] = results
    else:
        tables.append(results)
    arguments.out.write_text(json.dumps({"tables": tables}, indent=4) + "\n")
    logger.info("Wrote %s.", arguments.out)


if __name__ == "__main__":
    main()
