"""Compare the transfer strategies on one's own data: the table of a bundle's model card.

Trains FTL, HTL, LWFT, TF and TTL at two cuts on each of the given datalists (one a repeat), evaluates each on its test
section once, and writes `results.json`, from which `ttl table` makes the table. A training that is finished is not
done again, one that was interrupted goes on, so the whole can be run in pieces.

    python benchmarks/strategies.py --dataset_dir DATA/cxr_pid --datalists datalists/cxr_pid_split*.json \
        --work RUNS --out bundles/covid_ttl/docs/results.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow

from ttl_monai.engines import load_spec
from ttl_monai.networks import TransferClassifier, measure_latency

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "covid_ttl" / "configs"
# strategy, overlay, where it cuts, freezes or slims, its entry in `cuts`
ROWS = (
    ("FTL", None, None),
    ("HTL", "htl", "all"),
    ("LWFT", "lwft", "blocks.1"),
    ("TF", "tf", "blocks.3"),
    ("TTL", "ttl", "blocks.3"),
    ("TTL", "ttl", "blocks.2"),
)
SETTINGS = ("spatial_size", "batch_size", "max_epochs", "learning_rate")
logger = logging.getLogger("strategies")


def run(configs: list[str], **overrides: object) -> ConfigWorkflow:
    """Run a bundle config to its end."""
    workflow = ConfigWorkflow([str(CONFIGS / name) for name in configs], logging_file=False, **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def one_cell(
    folder: Path, row: tuple[str, str | None, str | None], datalist: Path, arguments: argparse.Namespace
) -> None:
    """Train and evaluate one strategy on one split, unless that is done."""
    _, overlay, cut = row
    overlays = [f"strategy_{overlay}.json"] if overlay else []
    cuts = {f"cuts#{overlay}": cut} if overlay in ("lwft", "tf", "ttl") else {}
    data = {"dataset_dir": arguments.dataset_dir, "datalist": str(datalist), "cache_dir": str(arguments.work / "cache")}
    record = folder / "run.json"
    if record.is_file():
        check_cell(json.loads(record.read_text()), datalist, arguments)
    if not record.is_file() or json.loads(record.read_text())["status"] != "finished":
        settings = {key: getattr(arguments, key) for key in SETTINGS}
        run(["train.json", *overlays], **data, **cuts, **settings, resume="auto", output_dir=str(folder))
    metrics = folder / "test/metrics.json"
    model = json.loads((folder / "model.json").read_text())["sha256"]
    if not metrics.is_file() or json.loads(metrics.read_text())["model_sha256"] != model:
        run(["train.json", "evaluate.json"], **data, run_dir=str(folder))


def check_cell(record: dict, datalist: Path, arguments: argparse.Namespace) -> None:
    """Refuse a run that was made with other settings or data than are asked for."""
    made = {name: record["config"][name] for name in SETTINGS} | {"datalist": record["data"]["sha256"]}
    asked = {name: getattr(arguments, name) for name in SETTINGS} | {
        "datalist": hashlib.sha256(datalist.read_bytes()).hexdigest()
    }
    if made != asked:
        raise ValueError(f"a run in --work was made with {made}, but {asked} is asked for: use another --work folder")


def read_cell(folder: Path, split: int) -> dict[str, object]:
    """A repeat of a row, from the files of its run."""
    record, model, test = (
        json.loads((folder / name).read_text()) for name in ("run.json", "model.json", "test/metrics.json")
    )
    names = ("test_auroc", "test_auprc", "test_auprc_trapezoid", "test_sensitivity", "test_specificity")
    return {
        "split": split,
        "seed": record["seed"],
        "val_auprc": model["validation"]["val_auprc"],
        **{name: test[name] for name in names},
        "best_epoch": model["epoch"],
        "epochs": len(record["history"]),
        "wall_s": round(sum(row["seconds"] for row in record["history"]), 1),
    }


def latency(folder: Path, size: int) -> float:
    """Milliseconds of one image through the trained network."""
    definition = {key: value for key, value in load_spec(folder)["network_def"].items() if key != "_target_"}
    network = TransferClassifier(**{**definition, "weights": "none"}).eval()
    return round(measure_latency(network, torch.rand(1, 1, size, size), repeats=50), 2)


def main() -> None:
    """Run every cell, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="folder that the datalists' paths start from")
    parser.add_argument("--datalists", nargs="+", type=Path, required=True, help="one datalist a repeat")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="results.json to write")
    parser.add_argument("--only", nargs="+", help="train only these strategies, and write no results yet")
    parser.add_argument("--spatial_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    rows = []
    for row in ROWS:
        if arguments.only and row[0] not in arguments.only:
            continue
        repeats = []
        for split, datalist in enumerate(arguments.datalists):
            folder = (arguments.work / f"{row[0].lower()}_{row[2] or 'none'}_{split}").resolve()
            one_cell(folder, row, datalist.resolve(), arguments)
            repeats.append(read_cell(folder, split))
            logger.info("%s %s split %d: test AUROC %.4f", row[0], row[2] or "", split, repeats[-1]["test_auroc"])
        record = json.loads((folder / "run.json").read_text())
        size = {name: record[name] for name in ("params", "trainable_params", "macs")}
        rows.append(
            {
                "strategy": row[0],
                "cut": row[2],
                "repeats": repeats,
                **size,
                "latency_ms": latency(folder, arguments.spatial_size),
            }
        )
    if arguments.only:
        return
    header = json.loads(arguments.datalists[0].read_text())
    results = {
        "dataset": header["name"],
        "backbone": "tf_efficientnet_lite0",
        "weights": "imagenet",
        **{key: getattr(arguments, key) for key in SETTINGS},
        "threads": torch.get_num_threads(),
        "command": f"python benchmarks/strategies.py --dataset_dir DATA/{header['name']} --datalists "
        f"datalists/{header['name']}_split*.json --work RUNS --out bundles/covid_ttl/docs/results.json "
        + " ".join(f"--{name} {getattr(arguments, name)}" for name in SETTINGS),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=4) + "\n")
    logger.info("Wrote %s.", arguments.out)


if __name__ == "__main__":
    main()
