"""The headers of DICOM images as slices: one for each file or, in enhanced multi-frame files, for each frame."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import MediaStorageDirectoryStorage

from ttl_monai.data.dicom_file import IMAGE_TAGS, Refused, check_decoder, open_header

__all__ = ["FOREIGN_SUFFIXES", "HEADER_TAGS", "NOT_ACQUIRED", "Slice", "list_files", "read_slices", "why_unread"]

HEADER_TAGS = (
    *IMAGE_TAGS,
    *("Modality", "ImageType", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "SeriesNumber", "ImagesInAcquisition", "GantryDetectorTilt", "RescaleType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
# DICOM objects that lie beside images and are none, or are not what was acquired.
NOT_ACQUIRED = (
    *("SR", "PR", "KO", "SEG", "REG", "FID", "RWV", "DOC", "AU", "ECG", "EPS", "HD", "PLAN", "ANN", "M3D", "SMR"),
    *("RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTIMAGE"),
)
FOREIGN_SUFFIXES = (
    *(".txt", ".xml", ".json", ".csv", ".html", ".htm", ".pdf", ".md", ".log", ".ini", ".inf", ".exe", ".css", ".js"),
    *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".nii", ".gz", ".zip", ".xlsx", ".docx", ".db"),
    *(".nrrd", ".mha", ".mhd", ".npy", ".npz", ".h5", ".hdf5", ".pkl", ".yaml", ".yml", ".svg"),
)
_MODALITIES = frozenset({"CT", "MR", "PT", "NM", "CR", "DX", "MG", "XA", "RF", "US", "OT", "SC", *NOT_ACQUIRED})
_IMAGE_TYPES = frozenset(
    {
        *("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "VOLUME", "MPR", "REFORMATTED"),
        *("PROJECTION IMAGE", "MIP", "MINIP", "SCREEN SAVE", "DOSE_INFO", "RESAMPLED", "ADDITION", "AVERAGE"),
        *("NONE", "M", "T1", "T2"),
    }
)


@dataclass(frozen=True)
class Slice:
    """What one image of a series says about itself. Lengths in mm, directions in the patient's LPS system.

    Attributes:
        path: the file.
        frame: number of the frame in an enhanced multi-frame file, None in a file of one image.
        study: hash of study and patient; empty ids count as one.
        series: SeriesInstanceUID, may be empty.
        instance: SOPInstanceUID, which masks refer to; not for logs or outputs.
        series_number: SeriesNumber, None where absent.
        modality: such as "CT".
        image_type: the values of ImageType or, in enhanced files, FrameType.
        shape: rows and columns.
        position: the centre of the first pixel, None where absent.
        orientation: directions of increasing column and of increasing row, None where absent.
        spacing: between rows and between columns, None where absent.
        thickness: SliceThickness, None where absent.
        slope: RescaleSlope, None where absent.
        intercept: RescaleIntercept, None where absent.
        rescale_type: RescaleType, "" where absent.
        tilt: GantryDetectorTilt in degrees, 0 where absent.
        frame_of_reference: FrameOfReferenceUID.
        expected: how many images the acquisition or the file says it has, None where it does not.
    """

    path: Path
    frame: int | None
    study: str
    series: str
    instance: str
    series_number: int | None
    modality: str
    image_type: tuple[str, ...]
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    tilt: float
    frame_of_reference: str
    expected: int | None


def list_files(paths: Iterable[Path]) -> list[Path]:
    """All files of folders, their subfolders too, and files given as such, in the order of their names.

    A link that leads nowhere is one of them: what reads it says that it cannot be read.

    Raises:
        FileNotFoundError: for a path that is not there.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.is_file() or not file.exists())
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return files


def read_slices(
    files: Sequence[Path], *, on_refusal: Callable[[Path, Refused], None] | None = None
) -> tuple[list[Slice], int]:
    """Read the headers of files.

    Files that are plainly something else (a DICOMDIR, reports, segmentations, text, pictures) are left out and
    counted. A file that may have been a slice and cannot be read is a refusal, never left out in silence.

    Args:
        files: as `list_files` gives them.
        on_refusal: told about each unreadable file; None raises at the first.

    Returns:
        The slices, and how many files were left out.

    Raises:
        Refused: a file that cannot be read; the message has its path and the reason, and no value of a tag.
    """
    slices: list[Slice] = []
    others = 0
    for file in files:
        try:
            found = _slices_of(file)
        except (Refused, OSError) as error:
            if on_refusal is None:
                raise
            on_refusal(file, error if isinstance(error, Refused) else Refused(why_unread(error), file))
            continue
        slices += found
        others += not found
    return slices, others


def why_unread(error: OSError) -> str:
    """Why a file cannot be read, without its name."""
    reasons = {PermissionError: "no permission to read it", FileNotFoundError: "a link that leads nowhere"}
    return reasons.get(type(error), f"the file cannot be read ({type(error).__name__})")


