"""One reader for x-rays and other 2D images, whatever the file format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, ensure_tuple
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage
from PIL import Image, ImageOps
from pydicom.misc import is_dicom

from ttl_monai.data.dicom import grey_picture, read_dicom, scale_to_unit
from ttl_monai.data.sidecar import read_sidecar

__all__ = ["XrayReader"]

logger = logging.getLogger(__name__)

_PILLOW_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_PILLOW_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as Pillow's "L"
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


class XrayReader(ImageReader):
    """Read PNG, JPEG, TIFF, BMP, DICOM or 2D NIfTI as float32 in [0, 1], rows before columns.

    The format is told by the extension; a file with any other name is read if its content says DICOM. Scale: 8-bit
    images by 255; DICOM by its VOI LUT or window (see `read_dicom`); all others by the range of their own pixels.
    A grey PNG with DICOM tags in the JSON file beside it, as BIMCV publishes them, is shown by these: 16 bits like the
    DICOM image that they come from, 8 bits (windowed by their source) turned over where they say MONOCHROME1.
    EXIF rotation is carried out, transparency is dropped, grey is luma (ITU-R 601-2). NIfTI is shown as a radiologist
    views it, by its affine: the patient's left at the right of the picture, superior (or, in axial images, anterior)
    at the top; in lateral images anterior at the left.

    No tag of the file is kept: the metadata has the shape and the channel axis, and MONAI adds the path.

    Example:
        ``{"_target_": "LoadImaged", "keys": "image", "image_only": true, "reader": "ttl_monai.data.XrayReader"}``

    Args:
        channels: 1 for grey images (H, W), 3 for RGB (H, W, 3).
    """

    def __init__(self, channels: int = 1) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
        self.channels = channels

    def verify_suffix(self, filename: Sequence[str | PathLike] | str | PathLike) -> bool:
        """Whether the reader takes these names (or, without a known extension, this content)."""
        return all(format_of(Path(name)) is not None for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | PathLike] | str | PathLike, **_: object) -> tuple[Path, ...]:
        """Give the paths on to `get_data`, unread.

        MONAI's loader tries the other readers after any error raised here, and would so hide a broken file behind a
        reader of other polarity and orientation; an error in `get_data` reaches the user.
        """
        return tuple(Path(name) for name in ensure_tuple(data))

    def get_data(self, img: tuple[Path, ...]) -> tuple[np.ndarray, dict]:
        """Decode the file.

        Args:
            img: one path, as `read` returns it.

        Returns:
            Float32 array in [0, 1], (H, W) or (H, W, 3), and the metadata.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it cannot be read as one finite 2D image; the message has the path and the reason.
        """
        if len(img) != 1:
            raise ValueError(f"expected one file for an image, got {len(img)}: {', '.join(map(str, img))}")
        path = img[0]
        image = _decode(path)
        if not np.isfinite(image).all():
            raise ValueError(f"{path}: NaN or infinite pixels")
        if image.min() == image.max():
            logger.warning("%s: all pixels are equal, the image shows nothing", path)
        if self.channels == 1 and image.ndim == 3:
            image = image @ _LUMA  # (H, W, 3) -> (H, W)
        elif self.channels == 3 and image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=-1)  # (H, W) -> (H, W, 3)
        image = np.ascontiguousarray(np.clip(image, 0, 1), dtype=np.float32)
        channel_dim = "no_channel" if self.channels == 1 else -1
        return image, {MetaKeys.SPATIAL_SHAPE: image.shape[:2], MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim}


def format_of(path: Path) -> str | None:
    """`pillow`, `nifti` or `dicom` by the name, or else by the content; None for anything else."""
    name = path.name.lower()
    if name.endswith(_PILLOW_SUFFIXES):
        return "pillow"
    if name.endswith(_NIFTI_SUFFIXES):
        return "nifti"
    if name.endswith(_DICOM_SUFFIXES) or (path.is_file() and is_dicom(path)):
        return "dicom"
    return None


def _decode(path: Path) -> np.ndarray:
    if path.is_dir():
        raise ValueError(f"{path}: expected one image file, got a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    kind = format_of(path)
    if kind == "dicom":
        return read_dicom(path)
    if kind is None:
        known = " ".join((*_PILLOW_SUFFIXES, *_NIFTI_SUFFIXES, *_DICOM_SUFFIXES))
        raise ValueError(f"{path}: unsupported format, expected one of {known} or a DICOM file without extension")
    try:
        return _read_pillow(path) if kind == "pillow" else _read_nifti(path)
    except (NotOneImageError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # image parsers raise anything on damaged files
        raise ValueError(f"{path}: damaged, or not the image that its extension says ({error})") from error


class NotOneImageError(ValueError):
    """A sound file that is not one 2D image."""


def _read_pillow(path: Path) -> np.ndarray:
    with Image.open(path, formats=_PILLOW_FORMATS) as file:
        frames = getattr(file, "n_frames", 1)
        if frames > 1:
            raise NotOneImageError(f"{path}: expected one image, got {frames} frames or pages")
        # Pillow turns white-is-zero TIFFs over itself, except those of 16 bits.
        inverted = file.mode == "I;16" and getattr(file, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
        image = ImageOps.exif_transpose(file)
    deep = image.mode in ("F", "I") or image.mode.startswith("I;16")
    grey = image.mode in ("1", "L", "LA", "La")
    tags = read_sidecar(path) if file.format == "PNG" and (deep or grey) else None
    if deep:
        stored = _finite(np.asarray(image), path)
        if tags is not None:
            return grey_picture(stored, tags, path)
        values = scale_to_unit(stored)
        return 1 - values if inverted else values
    values = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / 255
    return 1 - values if tags is not None and tags.PhotometricInterpretation == "MONOCHROME1" else values


def _read_nifti(path: Path) -> np.ndarray:
    pixels = view_nifti(path)
    return pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else scale_to_unit(_finite(pixels, path))


def view_nifti(path: Path) -> np.ndarray:
    """The pixels of a 2D NIfTI image, (rows, columns) as a radiologist views it, with the values that are stored.

    Raises:
        NotOneImageError: for a volume, or for pixels that are not grey.
    """
    image = nib.load(path)
    if not isinstance(image, SpatialImage):
        raise NotOneImageError(f"{path}: expected a 2D image, got a {type(image).__name__}")
    shape = image.shape
    if len(shape) < 2 or sum(n != 1 for n in shape) > 2 or any(n != 1 for n in shape[3:]):
        raise NotOneImageError(f"{path}: expected a 2D image, got a volume of shape {tuple(shape)}")
    pixels = np.asanyarray(image.dataobj)
    if pixels.dtype.kind not in "uif":
        raise NotOneImageError(f"{path}: expected grey pixels, got the NIfTI data type {pixels.dtype}")
    pixels = pixels.reshape((*shape, 1)[:3])
    to_view = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPI"))
    pixels = apply_orientation(pixels, to_view)  # axes: towards left, posterior, inferior
    flat = next(axis for axis in (2, 1, 0) if pixels.shape[axis] == 1)
    return pixels.squeeze(axis=flat).T  # the first axis of each pair runs across the picture


def _finite(pixels: np.ndarray, path: Path) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise NotOneImageError(f"{path}: NaN or infinite pixels")
    return pixels
