"""DICOM segmentations (SEG) as masks of the image, or of the series of slices, that they refer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import optional_import
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from ttl_monai.data.dicom_series import open_stack
from ttl_monai.data.dicom_slices import Slice
from ttl_monai.data.reader import format_of

__all__ = ["NoMaskError", "read_on_image", "read_on_series"]

_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation Storage, of which pydicom 3.0 has no name
_MOST_BITS = 24  # what is shifted in single precision keeps
_PLACE_TOLERANCE_MM = 0.01
_SHAPE_TOLERANCE = 1e-3  # of directions, and of distances of pixels in mm
_FRACTIONS = (
    "the segmentation has fractions; expected of each pixel whether it belongs to a segment (BINARY or LABELMAP)"
)


class NoMaskError(ValueError):
    """Why a file is no mask of its image, in our own words: no path and no value of a tag."""


def read_on_image(path: Path, image: Path, *, overlapping: bool = False) -> np.ndarray:
    """The segments that lie on one image.

    Args:
        path: the SEG.
        image: a DICOM file of one image.
        overlapping: a pixel may belong to several segments.

    Returns:
        (rows, columns) number of the segment, 0 outside of all; with `overlapping` bits, of which segment 1 sets bit 0,
        segment 2 bit 1 and so on.

    Raises:
        NoMaskError: no SEG, one of another image, or segments that overlap where they must not.
        ImportError: without highdicom.
    """
    dataset = _read(path)
    if format_of(image) != "dicom":
        raise NoMaskError("a DICOM segmentation refers to a DICOM image, but the image is none")
    segmentation = _parse(dataset)
    uid = str(dcmread(image, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)
    if uid not in _references(segmentation):
        raise NoMaskError("the segmentation does not refer to this image")
    return _pixels(segmentation, [uid], overlapping)[0]


def read_on_series(path: Path, folder: Path, *, overlapping: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The segments on the slices of a series, which are found by the SOPInstanceUID that each frame refers to.

    Slices that no frame refers to are 0: many programs store only the slices in which they have found something.

    Args:
        path: the SEG.
        folder: of the slices; the series in it is that which `read_series` reads.
        overlapping: as in `read_on_image`.

    Returns:
        Numbers or bits as `read_on_image` gives them, (columns, rows, slices) in the order of `read_series` with
        axcodes None, and the affine that the series has there.

    Raises:
        NoMaskError: no SEG; one that refers to other images than those of the series, or does not say to which; one
            whose pixels are not those of the slices; segments that overlap where they must not.
        VolumeError: no sound series.
        ImportError: without highdicom.
    """
    dataset = _read(path)
    stack = open_stack(folder)
    if any(each.frame is not None for each in stack.slices):
        raise NoMaskError("a segmentation of an enhanced multi-frame series is not read; store it as NIfTI")
    _check_frames(dataset, stack.slices)
    segmentation = _parse(dataset)
    uids = [each.instance for each in stack.slices]
    if strange := _references(segmentation) - set(uids):
        raise NoMaskError(_strange(strange, uids))
    frames = _pixels(segmentation, uids, overlapping)
    # The nearest pixel, where slices have to be shifted: numbers and bits have nothing in between.
    array, affine = stack.place(frames.T, fill=0, order=0)
    return array.astype(frames.dtype), affine


def _read(path: Path) -> Dataset:
    header = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    if header.get("SOPClassUID") not in (SegmentationStorage, _LABEL_MAP):
        raise NoMaskError("a mask in DICOM must be a segmentation object (SEG)")
    return dcmread(path)


