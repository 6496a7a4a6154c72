"""The headers of what was predicted, for objects that belong to the same patient and study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

__all__ = ["SourceRefused", "load_sources"]

_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID")
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# All that is read: whom and which study an object belongs to, what it refers to, and where its pixels lie.
SOURCE_TAGS = (
    *("SpecificCharacterSet", *_PATIENT, "IssuerOfPatientID", *_STUDY, "StudyDescription", *_UIDS),
    *("Modality", "SeriesNumber", "InstanceNumber", "ImageType", "PatientOrientation", "Laterality"),
    *("Rows", "Columns", "NumberOfFrames", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    *("PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


class SourceRefused(ValueError):
    """Nothing can be referred to; the message has no value of a tag and no path."""


def load_sources(files: Sequence[Path]) -> list[Dataset]:
    """The headers that DICOM objects refer to, in the order of the files.

    Args:
        files: of one image, or of one series.

    Returns:
        The tags of `SOURCE_TAGS`, without pixels; what a patient and study must state, if only as empty, is there.

    Raises:
        SourceRefused: a UID is missing or none, or the files are of several studies or series.
    """
    sources: list[Dataset] = []
    for file in files:
        source = dcmread(file, specific_tags=list(SOURCE_TAGS), stop_before_pixels=True)
        for name in _UIDS:
            if not UID(str(source.get(name) or "")).is_valid:
                raise SourceRefused(f"the source has no valid {name}, so that nothing can refer to it")
        for name in (*_PATIENT, *_STUDY):
            if name not in source:
                setattr(source, name, "")
        sources.append(source)
    for name in ("StudyInstanceUID", "SeriesInstanceUID"):
        if len({source[name].value for source in sources}) > 1:
            raise SourceRefused(f"the sources differ in their {name}")
    return sources
