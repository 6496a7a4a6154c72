"""One x-ray DICOM file as a picture: decoded, windowed, and bright where the film is bright."""

from __future__ import annotations

import logging
from pathlib import Path

import gdcm
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import JPEGExtended12Bit, UID_dictionary

__all__ = ["read_dicom", "scale_to_unit"]

logger = logging.getLogger(__name__)

# Only these tags are parsed, so that no name, date or number of a patient ever reaches memory, logs or caches.
_PALETTES = [f"{c}PaletteColorLookupTable{p}" for c in ("Red", "Green", "Blue") for p in ("Descriptor", "Data")]
_TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *_PALETTES,
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_dicom(path: str | Path) -> np.ndarray:
    """Read a single-frame DICOM image (CR, DX, MG, ...) as it is meant to be seen.

    Grey images pass through the modality LUT or rescale, then the first VOI LUT or, without one, the first window
    (DICOM PS3.3 C.11.1, C.11.2), and are scaled by the output range of that step; an image with neither is scaled by
    the range of its own pixels, padding left out. MONOCHROME1 is inverted, so that high always means bright. Colour
    comes as RGB.

    Args:
        path: a DICOM file; the name needs no extension.

    Returns:
        Float32 array in [0, 1], (rows, columns) or, for colour, (rows, columns, 3).

    Raises:
        ValueError: when the file is not DICOM, has no pixels or several frames, is damaged, or is compressed in a way
            that no installed decoder reads. The message has the path and the reason, never the value of a tag.
    """
    dataset = _open(path)
    try:
        return _picture(dataset, path)
    except (_Refused, MemoryError):
        raise
    except Exception as error:
        # Decoders of damaged bytes raise anything, with texts that may quote tags: neither text nor chain is kept.
        reason = f"{_syntax(dataset)}, damaged or not supported ({type(error).__name__})"
        raise _Refused(f"{path}: its pixel data cannot be decoded: {reason}") from None


def scale_to_unit(pixels: np.ndarray, padding: np.ndarray | None = None) -> np.ndarray:
    """Scale by the range of the pixels themselves.

    Args:
        pixels: any shape, integer or float.
        padding: boolean, of the same shape: pixels that do not count for the range and are clipped to it.

    Returns:
        Float32 array in [0, 1]; all zeros for a constant image.
    """
    counted = pixels if padding is None or padding.all() else pixels[~padding]
    low, high = float(counted.min()), float(counted.max())
    if low == high:
        return np.zeros(pixels.shape, dtype=np.float32)
    return np.clip((pixels.astype(np.float64) - low) / (high - low), 0.0, 1.0).astype(np.float32)


class _Refused(ValueError):
    """A reason of our own wording, free of tag values."""


def _open(path: str | Path) -> Dataset:
    """Parse the allowed tags, and refuse what cannot be one picture before anything is decoded."""
    try:
        dataset = dcmread(path, specific_tags=list(_TAGS))
    except (FileNotFoundError, PermissionError):
        raise
    except InvalidDicomError:
        raise _Refused(f"{path}: not a DICOM file (no 'DICM' after 128 bytes)") from None
    except Exception as error:  # as above: the parser's texts may quote what it parsed
        raise _Refused(f"{path}: damaged DICOM file, it cannot be parsed ({type(error).__name__})") from None
    if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
        raise _Refused(f"{path}: no pixel data (a report, plan or waveform, or a file cut short)")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise _Refused(f"{path}: damaged DICOM header, it does not say how the pixels are stored (no transfer syntax)")
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
        expected = get_expected_length(dataset)
    except Exception as error:
        raise _Refused(f"{path}: damaged DICOM header ({type(error).__name__})") from None
    if frames > 1:
        raise _Refused(f"{path}: expected one frame, got {frames}; extract the frames to single images first")
    if compressed:
        _check_decoder(dataset, path)
    elif "PixelData" in dataset and (found := len(dataset.PixelData or b"")) < expected:
        raise _Refused(f"{path}: pixel data is cut short, {expected} bytes expected, {found} found")
    return dataset


