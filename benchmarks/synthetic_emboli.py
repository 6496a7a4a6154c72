"""Synthetic emboli: does the pipeline of ctpa_ttl learn filling defects, and find them where it has never seen any?

One real CT angiography, artificial defects: it asks whether the pipeline learns, and nothing follows for patients.
The mask of the pulmonary arteries is shared out among training, validation and test in compact blocks at least 3 mm
apart, anew for each seed. A pair of scans is drawn from the CT, its slices two and two put together (3 mm), with other
contrast, size, place and noise; one of the two has 1 to 3 defects, whole inside of its section's part of the arteries,
and both have the same 2 to 4 distractors, equal blobs in the tissue or lung beside the arteries. Beside the test
section lies `elsewhere`: the same positive scans, and in their twins the defects lie in veins, heart and aorta.

Trained by train.json and its overlays, and scored by evaluate.json, by series. A window is the whole scan: with windows
of a part of it, where a window lies would tell in training, but not in the test, whether a defect is in it, and short
trials learnt that alone (validation AUROC about .5). Controls: the labels of training and validation shuffled; and how
often a positive scan scores higher than its twin. A training that is finished is not done again: the whole can be run
in pieces, by the same command.

    python benchmarks/synthetic_emboli.py --cta DATA/cta --work RUNS --out bundles/ctpa_ttl/docs/emboli.json
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.emboli import DIAMETERS_MM
from ttl_monai.data.emboli_files import BLOCKS, MARGIN_MM, make_emboli
from ttl_monai.engines import load_spec
from ttl_monai.handlers.files import file_sha256

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "ctpa_ttl" / "configs"
SETTINGS: dict[str, Any] = {
    "spatial_size": [24, 48, 48],
    "crop_from": 52,
    "field_size": -1,
    "min_slices": 1,
    "batch_size": 8,
    "positive_fraction": 0.0,
    "rotate_degrees": 10.0,
}
LITE0, TTL = "backbone_lite0_3d.json", "strategy_ttl.json"
logger = logging.getLogger("synthetic_emboli")


class Row(NamedTuple):
    """A network and how it is trained."""

    name: str
    overlays: tuple[str, ...] = ()
    cut: str | None = None
    shuffled: bool = False


ROWS = (
    Row("lite0_ftl", (LITE0,)),
    Row("lite0_ttl", (LITE0, TTL), cut="blocks.2"),
    Row("lite0_ttl_shuffled", (LITE0, TTL), cut="blocks.2", shuffled=True),
)


def run(configs: list[str], **overrides: object) -> None:
    """Run a bundle config to its end."""
    workflow = ConfigWorkflow([str(CONFIGS / name) for name in configs], logging_file=False, **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def one_cell(folder: Path, row: Row, data: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Train and evaluate one network on one seed, unless that is done."""
    where = {"dataset_dir": str(data), "cache_dir": str(arguments.work / "cache")}
    datalist = data / ("shuffled.json" if row.shuffled else "datalist.json")
    asked = {**SETTINGS, "max_epochs": arguments.max_epochs, "learning_rate": arguments.learning_rate}
    record = folder / "run.json"
    if record.is_file():
        found = json.loads(record.read_text())
        made = {key: found["config"][key] for key in asked} | {"datalist": found["data"]["sha256"]}
        wanted = asked | {"datalist": file_sha256(datalist)}
        if made != wanted:
            raise ValueError(f"{folder} was trained with {made}, but {wanted} is asked for: use another --work folder")
    if not record.is_file() or json.loads(record.read_text())["status"] != "finished":
        cut = {"cuts#ttl": row.cut} if row.cut else {}
        options = {**where, **asked, **cut, "datalist": str(datalist), "seed": seed, "resume": "auto"}
        run(["train.json", *row.overlays], **options, output_dir=str(folder))
    for name, output in (("datalist.json", folder), ("elsewhere.json", folder / "elsewhere")):
        if not (output / "test" / "metrics.json").is_file():
            options = {**where, "datalist": str(data / name), "run_dir": str(folder), "output_dir": str(output)}
            run(["train.json", "evaluate.json"], **options)


