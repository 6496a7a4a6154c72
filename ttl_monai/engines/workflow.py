"""What a bundle config asks of the running MONAI workflow: where it is, what was overridden, one clear error."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigWorkflow, run
from monai.bundle.config_parser import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

logger = logging.getLogger(__name__)

_LOCATOR = ComponentLocator()  # finds MONAI's components by their short names
# Keys that MONAI itself gives a meaning in any component.
_COMPONENT_KEYS = {"_target_", "_disabled_", "_requires_", "_mode_", "_desc_"}


def running_workflow() -> ConfigWorkflow | None:
    """The workflow whose config is being evaluated, found among the callers: MONAI gives a config no handle on it.

    Returns:
        The workflow; None where a config is evaluated without one, as by `monai.bundle ckpt_export`.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return workflow
        frame = frame.f_back
    return None


def find_workflow() -> ConfigWorkflow:
    """The workflow whose config is being evaluated.

    Raises:
        RuntimeError: if there is none.
    """
    workflow = running_workflow()
    if workflow is None:
        raise RuntimeError("this function is for bundle configs: no MONAI ConfigWorkflow is running.")
    return workflow


def prepare_workflow() -> None:
    """Check the overrides of the running workflow; the first item of `initialize` in every entry config.

    `--run DIR` is accepted for `--run_dir DIR`: MONAI would take it as a new `run` section and do nothing.

    Raises:
        ValueError: naming each override that no config knows, with the nearest valid key.
    """
    _shorten_errors()
    workflow = find_workflow()
    parser: Any = workflow.parser
    if not isinstance(parser["run"], list):
        _take_run_option(workflow)
    if unknown := unknown_settings(workflow):
        lines = [f"{id_!r} is no setting here" + (f"; {hint}" if hint else "") for id_, hint in unknown.items()]
        said = "; ".join(lines)
        end = "" if said.endswith("?") else "."
        raise ValueError(f"{said}{end} Nothing was run. The settings stand at the top of the config file.")
    parser.get_parsed_content("bundle_root")  # found through the callers: later calls may have others


def unknown_settings(workflow: ConfigWorkflow) -> dict[str, str]:
    """The ids of a workflow's config that no config of its bundle knows.

    Returns:
        For each the nearest valid one, or the file that it belongs to, in words; "" where there is none.
    """
    known = _known_configs(workflow)
    config: Any = workflow.parser.config
    unknown = _unknown_ids({name: value for name, value in config.items() if name != "_meta_"}, known)
    return {id_: nearest_setting(workflow, id_) for id_ in unknown}


def nearest_setting(workflow: ConfigWorkflow, id_: str) -> str:
    """What an unknown id may have meant, in words: the file that it belongs to, or the nearest id; "" for nothing."""
    valid = {each for config in _known_configs(workflow) for each in _ids(config)} | set(
        inspect.signature(run).parameters
    )
    near = difflib.get_close_matches(id_, valid, n=1, cutoff=0.6)
    others = [name for name, config in _bundle_configs(workflow).items() if id_ in set(_ids(_nested(config)))]
    return f"it belongs to {others[0]}" if others else f"did you mean {near[0]!r}?" if near else ""


def _take_run_option(workflow: ConfigWorkflow) -> None:
    parser: Any = workflow.parser
    folder = parser["run"]
    if "run_dir" not in parser or not isinstance(folder, str):
        raise ValueError(f"--run names the folder of a training, for evaluate.json and inference.json; got {folder!r}.")
    parser["run_dir"] = folder
    entry = "inference.json" if parser.get("evaluator") else "evaluate.json"
    parser["run"] = ConfigParser.load_config_file(Path(workflow.config_root_path, entry))["run"]
    parser.parse(reset=True)


def literal(workflow: ConfigWorkflow, key: str, *, left_open: Mapping[str, str] | None = None) -> Any:
    """A part of the config with its references and expressions resolved, but no `_target_` instantiated.

    Args:
        workflow: the running workflow.
        key: id of the part, such as `network_def` or `validate#preprocessing`.
        left_open: names of entries, at any depth, that get these values in place of their own.

    Returns:
        Plain JSON values.

    Raises:
        TypeError: if an expression inside gives something that JSON cannot hold.
    """

    def resolve(value: Any, id_: str) -> Any:
        if isinstance(value, dict):
            return {
                name: left_open[name] if left_open and name in left_open else resolve(item, f"{id_}::{name}")
                for name, item in value.items()
                if name not in ("_desc_", "_requires_")  # which asks for parts of this config
            }
        if isinstance(value, list):
            return [resolve(item, f"{id_}::{index}") for index, item in enumerate(value)]
        if isinstance(value, str) and value[:1] in ("$", "@"):
            if value[0] == "@" and isinstance(workflow.parser[value[1:]], (dict, list)):
                return resolve(workflow.parser[value[1:]], value[1:])
            value = workflow.parser.get_parsed_content(id_)
        json.dumps(value)
        return value

    return resolve(workflow.parser[key], key)


