"""The config of a bundle: its files, its overlays and settings, its references."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
from monai.bundle import ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver

from ttl_monai.deploy.check.problems import NOTE, PROBLEM, Findings
from ttl_monai.engines.configs import config_files, quiet
from ttl_monai.engines.workflow import find_target, nearest_setting, unknown_settings


def check_config(
    found: Findings, bundle: Path, overlays: Sequence[str], settings: Mapping[str, Any]
) -> ConfigWorkflow | None:
    """Check metadata, files, settings and references.

    Args:
        found: gets what is found.
        bundle: folder of the bundle.
        overlays: overlays on train.json, as in `config_files`.
        settings: config ids and their values.

    Returns:
        The workflow, not initialised, without the settings that it does not know; None where a file cannot be read.

    Raises:
        ValueError: the folder is no bundle.
    """
    found.start("config")
    config_files(bundle, [])
    _check_metadata(found, bundle)
    files = []
    for overlay in overlays:
        with found.collect("config", "--overlay", remedy="pass a file, or a name in the bundle's configs"):
            files.append(config_files(bundle, [overlay])[1])
    files = [path for path in [config_files(bundle, [])[0], *files] if _read_json(found, Path(path)) is not None]
    if not files or Path(files[0]).name != "train.json":
        return None
    workflow = None
    with found.collect("config", *(Path(path).name for path in files)), quiet("monai.bundle.workflows"):
        workflow = ConfigWorkflow(files, logging_file=False, workflow_type="train", bundle_root=str(bundle))
    if workflow is None:
        return None
    _check_settings(found, workflow, settings)
    with found.collect("config"):
        parser: Any = workflow.parser
        parser.parse(reset=True)
        _check_references(found, workflow)
        return workflow
    return None


def _read_json(found: Findings, path: Path) -> Any:
    """The content; None, and a problem, where it is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found.add("config", PROBLEM, "there is no such file", f"configs/{path.name}")
        return None
    except json.JSONDecodeError as error:
        where = f"configs/{path.name} line {error.lineno}"
        found.add("config", PROBLEM, f"no JSON: {error.msg}", where, remedy="mend the file")
        return None
    if not isinstance(content, dict):
        found.add("config", PROBLEM, "expected a JSON object", f"configs/{path.name}")
        return None
    return content


def _check_metadata(found: Findings, bundle: Path) -> None:
    metadata = _read_json(found, bundle / "configs" / "metadata.json")
    if metadata is None:
        return
    name = str(metadata.get("schema", "")).rpartition("/")[2]
    schema = bundle.parent / "schema" / name
    if name and schema.is_file():
        validator = jsonschema.Draft201909Validator(json.loads(schema.read_text(encoding="utf-8")))
        for error in validator.iter_errors(metadata):
            place = "#".join(map(str, error.absolute_path))
            found.add("config", PROBLEM, error.message, f"metadata.json {place}".strip(), remedy=f"see {name}")
    else:
        found.add("config", NOTE, "no copy of its schema lies beside the bundle: not compared", "metadata.json")
    if metadata.get("version") not in metadata.get("changelog", {}):
        what = f"the changelog has no line on version {metadata.get('version')!r}"
        found.add("config", PROBLEM, what, "metadata.json changelog", remedy="add what changed")


def _check_settings(found: Findings, workflow: ConfigWorkflow, settings: Mapping[str, Any]) -> None:
    """Put the settings in, and take out what the bundle does not know, so that the other checks go on without it."""
    parser: Any = workflow.parser
    unknown: dict[str, str] = {}
    for id_, value in settings.items():
        try:
            parser[id_] = value
        except (KeyError, IndexError, TypeError, ValueError):  # there is nothing above it
            unknown[id_] = nearest_setting(workflow, id_)
    unknown |= unknown_settings(workflow)
    for id_, hint in unknown.items():
        remedy = hint or "the settings stand at the top of train.json"
        found.add("config", PROBLEM, f"{id_!r} is no setting here", id_, remedy=remedy)
        *parents, leaf = ReferenceResolver.split_id(id_)
        above = "#".join(parents)
        if above in parser and isinstance(parser[above], dict):
            parser[above].pop(leaf, None)


def _check_references(found: Findings, workflow: ConfigWorkflow) -> None:
    """References and `_target_`s that lead nowhere."""
    parser: Any = workflow.parser
    config = {name: value for name, value in parser.config.items() if name != "_meta_"}
    ids = [id_ for id_, _ in _walk(config)]
    for id_, value in _walk(config):
        if isinstance(value, str):
            for name in ReferenceResolver.match_refs_pattern(value):
                if name not in parser:
                    near = difflib.get_close_matches(name.replace("::", "#"), ids, n=1)
                    remedy = f"did you mean '@{near[0]}'?" if near else "add it to the config"
                    found.add("config", PROBLEM, f"the reference '@{name}' leads nowhere", id_, remedy=remedy)
        elif isinstance(value, dict):
            target = value.get("_target_")
            if isinstance(target, str) and not target.startswith("$") and find_target(value) is None:
                remedy = "correct its name, or install its package"
                found.add("config", PROBLEM, f"there is no {target!r} to be built", f"{id_}#_target_", remedy=remedy)


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config with its id."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield f"{prefix}{name}", value
        yield from _walk(value, f"{prefix}{name}#")
