"""Predicted masks as a DICOM segmentation on the grid of its sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from ttl_monai.deploy.dicom_out.identity import MANUFACTURER, RESEARCH, ModelIdentity, code
from ttl_monai.deploy.dicom_out.sources import SourceRefused

__all__ = ["segmentation"]

_SAME_MM = 0.01
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def segmentation(
    sources: Sequence[Dataset], masks: np.ndarray, affine: np.ndarray, structures: Sequence[str], model: ModelIdentity
) -> Any:
    """A Segmentation with one binary segment a structure; each frame refers to its source instance.

    Args:
        sources: one image, or the slices of one series in any order; see `load_sources`.
        masks: (columns, rows, slices, K), as `write_mask` writes them.
        affine: from (column, row, slice) to mm in RAS.
        structures: K names.
        model: which model.

    Returns:
        A highdicom dataset, in a new series of the study of the sources.

    Raises:
        SourceRefused: the masks do not lie on the pixels of the sources, as the volume was resampled.
    """
    import highdicom as hd

    ordered = _by_slice(sources, masks.shape, affine)
    frames = np.ascontiguousarray(masks.transpose(2, 1, 0, 3)).astype(np.uint8)  # (slices, rows, columns, K)
    made = hd.seg.Segmentation(
        source_images=ordered,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(number, name, model) for number, name in enumerate(structures, 1)],
        series_instance_uid=generate_uid(),
        series_number=9002,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.short_name,
        software_versions=model.version,
        device_serial_number=model.sha256,
        content_label="SEGMENTATION",
        content_description=RESEARCH,
    )
    made.SeriesDescription = f"{RESEARCH}: segmentation"
    if "FrameOfReferenceUID" not in made:  # of a projection, whose pixels lie in no space
        made.PatientOrientation = ordered[0].get("PatientOrientation") or ""
    return made


def _describe(number: int, name: str, model: ModelIdentity) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    # SNOMED's own code where it has a structure of that very name, as it has of "lung".
    camel = "".join(word.capitalize() for word in name.replace("_", " ").split())
    known = getattr(codes.SCT, camel, None) if camel.isidentifier() else None
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=known or code(f"STRUCTURE{number}", name),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model.short_name,
            family=codes.DCM.ArtificialIntelligence,
            version=model.version,
            source=MANUFACTURER,
            parameters={"sha256 of the weights": model.sha256},
        ),
        tracking_uid=generate_uid(),
        tracking_id=name[:64],
    )


def _by_slice(sources: Sequence[Dataset], shape: tuple[int, ...], affine: np.ndarray) -> list[Dataset]:
    """The sources in the order of the slices, after checking that the mask lies on their pixels."""
    columns, rows, slices, _ = shape
    remedy = "the NIfTI mask lies on the volume as it was read"
    if any((each.Rows, each.Columns) != (rows, columns) for each in sources):
        raise SourceRefused(f"the mask has other rows and columns than the source (tilted slices?); {remedy}")
    if len(sources) == 1 and slices == 1:
        return list(sources)
    if any("ImagePositionPatient" not in each for each in sources):
        raise SourceRefused(f"frames of multi-frame files are not referred to; {remedy}")
    lps = _TO_LPS @ affine
    places = np.array([each.ImagePositionPatient for each in sources], dtype=float)  # (N, 3)
    ordered = []
    for number in range(slices):
        distances = np.linalg.norm(places - (lps @ [0, 0, number, 1])[:3], axis=1)
        if distances.min() > _SAME_MM:
            raise SourceRefused(f"the volume was resampled, so that its slices are none of the source's; {remedy}")
        ordered.append(sources[int(distances.argmin())])
    across, down = np.array(ordered[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    directions = lps[:3, :2] / nib.affines.voxel_sizes(lps)[:2]
    if not np.allclose(directions, np.stack([across, down], axis=1), atol=1e-3):
        raise SourceRefused(f"the axes of the mask are none of the source's; {remedy}")
    return ordered
