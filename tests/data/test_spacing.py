"""Distances of pixels: those of the file, and those of a grid to which MONAI resamples."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Resize, SpatialPad
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from pydicom import dcmread
from pydicom.data import get_testdata_file

from tests.data.conftest import write_series
from ttl_monai.data import LoadPaird
from ttl_monai.data.spacing import pixel_spacing, spacing_of, with_spacing

# Sizes along the patient's left-right, front-back and foot-head; rows and columns of each view.
SIZES = {"L": 0.8, "P": 0.9, "I": 2.5}
VIEWS = {"axial": (0.9, 0.8, 2.5), "coronal": (2.5, 0.8, 0.9), "sagittal": (2.5, 0.9, 0.8)}


def write_nifti(path, codes, shape):
    axes = [next(each for each in SIZES if code in {"L": "LR", "P": "PA", "I": "IS"}[each]) for code in codes]
    affine = inv_ornt_aff(axcodes2ornt(codes), shape)
    turned = np.linalg.inv(affine) @ np.diag([*(SIZES[each] for each in axes), 1.0])
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), turned), path)
    assert nib.aff2axcodes(turned) == tuple(codes)


@pytest.mark.parametrize("axis", VIEWS)
@pytest.mark.parametrize("codes", ["RAS", "SLP", "PIR"])
def test_a_volume_has_those_of_the_view(tmp_path, axis, codes):
    write_nifti(tmp_path / "v.nii", codes, (4, 5, 6))
    assert pixel_spacing(tmp_path / "v.nii", axis) == pytest.approx(VIEWS[axis])


@pytest.mark.parametrize(("codes", "view"), [("LPI", "axial"), ("RSA", "coronal"), ("PIL", "sagittal")])
def test_a_flat_nifti_has_those_of_its_view(tmp_path, codes, view):
    write_nifti(tmp_path / "v.nii", codes, (4, 5, 1))
    assert pixel_spacing(tmp_path / "v.nii") == pytest.approx(VIEWS[view])


@pytest.mark.parametrize(("unit", "length_mm"), [("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_a_nifti_may_count_in_other_units(tmp_path, unit, length_mm):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "v.nii")
    assert pixel_spacing(tmp_path / "v.nii", "axial") == pytest.approx([size * length_mm for size in (3, 2, 4)])


def test_a_series_has_those_of_its_slices_and_their_gap(tmp_path):
    pixels = np.linspace(-1000, 200, 120).astype(np.int16).reshape(4, 6, 5)
    write_series(tmp_path / "scan", pixels, gap=2.5, spacing=(0.9, 0.8))
    assert pixel_spacing(tmp_path / "scan", "axial") == pytest.approx((0.9, 0.8, 2.5))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.3, 0.4]}, (0.1, 0.2, 1)),
        ({"ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4, 1)),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4, 1)),
        ({"PixelSpacing": [0, 0]}, None),
        ({"PixelSpacing": 0.1}, None),  # of a damaged header
        ({}, None),
    ],
)
def test_a_radiograph_has_those_that_it_states(tmp_path, tags, expected):
    dataset = dcmread(get_testdata_file("CT_small.dcm"))
    del dataset.PixelSpacing
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "x.dcm")
    assert pixel_spacing(tmp_path / "x.dcm") == (expected and pytest.approx(expected))


def test_a_resized_grid_has_its_own():
    """The spacing of the file, times the pixels of the file over those of the grid; a border changes nothing."""
    mask = with_spacing(torch.zeros(1, 30, 60), (0.5, 2.0, 1.0))
    assert spacing_of(mask) == (0.5, 2.0)
    assert spacing_of(mask[:, :10]) == (0.5, 2.0)
    resized = Compose([Resize((20, 48), mode="nearest"), SpatialPad((64, 64))])(mask)
    assert spacing_of(resized) == pytest.approx((0.5 * 30 / 20, 2.0 * 60 / 48))


@pytest.mark.parametrize("pixels", [torch.zeros(1, 4, 4), MetaTensor(torch.zeros(1, 4, 4))])
def test_an_unknown_one_is_not_taken_for_a_millimetre(pixels):
    assert spacing_of(pixels) is None
    assert spacing_of(with_spacing(pixels, None)) is None


def test_a_loaded_mask_knows_those_of_its_image(tmp_path):
    write_nifti(tmp_path / "v.nii", "SLP", (4, 5, 6))
    pair = dict.fromkeys(("image", "label"), tmp_path / "v.nii")
    loaded = LoadPaird(num_classes=2)({**pair, "axis": "coronal", "slice": 1})
    assert spacing_of(loaded["label"]) == pytest.approx(VIEWS["coronal"][:2])
