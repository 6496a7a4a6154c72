"""What cutting a network and leaving PyTorch save at prediction time on a CPU.

The whole network in eager PyTorch (FTL: what a user would run today) against the cut one (TTL) and against ONNX Runtime
and OpenVINO, in float32 and int8. All variants run in turn within each round, so that a busy machine slows all of
them; medians, and ratios to FTL in eager PyTorch. Weights do not change the time, so they are random. int8 is
calibrated on eight made images, which is enough to time it and says nothing of its accuracy: `ttl export --int8`
compares that on a validation section. Without VNNI a processor has no fast 8-bit product: whether it has is recorded.

    python benchmarks/inference.py [--rounds 15] [--networks NAME ...] [--out benchmarks/inference.json]
        [--readme README.md]
    python benchmarks/inference.py --from benchmarks/inference.json --readme README.md    # table and picture anew
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from ttl_monai.deploy.export import TOLERANCE, ExportedNetwork
from ttl_monai.deploy.export.forms import onnx_model, save_onnx, save_openvino
from ttl_monai.deploy.export.quantise import quantise
from ttl_monai.networks import TransferClassifier, TransferUNet, count_macs, count_params
from ttl_monai.reports import update_section

WARM_UP, PAUSE_S = 2, 0.02  # rounds that do not count; idle threads of one engine stop turning before the next one runs
PICTURE = "inference.png"
ENGINES = {
    ("eager", "float32"): "PyTorch eager",
    ("onnxruntime", "float32"): "ONNX Runtime",
    ("openvino", "float32"): "OpenVINO",
    ("onnxruntime", "int8"): "ONNX Runtime int8",
    ("openvino", "int8"): "OpenVINO int8",
}
# Network, cut, image (C, ...), the most that the best float32 engine may take of FTL in eager PyTorch at batch 8, and
# the CPU ratio TTL / FTL of the paper's Table 3.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet50": {"cut": "layer3", "image": (1, 224, 224), "bar": 0.55, "paper": 60.9 / 80.0},
    "densenet201": {"cut": "transition2", "image": (1, 224, 224), "bar": 0.35, "paper": 46.2 / 107.0},
    "efficientnet_b0": {"cut": "blocks.4.2", "image": (1, 224, 224), "bar": None, "paper": 24.0 / 30.0},
    "tf_efficientnet_lite0": {"cut": "blocks.3", "image": (1, 224, 224), "bar": 0.15, "paper": None},
    "resnext3d101": {"cut": "layer2", "image": (1, 16, 96, 96), "bar": None, "paper": None},
    "unet_resnet34": {"cut": "layer2.3", "image": (1, 224, 224), "bar": None, "paper": None},
}


def build(name: str, cut: str | None) -> torch.nn.Module:
    """A network with random weights, in evaluation mode."""
    family, _, encoder = name.partition("_")
    if family == "unet":
        return TransferUNet(encoder, weights="none", truncate_at=cut, in_channels=1, out_channels=2).eval()
    return TransferClassifier(name, weights="none", truncate_at=cut, in_channels=1, num_classes=2).eval()


def export(network: torch.nn.Module, size: Sequence[int], folder: Path) -> dict[tuple[str, str], ExportedNetwork]:
    """The network in each engine, one thread a core, after a look at the outputs in float32."""
    exact = onnx_model(network, torch.zeros(2, *size))
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, *size, generator=generator) for _ in range(8)]
    models = {"float32": exact, "int8": quantise(exact, folder / "model.onnx", (each.numpy() for each in images))}
    engines = {}
    for precision, model in models.items():
        path = folder / f"{precision}.onnx"
        save_onnx(model, path, {})
        save_openvino(path, path.with_suffix(".xml"), {})
        for engine, file in (("onnxruntime", path), ("openvino", path.with_suffix(".xml"))):
            engines[engine, precision] = ExportedNetwork(file, threads=torch.get_num_threads())
    for engine in ("onnxruntime", "openvino"):
        expected = network(images[0])  # random weights make outputs of any size, so the difference is a relative one
        difference = float((engines[engine, "float32"](images[0]) - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:
            raise ValueError(f"{engine}'s output differs from eager by {difference:.2g}, expected at most {TOLERANCE}")
    return engines


def time_in_turn(runners: dict[Any, Callable[[], object]], rounds: int) -> dict[Any, list[float]]:
    """Milliseconds of each runner, one of each in every round."""
    times: dict[Any, list[float]] = {key: [] for key in runners}
    for round_ in range(rounds + WARM_UP):
        for key, runner in runners.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            runner()
            if round_ >= WARM_UP:
                times[key].append(1e3 * (time.perf_counter() - start))
    return times


def measure(name: str, rounds: int, batches: Sequence[int]) -> list[dict[str, Any]]:
    """One row a variant and batch."""
    size, cut, rows = NETWORKS[name]["image"], NETWORKS[name]["cut"], []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        variants: dict[tuple[str, str, str], torch.nn.Module] = {}
        facts = {}
        for side, point in (("FTL", None), ("TTL", cut)):
            network = build(name, point)
            facts[side] = {"params": count_params(network), "macs": count_macs(network, torch.zeros(1, *size))}
            variants[side, "eager", "float32"] = network
            (Path(folder) / side).mkdir()
            engines = export(network, size, Path(folder) / side)
            variants |= {(side, *key): engine for key, engine in engines.items()}
        for batch in batches:
            image = torch.rand(batch, *size)
            runners = {key: lambda network=network, image=image: network(image) for key, network in variants.items()}
            with torch.inference_mode():
                times = time_in_turn(runners, rounds)
            reference = statistics.median(times["FTL", "eager", "float32"])
            for (side, engine, precision), taken in times.items():
                quarters = statistics.quantiles(taken, n=4)
                row = {"network": name, "cut": cut, "image": list(size), "side": side, "engine": engine}
                row |= {"precision": precision, "batch": batch, "median_ms": round(statistics.median(taken), 2)}
                row |= {"quartiles_ms": [round(quarters[0], 2), round(quarters[2], 2)]}
                rows.append(row | {"ratio": round(statistics.median(taken) / reference, 4), **facts[side]})
    return rows


def machine() -> dict[str, Any]:
    """The processor, whether it multiplies 8 bits fast (None: nobody says), threads and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    said = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    flags = said.get("flags", "").split()
    return {
        "processor": said.get("model name", platform.processor() or platform.machine()),
        "vnni": any("vnni" in flag for flag in flags) if flags else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.split("-")[0],
    }


