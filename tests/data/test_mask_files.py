"""Masks as files lie where their picture lies; those of NIfTI images are tested with the bundle of segmentation."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from ttl_monai.data import write_mask
from ttl_monai.data.spacing import pixel_spacing

MASK = np.zeros((128, 128, 1), np.uint8)  # rows, columns, 1
MASK[10:40, 20:25] = 2


def test_a_slice_of_ct_has_its_place(tmp_path):
    path = get_testdata_file("CT_small.dcm")
    dataset = pydicom.dcmread(path)
    rows, columns = (float(each) for each in dataset.PixelSpacing)
    write_mask(MASK, path, "flat", tmp_path / "m.nii.gz")
    assert pixel_spacing(path)[:2] == pytest.approx((rows, columns))
    mask = nib.load(tmp_path / "m.nii.gz")
    # By hand: an axial slice, columns to the left, rows to the back; NIfTI counts to the right and the front.
    first = mask.affine @ (0, 0, 0, 1)
    place = np.array(dataset.ImagePositionPatient, dtype=float)
    np.testing.assert_allclose(first[:3], place * (-1, -1, 1), atol=1e-4)
    np.testing.assert_allclose(mask.affine @ (1, 2, 0, 1) - first, (-columns, -2 * rows, 0, 0), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[..., 0].T, MASK[..., 0])


@pytest.mark.parametrize(("name", "zooms", "known"), [("ImagerPixelSpacing", (0.2, 0.1), True), (None, (1, 1), False)])
def test_a_radiograph_is_a_frontal_view(tmp_path, name, zooms, known):
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        delattr(dataset, keyword)
    if name:
        setattr(dataset, name, [0.1, 0.2])  # of rows, of columns
    dataset.save_as(tmp_path / "x.dcm")
    write_mask(MASK, tmp_path / "x.dcm", "flat", tmp_path / "m.nii.gz")
    assert pixel_spacing(tmp_path / "x.dcm") == (pytest.approx((0.1, 0.2, 1)) if known else None)
    mask = nib.load(tmp_path / "m.nii.gz")
    assert mask.header.get_zooms()[:2] == pytest.approx(zooms)
    assert nib.aff2axcodes(mask.affine) == ("L", "I", "P")


def test_a_mask_of_another_shape_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(ValueError, match=r"v.nii: the mask has the shape \(5, 4, 3\), expected .* \(4, 5, 6\)"):
        write_mask(np.zeros((4, 5, 3)), tmp_path / "v.nii", "axial", tmp_path / "m.nii")


def test_a_png_states_no_distances(tmp_path):
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(tmp_path / "p.png")
    write_mask(MASK, tmp_path / "p.png", "flat", tmp_path / "m.nii")
    assert pixel_spacing(tmp_path / "p.png") is None
    assert nib.load(tmp_path / "m.nii").shape == (128, 128, 1)
