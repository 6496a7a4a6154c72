"""Configs of bundles, opened as MONAI workflows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ttl_monai.engines.workflow import told_cause

__all__ = ["PLACES", "config_files", "open_workflow", "quiet"]

PLACES = ("bundle_root", "dataset_dir", "datalist", "demo_dir", "cache_dir", "output_dir")
"""Ids of train.json whose values are paths of one machine: where a training reads and writes, not what is trained."""


def config_files(bundle: str | Path, overlays: Sequence[str], entry: str = "train.json") -> list[str]:
    """Paths of a bundle's config and overlays; an overlay is a file, or a name in the bundle's `configs`.

    Raises:
        ValueError: there is no such bundle or overlay.
    """
    configs = Path(bundle, "configs")
    if not (configs / entry).is_file():
        raise ValueError(f"{bundle} is no bundle: expected a folder with configs/{entry}, such as bundles/covid_ttl")
    files = [configs / entry]
    for name in overlays:
        found = [path for path in (configs / name, Path(name)) if path.is_file()]
        if not found:
            raise ValueError(f"there is no overlay {name!r}, neither in {configs} nor as a file of that path")
        files.append(found[0])
    return [str(path.absolute()) for path in files]


@contextmanager
def quiet(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Let a logger, and those below it that have no level of their own, say only what is of this level."""
    other = logging.getLogger(name)
    before = other.level
    other.setLevel(level)
    try:
        yield
    finally:
        other.setLevel(before)


def open_workflow(
    files: Sequence[str], overrides: Mapping[str, Any], *, workflow_type: str = "train"
) -> ConfigWorkflow:
    """A MONAI workflow, initialised; an error that was written for the user comes without MONAI's wrapping.

    Raises:
        ValueError: what the config refused, in one line.
    """
    try:
        # It warns that it was told to leave logging alone, and that an experiment's folder holds no metadata.
        with quiet("monai.bundle.workflows", logging.CRITICAL):
            workflow = ConfigWorkflow(list(files), logging_file=False, workflow_type=workflow_type, **dict(overrides))
        workflow.initialize()
    except Exception as error:
        cause = told_cause(error)
        if cause is None:
            raise
        raise ValueError(str(cause)) from error
    return workflow
