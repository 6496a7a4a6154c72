"""Two processes on one machine, by torchrun and gloo: what a pair of GPUs does with NCCL."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from .conftest import BUNDLES, TINY_OF

pytestmark = pytest.mark.distributed

# Runs a bundle as `monai.bundle run` does, and leaves what this rank ended with.
WORKER = """
import json, os, sys, torch
from monai.bundle import ConfigWorkflow
configs, overrides, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
workflow = ConfigWorkflow(configs, logging_file=False, **overrides)
workflow.initialize()
workflow.run()
get = workflow.parser.get_parsed_content
if out != "-":
    state = {name: value.clone() for name, value in get("network").module.state_dict().items()}
    torch.save({"weights": state, "lr": get("optimizer").param_groups[0]["lr"],
                "epoch": get("train#trainer").state.epoch}, f"{out}/rank{os.environ['RANK']}.pt")
workflow.finalize()
"""


def torchrun(folder, configs, overrides, out="-"):
    script = folder / "worker.py"
    script.write_text(WORKER)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "--max-restarts=0",
        str(script),
        json.dumps(configs),
        json.dumps(overrides),
        str(out),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("bundle", "cut", "images", "table"),
    [
        pytest.param("covid_ttl", "blocks.1", 7, "predictions.csv", marks=pytest.mark.slow),
        pytest.param("ctpa_ttl", "layer1", 4, "predictions.csv", marks=pytest.mark.slow),
        pytest.param("unet_ttl", "blocks.1", 3, "masks.csv", marks=pytest.mark.slow),
    ],
)
def test_ranks_end_equal_and_evaluation_equals_that_of_one_process(
    make_workflow, trained, bundle, datalist, tmp_path, cut, images, table
):
    """An odd number of images gives the ranks different shares; of series, they get windows of the same ones."""
    data = {
        "dataset_dir": str(datalist.parent),
        "datalist": str(datalist),
        "cache_dir": str(tmp_path / "cache"),
    }

    def configs(*names):
        return [str(BUNDLES / bundle / "configs" / name) for name in names]

    torchrun(
        tmp_path,
        configs("train.json", "strategy_ttl.json", "multi_gpu_train.json"),
        # a patience of 0 lets the rate fall within the test: it must do so on both ranks
        {
            **data,
            **TINY_OF[bundle],
            "cuts#ttl": cut,
            "max_epochs": 3,
            "batch_size": 4,
            "patience": 0,
            "output_dir": str(tmp_path / "ddp"),
        },
        tmp_path,
    )
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0]["lr"] == ranks[1]["lr"]
    assert ranks[0]["epoch"] == ranks[1]["epoch"] == 3
    weights = [{k: v for k, v in rank["weights"].items() if "running" not in k} for rank in ranks]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    saved = torch.load(tmp_path / "ddp/model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in saved)

    make_workflow("train.json", "evaluate.json", bundle=bundle, output_dir=..., run_dir=str(trained)).run()
    one = json.loads((trained / "test/metrics.json").read_text())
    assert one["n"] == images
    single = list(csv.DictReader((trained / "test" / table).open()))
    shutil.rmtree(trained / "test")
    torchrun(
        tmp_path,
        configs("train.json", "evaluate.json", "multi_gpu_evaluate.json"),
        {**data, "batch_size": 2, "run_dir": str(trained)},
    )
    two = json.loads((trained / "test/metrics.json").read_text())
    assert two.keys() == one.keys()
    for name, value in one.items():
        if isinstance(value, float):
            assert two[name] == pytest.approx(value, abs=1e-7), name
    both = list(csv.DictReader((trained / "test" / table).open()))
    assert [row["patient"] for row in both] == [row["patient"] for row in single]
    for a, b in zip(both, single, strict=True):
        for name in a.keys() - {"patient", "image", "label", "decision"}:
            assert float(a[name] or "nan") == pytest.approx(float(b[name] or "nan"), abs=2e-6, nan_ok=True), name
