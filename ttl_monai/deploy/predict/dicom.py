"""`ttl predict --dicom`: what was predicted as DICOM objects of the study that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import torch

from ttl_monai.data import CachedDataset, XrayReader, hu_to_unit, read_series
from ttl_monai.deploy.dicom_out import (
    Finding,
    ModelIdentity,
    SourceRefused,
    capture_image,
    load_sources,
    segmentation,
    structured_report,
)
from ttl_monai.deploy.dicom_out.capture import burn_in
from ttl_monai.deploy.predict.bundle import Predictor
from ttl_monai.deploy.predict.results import Result, Results
from ttl_monai.networks import grad_cam

__all__ = ["write_dicom"]

FOLDER = "dicom"
_NOT_DICOM = "the input is no DICOM: there is no patient and study that an object could belong to"
_PLAIN = {"LoadImaged", "EnsureChannelFirstd", "Resized"}  # transforms that keep the field of view


def write_dicom(results: Results, predictor: Predictor, folder: Path) -> None:
    """Write the objects of all predicted items to `folder/dicom`, and note them, or why there are none.

    Args:
        results: of the items; each predicted one gets `dicom` or `dicom_refused`.
        predictor: with the network, for the Grad-CAM of images.
        folder: where the workflow wrote.
    """
    model = ModelIdentity(*(str(results.model[name]) for name in ("name", "version", "sha256")))
    for each in results.results:
        if each.prediction is None:
            continue
        if each.item.format != "DICOM":
            each.dicom_refused = _NOT_DICOM
            continue
        try:
            sources = load_sources(sorted(each.item.path.iterdir()) if each.item.kind == "series" else each.item.files)
            made = _objects(each, sources, results, predictor, model, folder)
        except SourceRefused as refusal:
            each.dicom_refused = str(refusal)
            continue
        (folder / FOLDER).mkdir(exist_ok=True)
        for name, dataset in made.items():
            each.dicom.append(f"{FOLDER}/{each.item.key}_{name}.dcm")
            dataset.save_as(folder / each.dicom[-1], enforce_file_format=True)


def _objects(
    result: Result, sources: list[Any], results: Results, predictor: Predictor, model: ModelIdentity, folder: Path
) -> dict[str, Any]:
    """Name -> object: "seg", or "sr" and, of a network that has a map, "sc"."""
    prediction: Mapping[str, Any] = result.prediction or {}
    if predictor.is_segmentation:
        masks, affine = _read_masks(folder, result.item.key, prediction)
        return {"seg": segmentation(sources, masks, affine, list(prediction["structures"]), model)}
    point = results.operating_point or {}
    finding = Finding(
        probabilities=prediction["probabilities"],
        predicted=prediction["predicted"],
        threshold=point.get("threshold"),
        threshold_class=point.get("class", ""),
        origin=point.get("origin", "none stored; the class of the highest probability is given"),
    )
    series = result.item.kind == "series"
    shown = _of_series(result, sources, folder, predictor.gaps) if series else _of_image(result, sources, predictor)
    source, grey, heat, orientation = shown
    target = _target(finding)
    score = f"{target}: {finding.probabilities[target]:.3f}"
    score += "" if finding.threshold is None else f", threshold {finding.threshold:.3f}"
    lines = [
        f"Grad-CAM for {score}" if heat.any() else f"nothing speaks for {score}",
        f"{model.name} {model.version}, weights {model.sha256[:16]}",
    ]
    picture = burn_in(grey, heat, lines)
    return {
        "sr": structured_report(sources, finding, model, key=result.item.key),
        "sc": capture_image(source, picture, model, description="Grad-CAM", orientation=orientation),
    }


def _target(finding: Finding) -> str:
    """The class that is shown: of two the second, else the predicted one."""
    names = list(finding.probabilities)
    return names[1] if len(names) == 2 else finding.predicted


def _read_masks(folder: Path, key: str, prediction: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The masks that the workflow wrote, (columns, rows, slices, K), and their affine."""
    images = {name: nib.load(folder / name) for name in prediction["masks"]}
    first: Any = next(iter(images.values()))
    arrays = {name: np.asanyarray(image.dataobj) for name, image in images.items()}  # type: ignore[attr-defined]
    names = list(prediction["structures"])
    if list(arrays) == [f"{key}_mask.nii.gz"]:
        numbers = arrays[f"{key}_mask.nii.gz"]
        return np.stack([numbers == k for k in range(1, len(names) + 1)], axis=-1), first.affine
    # Named as `MaskWriter` does.
    return np.stack([arrays[f"{key}_mask_{quote(name, safe=' ')}.nii.gz"] > 0 for name in names], axis=-1), first.affine


