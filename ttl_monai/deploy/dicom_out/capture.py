"""A picture of what a classifier looks at, as a DICOM secondary capture that says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from ttl_monai.deploy.dicom_out.identity import MANUFACTURER, RESEARCH, ModelIdentity

__all__ = ["burn_in", "capture_image"]

_SMALLEST = 512  # pixels of the long side: text has to be legible
_OPACITY = 0.6  # at the maximum of the map
_BANNER = f"{RESEARCH} - not for clinical use"
_ORANGE = (255, 170, 0)


def burn_in(grey: np.ndarray, heat: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """An image with a map over it in colour, between a band that says RESEARCH USE ONLY and one of text.

    Args:
        grey: (rows, columns) in [0, 1].
        heat: likewise; 0 shows the image as it is.
        lines: below the image.

    Returns:
        (rows', columns', 3) uint8; the image is enlarged by a whole factor where it is small.
    """
    if grey.shape != heat.shape or grey.ndim != 2:
        raise ValueError(f"expected grey and heat of one shape (rows, columns), got {grey.shape} and {heat.shape}")
    factor = max(1, -(-_SMALLEST // max(grey.shape)))
    colours = matplotlib.colormaps["plasma"](np.clip(heat, 0, 1))[..., :3]
    share = _OPACITY * np.clip(heat, 0, 1)[..., None]
    mixed = (1 - share) * np.clip(grey, 0, 1)[..., None] + share * colours
    image = Image.fromarray(np.rint(mixed * 255).astype(np.uint8))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = max(14, image.width // 32)
    line = size * 3 // 2
    canvas = Image.new("RGB", (image.width, image.height + line * (1 + len(lines))))
    canvas.paste(image, (0, line))
    draw = ImageDraw.Draw(canvas)
    places = [(0, _BANNER, _ORANGE)]
    places += [(line * (1 + number) + image.height, text, (255, 255, 255)) for number, text in enumerate(lines)]
    for top, text, colour in places:
        draw.text((size // 2, top + size // 5), text, fill=colour, font=_font(draw, text, size, image.width - size))
    return np.asarray(canvas)


def _font(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> Any:
    """The font, smaller where the text would not fit."""
    font = ImageFont.load_default(size)
    length = draw.textlength(text, font=font)
    return font if length <= width else ImageFont.load_default(max(8, int(size * width / length)))


def capture_image(
    source: Dataset,
    picture: np.ndarray,
    model: ModelIdentity,
    *,
    description: str,
    orientation: Sequence[str] = (),
) -> Any:
    """A Secondary Capture of a picture.

    Args:
        source: the instance that it shows; see `load_sources`.
        picture: (rows, columns, 3) uint8, with its marks burned in.
        model: which model.
        description: what it shows.
        orientation: where rows and columns of the picture lead, as ("L", "P"); empty where it is not known.

    Returns:
        A highdicom dataset, in a new series of the study of the source.
    """
    import highdicom as hd

    made = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=picture,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        series_instance_uid=generate_uid(),
        series_number=9003,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),  # highdicom wants one; DICOM allows an empty one
    )
    made.PatientOrientation = list(orientation)
    made.Laterality = source.get("Laterality") or ""
    for name, text in model.equipment.items():
        setattr(made, name, text)
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation = "YES"
    made.SeriesDescription = f"{RESEARCH}: {description}"[:64]
    made.ImageComments = _BANNER
    made.DerivationDescription = f"{description}; model {model.name} {model.version}, sha256 {model.sha256}"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    made.SourceImageSequence = [reference]
    return made
