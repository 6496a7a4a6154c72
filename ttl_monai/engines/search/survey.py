"""The look at a bundle and its data from which a search starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.bundle.config_parser import ConfigParser
from torch import nn

from ttl_monai.data.build import to_json
from ttl_monai.data.datalist import Datalist
from ttl_monai.data.seal import seal
from ttl_monai.engines.configs import PLACES, config_files, open_workflow, quiet
from ttl_monai.engines.search.space import Space, sources_hash, versions
from ttl_monai.engines.workflow import literal
from ttl_monai.handlers.files import write_atomically
from ttl_monai.networks import count_macs, count_params
from ttl_monai.networks.features import backbone_of, points_of
from ttl_monai.networks.points import find_point

# What says where or how fast a training runs, or is set by the search itself: no part of what is trained.
_NO_PART = {
    *("_meta_", "_desc_", "imports", *PLACES),
    *("device", "num_workers", "rank", "is_not_rank0", "resume", "seed", "strategy", "cuts", "demo", "protocol"),
}


def survey(
    *,
    folder: Path,
    bundle: Path,
    overlays: Sequence[str],
    settings: Mapping[str, Any],
    dataset_dir: Path | None,
    datalists: Sequence[Path],
    repeats: int | None,
    train_patients: int | None,
    candidates: Sequence[str] | None,
    seed: int,
    options: Mapping[str, Mapping[str, Any]],
) -> Space:
    """Look at a bundle and its data once, seal the datalists, and list the candidates.

    Args:
        folder: folder of the search; the sealed datalists are written there.
        bundle: folder of the bundle.
        overlays: overlay files after train.json.
        settings: config ids and their values.
        dataset_dir: folder of the images; None takes the data that the bundle makes.
        datalists: one a repeat, or one from which all repeats are drawn; none for made data.
        repeats: number of repeats; default: one a datalist, or 3 drawn from a single one.
        train_patients: see `seal`.
        candidates: names of truncation points; None takes all ends of stages and blocks.
        seed: seed of the first repeat.
        options: what an analysis is asked for, by its kind of cell.

    Raises:
        ValueError: anything that a training would refuse, a network without candidates, or a number of repeats that
            does not fit the datalists.
    """
    # On made data the bundle's own settings for it hold, though the cells name their data.
    settings = {"settings": "@demo", **settings} if dataset_dir is None else dict(settings)
    made = {"dataset_dir": None, "datalist": None}
    first = made if dataset_dir is None else {"dataset_dir": str(dataset_dir), "datalist": str(datalists[0])}
    workflow = open_workflow(config_files(bundle, overlays), {**settings, **first})
    data: Datalist = workflow.parser.get_parsed_content("data")
    lists = [data, *(Datalist.load(path, data.dataset_dir) for path in datalists[1:])]
    sealed = _seal_all(lists, repeats, train_patients, seed)
    (folder / "datalists").mkdir(parents=True, exist_ok=True)
    names, manifests = [], []
    for repeat, each in enumerate(sealed):
        text = to_json(each).encode()
        # Named by content: workers of an earlier search in this folder go on reading what they began with.
        names.append(f"datalists/repeat{repeat}-{hashlib.sha256(text).hexdigest()[:8]}.json")
        write_atomically(folder / names[-1], text)
        manifests.append(_manifest(text, each, data.dataset_dir))
    definition = literal(workflow, "network_def")
    if definition.get("truncate_at") is not None:
        raise ValueError(
            "a search looks for the cut itself, but the config sets network_def#truncate_at: leave out that setting "
            "and strategy_ttl.json"
        )
    content = workflow.parser.get_parsed_content
    parser: Any = workflow.parser
    return Space(
        folder=str(folder),
        bundle=str(bundle.absolute()),
        overlays=tuple(overlays),
        settings=dict(settings),
        dataset_dir=str(data.dataset_dir),
        datalists=tuple(names),
        originals=tuple(str(datalists[min(k, len(datalists) - 1)]) if datalists else None for k in range(len(sealed))),
        manifests=tuple(manifests),
        key_metric=next(iter(parser["validate#key_metric"])),
        candidates=tuple(_candidates(workflow, candidates)),
        identity=_identity(workflow),
        sources=sources_hash(bundle, overlays),
        header={
            "dataset": data.name,
            "bundle": bundle.name,
            "backbone": str(definition.get("backbone", definition.get("encoder"))),
            "weights": str(definition.get("weights")),
            "settings": {key: content(key) for key in ("spatial_size", "batch_size", "max_epochs", "learning_rate")},
            "train_patients": train_patients,
            "patients": [each["num_patients"] for each in sealed],
            "images": [each["num_images"] for each in sealed],
        },
        seed=seed,
        options={kind: dict(values) for kind, values in options.items()},
    )


def _seal_all(
    lists: Sequence[Datalist], repeats: int | None, train_patients: int | None, seed: int
) -> list[dict[str, Any]]:
    number = repeats if repeats is not None else len(lists) if len(lists) > 1 else 3
    if number < 1:
        raise ValueError(f"repeats must be at least 1, got {number}")
    if 1 < len(lists) < number:
        raise ValueError(
            f"{number} repeats were asked of {len(lists)} datalists: give one datalist a repeat, or a single one from "
            "which all repeats are drawn"
        )
    if len({each.name for each in lists}) > 1 or len({tuple(each.class_names) for each in lists}) > 1:
        raise ValueError(
            "the datalists must be splits of one data set with the same classes; got "
            + ", ".join(f"{each.name} ({', '.join(each.class_names)})" for each in lists)
        )
    if len(lists) == 1:
        return [seal(lists[0], repeat=k, seed=seed, train_patients=train_patients) for k in range(number)]
    return [
        {**seal(each, seed=seed + k, train_patients=train_patients), "repeat": k}
        for k, each in enumerate(lists[:number])
    ]


def _manifest(text: bytes, content: Mapping[str, Any], dataset_dir: Path) -> str:
    """Hash of a datalist and of the images and masks that it does not name the content of, by size."""
    entries = [entry for section in ("training", "validation") for entry in content[section]]
    files = [each["image"] for each in entries if "sha256" not in each]
    files += [each["label"] for each in entries if content["task"] == "segmentation"]
    sizes = [Path(dataset_dir, name).stat().st_size for name in files]
    return hashlib.sha256(text + json.dumps(sizes).encode()).hexdigest()


def _identity(workflow: ConfigWorkflow) -> str:
    """Hash of what is trained: the merged config without its places, and the versions that decide the numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items() if name != "_desc_"}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    merged: Any = workflow.parser.config
    config = {name: plain(value) for name, value in merged.items() if name not in _NO_PART}
    for name in ("spatial_size", "batch_size", "max_epochs", "learning_rate"):
        config[name] = workflow.parser.get_parsed_content(name)
    config["settings"] = plain(workflow.parser.get_parsed_content("settings"))  # of `demo` or of `protocol`
    config["network_def"] = {**literal(workflow, "network_def"), "truncate_at": None}
    numbers = [number for _, number in versions()]
    return hashlib.sha256(json.dumps([config, numbers], sort_keys=True, default=str).encode()).hexdigest()