def read_cell(folder: Path, seed: int) -> dict[str, Any]:
    """A repeat of a row, from the files of its run."""
    record, model, test, elsewhere = (
        json.loads((folder / name).read_text())
        for name in ("run.json", "model.json", "test/metrics.json", "elsewhere/test/metrics.json")
    )
    pairs: dict[str, dict[str, float]] = defaultdict(dict)
    with (folder / "test/predictions.csv").open(newline="") as file:
        for each in csv.DictReader(file):
            pairs[each["patient"]][each["label"]] = float(each["probability_positive"])
    return {
        "seed": seed,
        "val_auprc": model["validation"]["val_auprc"],
        "test_auroc": test["test_auroc"],
        "test_auprc": test["test_auprc"],
        "pairs_won": float(
            np.mean([np.heaviside(pair["positive"] - pair["negative"], 0.5) for pair in pairs.values()])
        ),
        "elsewhere_auroc": elsewhere["test_auroc"],
        "best_epoch": model["epoch"],
        "epochs": len(record["history"]),
        "wall_s": round(sum(each["seconds"] for each in record["history"]), 1),
    }


def bars(rows: list[dict[str, Any]]) -> list[str]:
    """Each network against what it should reach on positions that it has not seen."""
    lines = []
    for row in rows:
        mean = float(np.mean([repeat["test_auroc"] for repeat in row["repeats"]]))
        low, high = (0.35, 0.65) if row["shuffled"] else (0.9, 1.0)
        verdict = "met" if low <= mean <= high else "NOT met"
        lines.append(f"{row['name']}: test AUROC {mean:.3f} (bar {low} to {high}: {verdict})")
    return lines


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cta", type=Path, required=True, help="folder of cta.nii.gz and pulmonary_artery.nii.gz")
    parser.add_argument("--work", type=Path, required=True, help="folder of the made scans and the runs")
    parser.add_argument("--out", type=Path, required=True, help="results to write")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of positions, scans and trainings")
    parser.add_argument("--pairs", nargs=3, type=int, default=[96, 20, 40], help="of training, validation and test")
    parser.add_argument("--diameters_mm", nargs=2, type=float, default=DIAMETERS_MM, help="smallest and largest")
    parser.add_argument("--max_epochs", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="networks of the table")
    parser.add_argument("--only", nargs="+", help="train only these rows, and write no results yet")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    return arguments


def main() -> None:
    """Make the data of each seed, run every cell, then write the results."""
    arguments = read_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    torch.set_num_threads(1)
    pairs, diameters_mm = dict(zip(SECTIONS, arguments.pairs, strict=True)), tuple(arguments.diameters_mm)
    rows = []
    for row in ROWS:
        if row.name not in (arguments.only or arguments.rows):
            continue
        repeats = []
        for seed in arguments.seeds:
            folder, data = arguments.work / f"{row.name}_{seed}", arguments.work / f"data_{seed}"
            make_emboli(arguments.cta, data, seed=seed, pairs=pairs, diameters_mm=diameters_mm)
            one_cell(folder, row, data, seed, arguments)
            repeats.append(read_cell(folder, seed))
            logger.info("%s seed %d: %s", row.name, seed, repeats[-1])
        record = json.loads((folder / "run.json").read_text())
        definition = load_spec(folder)["network_def"]
        rows.append(
            {
                **row._asdict(),
                "strategy": record["strategy"],
                **{name: definition[name] for name in ("backbone", "weights")},
                **{name: record[name] for name in ("params", "macs")},
                "repeats": repeats,
            }
        )
    print("\n".join(bars(rows)), flush=True)
    if arguments.only:
        return
    results = {
        "dataset": "synthetic_emboli",
        "pairs": pairs,
        "diameters_mm": diameters_mm,
        "blocks": BLOCKS,
        "margin_mm": MARGIN_MM,
        **SETTINGS,
        "max_epochs": arguments.max_epochs,
        "learning_rate": arguments.learning_rate,
        "threads": torch.get_num_threads(),
        "command": "python benchmarks/synthetic_emboli.py --cta DATA/cta --work RUNS "
        f"--out bundles/ctpa_ttl/docs/emboli.json --rows {' '.join(arguments.rows)} "
        f"--seeds {' '.join(map(str, arguments.seeds))} --pairs {' '.join(map(str, arguments.pairs))} "
        f"--diameters_mm {' '.join(map(str, diameters_mm))} "
        f"--max_epochs {arguments.max_epochs} --learning_rate {arguments.learning_rate}",
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=4) + "\n")
    logger.info("Wrote %s.", arguments.out)


if __name__ == "__main__":
    main()