def _slices_of(path: Path) -> list[Slice]:
    """The slices of one file; none for a file that is plainly no acquired image."""
    if path.stat().st_size == 0 and path.suffix.lower() not in FOREIGN_SUFFIXES:
        raise Refused("the file is empty (0 bytes); copy it anew, or remove it", path)
    if not is_dicom(path):
        if path.suffix.lower() in FOREIGN_SUFFIXES or path.name.startswith(".") or _is_note(path):
            return []
        raise Refused("not a DICOM file (no 'DICM' after 128 bytes); copy it anew, or remove it", path)
    dataset, remaining = open_header(path, HEADER_TAGS)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return []
    try:
        if str(dataset.get("Modality") or "") in NOT_ACQUIRED:
            return []
        if not dataset.get("Rows") or not dataset.get("Columns"):
            raise Refused("damaged, or no image (no rows and columns); copy it anew, or remove it", path)
        check_decoder(dataset, path)
        _check_length(dataset, path, remaining)
        return _frames(dataset, path) if "PerFrameFunctionalGroupsSequence" in dataset else [_single(dataset, path)]
    except Refused:
        raise
    except Exception as error:  # values that are no numbers; the texts may quote them
        raise Refused(f"damaged DICOM header ({type(error).__name__})", path) from None


def _is_note(path: Path) -> bool:
    """Whether a file without extension is plain text, such as README."""
    if path.suffix:
        return False
    with path.open("rb") as file:
        return all(byte in b"\t\n\r" or byte >= 32 for byte in file.read(512))


def _check_length(dataset: Dataset, path: Path, remaining: int) -> None:
    """Without compression so many bytes follow the header as the pixels take: a cut is seen before decoding."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed or dataset.file_meta.TransferSyntaxUID.is_deflated:
        return
    if remaining < (expected := get_expected_length(dataset)):
        raise Refused(f"the file is cut short, {expected} bytes of pixels expected, {remaining} found", path)


def _single(dataset: Dataset, path: Path) -> Slice:
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise Refused(
            f"{frames} frames without functional groups, so that their places are not known; expected single "
            "images or an enhanced multi-frame file",
            path,
        )
    return _slice(dataset, path, None, dataset, dataset, dataset, dataset, dataset.get("ImageType"))


def _frames(dataset: Dataset, path: Path) -> list[Slice]:
    """The frames of an enhanced file (PS3.3 C.7.6.16): each macro is the frame's own or, else, shared by all."""
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    if len(frames) != int(dataset.get("NumberOfFrames") or 1):
        raise Refused(f"it says {dataset.get('NumberOfFrames')} frames and describes {len(frames)}", path)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    slices = []
    for number, frame in enumerate(frames):

        def macro(name: str, frame: Dataset = frame) -> Dataset:
            return (frame.get(name) or shared.get(name) or [Dataset()])[0]

        measures = macro("PixelMeasuresSequence")
        kinds = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")
        frame_type = next((kind for name in kinds if (kind := macro(name).get("FrameType"))), dataset.get("ImageType"))
        position, orientation = macro("PlanePositionSequence"), macro("PlaneOrientationSequence")
        rescale = macro("PixelValueTransformationSequence")
        slices.append(_slice(dataset, path, number, position, orientation, measures, rescale, frame_type))
    return slices


def _known(value: Any, words: frozenset[str]) -> str:
    """A code string that reports may quote; fields of headers can hold anything, such as a name."""
    word = str(value).strip().upper()
    return word if word in words or not word else "OTHER"


def _slice(
    dataset: Dataset,
    path: Path,
    frame: int | None,
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    rescale: Dataset,
    image_type: Any,
) -> Slice:
    ids = "\0".join(str(dataset.get(name) or "") for name in ("StudyInstanceUID", "PatientID"))
    return Slice(
        path=path,
        frame=frame,
        study=hashlib.sha256(ids.encode()).hexdigest()[:16],
        series=str(dataset.get("SeriesInstanceUID") or ""),
        instance=str(dataset.get("SOPInstanceUID") or ""),
        series_number=_whole(dataset.get("SeriesNumber")),
        modality=_known(dataset.get("Modality") or "", _MODALITIES),
        image_type=tuple(
            _known(v, _IMAGE_TYPES) for v in ([image_type] if isinstance(image_type, str) else image_type or ())
        ),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        position=_numbers(position.get("ImagePositionPatient"), 3),
        orientation=_numbers(orientation.get("ImageOrientationPatient"), 6),
        spacing=_numbers(measures.get("PixelSpacing"), 2),
        thickness=_number(measures.get("SliceThickness")),
        slope=_number(rescale.get("RescaleSlope")),
        intercept=_number(rescale.get("RescaleIntercept")),
        rescale_type=str(rescale.get("RescaleType") or "").upper(),
        tilt=_number(dataset.get("GantryDetectorTilt")) or 0.0,
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        expected=_whole(dataset.get("ImagesInAcquisition")),
    )


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _whole(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """So many numbers; None where they are absent or not so many."""
    if values is None or isinstance(values, str) or len(values) != count:
        return None
    numbers = [_number(value) for value in values]
    return None if None in numbers else tuple(number for number in numbers if number is not None)