def _bundle_configs(workflow: ConfigWorkflow) -> dict[str, dict[str, Any]]:
    """The configs of the bundle as they stand in the files, by file name."""
    paths = sorted(Path(workflow.config_root_path).glob("*.json"))
    return {path.name: ConfigParser.load_config_file(path) for path in paths if path.stem != "metadata"}


def _known_configs(workflow: ConfigWorkflow) -> list[dict[str, Any]]:
    """The configs whose settings count: the entry config, and the overlays that were given with it."""
    configs = _bundle_configs(workflow)
    own = {"search.json": "search", "inference.json": "evaluator"}
    if "experiment" in workflow.parser:  # one file each, without overlays
        target = workflow.parser["experiment#_target_"]
        return [each for each in configs.values() if each.get("experiment", {}).get("_target_") == target]
    entry = next((name for name, part in own.items() if part in workflow.parser), "train.json")
    known = [configs.pop(entry)]
    for name in ("train.json", *own):
        configs.pop(name, None)
    # MONAI keeps no list of the files: an overlay was given if all its settings are there.
    known += [
        overlay
        for overlay in configs.values()
        if all(key.lstrip("+") in workflow.parser for key in overlay if key != "_desc_")
    ]
    settings: Any = DEFAULT_EXP_MGMT_SETTINGS.values()
    return [*map(_nested, known), *(dict(each["configs"]) for each in settings)]


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """Spread the `a#b` and `+a` keys of an overlay into the tree that they patch."""
    tree: dict[str, Any] = {}
    for key, value in config.items():
        *parents, leaf = ReferenceResolver.split_id(key.lstrip("+"))
        node = tree
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                break
            node = child
        else:
            node.setdefault(leaf, value)
    return tree


def _unknown_ids(config: Mapping[str, Any], known: list[dict[str, Any]]) -> list[str]:
    """The ids of a merged config that no known config has, no reference uses and no component takes."""
    used = set(_references(config))

    def walk(node: Mapping[str, Any], peers: list[Mapping[str, Any]], prefix: str) -> Iterator[str]:
        names = {name for peer in peers for name in peer}
        targets = {peer.get("_target_") for peer in peers} - {None}
        for name, value in node.items():
            id_ = f"{prefix}{name}"
            if "_target_" in node:
                if name not in _COMPONENT_KEYS and name not in names and not _takes(node, name):
                    yield id_
                if node["_target_"] not in targets:
                    continue
            elif name not in names and name not in _COMPONENT_KEYS:
                if id_ not in used:
                    yield id_
                continue
            inner = [peer[name] for peer in peers if isinstance(peer.get(name), dict)]
            if isinstance(value, dict) and inner:
                yield from walk(value, inner, f"{id_}#")

    return list(walk(config, list(known), ""))


def _references(node: Any) -> Iterator[str]:
    """Every id that a reference or a macro inside a config names, and the ids above it."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, str):
        names = list(ReferenceResolver.match_refs_pattern(node))
        if node.startswith("%"):
            names.append(node[1:])
        for name in names:
            parts = ReferenceResolver.split_id(name)
            yield from ("#".join(parts[: end + 1]) for end in range(len(parts)))


def find_target(component: Mapping[str, Any]) -> Any:
    """The class or function that a component's `_target_` names, None where there is none."""
    target = ConfigComponent(config=dict(component), id="", locator=_LOCATOR).resolve_module_name()
    return locate(target) if isinstance(target, str) else target


def _takes(component: Mapping[str, Any], name: str) -> bool:
    """Whether the constructor of a component takes an argument of this name."""
    found = find_target(component)
    if found is None:
        return True  # building it says that there is no such component
    parameters = inspect.signature(found).parameters.values()
    return any(each.name == name or each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


def _ids(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _ids(value, f"{prefix}{name}#")


def told_cause(error: BaseException) -> BaseException | None:
    """The error that was written for the user, under the RuntimeErrors that MONAI wraps around it.

    Returns:
        The outermost ValueError, TypeError, OSError or ArithmeticError of the chain; None where there is none.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (ValueError, TypeError, OSError, ArithmeticError)):
        cause = cause.__cause__ or cause.__context__
    return cause


def _shorten_errors() -> None:
    """Let an error end MONAI's command line with its cause in one line; MONAI's nested traceback hides it.

    Only for `python -m monai.bundle`, never in a user's own process. TTL_TRACEBACK=1 keeps the traceback.
    """
    if not sys.argv or Path(sys.argv[0]).parent.name != "bundle" or os.environ.get("TTL_TRACEBACK") == "1":
        return

    def report(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        cause = told_cause(error)
        if cause is not None:
            sys.stderr.write(f"error: {cause}\n(TTL_TRACEBACK=1 shows where it was raised)\n")
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report
