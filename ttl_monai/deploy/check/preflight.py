"""All checks in their order."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ttl_monai.data import Datalist, LoadPaird
from ttl_monai.data.slices import segmentation_items
from ttl_monai.deploy.check.config import check_config
from ttl_monai.deploy.check.datalist import check_datalist, sound_entries
from ttl_monai.deploy.check.dry_run import check_disk, check_output, check_weights, choose_batch, run_batch
from ttl_monai.deploy.check.images import Look, check_images, look_at_images
from ttl_monai.deploy.check.problems import NOTE, PROBLEM, Findings
from ttl_monai.engines.configs import quiet

_DATA = ("--dataset_dir", "--datalist")


def check_bundle(
    bundle: str | Path,
    *,
    dataset_dir: str | Path | None = None,
    datalist: str | Path | None = None,
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    quick: bool = False,
    batch: bool = True,
    file_names: bool = False,
    workers: int | None = None,
) -> Findings:
    """Look for all that would stop or spoil a training of a bundle; nothing is written to its folders or the data's.

    Args:
        bundle: folder of the bundle.
        dataset_dir: folder of the images; None takes the data that the bundle makes.
        datalist: the datalist.
        overlays: overlays on train.json: files, or names in the bundle's configs.
        settings: config ids and their values, as on the command line of a training.
        quick: read a sample of the images.
        batch: send one batch through the network.
        file_names: name images by their paths in the data set; else by their ids, unless these names are public.
        workers: threads that read, default: one a core.

    Returns:
        What was found.

    Raises:
        ValueError: the folder is no bundle.
    """
    bundle = Path(bundle).absolute()
    found = Findings(names={str(bundle): bundle.name, str(Path(torch.hub.get_dir())): "TORCH_HOME/hub"})
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ttl_monai-"))
        found.names[temporary] = "TEMPORARY"
        # What these log stands in the findings as well, and there without the paths.
        stack.enter_context(quiet("ttl_monai", logging.CRITICAL))
        workflow = check_config(found, bundle, overlays, settings or {})
        if workflow is None:
            found.skipped |= dict.fromkeys(
                ("images", "weights", "batch", "disk", "output"), "the config cannot be read"
            )
            if dataset_dir is not None and datalist is not None:
                check_datalist(found, Path(datalist), Path(dataset_dir))
            return found
        parser: Any = workflow.parser
        for id_, value in zip(("dataset_dir", "datalist"), (dataset_dir, datalist), strict=True):
            parser[id_] = parser[id_] if value is None else str(value)
        _prepare(found, parser, temporary)
        data = _open_data(found, parser)
        looks = _look(found, parser, data, quick, file_names, workers) if data is not None else []
        _try(found, parser, data, looks, batch=batch)
    return found


def _prepare(found: Findings, parser: Any, temporary: str) -> None:
    """Let the training write to a temporary folder, and take one step without handlers; check where it would write."""
    parser.parse(reset=True)
    places: dict[str, Any] = {}
    for id_ in ("output_dir", "cache_dir", "demo_dir", "resume"):
        with found.collect("config", id_):
            places[id_] = parser.get_parsed_content(id_)
    if "output_dir" in places and "resume" in places:
        check_output(found, str(places["output_dir"]), places["resume"])
    changes: dict[str, Any] = {
        "output_dir": f"{temporary}/run",
        "cache_dir": None,
        "num_workers": 0,
        "max_epochs": 1,
        "train#trainer#max_epochs": 1,
        "train#trainer#epoch_length": 1,
        "train#trainer#train_handlers": [],
        "_meta_#places": {name: places.get(name) for name in ("cache_dir", "output_dir")},
    }
    if "demo_dir" in places and not Path(places["demo_dir"]).exists():
        changes["demo_dir"] = f"{temporary}/data"
    for id_, value in changes.items():
        parser[id_] = value
    parser.parse(reset=True)


def _open_data(found: Findings, parser: Any) -> Datalist | None:
    """The datalist, checked; put into the config in place of what would refuse it."""
    dataset_dir, datalist = (parser.get_parsed_content(id_) for id_ in ("dataset_dir", "datalist"))
    data = None
    if dataset_dir is not None and datalist is not None:
        found.names |= {
            str(Path(dataset_dir).absolute()): "DATASET_DIR",
            str(Path(datalist).absolute()): "the datalist",
        }
        data = check_datalist(found, Path(datalist), Path(dataset_dir))
    else:
        found.start("datalist")
        with found.collect("datalist", *_DATA):
            made = parser.get_parsed_content("data")
            data = check_datalist(found, made.dataset_dir / "datalist.json", made.dataset_dir)
            found.add("datalist", NOTE, "no --dataset_dir: the made data of the demo are looked at")
    if data is None:
        found.skipped |= dict.fromkeys(("images", "batch"), "the datalist cannot be read")
        return None
    trains = "segmentation" if _loads_pairs(parser) else "classification"
    if (data.task == "segmentation") != (trains == "segmentation"):
        what = f"the task of the datalist is {data.task!r}, but the bundle trains {trains}"
        found.add("datalist", PROBLEM, what, "--datalist", remedy="take the bundle or the datalist of the same task")
        found.skipped |= dict.fromkeys(("images", "weights", "batch", "disk"), "bundle and datalist do not fit")
        return None
    parser["data"] = data
    parser.parse(reset=True)
    return data


def _loads_pairs(parser: Any) -> bool:
    first = parser["validate#preprocessing#transforms#0"]
    return str(first["_target_"]).rpartition(".")[2] == LoadPaird.__name__


def _look(
    found: Findings, parser: Any, data: Datalist, quick: bool, file_names: bool, workers: int | None
) -> list[Look]:
    found.start("images")
    looks: list[Look] = []
    with found.collect("images", "validate#preprocessing"):
        loader = parser.get_parsed_content("validate#preprocessing").transforms[0]
        axis = parser.get_parsed_content("axis") if "axis" in parser else None
        entries = sound_entries(data)
        looks = look_at_images(entries, data, loader, axis=axis, quick=quick, file_names=file_names, workers=workers)
        size = parser.get_parsed_content("spatial_size")
        check_images(
            found,
            looks,
            len(entries),
            in_channels=parser.get_parsed_content("in_channels"),
            size=[size] if isinstance(size, int) else size,
        )
    return looks


def _try(found: Findings, parser: Any, data: Datalist | None, looks: Sequence[Look], *, batch: bool) -> None:
    """Weights, a batch, and the room on the disk."""
    if data is None:
        reason = "the classes are not known without a datalist"
        found.skipped |= {name: reason for name in ("weights", "disk") if name not in found.skipped}
        return
    with found.collect("config", "batch_size"):
        parser["data"] = replace(data, entries=choose_batch(data, looks, parser.get_parsed_content("batch_size")))
    parser.parse(reset=True)
    network = check_weights(found, parser)
    sound = {each.section: each for each in looks if not each.errors}
    if not batch:
        found.skipped["batch"] = "it was not asked for"
    elif network is None:
        found.skipped["batch"] = "the network cannot be built"
    elif "training" not in sound:
        found.skipped["batch"] = "no training image can be used"
    else:
        run_batch(found, parser)
    with found.collect("disk", "train#preprocessing"):
        places = parser["_meta_#places"]
        needs = {"cache_dir": (places["cache_dir"], _cache_bytes(parser, data, looks))}
        if network is not None:
            needs["output_dir"] = (places["output_dir"], _run_bytes(network))
        check_disk(found, needs)


def _cache_bytes(parser: Any, data: Datalist, looks: Sequence[Look]) -> float:
    """Size of the cache of training and validation, from the first image that can be used."""
    used = [each for each in looks if each.section != "test" and not each.errors]
    if not used:
        return 0.0
    part = "train" if "preprocessing" in parser["train"] else "validate"
    item: dict[str, Any] = {"image": str(data.dataset_dir / used[0].entry["image"])}
    if data.task == "segmentation":
        item["label"] = str(data.dataset_dir / used[0].entry["label"])
        item = segmentation_items([item], parser.get_parsed_content("axis"))[0]
    prepared = parser.get_parsed_content(f"{part}#preprocessing")(item)
    tensors = [prepared[key] for key in ("image", "label") if isinstance(prepared.get(key), torch.Tensor)]
    one = sum(each.numel() * (2 if each.is_floating_point() else each.element_size()) for each in tensors)
    images = sum(len(data.entries[section]) for section in ("training", "validation"))
    return one * images * sum(each.count for each in used) / len(used)


def _run_bytes(network: torch.nn.Module) -> float:
    """Best model and last state with Adam's two moments; twice, as a file is written beside the one it replaces."""
    state = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    moments = 2 * sum(each.numel() * each.element_size() for each in network.parameters() if each.requires_grad)
    return 2 * (2 * state + moments)
