"""`ttl predict --from dicomweb`: a study of a server, predicted, and the results stored back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ttl_monai.deploy.pacs import Pacs
from ttl_monai.deploy.predict.conduct import predict_inputs
from ttl_monai.deploy.predict.results import Results

__all__ = ["predict_study"]


def predict_study(
    bundle: str | Path, pacs: Pacs, study: str, out: str | Path, *, store: bool = False, **options: Any
) -> Results:
    """Retrieve a study into a private folder, predict it, and store the objects.

    Args:
        bundle: as in `predict_inputs`.
        pacs: the server.
        study: StudyInstanceUID.
        out: as in `predict_inputs`.
        store: send the DICOM objects to the server; they are written in any case where `dicom` is given.
        options: further ones of `predict_inputs`.

    Returns:
        What became of each item.

    Raises:
        ValueError: see `predict_inputs` and `Pacs`. Where storing fails, the results are in `out` nevertheless.
    """
    options["dicom"] = bool(options.get("dicom")) or store
    with tempfile.TemporaryDirectory(prefix="ttl-study-") as private:
        pacs.retrieve(study, Path(private))
        results = predict_inputs(bundle, private, out, **options)
    if store:
        pacs.store([Path(out, name) for each in results.results for name in each.dicom])
    return results
