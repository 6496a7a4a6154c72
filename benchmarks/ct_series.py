"""What it takes to score one CT series on a CPU: seconds and memory, from the folder of DICOM to series.json.

A made series of 300 slices of 512 x 512 with noise, scored by `inference.json` of `ctpa_ttl` with the paper's network,
ResNeXt3D-101 cut at `layer3.22`, on windows of 24 x 192 x 192. Its weights are random ones after one training step:
they change neither time nor memory. Making the series and the run, and the prediction, have a process each, so that the
peak is that of the prediction alone, Python and its imports included.

    python benchmarks/ct_series.py [--threads 2] [--slices 300] [--batch_size 8] [--out benchmarks/ct_series.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from ttl_monai.data import make_ctpa_phantom
from ttl_monai.data.phantom_ct import CtScan, draw_ct
from ttl_monai.data.phantom_ctpa import CtExam, write_dicom

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "ctpa_ttl" / "configs"
CUT, SIDE, COARSE = "layer3.22", 512, 128
NOISE_HU = 20
MAX_GIB, MAX_SECONDS = 4.0, 180.0


def write_series(folder: Path, slices: int) -> None:
    """A made chest, coarse but for its noise, as one DICOM file a slice."""
    times = SIDE // COARSE
    scan = draw_ct(0, positive=True, shape=(max(24, -(-slices // times)), COARSE, COARSE))
    hu = scan.hu.repeat(times, axis=0)[:slices].repeat(times, axis=1).repeat(times, axis=2)
    noise = np.random.default_rng(0).normal(scale=NOISE_HU, size=hu.shape)
    hu = np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)
    none = np.zeros(0, dtype=bool)
    spacing = tuple(round(mm / times, 4) for mm in scan.spacing_mm)
    write_dicom(folder, CtExam("P0001", 0, 1, "DICOM", CtScan(hu, spacing, none, none, ())), seed=0)


def make_run(folder: Path) -> None:
    """A run of the network by the bundle's own training: one step on made scans, its weights random before."""
    datalist = make_ctpa_phantom(folder / "scans", patients=3, shape=(24, 64, 64))
    workflow = ConfigWorkflow(
        [str(CONFIGS / name) for name in ("train.json", "backbone_resnext3d101.json", "strategy_ttl.json")],
        logging_file=False,
        dataset_dir=str(datalist.parent),
        datalist=str(datalist),
        cache_dir=str(folder / "cache"),
        output_dir=str(folder / "run"),
        device="$torch.device('cpu')",
        max_epochs=1,
        batch_size=1,
        **{"cuts#ttl": CUT, "network_def#weights": "none", "train#trainer#epoch_length": 1},
    )
    workflow.initialize()
    workflow.run()


def prepare(folder: Path, slices: int) -> None:
    """The series and the run."""
    write_series(folder / "series", slices)
    make_run(folder)


def predict(folder: Path, threads: int, batch_size: int) -> dict[str, Any]:
    """Score the series; seconds in the network and outside of it, and the peak of this process."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    workflow = ConfigWorkflow(
        str(CONFIGS / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        run_dir=str(folder / "run"),
        dataset_dir=str(folder / "series"),
        output_dir=str(folder / "predictions"),
        batch_size=batch_size,
        device="$torch.device('cpu')",
    )
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network")
    marks: list[float] = []
    network.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))
    network.register_forward_hook(lambda *_: marks.append(time.perf_counter()))
    ready = time.perf_counter()
    workflow.run()
    ended = time.perf_counter()
    in_network = sum(end - start for start, end in zip(marks[::2], marks[1::2], strict=True))
    (series,) = json.loads((folder / "predictions" / "series.json").read_text())["series"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {
        "windows": len(series["windows"]),
        "build_seconds": round(ready - began, 1),
        "reading_seconds": round(ended - ready - in_network, 1),
        "network_seconds": round(in_network, 1),
        "peak_memory_mib": round(peak / 1024),
    }


def main() -> None:
    """Measure, print against the bars, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8, help="windows that the network takes at once")
    parser.add_argument("--max_gib", type=float, default=MAX_GIB, help="bar of the peak memory")
    parser.add_argument("--max_seconds", type=float, default=MAX_SECONDS, help="bar of the whole time")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        pool.apply(prepare, (Path(folder), args.slices))
        began = time.perf_counter()
        found = pool.apply(predict, (Path(folder), args.threads, args.batch_size))
        seconds = time.perf_counter() - began
    setting = {"series": [args.slices, SIDE, SIDE], "network": f"resnext3d101 cut at {CUT}, random weights"}
    setting |= {"threads": args.threads, "batch_size": args.batch_size}
    document = {"setting": setting, "seconds": round(seconds, 1), **found}
    print(json.dumps(document, indent=4))
    for what, value, bar in (
        ("whole time in seconds, start of Python included", seconds, args.max_seconds),
        ("peak memory in GiB", found["peak_memory_mib"] / 1024, args.max_gib),
    ):
        print(f"{what}: {value:.2f} (bar {bar:g}: {'met' if value < bar else 'NOT met'})")
    if args.out:
        args.out.write_text(json.dumps(document, indent=4) + "\n")


if __name__ == "__main__":
    main()
