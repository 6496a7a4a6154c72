"""What all DICOM reading shares: the tags that are parsed, decoded pixels, and refusals that quote no tag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gdcm
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import JPEGExtended12Bit, UID_dictionary

__all__ = [
    "IMAGE_TAGS",
    "PIXEL_KEYWORDS",
    "Refused",
    "check_decoder",
    "check_pixels",
    "decode",
    "open_dicom",
    "open_header",
    "padding_mask",
    "refusing",
    "syntax_name",
]

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# What the decoders need. Readers parse these and a few of their own, so that no name, date or number of a patient ever
# reaches memory, logs or caches.
IMAGE_TAGS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *(*PIXEL_KEYWORDS, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)


class Refused(ValueError):
    """A reason of our own wording, free of tag values; the message has the path before it, which may name a patient.

    Args:
        reason: what is wrong.
        path: the file.
    """

    def __init__(self, reason: str, path: str | Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason


def open_dicom(path: str | Path, tags: Sequence[str]) -> Dataset:
    """Parse the allowed tags of a file.

    Args:
        path: a DICOM file.
        tags: keywords of all that may be parsed.

    Returns:
        The dataset, pixel data included.

    Raises:
        Refused: when it is not DICOM, or damaged.
    """
    with _parsing(path):
        return dcmread(path, specific_tags=list(tags))


def open_header(path: str | Path, tags: Sequence[str]) -> tuple[Dataset, int]:
    """The same up to the pixel data, which is not read; and how many bytes follow from there on."""
    with _parsing(path), Path(path).open("rb") as file:
        dataset = dcmread(file, specific_tags=list(tags), stop_before_pixels=True)
        return dataset, Path(path).stat().st_size - file.tell()


@contextmanager
def _parsing(path: str | Path) -> Iterator[None]:
    """Refuse what the parser cannot read; its texts may quote what it parsed, so neither text nor chain is kept."""
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except InvalidDicomError:
        raise Refused("not a DICOM file (no 'DICM' after 128 bytes)", path) from None
    except Exception as error:
        raise Refused(f"damaged DICOM file, it cannot be parsed ({type(error).__name__})", path) from None


def check_pixels(dataset: Dataset, path: str | Path) -> None:
    """Refuse a dataset without pixels, with fewer than it says, or that no installed decoder reads."""
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        raise Refused("no pixel data (a report, plan or waveform, or a file cut short)", path)
    check_decoder(dataset, path)
    try:
        expected = get_expected_length(dataset)
    except Exception as error:
        raise Refused(f"damaged DICOM header ({type(error).__name__})", path) from None
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if not compressed and "PixelData" in dataset and (found := len(dataset.PixelData or b"")) < expected:
        raise Refused(f"pixel data is cut short, {expected} bytes expected, {found} found", path)


def check_decoder(dataset: Dataset, path: str | Path) -> None:
    """Refuse a compression that nothing installed can read, and say what to install."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise Refused("damaged DICOM header, it does not say how the pixels are stored (no transfer syntax)", path)
    try:
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    except ValueError:
        raise Refused("damaged DICOM header (its transfer syntax is none)", path) from None
    if not compressed:
        return
    try:
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        raise Refused(f"{syntax_name(dataset)} is a compression that cannot be read", path) from None
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise Refused(f"no decoder is installed for {syntax_name(dataset)}; install one of: {needs}", path)


def syntax_name(dataset: Dataset) -> str:
    """The public name of the transfer syntax; a private one is not quoted."""
    uid = dataset.file_meta.TransferSyntaxUID
    return str(uid.name) if uid in UID_dictionary else "a private transfer syntax"


@contextmanager
def refusing(dataset: Dataset, path: str | Path) -> Iterator[None]:
    """Turn whatever the block raises into one refusal.

    Decoders of damaged bytes raise anything, with texts that may quote tags: neither text nor chain is kept.
    """
    try:
        yield
    except (Refused, MemoryError):
        raise
    except Exception as error:
        reason = f"{syntax_name(dataset)}, damaged or not supported ({type(error).__name__})"
        raise Refused(f"its pixel data cannot be decoded: {reason}", path) from None


def decode(dataset: Dataset, path: str | Path, *, frame: int | None = None) -> np.ndarray:
    """The stored values, before any rescale; YBR is turned to RGB.

    Args:
        dataset: as `open_dicom` gives it, with pixels.
        path: the file that it came from.
        frame: one frame of several, counted from 0.

    Returns:
        (rows, columns), or (rows, columns, 3) for colour; of the stored type and sign.
    """
    if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and dataset.BitsStored > 8:
        return _jpeg_12_bit(path)[frame or 0]
    return pixel_array(dataset, index=frame)


def _jpeg_12_bit(path: str | Path) -> np.ndarray:
    """Decode with GDCM itself, (frames, rows, columns): it reads 12-bit JPEG, but pydicom does not hand it over."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise RuntimeError("GDCM cannot read it")
    image = reader.GetImage()
    pixel_type = {"UINT16": "<u2", "INT16": "<i2"}[image.GetPixelFormat().GetScalarTypeAsString()]
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")  # SWIG gives bytes as text
    return np.frombuffer(buffer, dtype=pixel_type).reshape(-1, rows, columns)


def padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Where the stored value is padding (PS3.3 C.7.5.1.1.2), or None."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return (stored >= low) & (stored <= high)
