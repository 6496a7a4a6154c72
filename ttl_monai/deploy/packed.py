"""How the configs of a packed bundle differ from those of its source: the words for both, imported by lint and pack."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["ADDED", "CODE_PATH", "EXPORTS", "VENDORED", "code_item", "to_packed", "to_source"]

VENDORED = re.compile(r"ttl_monai_[a-z0-9_]+")
"""How `ttl pack` calls the code that a bundle carries: a name of its own, so that two bundles live in one process."""
EXPORTS = ("torchscript", "onnx")
"""The exported forms that a packed bundle may have."""
ROOMS = ("engines", "handlers", "networks")
"""What source configs import under these names, and expressions use."""
CODE_PATH = "$setattr(sys, 'dont_write_bytecode', True) or sys.path.append(@bundle_root)"
"""Finds the code of a bundle. Python would leave compiled files beside it, which no MANIFEST names."""
_OURS = re.compile(r"^ttl_monai(?=(\.\w+)+$)")
# `engines.` as a name of Python, not `monai.handlers.` and not an id.
_BY_IMPORT = re.compile(rf"(?<![\w.@#])({'|'.join(ROOMS)})\.(?=\w)")
_BY_ID = re.compile(rf"@code#({'|'.join(ROOMS)})\.(?=\w)")


def code_item(package: str) -> dict[str, Any]:
    """The config item by which a packed bundle finds the code that it carries.

    Args:
        package: name of the code's folder in the bundle.

    Returns:
        `path`, the one expression that puts the bundle's folder on the path, and the modules that expressions use.
        `path` is required by every component whose `_target_` lies in the package: MONAI itself does it too late for
        `initialize`, and not at all for `monai.bundle.load`.
    """
    rooms = {name: {"_target_": f"{package}.room", "_requires_": "@code#path", "name": name} for name in ROOMS}
    return {"path": CODE_PATH, **rooms}


# What packing writes into configs besides what the source bundles say, by the name of the file.
ADDED: dict[str, dict[str, Any]] = {
    "train.json": {
        "imports": ["$import sys"],
        "code": code_item("ttl_monai"),
        "start_from": "$@bundle_root + '/models/model.pt'",
        "run": ["$engines.start_from(@network_def, @start_from, @class_names)"],
    },
    "evaluate.json": {"run_dir": "$@bundle_root + '/models'", "output_dir": "$@bundle_root + '/eval'"},
    "inference.json": {
        "imports": ["$import sys"],
        "code": code_item("ttl_monai"),
        "run_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
    },
}


def to_packed(value: Any, package: str, *, in_config: bool = True) -> Any:
    """A part of a source bundle's config as a packed one says it.

    Args:
        value: any JSON value.
        package: name of the code's folder in the bundle.
        in_config: whether the value goes into a config; else (the record of a model) nothing is required of the path.

    Returns:
        The value with names of `ttl_monai` (targets, readers, loggers) in the package, expressions that use the
        modules of `code`, and `_requires_` where a component needs the path.
    """
    if isinstance(value, list):
        return [to_packed(each, package, in_config=in_config) for each in value]
    if isinstance(value, str):
        return _BY_IMPORT.sub(r"@code#\1.", value) if value.startswith("$") else _OURS.sub(package, value)
    if not isinstance(value, dict):
        return value
    packed = {name: to_packed(each, package, in_config=in_config) for name, each in value.items()}
    ours = [each for each in packed.values() if isinstance(each, str) and each.startswith(f"{package}.")]
    if in_config and "_target_" in packed and ours:
        return {"_target_": packed.pop("_target_"), "_requires_": "@code#path", **packed}
    return packed


def to_source(text: str, packages: Iterable[str]) -> str:
    """A string of a packed bundle as the source bundle says it: the other way round from `to_packed`."""
    for package in packages:
        text = _BY_ID.sub(r"\1.", re.sub(rf"\b{re.escape(package)}\b", "ttl_monai", text))
    return text