def _check_frames(dataset: Dataset, slices: Sequence[Slice]) -> None:
    """Look whether each frame refers to slices of the series and has their pixels."""
    by_uid = {each.instance: each for each in slices}
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    shape = (int(dataset.Rows), int(dataset.Columns))
    strange: set[str] = set()
    for frame in dataset.get("PerFrameFunctionalGroupsSequence") or ():
        sources = {
            str(source.get("ReferencedSOPInstanceUID"))
            for derivation in frame.get("DerivationImageSequence") or ()
            for source in derivation.get("SourceImageSequence") or ()
        }
        if not sources:
            raise NoMaskError("a frame of the segmentation does not say to which slice it belongs; store it as NIfTI")
        strange |= sources - by_uid.keys()
        for uid in sources & by_uid.keys():
            if not _lies_on(shape, frame, shared, by_uid[uid]):
                raise NoMaskError(
                    "a frame of the segmentation does not lie on the pixels of the slice to which it refers (shape, "
                    "position, orientation or spacing); resample it onto the series"
                )
    if strange:
        raise NoMaskError(_strange(strange, by_uid))


def _lies_on(shape: tuple[int, int], frame: Dataset, shared: Dataset, on: Slice) -> bool:
    if shape != on.shape:
        return False
    for sequence, name, expected, tolerance in (
        ("PlanePositionSequence", "ImagePositionPatient", on.position, _PLACE_TOLERANCE_MM),
        ("PlaneOrientationSequence", "ImageOrientationPatient", on.orientation, _SHAPE_TOLERANCE),
        ("PixelMeasuresSequence", "PixelSpacing", on.spacing, _SHAPE_TOLERANCE),
    ):
        found = (frame.get(sequence) or shared.get(sequence) or [Dataset()])[0].get(name)  # shared, if by all frames
        if not found or expected is None or np.abs(np.array(found, float) - expected).max() > tolerance:
            return False
    return True


def _strange(strange: set[str], known: Any) -> str:
    return (
        f"the segmentation refers to {len(strange)} images that are not among the {len(known)} slices of the series; "
        "is it that of another series, or are slices missing?"
    )


def _parse(dataset: Dataset) -> Any:
    """As highdicom's `Segmentation`; the data set is changed."""
    seg, found = optional_import("highdicom.seg")
    if not found:
        raise ImportError("a mask in DICOM needs highdicom: pip install 'ttl-monai[dicom-seg]'")
    for groups in dataset.get("SharedFunctionalGroupsSequence", ()):
        # highdicom refuses the measures of a projection, which have no thickness; frames are found without them.
        if not all("SliceThickness" in measures for measures in groups.get("PixelMeasuresSequence", ())):
            del groups.PixelMeasuresSequence
    return seg.Segmentation.from_dataset(dataset, copy=False)


def _references(segmentation: Any) -> set[str]:
    """SOPInstanceUID of all images that the segmentation names as its sources."""
    return {str(instance) for _, _, instance in segmentation.get_source_image_uids()}


def _pixels(segmentation: Any, uids: Sequence[str], overlapping: bool) -> np.ndarray:
    """Numbers of the segments, or their bits, on each image, (images, rows, columns)."""
    numbers = np.array([number for number in segmentation.segment_numbers if number > 0])
    if overlapping and numbers.max() > _MOST_BITS:
        raise NoMaskError(f"bits are read of the segments 1 to {_MOST_BITS}, but there is a segment {numbers.max()}")
    try:
        pixels: np.ndarray = segmentation.get_pixels_by_source_instance(
            uids,
            segment_numbers=numbers.tolist(),
            combine_segments=not overlapping,
            ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )
    except RuntimeError:
        raise NoMaskError(
            "segments of the segmentation overlap; declare the structures by mask_bits, segment 1 being bit 0"
        ) from None
    except ValueError:
        if segmentation.SegmentationType == "FRACTIONAL":
            raise NoMaskError(_FRACTIONS) from None
        raise
    if not overlapping:
        return pixels
    layers = pixels.astype(np.int64)  # (images, rows, columns, segments)
    if (layers != pixels).any():
        raise NoMaskError(_FRACTIONS)
    return np.tensordot(layers, 1 << (numbers - 1), axes=1)