def find(document: dict[str, Any], name: str, batch: int) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of a network by side, engine and precision."""
    rows = [row for row in document["rows"] if (row["network"], row["batch"]) == (name, batch)]
    return {(row["side"], row["engine"], row["precision"]): row for row in rows}


def best_float32(rows: dict[tuple[str, str, str], dict[str, Any]]) -> float:
    """The smallest ratio of the cut network in float32."""
    return min(row["ratio"] for (side, _, precision), row in rows.items() if (side, precision) == ("TTL", "float32"))


def table(document: dict[str, Any]) -> str:
    """Ratios as markdown, a table a batch."""
    parts = []
    names = list(dict.fromkeys(row["network"] for row in document["rows"]))
    for batch in sorted({row["batch"] for row in document["rows"]}, reverse=True):
        heads = ["network, cut (image)", "MACs FTL → TTL (G)", "FTL eager (ms)"]
        heads += [f"{label} FTL / TTL" for label in ENGINES.values()]
        heads += ["best float32 TTL (aim)"] if batch == 8 else ["paper's TTL / FTL"]
        lines = [f"Batch {batch}:", "", f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
        for name in names:
            rows, about = find(document, name, batch), NETWORKS[name]
            whole, cut = rows["FTL", "eager", "float32"], rows["TTL", "eager", "float32"]
            cells = [f"{name}, {about['cut']} ({'x'.join(map(str, whole['image'][1:]))})"]
            cells += [f"{whole['macs'] / 1e9:.2f} → {cut['macs'] / 1e9:.2f}", f"{whole['median_ms']:.0f}"]
            sides = ([rows[(side, *key)]["ratio"] for side in ("FTL", "TTL")] for key in ENGINES)
            cells += [f"{both[0]:.2f} / {both[1]:.2f}" for both in sides]
            aim = "" if about["bar"] is None else f" (at most {about['bar']:g})"
            paper = "" if about["paper"] is None else f"{about['paper']:.2f}"
            cells.append(f"{best_float32(rows):.2f}{aim}" if batch == 8 else paper)
            lines.append(f"| {' | '.join(cells)} |")
        parts += ["\n".join(lines)]
    has = document["machine"]
    vnni = {True: "with VNNI", False: "without VNNI", None: "VNNI unknown"}[has["vnni"]]
    parts.append(
        f"Medians of {document['rounds']} rounds, as ratios to FTL in eager PyTorch; {has['processor']} ({vnni}), "
        f"{has['threads']} threads, PyTorch {has['torch']}, ONNX Runtime {has['onnxruntime']}, OpenVINO "
        f"{has['openvino']}; random weights, int8 calibrated on made images; `python benchmarks/inference.py`."
    )
    return "\n\n".join(parts)


def draw(document: dict[str, Any], path: Path, batch: int = 8) -> None:
    """Bars of the ratios on a log scale, one panel a network, FTL and TTL beside each other in each engine."""
    names = list(dict.fromkeys(row["network"] for row in document["rows"]))
    columns, white = min(3, len(names)), {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    figure = Figure(figsize=(4.6 * columns, 3.6 * -(-len(names) // columns)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(-(-len(names) // columns), columns, sharey=True, squeeze=False)).ravel()
    for panel, name in zip(panels, names, strict=False):
        rows = find(document, name, batch)
        for offset, side, colour in ((-0.2, "FTL", "#999999"), (0.2, "TTL", "#0072B2")):
            ratios = [rows[(side, *key)]["ratio"] for key in ENGINES]
            bars = panel.barh(np.arange(len(ENGINES)) + offset, ratios, 0.38, color=colour, label=side, left=0)
            panel.bar_label(bars, [f"{value:.2f}" for value in ratios], padding=2, fontsize=8, bbox=white)
        panel.set(xscale="log", xlim=(0.02, 8), title=f"{name}\ncut at {NETWORKS[name]['cut']}")
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_yticks(range(len(ENGINES)), ENGINES.values())
        panel.set_xticks([0.03, 0.1, 0.3, 1, 3], ["0.03", "0.1", "0.3", "1", "3"])
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    panels[0].invert_yaxis()  # of all panels, as they share it
    panels[0].legend(loc="lower right", fontsize=8)
    figure.supxlabel(f"time / time of the whole network in eager PyTorch, batch {batch} (log scale)")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> None:
    """Measure or read, print, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default 15, at least 2)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="N", help="default 1 and 8")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="read the numbers instead")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--readme", type=Path, help="fill the section `latency`, and draw the picture for it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if arguments.source:
        document = json.loads(arguments.source.read_text())
    else:
        document = {"machine": machine(), "rounds": arguments.rounds, "rows": []}
        for name in tqdm(arguments.networks, desc="networks", disable=None):
            document["rows"] += measure(name, arguments.rounds, arguments.batches)
    print(table(document))
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=4) + "\n")
    if arguments.readme:
        picture = arguments.readme.parent / "benchmarks" / PICTURE
        draw(document, picture)
        shown = f"![time of each engine, whole and cut](benchmarks/{PICTURE})"
        filled = update_section(arguments.readme.read_text(), "latency", f"{shown}\n\n{table(document)}")
        arguments.readme.write_text(filled)


if __name__ == "__main__":
    main()
