"""Runs as later commands see them: which is the last one, what its model is, the network with its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser

from ttl_monai.engines.configs import PLACES, quiet
from ttl_monai.engines.workflow import find_workflow, literal, running_workflow
from ttl_monai.handlers.files import file_sha256
from ttl_monai.networks import count_macs, count_params
from ttl_monai.networks.checkpoints import LoadReport

logger = logging.getLogger(__name__)

GIVEN = "given"  # what run.json has for a path that somebody passed


def model_spec() -> dict[str, Any]:
    """What the model of the running training is, for `model.json`: everything that a prediction needs.

    Returns:
        The resolved network definition, evaluation preprocessing and data set (but for its items and the folder of its
        cache), task, class names, what makes the demo's data, how rows are pooled, how volumes are cut into slices,
        and which bits of masks mark structures that overlap.
    """
    workflow = find_workflow()
    keys = {"network_def": "network_def", "preprocessing": "validate#preprocessing", "strategy": "strategy"}
    spec = {name: literal(workflow, key) for name, key in keys.items()}
    dataset = literal(workflow, "validate#dataset", left_open={"data": "", "cache_dir": "@cache_dir"})
    del dataset["data"]
    data = workflow.parser.get_parsed_content("data")
    of_some = ("make_demo", "pooling", "axis", "mask_bits")  # ids that not every bundle has
    return {
        **spec,
        "dataset": dataset,
        **{name: workflow.parser.get_parsed_content(name) if name in workflow.parser else None for name in of_some},
        "spatial_size": workflow.parser.get_parsed_content("spatial_size"),
        "task": data.task,
        "class_names": list(data.class_names),
        "data_sha256": data.origin_sha256,
    }


def run_facts(network: torch.nn.Module, *, device: torch.device) -> dict[str, Any]:
    """What `run.json` says of a training besides its course.

    Args:
        network: the bare network, for its size.
        device: where it runs.

    Returns:
        Strategy, seed, data hash and counts, parameters, MACs (paper's convention, at the run's image size), what
        weights it starts from and what became of their keys, device, and the merged config. Names of folders may be
        names of patients: of a path that was passed, the config says no more than that it was (`GIVEN`).
    """
    workflow = find_workflow()
    content = workflow.parser.get_parsed_content
    data, size = content("data"), content("spatial_size")
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    example = torch.zeros(1, content("in_channels"), *sizes, device=device)
    images = {section: len(entries) for section, entries in data.entries.items()}
    return {
        "strategy": content("strategy"),
        "seed": content("seed"),
        "data": {"name": data.name, "sha256": data.sha256, "counts": data.header.get("counts"), "images": images},
        "params": count_params(network),
        "trainable_params": sum(each.numel() for each in network.parameters() if each.requires_grad),
        "macs": count_macs(network, example),
        "weights": _weights(network),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "config": _without_places(json.loads(json.dumps(workflow.parser.config, default=str))),
    }


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The config without the paths that were passed; the expressions of the bundle stay."""
    passed = {name: config[name] for name in PLACES if isinstance(config.get(name), str)}
    return config | {name: GIVEN for name, path in passed.items() if not path.startswith(("$", "@", "%"))}


def _weights(network: torch.nn.Module) -> dict[str, Any] | None:
    """Source and digest of the weights, how many keys were loaded, and which ones were not."""
    info = getattr(network, "weight_info", None)
    if info is None:
        return None
    report = info.report
    new = [key for key in report.reinitialised if not key.startswith(("head.", "decoder."))]
    return {
        "source": Path(info.source).name if Path(info.source).is_absolute() else info.source,
        "sha256": info.sha256,
        "loaded": len(report.loaded),
        "reinitialised": len(report.reinitialised),
        "reinitialised_backbone": len(new),
        "skipped": list(report.skipped) if len(report.skipped) <= 20 else len(report.skipped),
    }


