"""One x-ray DICOM file as a picture: decoded, windowed, and bright where the film is bright."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing

from ttl_monai.data.dicom_file import IMAGE_TAGS, Refused, check_pixels, decode, open_dicom, padding_mask, refusing

__all__ = ["grey_picture", "read_dicom", "scale_to_unit"]

logger = logging.getLogger(__name__)

_TAGS = (
    *(*IMAGE_TAGS, "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
)


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
    dataset = open_dicom(path, _TAGS)
    _check_one_frame(dataset, path)
    with refusing(dataset, path):
        return _picture(dataset, path)


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


def _check_one_frame(dataset: Dataset, path: str | Path) -> None:
    """Refuse what cannot be one picture before anything is decoded."""
    check_pixels(dataset, path)
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise Refused("damaged DICOM header (its number of frames is none)", path) from None
    if frames > 1:
        raise Refused(f"expected one frame, got {frames}; extract the frames to single images first", path)


def _picture(dataset: Dataset, path: str | Path) -> np.ndarray:
    """Decode, then values of display in [0, 1]."""
    stored = decode(dataset, path)  # (rows, columns[, 3])
    if not np.isfinite(stored).all():
        raise Refused("NaN or infinite pixels", path)
    interpretation = dataset.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
    if stored.ndim == 3:
        return (stored / np.float32(255)).astype(np.float32) if stored.dtype == np.uint8 else scale_to_unit(stored)
    return grey_picture(stored, dataset, path)


def grey_picture(stored: np.ndarray, dataset: Dataset, path: str | Path) -> np.ndarray:
    """Stored grey values as they are meant to be seen, by the tags of a dataset (see `read_dicom`).

    Args:
        stored: any shape.
        dataset: PhotometricInterpretation, and what there is of rescale, modality LUT, VOI LUT and window.
        path: for messages.

    Returns:
        Float32 array in [0, 1] of that shape, high values bright.
    """
    image = _grey(stored, dataset, path)
    return 1 - image if dataset.PhotometricInterpretation == "MONOCHROME1" else image


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
    return scale_to_unit(values, padding_mask(stored, dataset))


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