def _of_image(
    result: Result, sources: list[Any], predictor: Predictor
) -> tuple[Any, np.ndarray, np.ndarray, tuple[str, ...]]:
    """The picture of an x-ray, and the Grad-CAM where it lies on it."""
    grey, _ = XrayReader().get_data((result.item.path,))
    entry = {"image": str(result.item.path), "image_id": result.item.key}
    image = CachedDataset([entry], predictor.setting("preprocessing"), predictor.setting("cache_dir"))[0]["image"]
    network, prediction = predictor.setting("network"), result.prediction or {}
    names = list(prediction["probabilities"])
    target = 1 if len(names) == 2 else names.index(prediction["predicted"])
    device = next(network.parameters()).device
    heat = grad_cam(network, image[None].to(device), target=target, multi_label=predictor.spec["task"] == "multi-label")
    orientation = sources[0].get("PatientOrientation") or ()
    return sources[0], grey, _back_onto(heat[0].cpu(), grey.shape, predictor), tuple(map(str, orientation))


def _back_onto(heat: torch.Tensor, shape: tuple[int, ...], predictor: Predictor) -> np.ndarray:
    """A map of what the network saw on the pixels of the file, 0 beyond its field of view."""
    transforms = [each["_target_"].rpartition(".")[2] for each in predictor.spec["preprocessing"]["transforms"]]
    if unknown := set(transforms) - _PLAIN - {"CenterSquareCropd"}:
        raise SourceRefused(f"where the network looks is not known after {', '.join(sorted(unknown))}")
    rows, columns = shape
    seen = (min(shape), min(shape)) if "CenterSquareCropd" in transforms else (rows, columns)
    fitted = torch.nn.functional.interpolate(heat[None, None], size=seen, mode="bilinear", align_corners=False)[0, 0]
    whole = np.zeros((rows, columns), dtype=np.float32)
    top, left = (full // 2 - side // 2 for full, side in zip(shape, seen, strict=True))  # as CenterSpatialCrop
    whole[top : top + seen[0], left : left + seen[1]] = fitted.numpy()
    return whole


def _of_series(
    result: Result, sources: list[Any], folder: Path, gaps: str
) -> tuple[Any, np.ndarray, np.ndarray, tuple[str, ...]]:
    """The slice of a CT in which the Grad-CAM is highest, and the source instance that lies there."""
    item, prediction = result.item, result.prediction or {}
    heat: Any = nib.load(folder / prediction["gradcam"]["volume"])
    percent = np.asanyarray(heat.dataobj)  # (columns, rows, slices), axes LPS
    number = int(percent.sum(axis=(0, 1), dtype=np.int64).argmax())
    volume = read_series(sorted(item.path.iterdir()), gaps=gaps)  # as the workflow read it
    grey = hu_to_unit(torch.from_numpy(volume.array[:, :, number].T.astype(np.float32)), mean=0).numpy()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    height = (lps @ [0, 0, number, 1])[:3] @ lps[:3, 2]
    placed = [each for each in sources if "ImagePositionPatient" in each]
    nearest = min(
        placed or sources[:1],
        key=lambda each: abs(np.array(each.get("ImagePositionPatient", lps[:3, 3]), dtype=float) @ lps[:3, 2] - height),
    )
    return nearest, grey, percent[:, :, number].T.astype(np.float32) / 100, ("L", "P")
