"""The probe: one forward pass of the pretrained network, a linear classifier at each of its truncation points."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import DataLoader, decollate_batch
from safetensors import torch as safetensors
from torch import nn
from tqdm import tqdm

from ttl_monai.analysis.probe import LinearProbe, fit_probe, patient_folds
from ttl_monai.engines.runs import set_old_run_aside
from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.space import Space
from ttl_monai.handlers import OperatingPoint
from ttl_monai.handlers.files import file_sha256, save_tensors, write_atomically
from ttl_monai.handlers.record import versions
from ttl_monai.networks import TransferClassifier
from ttl_monai.networks.features import WHOLE, PointFeatures

logger = logging.getLogger(__name__)

_WEIGHTS, _RESULT = "probe.safetensors", "probe.json"
_THRESHOLD = "val_threshold"
# Nothing of the backbone is trained, and the head is the one that a linear probe on pooled features is.
_FROZEN = {"network_def#freeze_up_to": "all", "network_def#head": "pool"}


@dataclass
class _Pooled:
    """What a forward pass over one section leaves."""

    features: dict[str, np.ndarray]  # point -> (N, C) float32
    labels: np.ndarray  # (N,), or (N, classes) for multi-label
    items: list[dict[str, Any]]  # what else each item of the data set holds, such as its patient


def check_probed(space: Space) -> None:
    """See whether the task of a search can be probed.

    Raises:
        ValueError: it is segmentation.
    """
    if json.loads(Path(space.folder, space.datalists[0]).read_text())["task"] == "segmentation":
        raise ValueError(
            "a linear probe reads pooled features, which say nothing of where a pixel lies: it cannot stand in for a "
            "segmentation network; search with --method two-stage, svcca or exhaustive"
        )


def probe_cell(space: Space, cell: Cell, folder: Path) -> dict[str, Any]:
    """Probe all candidates on one repeat: no training, one forward pass over training and validation images.

    The images get the evaluation preprocessing; features are the mean over all positions of the map at a point. The
    weights go to `probe.safetensors` in `folder`, the result to `probe.json`, from which `write_probe_run` makes a run.

    Args:
        space: the space of the search.
        cell: a cell of kind "probe".
        folder: where the files go.

    Returns:
        For each point (`whole` is the whole network) the bundle's validation metrics, the chosen regularisation, and
        parameters and MACs of the network that the probe is the head of; seconds, start-up included.

    Raises:
        ValueError: a task or network that cannot be probed, a class with too few patients, or a validation section
            on which the key metric is undefined.
    """
    started = time.perf_counter()
    check_probed(space)  # before the overrides, which a bundle of segmentation does not know
    workflow = space.open_workflow(cell.repeat, output_dir=folder, cache_features=True, **_FROZEN)
    content = workflow.parser.get_parsed_content
    data = content("data")
    network = content("network")
    if not isinstance(network, TransferClassifier):
        raise ValueError(
            f"a linear probe needs a TransferClassifier, got {type(network).__name__}; search with --method two-stage"
        )
    points = [each["point"] for each in space.candidates]
    network.eval()
    extract = PointFeatures(network, points)
    training, validation = (_pool(workflow, extract, section) for section in ("train", "validate"))
    forwarded = time.perf_counter()
    probes = _fit(training, task=data.task, num_classes=len(data.class_names), seed=space.seed + cell.repeat)
    fitted = time.perf_counter()
    metrics = _score(workflow, probes, validation)
    _check_defined(metrics, space.key_metric, repeat=cell.repeat)
    rows = {}
    for candidate in space.candidates:
        name = candidate["point"] or WHOLE
        chosen = probes[name].regularisation
        rows[name] = {
            "value": metrics[name][space.key_metric],
            "metrics": {key: _plain(value) for key, value in metrics[name].items() if key != _THRESHOLD},
            "threshold": _plain(metrics[name].get(_THRESHOLD)),
            "regularisation": chosen[0] if len(chosen) == 1 else list(chosen),
            "params": candidate["params"],
            "macs": candidate["macs"],
        }
    result = {
        "metric": space.key_metric,
        "points": rows,
        "images": {"training": len(training.labels), "validation": len(validation.labels)},
        "threads": torch.get_num_threads(),
        "device": str(content("device")),
        "seconds_forward": round(forwarded - started, 1),
        "seconds_fit": round(fitted - forwarded, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    _save(probes, result, folder)
    return result


def write_probe_run(space: Space, point: str | None, repeat: int, probe_folder: Path, run_dir: Path) -> None:
    """Write the probe at one point as a finished run, which `evaluate.json` and `inference.json` take like any other.

    The run is the pretrained network cut at the point, frozen, with the probe as its head; its strategy is PROBE. Where
    `run_dir` holds another run, that one is moved aside; where it holds this one, nothing is done.

    Args:
        space: the space of the search.
        point: a candidate; None is the whole network.
        repeat: number of the repeat.
        probe_folder: the folder that `probe_cell` wrote to.
        run_dir: folder of the run.

    Raises:
        ValueError: the folder holds no probe of this point.
    """
    source, name = probe_folder / _WEIGHTS, point or WHOLE
    if not source.is_file() or not (probe_folder / _RESULT).is_file():
        raise ValueError(f"{probe_folder} holds no probe: expected the folder of a probe's cell with {_WEIGHTS}")
    result = json.loads((probe_folder / _RESULT).read_text())
    if name not in result["points"]:
        raise ValueError(f"no probe was fitted at {name!r}; points: {', '.join(result['points'])}")
    row = result["points"][name]
    origin = {"point": point, "sha256": file_sha256(source), "regularisation": row["regularisation"]}
    if _origin(run_dir) == origin:
        return
    set_old_run_aside(run_dir, "never")
    workflow = space.open_workflow(repeat, output_dir=run_dir, point=point, **{**_FROZEN, "strategy": "PROBE"})
    # The bundle's own description of its runs, read as properties: it needs the running workflow.
    workflow.add_property(name="ttl_spec", required=True, config_id="checkpoint#spec")
    workflow.add_property(name="ttl_facts", required=True, config_id="record#facts")
    network = workflow.parser.get_parsed_content("network_def")
    _set_head(network, safetensors.load(source.read_bytes()), name)
    run_dir.mkdir(parents=True, exist_ok=True)
    model = run_dir / "model.pt"
    save_tensors({key: value.cpu().contiguous() for key, value in network.state_dict().items()}, model)
    measured = {
        key: value for key, value in {**row["metrics"], _THRESHOLD: row["threshold"]}.items() if value is not None
    }
    spec = {
        **workflow.ttl_spec,
        "epoch": 0,
        "validation": measured,
        "threshold": row["threshold"],
        "sha256": file_sha256(model),
    }
    write_atomically(run_dir / "model.json", json.dumps(spec, indent=4).encode())
    record = {
        "status": "finished",
        **workflow.ttl_facts,
        "versions": versions(),
        "wall_s": result["seconds"],
        "best": {"epoch": 0, **measured},
        "history": [],
        "probe": origin,
    }
    write_atomically(run_dir / "run.json", json.dumps(record, indent=4).encode())
    logger.info("The probe at %s is a run: %s.", name, run_dir)


def _pool(workflow: Any, extract: nn.Module, section: str) -> _Pooled:
    """Pooled features of one section (`train` or `validate`), in the order of its images."""
    content = workflow.parser.get_parsed_content
    device, prepare = content("device"), content("validate#prepare_batch")
    loader = DataLoader(
        content(f"{section}#dataset"),
        batch_size=content("batch_size"),
        shuffle=False,
        num_workers=content("num_workers"),
    )
    parts: dict[str, list[torch.Tensor]] = {}
    labels: list[torch.Tensor] = []
    items: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=f"features, {section}", leave=False, disable=None):
            image, label = prepare(batch, device)
            for point, value in extract(image).items():
                # (B, C, *spatial) -> (B, C), in 2D and 3D
                parts.setdefault(point or WHOLE, []).append(value.flatten(2).mean(2).float().cpu())
            labels.append(label.cpu())
            items += decollate_batch({key: value for key, value in batch.items() if key != "image"})
    features = {point: torch.cat(values).numpy() for point, values in parts.items()}
    return _Pooled(features, torch.cat(labels).numpy(), items)


def _fit(training: _Pooled, *, task: str, num_classes: int, seed: int) -> dict[str, LinearProbe]:
    settings: dict[str, Any] = {"task": task, "num_classes": num_classes}
    patients = [str(item["patient"]) for item in training.items]
    splits = patient_folds(training.labels, patients, seed=seed, **settings)
    points = tqdm(training.features.items(), desc="probes", leave=False, disable=None)
    return {point: fit_probe(values, training.labels, patients, splits=splits, **settings) for point, values in points}


def _score(workflow: Any, probes: Mapping[str, LinearProbe], validation: _Pooled) -> dict[str, dict[str, float]]:
    """The bundle's own metrics on the validation items, for each point, and its operating point of a binary task."""
    content = workflow.parser.get_parsed_content
    postprocess, labels = content("validate#postprocessing"), torch.from_numpy(validation.labels)

    def step(engine: Engine, batch: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        logits = torch.stack([item["logits"] for item in batch])
        # Postprocessing is for one item, channel first: the images take the place of an item's positions, (C, N).
        pred = postprocess({"pred": logits.T, "label": labels})["pred"].T.as_subclass(torch.Tensor)
        return [{"pred": one, "label": label} for one, label in zip(pred, labels, strict=True)]

    engine = Engine(step)
    for part in ("key_metric", "additional_metrics"):
        named = content(f"validate#{part}") if f"validate#{part}" in workflow.parser else None
        for name, metric in (named or {}).items():
            metric.attach(engine, name)
    for index, handler in enumerate(workflow.parser["validate#handlers"]):
        if handler.get("_target_", "").endswith(f".{OperatingPoint.__name__}"):
            content(f"validate#handlers#{index}").attach(engine)
    found = {}
    for point, probe in probes.items():
        logits = torch.from_numpy(probe.logits(validation.features[point])).float()
        rows = [{**item, "logits": one} for item, one in zip(validation.items, logits, strict=True)]
        engine.run([rows], max_epochs=1)
        found[point] = {name: float(value) for name, value in engine.state.metrics.items()}
    return found


def _check_defined(metrics: Mapping[str, Mapping[str, float]], key: str, *, repeat: int) -> None:
    for point, values in metrics.items():
        if not math.isfinite(values.get(key, math.nan)):
            raise ValueError(
                f"the probe at {point} has no finite {key}: does the validation section of repeat {repeat} hold every "
                "class?"
            )


def _save(probes: Mapping[str, LinearProbe], result: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for point, probe in probes.items():
        tensors[f"{point}.weight"] = torch.from_numpy(probe.weight).float()
        tensors[f"{point}.bias"] = torch.from_numpy(probe.bias).float()
    write_atomically(folder / _WEIGHTS, safetensors.save(tensors))
    write_atomically(folder / _RESULT, (json.dumps(result, indent=4) + "\n").encode())


def _set_head(network: TransferClassifier, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Copy a probe into the linear layer of the head."""
    linear = network.head[-1]
    with torch.no_grad():
        for part in ("weight", "bias"):
            target, values = getattr(linear, part), tensors[f"{name}.{part}"]
            if target.shape != values.shape:
                raise ValueError(
                    f"the probe's {part} at {name} is {tuple(values.shape)}, the head's {tuple(target.shape)}"
                )
            target.copy_(values)


def _origin(run_dir: Path) -> Any:
    """Which probe a folder is the run of; None where it is none, or not finished."""
    record = run_dir / "run.json"
    return json.loads(record.read_text()).get("probe") if record.is_file() else None


def _plain(value: float | None) -> float | None:
    """JSON knows no NaN: an undefined metric is null there."""
    return None if value is None or not math.isfinite(value) else value
