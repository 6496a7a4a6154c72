"""The configs of a packed bundle: those of the source bundle, with the settings of the run written in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ttl_monai.deploy.pack.run import FinishedRun
from ttl_monai.deploy.packed import ADDED, code_item, to_packed
from ttl_monai.engines.configs import PLACES

__all__ = ["script_config", "write_configs", "write_json", "write_model_record"]

INFERENCE = "inference.json"
# Of a run's config: where and how it ran, on how many processes, and what overlays are put on. Not what was trained.
CIRCUMSTANCES = {
    *("_desc_", "imports", *PLACES, "resume"),
    *("rank", "is_not_rank0", "device", "num_workers", "data", "class_names", "network", "record", "checkpoint"),
    *("initialize", "run"),
}
CIRCUMSTANCES_INSIDE = {"dataloader", "handlers"}
"""Likewise within `train` and `validate`."""
CHOICES = {"demo", "protocol", "settings", "cuts"}
"""What a run has chosen from: its choice is written in instead."""
OVERLAYS = ("evaluate.json", "multi_gpu_train.json", "multi_gpu_evaluate.json", "svcca.json")
"""Strategies and backbones are left out, as they give another network than the packed weights are of."""
LOADERS = {"LoadImaged", "ttl_monai.data.LoadPaird"}
PLAIN = ("strategy", "task", "class_names", "threshold", "axis", "mask_bits", "pooling", "spatial_size")
"""Of a model's record: what expressions of `SCRIPTED` use, and what a reader of the file may want to know."""
SCRIPTED = ("device", "overlapping", "batch_size", "overlap", "inferer", "postprocessing")
"""Of inference.json: what runs a network that is there already, on images that are loaded."""
_CHOSEN = re.compile(r"\$@settings\['(\w+)'\]")


def write_json(path: Path, content: Any) -> None:
    """Write JSON in the layout of our configs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def write_configs(run: FinishedRun, folder: Path, package: str) -> None:
    """Write train.json, inference.json, the overlays and logging.conf.

    Args:
        run: what is packed.
        folder: the new bundle.
        package: name of the code's folder in it.
    """
    source = {name: json.loads((run.bundle / "configs" / name).read_text("utf-8")) for name in (*OVERLAYS, INFERENCE)}
    contents = {
        **{name: source[name] for name in OVERLAYS},
        "evaluate.json": source["evaluate.json"] | ADDED["evaluate.json"],
        INFERENCE: _inference(source[INFERENCE]),
        "train.json": _train(run),
    }
    for name, content in contents.items():
        packed = to_packed(content, package)
        if "code" in packed:
            packed["code"] = code_item(package)
        write_json(folder / "configs" / name, packed)
    (folder / "configs" / "logging.conf").write_bytes((run.bundle / "configs" / "logging.conf").read_bytes())


def script_config(run: FinishedRun, package: str) -> dict[str, Any]:
    """inference.json within `model.ts`, for a program that has this one file: no part of it is elsewhere.

    As MONAI Deploy's `MonaiBundleInferenceOperator` reads it: `ConfigParser` on `extra/inference.json` and
    `extra/metadata.json` of the archive, without a workflow; `device` and `inferer`; `preprocessing` and
    `postprocessing`, each a `Compose` of dictionary transforms. The operator hands over images that are loaded, and
    drops transforms called LoadImage or SaveImage: there are none here. Source: monai-deploy-app-sdk,
    monai/deploy/operators/monai_bundle_inference_operator.py, `get_bundle_config`, `_init_config` and `compute`.

    Args:
        run: what is packed.
        package: name of the code's folder in the bundle. Targets of ours, such as the square crop and the inferer of
            series, are found where that folder lies on the path.

    Returns:
        The content of the file.
    """
    source = json.loads((run.bundle / "configs" / INFERENCE).read_text("utf-8"))
    preprocessing = {**run.spec["preprocessing"]}
    # Of series, the bundle says what follows on the preprocessing of the run, which is its first part there.
    _, *further = source["preprocessing"]["transforms"] if isinstance(source["preprocessing"], dict) else [None]
    loaded = [each for each in preprocessing["transforms"] if each["_target_"] not in LOADERS]
    config = {
        "_desc_": "For images that are loaded as the readers of the bundle do, by programs that have this file alone.",
        "spec": {name: run.spec[name] for name in PLAIN},
        **{name: source[name] for name in SCRIPTED if name in source},
        "preprocessing": {**preprocessing, "transforms": [*loaded, *further]},
    }
    packed: dict[str, Any] = to_packed(config, package, in_config=False)
    return packed


def write_model_record(run: FinishedRun, folder: Path, package: str) -> None:
    """Write `models/model.json`, by which `inference.json` and `evaluate.json` find the network of `models/model.pt`.

    The name of the file that pretrained weights came from may be a path of the author: it is left out.
    """
    spec = {**run.spec, "network_def": _network_def(run)}
    write_json(folder / "models" / "model.json", to_packed(spec, package, in_config=False))


def _network_def(run: FinishedRun) -> dict[str, Any]:
    return {**run.spec["network_def"], "weights": "none"}


def _train(run: FinishedRun) -> dict[str, Any]:
    """train.json with the run's network, data preparation and hyper-parameters; it starts from the packed weights."""
    config, added = _short_ids(run.record["config"]), ADDED["train.json"]
    chosen = config["demo"] if config["dataset_dir"] is None else config["protocol"]
    train: dict[str, Any] = {}
    for name, value in run.train.items():
        if name in CHOICES:
            continue
        kept = value if name in CIRCUMSTANCES else config[name]
        if name in ("train", "validate"):
            kept = {each: (value if each in CIRCUMSTANCES_INSIDE else kept)[each] for each in value}
        elif isinstance(kept, str) and (match := _CHOSEN.fullmatch(kept)):
            kept = chosen[match[1]]
        train[name] = kept
        if name == "bundle_root":
            train["code"] = added["code"]
    train["_desc_"] = (
        f"Entry point. Goes on training the packed network ({run.spec['strategy']}, {run.network}) on one's own data; "
        "start_from null and weights of network_def train it from the beginning."
    )
    train["imports"] = _imports(train["imports"])
    train["network_def"] = _network_def(run)
    before = next(index for index, step in enumerate(train["run"]) if "record.attach" in step)
    train["run"] = [*train["run"][:before], *added["run"], *train["run"][before:]]
    return _with(train, "network_def", {"start_from": added["start_from"]})


def _short_ids(value: Any) -> Any:
    """A part of a run's config with ids as we write them: MONAI has put `::` in place of each `#`."""
    if isinstance(value, dict):
        return {name: _short_ids(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_short_ids(each) for each in value]
    return value.replace("::", "#") if isinstance(value, str) and value[:1] in ("$", "@", "%") else value


def _inference(source: dict[str, Any]) -> dict[str, Any]:
    added = ADDED[INFERENCE]
    inference = _with(source, "dataset_dir", {"code": added["code"]})
    places = {name: added[name] for name in ("run_dir", "output_dir")}
    return inference | places | {"imports": _imports(source["imports"])}


def _imports(source: list[str]) -> list[str]:
    """The imports without those of our code, which `code` brings."""
    return ["$import sys", *(each for each in source if "ttl_monai" not in each)]


def _with(content: dict[str, Any], before: str, new: dict[str, Any]) -> dict[str, Any]:
    """The content with new items before one of its own: the order is for readers."""
    result: dict[str, Any] = {}
    for name, value in content.items():
        result |= new if name == before else {}
        result[name] = value
    return result
