"""Images a second from files to results on a CPU: a plain MONAI script against threads that decode, and a cut network.

Made chest x-rays (PNG and DICOM) are read, resized to 224 px and classified. Everywhere the same files, transforms and
probabilities; what differs is who reads (MONAI's DataLoader in the calling thread or with two processes, or
`ThreadedLoader`) and what computes (the whole network or the cut one, in eager PyTorch or ONNX Runtime). All variants
run in turn within each round, so that a busy machine slows all of them; medians. `ThreadedLoader` keeps at most
`ahead + batch_size` decoded images beside the batch in use (`most_alive` is what was seen).

    python benchmarks/files.py [--rounds 5] [--patients 60] [--out benchmarks/files.json] [--readme README.md]
    python benchmarks/files.py --from benchmarks/files.json --readme README.md    # the table anew
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized

from ttl_monai.data import CenterSquareCropd, Datalist, ThreadedLoader, XrayReader, make_phantom
from ttl_monai.deploy.export import ExportedNetwork, write_form
from ttl_monai.networks import TransferClassifier
from ttl_monai.reports import update_section

BACKBONE, CUT, SIZE, BATCH = "resnet50", "layer3", 224, 8


class Counted:
    """The last transform: knows how many images are alive, and how many were at most."""

    def __init__(self) -> None:
        self.alive = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Count one more, and one less when it goes."""
        image = item["image"].as_subclass(torch.Tensor)
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(image, self.gone)
        return {"image": image}

    def gone(self) -> None:
        """Count one less."""
        with self.lock:
            self.alive -= 1


def predict(loader: DataLoader, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Probabilities of all images, (N, 2)."""
    with torch.inference_mode():
        return torch.cat([network(batch["image"]).softmax(1) for batch in loader])


def measure(items: list[dict[str, Any]], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """One row a variant."""
    networks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for side, point in (("FTL", None), ("TTL", CUT)):
        network = TransferClassifier(BACKBONE, weights="none", truncate_at=point, in_channels=1).eval()
        write_form(network, torch.zeros(2, 1, SIZE, SIZE), folder / f"{side}.onnx", {})
        networks[f"{side}, PyTorch eager"] = network
        networks[f"{side}, ONNX Runtime"] = ExportedNetwork(folder / f"{side}.onnx", threads=torch.get_num_threads())
    counted = Counted()
    transform = Compose(
        [
            LoadImaged("image", image_only=True, reader=XrayReader),
            EnsureChannelFirstd("image", channel_dim="no_channel"),
            CenterSquareCropd("image"),
            Resized("image", (SIZE, SIZE), mode="bilinear", anti_aliasing=True),
            counted,
        ]
    )
    dataset = Dataset(items, transform)
    loaders = {
        "plain MONAI": DataLoader(dataset, batch_size=BATCH),
        "plain MONAI, 2 processes": DataLoader(dataset, batch_size=BATCH, num_workers=2),
        "2 threads": ThreadedLoader(dataset, batch_size=BATCH, threads=2),
    }
    plain = "FTL, PyTorch eager"
    variants = [(loader, plain) for loader in loaders] + [("2 threads", name) for name in networks if name != plain]
    times: dict[tuple[str, str], list[float]] = {each: [] for each in variants}
    most, results = dict.fromkeys(variants, 0), {}
    for round_ in range(rounds + 1):  # the first warms up
        for each in variants:
            counted.most = 0
            start = time.perf_counter()
            results[each] = predict(loaders[each[0]], networks[each[1]])
            if round_:
                times[each].append(time.perf_counter() - start)
            most[each] = max(most[each], counted.most)
    for reader, name in variants:
        torch.testing.assert_close(
            results[reader, name], results["2 threads", f"{name[:3]}, PyTorch eager"], atol=1e-4, rtol=0
        )
    rows = []
    for (reader, name), taken in times.items():
        row = {"reader": reader, "network": name, "images_per_s": round(len(items) / statistics.median(taken), 2)}
        # Processes of their own count for themselves.
        rows.append(row | {"most_alive": None if "processes" in reader else most[reader, name]})
    return rows


def table(document: dict[str, Any]) -> str:
    """The rows as markdown."""
    first = document["rows"][0]["images_per_s"]
    lines = ["| who reads | what computes | images/s | times plain MONAI | decoded images at most |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in document["rows"]:
        alive = "not counted" if row["most_alive"] is None else row["most_alive"]
        times = f"{row['images_per_s']:.1f} | {row['images_per_s'] / first:.2f}"
        lines.append(f"| {row['reader']} | {row['network']} | {times} | {alive} |")
    return "\n".join(lines) + (
        f"\n\n{document['images']} made x-rays (PNG and DICOM) of {document['width'][0]} to {document['width'][1]} px, "
        f"{BACKBONE} (TTL: cut at {CUT}) at {SIZE} px, batches of {BATCH}, {document['threads']} threads, medians of "
        f"{document['rounds']} rounds; `python benchmarks/files.py`."
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the images, and measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_phantom(folder / "data", patients=arguments.patients, size=tuple(arguments.width))
        data = Datalist.load(made, made.parent)
        items = [{"image": item["image"]} for section in data.entries for item in data.section(section)]
        return {
            "images": len(items),
            "width": arguments.width,
            "rounds": arguments.rounds,
            "threads": torch.get_num_threads(),
            "rows": measure(items, folder, arguments.rounds),
        }


def main() -> None:
    """Measure, print, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument("--patients", type=int, default=60, help="of the made x-rays (default 60)")
    parser.add_argument("--width", nargs=2, type=int, default=[1000, 2000], metavar="PX", help="smallest and largest")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="read the numbers instead")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--readme", type=Path, help="put the table into the section `files` of this README")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    document = json.loads(arguments.source.read_text()) if arguments.source else run(arguments)
    print(table(document))
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=4) + "\n")
    if arguments.readme:
        arguments.readme.write_text(update_section(arguments.readme.read_text(), "files", table(document)))


if __name__ == "__main__":
    main()
