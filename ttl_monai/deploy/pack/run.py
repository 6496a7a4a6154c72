"""A finished run, as what is packed: its model, its settings and its results, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_monai.engines.runs import load_spec

__all__ = ["FinishedRun", "open_run"]

SPEC_KEYS = {
    *("network_def", "preprocessing", "strategy", "dataset", "make_demo", "pooling", "axis", "mask_bits"),
    *("spatial_size", "task", "class_names", "data_sha256", "epoch", "validation", "threshold", "sha256"),
}
RECORD_KEYS = {
    *("status", "strategy", "seed", "data", "params", "trainable_params", "macs", "weights", "config"),
    *("versions", "wall_s", "history"),
}


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves.

    Attributes:
        folder: of the run.
        bundle: folder of the source bundle that it was trained by.
        spec: `model.json`.
        record: `run.json`.
        metrics: `test/metrics.json`; empty where the run was not evaluated.
        train: the source bundle's `train.json`.
    """

    folder: Path
    bundle: Path
    spec: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    train: Mapping[str, Any]

    @property
    def scores(self) -> dict[str, float]:
        """The figures of the test section, or, where it was not evaluated, those of the best epoch's validation."""
        found = {name: value for name, value in self.metrics.items() if name.startswith("test_")}
        return {name: value for name, value in (found or self.spec["validation"]).items() if _is_number(value)}

    @property
    def network(self) -> str:
        """The network in words."""
        definition = self.spec["network_def"]
        cut, slim = definition["truncate_at"], definition["slim_after"]
        words = [definition.get("backbone") or definition["encoder"], f"cut after {cut}" if cut else "not cut"]
        return ", ".join([*words, *([f"slimmed after {slim}"] if slim else [])])


def open_run(run: str | Path, bundle: str | Path | None) -> FinishedRun:
    """Read a run, and find fault with what cannot be packed.

    Args:
        run: folder of the run.
        bundle: folder of the source bundle; None for the one that the run lies in.

    Raises:
        ValueError: no run, not finished, without a model, of an older version, or of another bundle.
    """
    folder = Path(run).resolve()
    record = _read(folder, "run.json", "the folder of a training")
    if record.get("status") != "finished":
        raise ValueError(
            f"expected a finished run in {folder}, found one that is {record.get('status')!r}: let it end, or go on "
            "with --resume auto"
        )
    spec = _read(folder, "model.json", "a run with a best model (no epoch had a finite key metric?)")
    if not (folder / "model.pt").is_file():
        raise ValueError(f"expected model.pt in {folder}, found none: it was removed; train anew")
    for name, content, keys in (("model.json", spec, SPEC_KEYS), ("run.json", record, RECORD_KEYS)):
        if missing := sorted(keys - set(content)):
            raise ValueError(f"{folder} was made by an older version: {name} lacks {', '.join(missing)}. Train it anew")
    spec = load_spec(folder)
    source = _find_bundle(folder) if bundle is None else Path(bundle).resolve()
    train = _read(source, "configs/train.json", "the folder of a source bundle")
    _check_bundle(source, train, record)
    path = folder / "test" / "metrics.json"
    metrics = _read(folder, "test/metrics.json", "an evaluation") if path.is_file() else {}
    if metrics and metrics.get("model_sha256") != spec["sha256"]:
        raise ValueError(f"{path} is of another model than model.pt: evaluate the run again")
    return FinishedRun(folder, source, spec, record, metrics, train)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and value == value


def _read(folder: Path, name: str, expected: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"expected {expected}, found no {name} in {folder}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object in {path}, found a {type(content).__name__}")
    return content


def _find_bundle(run: Path) -> Path:
    found = next((each for each in run.parents if (each / "configs" / "train.json").is_file()), None)
    if found is None:
        raise ValueError(f"{run} lies in no bundle: say by --bundle DIR which one it was trained by")
    return found


def _check_bundle(bundle: Path, train: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """The run's config has every id of its bundle's `train.json`, and the same kind of network."""
    config = record["config"]
    target = train["network_def"]["_target_"]
    if config["network_def"].get("_target_") != target:
        raise ValueError(
            f"the run was not trained by {bundle}: its network is {config['network_def'].get('_target_')}, that of the "
            f"bundle {target}. Name the right one by --bundle DIR"
        )
    if "code" in train:
        raise ValueError(f"{bundle} is a packed bundle: name the source bundle by --bundle DIR")
    if missing := sorted(set(train) - set(config)):
        raise ValueError(f"the run was made by an older version of {bundle.name}: its config lacks {missing}")
