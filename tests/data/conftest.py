"""Small made series of DICOM that more than one test file writes."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

CANARY = "CANARYNAME^JANE"
AXIAL = (1, 0, 0, 0, 1, 0)


def made_volume(slices=8, rows=20, columns=16):
    """HU of air with a lopsided body in it, (slices, rows, columns): every flip and every transposition shows."""
    k, i, j = np.indices((slices, rows, columns))
    body = (i > 3) & (i < rows - 2) & (j > 2) & (j < columns - 4)
    return np.where(body, 10 * k + 3 * i + j - 40, -1000).astype(np.int16)


def base_dataset(modality="CT", storage=None, syntax=ExplicitVRLittleEndian):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = storage or (CTImageStorage if modality == "CT" else MRImageStorage)
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.Modality = CANARY, "CANARYID7", modality
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.4", "1.2.3.5"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    return dataset


def set_pixels(dataset, stored):
    bits = stored.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    dataset["PixelData"].VR = "OW"


def write_series(
    folder,
    volume=None,
    *,
    gap=2.0,
    heights=None,
    spacing=(0.8, 0.7),
    orientation=AXIAL,
    origin=(-30.0, -20.0, 100.0),
    step=None,
    modality="CT",
    intercept=-1024,
    stored_type=np.uint16,
    series_uid="1.2.3.9",
    prefix="im",
    each=None,
    **tags,
):
    """Write one file a slice, in an order of names that is not that of places; returns the paths by place.

    `step` is the direction of the table, the normal by default; `each(dataset, k)` changes single slices; `tags` go
    into all of them.
    """
    volume = made_volume() if volume is None else volume
    normal = np.cross(orientation[:3], orientation[3:])
    step = normal if step is None else np.array(step)
    heights = np.arange(len(volume)) * gap if heights is None else np.asarray(heights, dtype=float)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, (plane, height) in enumerate(zip(volume, heights, strict=True)):
        dataset = base_dataset(modality)
        dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = series_uid, 3, len(volume) - k
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [float(v) for v in np.asarray(origin) + height * step]
        dataset.ImageOrientationPatient = [float(v) for v in orientation]
        dataset.PixelSpacing, dataset.SliceThickness = list(spacing), gap
        if modality == "CT":
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, intercept
        set_pixels(dataset, (plane.astype(np.int32) - (intercept if modality == "CT" else 0)).astype(stored_type))
        for name, value in tags.items():
            setattr(dataset, name, value)
        if each is not None:
            each(dataset, k)
        paths.append(folder / f"{prefix}{(k * 7) % 100:02}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(path, volume=None, *, gap=2.0, order=None, shared_rescale=True, each=None):
    """Write one enhanced CT, its frames in any order."""
    volume = made_volume() if volume is None else volume
    order = range(len(volume)) if order is None else order
    dataset = base_dataset(storage=EnhancedCTImageStorage)
    dataset.SeriesInstanceUID, dataset.NumberOfFrames = "1.2.3.9", len(order)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]

    def item(**values):
        inner = Dataset()
        for name, value in values.items():
            setattr(inner, name, value)
        return [inner]

    rescale = item(RescaleSlope=2, RescaleIntercept=-1024, RescaleType="HU")
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.8, 0.7], SliceThickness=gap)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=list(AXIAL))
    if shared_rescale:
        shared.PixelValueTransformationSequence = rescale
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[-30.0, -20.0, 100.0 + k * gap])
        if not shared_rescale:
            frame.PixelValueTransformationSequence = rescale
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    set_pixels(dataset, ((volume[list(order)].astype(np.int32) + 1024) // 2).astype(np.uint16))
    if each is not None:
        each(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_segmentation(path, sources, values, kind="BINARY", **options):
    """Write a SEG of the source files by highdicom; skips without it.

    `values` are numbers of segments, (sources, rows, columns), or (sources, rows, columns, segments) of 0 and 1. Frames
    without foreground are left out (`omit_empty_frames`).
    """
    seg = pytest.importorskip("highdicom.seg", reason="DICOM segmentations need highdicom")
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    segments = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=f"segment {number}",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=AlgorithmIdentificationSequence("drawn", codes.DCM.ArtificialIntelligence, "1"),
        )
        for number in range(1, 1 + int(values.shape[3] if values.ndim == 4 else values.max()))
    ]
    images = [dcmread(source) for source in sources]
    for image in images:  # series without names lack what highdicom copies
        for name in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            if name not in image:
                setattr(image, name, "")
    segmentation = seg.Segmentation(
        source_images=images,
        pixel_array=values,
        segmentation_type=seg.SegmentationTypeValues[kind],
        segment_descriptions=segments,
        **{"series_instance_uid": generate_uid(), "series_number": 2},
        **{"sop_instance_uid": generate_uid(), "instance_number": 1, "software_versions": "1"},
        **{"manufacturer": "none", "manufacturer_model_name": "none", "device_serial_number": "1"},
        **options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    return path


@pytest.fixture
def made():
    """The writers of made series: `made.series`, `made.enhanced`, and the values, `made.volume`."""

    class Made:
        series = staticmethod(write_series)
        enhanced = staticmethod(write_enhanced)
        volume = staticmethod(made_volume)
        canary = CANARY

    return Made
