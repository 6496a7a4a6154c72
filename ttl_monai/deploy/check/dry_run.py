"""One batch through the real network, its weights, and the places where a training writes."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.handlers import from_engine

from ttl_monai.data import Datalist
from ttl_monai.deploy.check.images import Look
from ttl_monai.deploy.check.problems import NOTE, PROBLEM, WARNING, Findings
from ttl_monai.handlers.checkpoint import resume_path

_MIB = 2**20


def check_weights(found: Findings, parser: Any) -> torch.nn.Module | None:
    """Build the network with its weights, which are fetched where they are not at hand.

    Returns:
        The network; None where it cannot be built.
    """
    found.start("weights")
    network = None
    with found.collect("weights", "network_def", remedy="correct network_def"):
        network = parser.get_parsed_content("network_def")
    if network is None:
        return None
    info = network.weight_info
    known = f"sha256 {info.sha256[:16]} as published" if info.sha256 else "no published sha256"
    low, high = info.input_range
    found.add("weights", NOTE, f"{info.name} from {info.source}, {known}, licence {info.licence}", "network_def")
    means, stds = (", ".join(f"{each:g}" for each in values) for values in (info.mean, info.std))
    what = f"images in [0, 1]; the network itself brings them to [{low:g}, {high:g}], mean {means}, deviation {stds}"
    found.add("weights", NOTE, what, "network_def")
    return network


def choose_batch(data: Datalist, looks: Sequence[Look], size: int) -> dict[str, list[dict[str, Any]]]:
    """Entries for a small training: of each section so many that a batch is full, each class among them."""
    entries: dict[str, list[dict[str, Any]]] = {section: [] for section in data.entries}
    for section in entries:
        # Volumes with the finding in most slices first, so that windows can be drawn from them.
        sound = [each.entry for each in looks if each.section == section and not each.errors]
        sound.sort(key=lambda entry: -len(entry.get("slices", ())))
        kinds = {str(entry["label"]): entry for entry in reversed(sound)} if data.task != "segmentation" else {}
        first = list(kinds.values())
        entries[section] = first + [entry for entry in sound if not any(entry is each for each in first)]
        entries[section] = entries[section][: max(size, len(first))]
    return entries


def run_batch(found: Findings, parser: Any) -> None:
    """One iteration of the bundle's own trainer: forward, loss, backward, the optimizer's step."""
    found.start("batch")
    device = parser.get_parsed_content("device")
    trainer: Any = None
    quiet = logging.getLogger("ignite")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # its traceback would stand beside our line
    try:
        with found.collect("batch", "train", remedy="smaller --batch_size or --spatial_size if it is the memory"):
            trainer = parser.get_parsed_content("train#trainer")
            before = _peak_bytes(device, reset=True)
            trainer.run()
            peak = _peak_bytes(device)
            loss = float(from_engine(["loss"], first=True)(trainer.state.output))
            _report_batch(found, parser, trainer, loss, peak, before)
    finally:
        quiet.setLevel(level)


def _report_batch(found: Findings, parser: Any, trainer: Any, loss: float, peak: int, before: int) -> None:
    shape = tuple(from_engine(["image"])(trainer.state.output)[0].shape)
    number = len(from_engine(["image"])(trainer.state.output))
    found.add("batch", NOTE, f"{number} images of {'x'.join(map(str, shape))} forward and backward, loss {loss:.4g}")
    if not torch.isfinite(torch.tensor(loss)):
        remedy = "lower --learning_rate does not help before the first step: look at images, labels and weights"
        found.add("batch", PROBLEM, f"the loss of the first batch is {loss}", "loss", remedy=remedy)
    asked = parser.get_parsed_content("batch_size")
    if number < asked:
        what = f"batch_size is {asked}, but the training section gives {number} images"
        found.add("batch", WARNING, what, "batch_size", remedy="choose a smaller --batch_size")
    device = parser.get_parsed_content("device")
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        what = f"peak memory {peak / _MIB:,.0f} of {total / _MIB:,.0f} MiB on {torch.cuda.get_device_name(device)}"
    else:
        what = f"peak memory of the process {peak / _MIB:,.0f} MiB, {(peak - before) / _MIB:,.0f} MiB above before"
    found.add("batch", NOTE, what)


def _peak_bytes(device: torch.device, *, reset: bool = False) -> int:
    """The most memory so far, on a CPU of the whole process."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_disk(found: Findings, needs: Mapping[str, tuple[str | None, float]]) -> None:
    """Compare what a training writes with what is free.

    Args:
        found: gets what is found.
        needs: by id of the config the folder (None: nothing is written) and the bytes.
    """
    found.start("disk")
    by_disk: dict[int, list[tuple[str, Path, float]]] = defaultdict(list)
    for id_, (folder, need) in needs.items():
        if folder is not None:
            place = existing_parent(Path(folder))
            by_disk[place.stat().st_dev].append((id_, place, need))
    for each in by_disk.values():
        free = shutil.disk_usage(each[0][1]).free
        total = sum(need for *_, need in each)
        ids = [id_ for id_, *_ in each]
        parts = ", ".join(f"{id_} about {need / _MIB:,.0f} MiB" for id_, _, need in each)
        if total > free:
            what = f"{free / _MIB:,.0f} MiB are free, but a training needs more: {parts}"
            remedy = f"make room, or name another disk: {', '.join(f'--{id_}' for id_ in ids)}"
            found.add("disk", PROBLEM, what, *ids, remedy=remedy)
        else:
            found.add("disk", NOTE, f"{parts}; {free / _MIB:,.0f} MiB are free", *ids)


def existing_parent(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def check_output(found: Findings, output_dir: str, resume: str | bool) -> None:
    """Whether the folder of the run can be written, and what lies there already.

    Args:
        found: gets what is found.
        output_dir: the folder.
        resume: as for `RunCheckpoint`.
    """
    found.start("output")
    folder, there = Path(output_dir), existing_parent(Path(output_dir))
    if not there.is_dir():
        found.add("output", PROBLEM, "a file is in the way of the run's folder", "output_dir", remedy="name another")
    elif not os.access(there, os.W_OK | os.X_OK):
        found.add("output", PROBLEM, "the run's folder cannot be written", "output_dir", remedy="name another")
    with found.collect("output", "resume", remedy="correct --resume"):
        last = resume_path(folder, resume)
        if last is not None:
            what = f"the training goes on from {last.name} of an earlier one"
            found.add("output", WARNING, what, "resume", remedy="--resume never starts anew")
        elif (folder / "run.json").is_file():
            what = "an earlier run lies in the run's folder: it will be moved aside"
            found.add("output", WARNING, what, "output_dir", remedy="name another --output_dir, or --resume auto")
