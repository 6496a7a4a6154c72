"""A whole prediction: sort, judge, try, predict by the bundle's own workflow, report."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttl_monai.data import CachedDataset, segmentation_items
from ttl_monai.data.keys import load_site_key
from ttl_monai.deploy.dicom_out import require_highdicom
from ttl_monai.deploy.predict.bundle import Predictor, find_bundle, open_predictor
from ttl_monai.deploy.predict.dicom import write_dicom
from ttl_monai.deploy.predict.results import Results, collect_results, write_key_map
from ttl_monai.deploy.predict.sort import Item, sort_inputs
from ttl_monai.deploy.predict.staging import list_inputs, stage_files
from ttl_monai.engines.workflow import told_cause

logger = logging.getLogger(__name__)


def predict_inputs(
    bundle: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    configs: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    dicom: bool = False,
    site_key: Path | None = None,
    key_map: str | Path | None = None,
) -> Results:
    """Predict what lies in a file, folder or list; write `report.json`, `predictions.json` and what the bundle writes.

    Args:
        bundle: a bundle with models/model.pt, or a finished run.
        source: see `list_inputs`.
        out: a new or empty folder.
        configs: the bundle of a run that lies outside of it.
        settings: values of inference.json, by id.
        dicom: write DICOM objects too, in `out/dicom`; these carry the patient, all other files do not.
        site_key: the file of the site key, by default the user's own.
        key_map: a file for key -> files of the input; names of patients may be in it. It must not lie in `out`.

    Returns:
        What became of each item.

    Raises:
        ValueError: no bundle, no input, or an output folder with content; the message has no path of the input.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"expected a new or empty folder for --out, got {out}, which has content")
    if key_map is not None and Path(key_map).resolve().is_relative_to(folder.resolve()):
        raise ValueError("the key map tells whose results these are: write it to another place than --out")
    found_bundle, run_dir = find_bundle(bundle, configs)
    if dicom:
        require_highdicom()
    files = list_inputs(source)
    key = load_site_key(site_key)
    # A private folder (mode 0700): links to the files under names of ours, and prepared images.
    with tempfile.TemporaryDirectory(prefix="ttl-predict-") as private, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # its warnings quote values of tags
        stage = Path(private)
        predictor = open_predictor(
            found_bundle,
            run_dir,
            folder,
            stage=stage,
            settings=dict(settings or {}),
            maps=dicom,
        )
        found = sort_inputs(
            stage_files(files, stage / "files"),
            stage,
            predictor.accepts,
            key=key,
            series_rules=predictor.series_rules,
            gaps=predictor.gaps,
        )
        if not found.items:
            raise ValueError(f"no image was found among the {len(files)} files of the input")
        suitable = [item for item in found.items if item.report.suitable]
        suitable = [item for item in suitable if _can_be_read(item, predictor, stage)]
        folder.mkdir(parents=True, exist_ok=True)
        if suitable:
            predictor.give([_entry(item, predictor) for item in suitable])
            predictor.workflow.run()
        results = collect_results(found, predictor, folder)
        if dicom:
            write_dicom(results, predictor, folder)
        results.write(folder)
    if key_map is not None:
        write_key_map(found.items, Path(key_map))
    return results


def _entry(item: Item, predictor: Predictor) -> dict[str, Any]:
    """An item as the bundle's workflow takes it."""
    if item.kind == "series" and predictor.volumes:
        return {"image": [str(path) for path in sorted(item.path.iterdir())], "image_id": item.key}
    return {"image": str(item.path), "image_id": item.key}


def _can_be_read(item: Item, predictor: Predictor, stage: Path) -> bool:
    """Try the bundle's own preprocessing on an item, so that a damaged one is refused alone.

    Series are tried by the workflow itself (`SeriesDataset`). What is prepared here is kept for the prediction.
    """
    if predictor.volumes:
        return True
    entries = [_entry(item, predictor)]
    try:
        if predictor.is_segmentation:
            entries = segmentation_items(entries, predictor.setting("axis"))[:1]
        CachedDataset(entries, predictor.setting("preprocessing"), stage / "cache")[0]
    except Exception as error:
        cause = told_cause(error)
        if cause is None:
            raise
        text = str(cause).replace(f"{item.path}: ", "").replace(str(item.path), "the file")
        item.report.note("pixels", "refused", text.replace(str(stage), ""))
        return False
    return True