def set_old_run_aside(output_dir: str | Path, resume: str | bool) -> None:
    """Move an earlier run out of the way of a new one, so that nothing of it is lost or mixed with the new files.

    Args:
        output_dir: the folder of the run that is about to start.
        resume: as for `RunCheckpoint`; a run that goes on is left where it is.
    """
    folder = Path(output_dir)
    record = folder / "run.json"
    if resume not in ("never", False) or not record.is_file():
        return
    made = datetime.fromtimestamp(record.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
    aside = folder.with_name(f"{folder.name}-{made}")
    folder.rename(aside)
    logger.info("The earlier run in %s was moved to %s.", folder, aside)


def find_run(run_dir: str | Path | None, bundle_root: str | Path) -> Path:
    """The folder of a finished or running training.

    Args:
        run_dir: the folder, or None for the newest one under the bundle's `eval` folder.
        bundle_root: the bundle's folder.

    Raises:
        ValueError: if there is none, saying how to make one.
    """
    if run_dir is None and running_workflow() is None:
        raise ValueError("outside of a running bundle there is no last run to be found: pass --run_dir DIR.")
    if run_dir is not None:
        folder = Path(run_dir)
        if not (folder / "model.json").is_file() or not (folder / "model.pt").is_file():
            raise ValueError(
                f"{folder} is no training run: it has no model.pt with a model.json. Name the folder of a run."
            )
        return folder
    specs = list(Path(bundle_root, "eval").glob("*/model.json"))
    if not specs:
        raise ValueError(
            f"no training run was found under {Path(bundle_root, 'eval')}. Train first (python -m monai.bundle run "
            "--config_file .../train.json), or name a run by --run_dir DIR."
        )
    folder = max(specs, key=lambda path: path.stat().st_mtime).parent
    logger.info("The last run is taken: %s.", folder)
    return folder


def load_spec(run_dir: str | Path) -> dict[str, Any]:
    """The content of a run's `model.json`, after checking that its `model.pt` is the one that it describes.

    Raises:
        ValueError: if the two do not belong together.
    """
    folder = Path(run_dir)
    spec = json.loads((folder / "model.json").read_text())
    if file_sha256(folder / "model.pt") != spec["sha256"]:
        raise ValueError(
            f"{folder / 'model.pt'} is not the file that model.json describes (its SHA-256 differs): it was changed, "
            "or the run was killed between the two. Go on with --resume auto, or train anew."
        )
    return dict(spec)


def build_network(run_dir: str | Path) -> torch.nn.Module:
    """The network of a run with its trained weights, in evaluation mode.

    Its definition comes from the run. Where the command line or an overlay asks for another one, that is an error.

    Args:
        run_dir: the folder of the run.

    Raises:
        ValueError: if the config asks for a network that differs from the run's (both are named).
    """
    spec = load_spec(run_dir)
    _check_wish(spec["network_def"])
    # The checkpoint brings all weights and the normalisation: nothing pretrained is to be fetched.
    parser = ConfigParser({"network": {**spec["network_def"], "weights": "none"}})
    with quiet("ttl_monai.networks"):  # which would say that the weights are random ones
        network = parser.get_parsed_content("network")
    state = torch.load(Path(run_dir, "model.pt"), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    logger.info("All %d tensors were loaded from the run's model.pt (epoch %d).", len(state), spec["epoch"])
    return network.eval()


def build_preprocessing(run_dir: str | Path) -> Any:
    """The evaluation preprocessing of a run, as one transform."""
    return ConfigParser({"preprocessing": load_spec(run_dir)["preprocessing"]}).get_parsed_content("preprocessing")


def build_dataset(
    run_dir: str | Path,
    items: Sequence[Mapping[str, Any]],
    cache_dir: str | Path | None,
    *,
    whole_series: bool = False,
    gaps: str | None = None,
    threads: int = 1,
) -> Any:
    """Items as the network of a run takes them: the run's evaluation data set on other data.

    Args:
        run_dir: the folder of the run.
        items: what `Datalist.section`, `inference_items` or `find_volumes` gives.
        cache_dir: folder for prepared images; None keeps none.
        whole_series: one item a series (`SeriesDataset`) instead of its windows.
        gaps: what the reader of volumes does about unequal gaps ("refuse", "resample"); None: as the run did.
        threads: that prepare whole series.

    Returns:
        The data set.
    """
    # As objects, not as config: a file's name may begin with one of the marks of MONAI's expressions.
    folder = None if cache_dir is None else Path(cache_dir)
    spec = {**load_spec(run_dir)["dataset"], "_mode_": "callable"}
    if whole_series:
        spec |= {"_target_": "ttl_monai.data.SeriesDataset", "threads": threads}
        del spec["min_slices"]
    if gaps is not None:
        reader_options(spec["cache"]["transform"])["gaps"] = gaps
    return ConfigParser({"dataset": spec, "cache_dir": folder}).get_parsed_content("dataset")(data=items)


def reader_options(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The entry of the transform that loads, with the options of its reader: the one of the config, not a copy."""
    return next(each for each in preprocessing["transforms"] if each["_target_"] == "LoadImaged")


def _check_wish(trained: dict[str, Any]) -> None:
    """Compare the network that the command line or an overlay asks for with the trained one."""
    workflow = running_workflow()
    if workflow is None or "network_def" not in workflow.parser or not isinstance(workflow.parser["network_def"], dict):
        return
    base = ConfigParser.load_config_file(Path(workflow.config_root_path, "train.json"))["network_def"]
    asked = {
        name: literal(workflow, f"network_def#{name}") if isinstance(value, str) else value
        for name, value in workflow.parser["network_def"].items()
        if name not in base or value != base[name]
    }
    wrong = {name: value for name, value in asked.items() if trained.get(name) != value}
    if wrong:
        has = {name: trained.get(name) for name in wrong}
        raise ValueError(
            f"the config asks for {json.dumps(wrong)}, but the run was trained with {json.dumps(has)}. Leave the "
            "setting out (the network is taken from the run), or name the run that has it by --run_dir DIR."
        )


def start_from(network: torch.nn.Module, weights: str | Path | None, class_names: Sequence[str]) -> None:
    """Give a network that is to be trained the weights of a trained one: what a packed bundle's training begins with.

    Args:
        network: of the same definition but, where the classes differ, for the layers of its head.
        weights: `model.pt` of the trained network; None leaves the network as it is.
        class_names: of the data that it is to be trained on.

    Raises:
        ValueError: the two networks differ in other layers, or the data has other classes than the network outputs.
        FileNotFoundError: there is no such file.
    """
    outputs = network.state_dict()[[name for name in network.state_dict() if name.startswith("head.")][-1]].shape[0]
    if outputs != len(class_names):
        raise ValueError(
            f"the network has {outputs} outputs, but the datalist {len(class_names)} classes: pass "
            f"--network_def#num_classes {len(class_names)} (of a U-Net: out_channels)"
        )
    if weights is None:
        return
    state, own = torch.load(weights, map_location="cpu", weights_only=True), network.state_dict()
    new = [name for name in own if name in state and state[name].shape != own[name].shape]
    wrong = sorted(own.keys() ^ state.keys()) + [name for name in new if not name.startswith("head.")]
    if wrong:
        raise ValueError(
            f"start_from names weights of another network: {len(wrong)} tensors differ, the first is {wrong[0]}. Leave "
            "network_def as it is (but for the number of classes), or pass --start_from None."
        )
    loaded = [name for name in own if name not in new]
    network.load_state_dict({name: state[name] for name in loaded}, strict=False)  # all but `new`: checked above
    report = LoadReport(tuple(loaded), tuple(new), tuple(new))
    path = Path(weights)
    info: Any = network.weight_info
    network.weight_info = replace(info, name=path.name, source=path.name, sha256=file_sha256(path), report=report)
    logger.info("The training starts from %s: %s.", path.name, report)
