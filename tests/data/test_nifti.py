"""One NIfTI file to one checked volume."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.testing import data_path

from ttl_monai.data import VolumeError, read_nifti, read_series

AFFINE = np.array([[-0.7, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2, 100], [0, 0, 0, 1]])


def write(path, array, affine=AFFINE, *, sform=2, qform=2, units="mm", slope=None):
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine, code=qform)
    image.header.set_xyzt_units(units)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_it_equals_the_dicom_series(tmp_path, made, dtype, name):
    made.series(tmp_path / "series")
    series = read_series(tmp_path / "series")
    path = write(tmp_path / name, made.volume().transpose(2, 1, 0).astype(dtype))
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.array, series.array)
    np.testing.assert_allclose(volume.affine, series.affine, atol=1e-5)
    assert volume.array.dtype == np.int16
    assert (volume.report.source, volume.report.shape, volume.report.axcodes) == ("NIfTI", (16, 20, 8), "LPS")


@pytest.mark.parametrize("axcodes", ["RAS", "SLA", None])
def test_axes_lead_where_asked(tmp_path, made, axcodes):
    path = write(tmp_path / "x.nii", made.volume().transpose(2, 1, 0))
    volume = read_nifti(path, axcodes=axcodes)
    assert "".join(nib.aff2axcodes(volume.affine)) == (axcodes or "LPS")
    place = AFFINE @ [3, 5, 2, 1]
    index = np.linalg.solve(volume.affine, place)[:3].round().astype(int)
    assert volume.array[tuple(index)] == made.volume()[2, 5, 3]


def test_a_trailing_axis_and_a_scale_are_taken_in(tmp_path, made):
    stored = (made.volume().transpose(2, 1, 0) // 2)[..., None]
    path = tmp_path / "x.nii"
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(2, 0)
    nib.save(image, path)
    # nibabel writes the slope of its own choice; put ours into the file
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2, 0], "<f4").tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(read_nifti(path).array, stored[..., 0] * 2)


SHEARED = AFFINE @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
HU = np.where(np.arange(6 * 7 * 8).reshape(6, 7, 8) % 5 == 0, -1000, 40).astype(np.int16)

BAD = [
    (HU, {"sform": 0, "qform": 0}, "orientation: neither sform nor qform is set"),
    (HU, {"affine": AFFINE / 1000 * [[1], [1], [1], [1000]]}, r"spacing: expected 0\.05 to 20 mm .* got 0\.0007"),
    (HU, {"units": "meter"}, "spacing: the header counts in meter, expected mm"),
    (HU, {"affine": SHEARED, "qform": 0}, "spacing: the axes are not at right angles"),
    (HU + 1000, {}, "HU range: no air: expected a minimum of -500 HU or less, found 0 to 1040"),
    ((HU + 1000) / np.float32(1040), {}, "HU range: no air"),
    (np.minimum(HU, -900), {}, "HU range: no tissue"),
    (HU.astype(np.int32) * -60, {}, "HU range"),
    (np.where(HU < 0, np.nan, HU).astype(np.float32), {}, "values: NaN or infinite voxels"),
    (np.stack([HU, HU], -1), {}, r"dimensions: expected one volume \(I, J, K\), got shape \(6, 7, 8, 2\)"),
    (HU[:, :, :1], {}, "dimensions: expected one volume"),
    (HU[:, :, 0], {}, "dimensions: expected one volume"),
    (HU.astype(np.complex64), {}, "values: expected numbers, got the NIfTI data type complex64"),
]


@pytest.mark.parametrize(("array", "options", "reason"), BAD)
def test_what_cannot_be_believed_is_refused(tmp_path, array, options, reason):
    path = write(tmp_path / "x.nii", array, **options)
    with pytest.raises(VolumeError, match=reason) as raised:
        read_nifti(path)
    assert not raised.value.report.suitable
    assert str(tmp_path) not in str(raised.value.report.to_dict())


def test_sform_and_qform_that_disagree(tmp_path):
    image = nib.Nifti1Image(HU, AFFINE)
    image.set_sform(AFFINE, code=2)
    image.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), code=2)
    nib.save(image, tmp_path / "x.nii")
    with pytest.raises(VolumeError, match=r"orientation: sform and qform disagree \(LPS and RPS\)"):
        read_nifti(tmp_path / "x.nii")
    moved = AFFINE.copy()
    moved[0, 3] += 5
    image.set_qform(moved, code=2)
    nib.save(image, tmp_path / "x.nii")
    volume = read_nifti(tmp_path / "x.nii", axcodes=None)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    assert [check.outcome for check in volume.report.checks if check.name == "orientation"] == ["warned"]


def test_other_values_pass_when_hu_are_not_expected(tmp_path):
    path = write(tmp_path / "x.nii", (HU + 1000) / np.float32(1041))
    volume = read_nifti(path, check_hu_range=False)
    assert volume.array.dtype == np.float32
    assert 0 <= volume.array.min() < volume.array.max() <= 1


def test_damaged_and_missing_files(tmp_path):
    path = write(tmp_path / "x.nii.gz", HU)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VolumeError, match="file: damaged, or not NIfTI"):
        read_nifti(path)
    path.write_bytes(gzip.compress(b"no image" * 100))
    with pytest.raises(VolumeError, match="file: damaged, or not NIfTI"):
        read_nifti(path)
    with pytest.raises(FileNotFoundError):
        read_nifti(tmp_path / "none.nii")


def test_a_real_volume_keeps_its_places():
    path = f"{data_path}/anatomical.nii"
    image = nib.load(path)
    volume = read_nifti(path, check_hu_range=False)
    canonical = nib.as_closest_canonical(image)
    turned = read_nifti(path, axcodes="RAS", check_hu_range=False)
    np.testing.assert_allclose(turned.affine, canonical.affine)
    np.testing.assert_allclose(turned.array, canonical.get_fdata(), rtol=1e-5)
    assert volume.report.axcodes == "LPS"


def test_a_real_ct_angiography(shared_data):
    folder = shared_data / "cta"
    path = max(folder.glob("*.nii*"), key=lambda each: each.stat().st_size)
    volume = read_nifti(path)
    assert sorted(volume.array.shape) == [120, 126, 164]
    np.testing.assert_allclose(volume.report.spacing_mm, 1.5, atol=0.01)
    assert volume.array.dtype == np.int16