def _candidates(workflow: ConfigWorkflow, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The truncation points in the order of depth and the whole network, with the size of each network and its head."""
    network: Any = workflow.parser.get_parsed_content("network_def")  # with its weights: an error comes now
    every = points_of(network)
    chosen = [each for each in every if each.level in ("stage", "block")] or every
    if names is not None:
        wanted = {find_point(every, name).name for name in names}
        chosen = [each for each in every if each.name in wanted]
    whole = count_params(backbone_of(network))
    chosen = [each for each in chosen if each.params < whole]  # the last feature map is the whole network
    if not chosen:
        raise ValueError("the network has no truncation point below its last feature map: there is nothing to search")
    definition = literal(workflow, "network_def")
    size, spatial = workflow.parser.get_parsed_content("spatial_size"), len(every[0].spatial_size)
    example = torch.zeros(1, workflow.parser.get_parsed_content("in_channels"), *_sizes(size, spatial))
    rows = []
    for point in [*chosen, None]:
        cut = _build({**definition, "weights": "none", "truncate_at": None if point is None else point.name})
        rows.append(
            {
                "point": None if point is None else point.name,
                "level": "stage" if point is None or point.level == "stage" else "block",
                "channels": None if point is None else point.channels,
                "params": count_params(cut),
                "macs": count_macs(cut, example),
            }
        )
    return rows


def _sizes(size: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    return (size,) * spatial if isinstance(size, int) else tuple(size)


def _build(definition: dict[str, Any]) -> nn.Module:
    """A network for its size alone; it would say for each candidate that its weights are random."""
    with quiet("ttl_monai.networks"):
        network: nn.Module = ConfigParser({"network": definition}).get_parsed_content("network")
    return network.eval()
