"""One NIfTI file to one checked volume."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes

from ttl_monai.data.volume import Volume, VolumeError, VolumeReport, check_axcodes, check_hu, compact, finish

__all__ = ["read_nifti"]

_SPACING_MM = (0.05, 20.0)  # plausible for any scan of a body
_UNITS_MM = ("mm", "unknown")


def read_nifti(path: str | PathLike, *, axcodes: str | None = "LPS", check_hu_range: bool = True) -> Volume:
    """Read one volume from a .nii or .nii.gz file and check that its place and its values can be believed.

    Checked, each with an entry in the report: three dimensions; an orientation (sform or qform) that is stated, and the
    same where both are; axes at right angles; a plausible spacing in mm; finite values that can be HU.

    Args:
        path: the file.
        axcodes: where the axes of the array shall lead, such as "LPS"; None keeps those of the file.
        check_hu_range: refuse values that cannot be HU. A NIfTI file does not say its modality: pass False for others.

    Returns:
        The volume with its report.

    Raises:
        FileNotFoundError: no such file.
        VolumeError: when it gives no sound volume; the message lists the reasons.
        ValueError: unknown axcodes.
    """
    check_axcodes(axcodes)
    path = Path(path)
    report = VolumeReport(source="NIfTI", files=1)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise TypeError("no NIfTI volume")
        shape = image.shape
        if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape[:3], default=0) < 2:
            report.note("dimensions", "refused", f"expected one volume (I, J, K), got shape {tuple(shape)}")
            report.raise_refusals(path)
        _check_geometry(image, report)
        report.raise_refusals(path)
        affine, array = np.array(image.affine), np.asanyarray(image.dataobj).reshape(shape[:3])
    except (VolumeError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # parsers raise anything on damaged files
        report.note("file", "refused", f"damaged, or not NIfTI ({type(error).__name__})")
        report.raise_refusals(path)
    if array.dtype.kind not in "biuf":
        report.note("values", "refused", f"expected numbers, got the NIfTI data type {array.dtype}")
    elif not np.isfinite(array).all():
        report.note("values", "refused", "NaN or infinite voxels")
    elif check_hu_range:
        check_hu(array, report)
    report.raise_refusals(path)
    report.slices = shape[2]
    return finish(compact(array), affine, axcodes, report)


def _check_geometry(image: nib.Nifti1Image, report: VolumeReport) -> None:
    """Note whether orientation and spacing are stated, agree with themselves and are plausible."""
    sform, sform_code = image.get_sform(coded=True)
    qform, qform_code = image.get_qform(coded=True)
    if not sform_code and not qform_code:
        detail = "neither sform nor qform is set, so that left and right are not known; set one, or convert anew"
        report.note("orientation", "refused", detail)
        return
    axes = "".join(code or "?" for code in aff2axcodes(image.affine))
    if sform_code and qform_code and aff2axcodes(sform) != aff2axcodes(qform):
        other = "".join(code or "?" for code in aff2axcodes(qform))
        detail = f"sform and qform disagree ({axes} and {other}); convert the file anew, or set one of them to 0"
        report.note("orientation", "refused", detail)
    elif sform_code and qform_code and not np.allclose(sform, qform, atol=0.1):
        report.note("orientation", "warned", f"sform and qform differ by some mm; the sform counts ({axes})")
    else:
        report.note("orientation", "passed", f"{axes}, {'sform' if sform_code else 'qform'}")
    columns = np.asarray(image.affine)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    units = image.header.get_xyzt_units()[0]
    words = " x ".join(f"{each:.4g}" for each in spacing)
    if units not in _UNITS_MM:
        report.note("spacing", "refused", f"the header counts in {units}, expected mm")
    elif not ((spacing >= _SPACING_MM[0]) & (spacing <= _SPACING_MM[1])).all():
        low, high = _SPACING_MM
        report.note("spacing", "refused", f"expected {low:g} to {high:g} mm along each axis, got {words} mm")
    elif np.abs(np.triu((columns / spacing).T @ (columns / spacing), 1)).max() > 0.01:
        report.note("spacing", "refused", "the axes are not at right angles (an uncorrected gantry tilt?)")
    else:
        report.note("spacing", "passed", f"{words} mm")
