"""What truncation saves at prediction time on a CPU: the whole network (FTL) against the cut one (TTL).

Eager PyTorch and ONNX Runtime, one 224 px image at a time, the four variants in turn within each round so that a busy
machine slows all of them; medians and the ratio TTL / FTL. Weights do not change the time, so they are random.

    python benchmarks/inference.py [--rounds 20] [--out benchmarks/inference.json] [--table README.md]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ttl_monai.networks import TransferClassifier, count_macs, count_params
from ttl_monai.reports import update_section

# network, cut of the paper's Table 3 (lite0: ours), the paper's CPU seconds FTL and TTL
NETWORKS = (
    ("resnet50", "layer3", (80.0, 60.9)),
    ("densenet201", "transition2", (107.0, 46.2)),
    ("efficientnet_b0", "blocks.4.2", (30.0, 24.0)),
    ("tf_efficientnet_lite0", "blocks.3", None),
)


def onnx_runner(network: torch.nn.Module, image: torch.Tensor, folder: Path) -> Callable[[], object]:
    """Export to ONNX, check it against eager, and return what runs it."""
    path = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (image,), path, input_names=["image"], dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    with torch.inference_mode():
        difference = np.abs(session.run(None, {"image": image.numpy()})[0] - network(image).numpy()).max()
    if difference > 1e-4:
        raise ValueError(f"the ONNX output differs from eager by {difference:.2g}, expected at most 1e-4")
    return lambda: session.run(None, {"image": image.numpy()})


def measure(name: str, cut: str, rounds: int) -> dict[str, object]:
    """Medians in ms and ratios of one network."""
    image = torch.rand(1, 1, 224, 224)
    networks = {
        side: TransferClassifier(name, weights="none", in_channels=1, num_classes=2, truncate_at=point).eval()
        for side, point in (("FTL", None), ("TTL", cut))
    }
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[tuple[str, str], Callable[[], object]] = {}
        for side, network in networks.items():
            runners["eager", side] = lambda network=network: network(image)
            (Path(folder) / side).mkdir()
            runners["onnxruntime", side] = onnx_runner(network, image, Path(folder) / side)
        with torch.inference_mode():
            for round_ in range(rounds + 3):
                for key, runner in runners.items():
                    start = time.perf_counter()
                    runner()
                    if round_ >= 3:  # the first ones warm up
                        times.setdefault(key, []).append(time.perf_counter() - start)
    row: dict[str, object] = {"network": name, "cut": cut}
    for engine in ("eager", "onnxruntime"):
        ftl, ttl = (1e3 * statistics.median(times[engine, side]) for side in ("FTL", "TTL"))
        row |= {
            f"{engine}_ftl_ms": round(ftl, 2),
            f"{engine}_ttl_ms": round(ttl, 2),
            f"{engine}_ratio": round(ttl / ftl, 3),
        }
    for side, network in networks.items():
        row |= {f"{side.lower()}_params": count_params(network), f"{side.lower()}_macs": count_macs(network, image)}
    return row


def table(rows: list[dict], threads: int) -> str:
    """The rows as markdown, the paper's ratio beside."""
    paper = {name: seconds for name, _, seconds in NETWORKS}
    lines = [
        "| network, cut | params FTL → TTL (M) | MACs FTL → TTL (G) | eager FTL → TTL (ms) | ratio "
        "| ONNX Runtime FTL → TTL (ms) | ratio | paper's CPU ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        seconds = paper[row["network"]]
        published = f"{seconds[1] / seconds[0]:.2f}" if seconds else "not in the paper"
        lines.append(
            f"| {row['network']}, {row['cut']} | {row['ftl_params'] / 1e6:.2f} → {row['ttl_params'] / 1e6:.2f} "
            f"| {row['ftl_macs'] / 1e9:.3f} → {row['ttl_macs'] / 1e9:.3f} "
            f"| {row['eager_ftl_ms']:.1f} → {row['eager_ttl_ms']:.1f} | {row['eager_ratio']:.2f} "
            f"| {row['onnxruntime_ftl_ms']:.1f} → {row['onnxruntime_ttl_ms']:.1f} | {row['onnxruntime_ratio']:.2f} "
            f"| {published} |"
        )
    return "\n".join(lines) + f"\n\nOne 224 px image, {threads} threads, medians; `python benchmarks/inference.py`."


def main() -> None:
    """Measure, print, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="measured rounds (default 20)")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--table", type=Path, help="put the table into the section `latency` of this README")
    arguments = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    rows = [measure(name, cut, arguments.rounds) for name, cut, _ in NETWORKS]
    text = table(rows, torch.get_num_threads())
    print(text)
    if arguments.out:
        arguments.out.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=4) + "\n")
    if arguments.table:
        arguments.table.write_text(update_section(arguments.table.read_text(), "latency", text))


if __name__ == "__main__":
    main()