def _check_decoder(dataset: Dataset, path: str | Path) -> None:
    """Refuse a compression that nothing installed can read, and say what to install."""
    try:
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        raise _Refused(f"{path}: {_syntax(dataset)} is a compression that cannot be read") from None
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise _Refused(f"{path}: no decoder is installed for {_syntax(dataset)}; install one of: {needs}")


def _syntax(dataset: Dataset) -> str:
    """The public name of the transfer syntax; a private one is not quoted."""
    uid = dataset.file_meta.TransferSyntaxUID
    return str(uid.name) if uid in UID_dictionary else "a private transfer syntax"


def _picture(dataset: Dataset, path: str | Path) -> np.ndarray:
    """Decode, then values of display in [0, 1]."""
    twelve_bits = dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and dataset.BitsStored > 8
    stored = _jpeg_12_bit(path) if twelve_bits else pixel_array(dataset)  # (rows, columns[, 3]); YBR is turned to RGB
    if not np.isfinite(stored).all():
        raise _Refused(f"{path}: NaN or infinite pixels")
    interpretation = dataset.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
    if stored.ndim == 3:
        return (stored / np.float32(255)).astype(np.float32) if stored.dtype == np.uint8 else scale_to_unit(stored)
    image = _grey(stored, dataset, path)
    return 1 - image if interpretation == "MONOCHROME1" else image


def _jpeg_12_bit(path: str | Path) -> np.ndarray:
    """Decode with GDCM itself: it reads 12-bit JPEG, but pydicom does not hand it over."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise RuntimeError("GDCM cannot read it")
    image = reader.GetImage()
    pixel_type = {"UINT16": "<u2", "INT16": "<i2"}[image.GetPixelFormat().GetScalarTypeAsString()]
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")  # SWIG gives bytes as text
    return np.frombuffer(buffer, dtype=pixel_type).reshape(rows, columns)


def _grey(stored: np.ndarray, dataset: Dataset, path: str | Path) -> np.ndarray:
    """Modality LUT or rescale, then VOI LUT, window or the image's own range, in that order of preference."""
    if dataset.get("ModalityLUTSequence"):
        values, _ = _look_up(stored, dataset.ModalityLUTSequence[0], dataset)
    else:
        values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence") and "LUTData" in dataset.VOILUTSequence[0]:
        image, top = _look_up(values, dataset.VOILUTSequence[0], dataset)
        return np.clip(image / top, 0, 1).astype(np.float32)
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if center is not None and width is not None:
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return _window(values, center, width, function)
        logger.warning("%s: its window is narrower than DICOM allows; the range of its pixels is used instead", path)
    return scale_to_unit(values, _padding(stored, dataset))


def _first(value: object) -> float | None:
    """The first of one or several numbers; None when the tag is absent or empty."""
    if value is None or value == "":
        return None
    values = value if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]
    return next((float(v) for v in values), None)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Apply one window.

    pydicom's output range follows bits, sign and rescale slope (and a negative slope turns it over). A dataset that
    holds the window alone makes that range 0 to 1 bit short of 2**16, whatever the image.
    """
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored, window.PixelRepresentation = 16, 0
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, function
    return np.clip(apply_windowing(values, window) / (2**16 - 1), 0, 1).astype(np.float32)


def _look_up(values: np.ndarray, table: Dataset, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Map values through one item of a LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1).

    Not pydicom's own: its indices wrap around where the table's entries have fewer bits than the pixels.

    Returns:
        The mapped values, and the largest value that the table's entries can hold.
    """
    entries, first, bits = (int(v) for v in table.LUTDescriptor)
    entries = entries or 2**16
    data = table.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * entries else np.uint8)
    entry = np.asarray(data)[:entries]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entry) - 1)
    return entry[index], 2**bits - 1


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Where the stored value is padding (PS3.3 C.7.5.1.1.2), or None."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return (stored >= low) & (stored <= high)
