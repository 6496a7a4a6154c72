"""One folder of DICOM to one volume: the choice, the geometry, the values, and what is refused."""

import shutil
import traceback
from pathlib import Path

import gdcm
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from scipy.ndimage import gaussian_filter

from ttl_monai.data import SeriesRules, VolumeError, find_series, read_series

# The affine of the made series in its own axes (column, row, slice), worked out by hand.
AFFINE = np.array([[-0.7, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2, 100], [0, 0, 0, 1]])


def check(report, name):
    (found,) = [each for each in report.checks if each.name == name]
    return found


# ---- order, orientation, affine


def test_slices_are_sorted_by_place_and_the_affine_is_right(tmp_path, made):
    made.series(tmp_path)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, made.volume().transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)
    assert volume.array.dtype == np.int16
    assert (volume.report.files, volume.report.slices, volume.report.shape) == (8, 8, (16, 20, 8))
    assert volume.report.spacing_mm == (0.7, 0.8, 2.0)
    assert volume.report.axcodes == "LPS"
    assert volume.report.suitable


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "SPL", "AIR", None])
@pytest.mark.parametrize(
    "orientation",
    [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0), (0.8, 0.6, 0, -0.6, 0.8, 0)],
    ids=["axial", "sagittal", "coronal", "feet first", "oblique"],
)
def test_each_voxel_keeps_its_place_in_the_patient_and_the_axes_lead_where_asked(tmp_path, made, orientation, axcodes):
    made.series(tmp_path, orientation=orientation)
    volume = read_series(tmp_path, axcodes=axcodes)
    if axcodes is not None:
        assert "".join(nib.aff2axcodes(volume.affine)) == axcodes
    rng = np.random.default_rng(0)
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    for k, i, j in rng.integers(0, (8, 20, 16), (20, 3)):
        # PS3.3 C.7.6.2.1.1 by hand, then from LPS to RAS
        place = np.array([-30, -20, 100]) + 0.7 * j * across + 0.8 * i * down + 2 * k * np.cross(across, down)
        index = np.linalg.solve(volume.affine, [*(place * [-1, -1, 1]), 1])[:3]
        np.testing.assert_allclose(index, index.round(), atol=1e-6)
        assert volume.array[tuple(index.round().astype(int))] == made.volume()[k, i, j]


def test_array_and_affine_equal_itk(tmp_path, made):
    itk = pytest.importorskip("itk")
    paths = made.series(tmp_path, orientation=(0.8, 0.6, 0, -0.6, 0.8, 0))
    image = itk.imread([str(path) for path in paths])
    volume = read_series(tmp_path, axcodes=None)
    np.testing.assert_allclose(volume.array, itk.array_from_image(image).transpose(2, 1, 0))
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-6)


@pytest.mark.parametrize("axcodes", ["LP", "LRS", "XYZ", ""])
def test_unknown_axcodes_are_refused(tmp_path, axcodes):
    with pytest.raises(ValueError, match=r"axcodes must name one of L or R"):
        read_series(tmp_path, axcodes=axcodes)


@pytest.mark.parametrize("option", [{"gaps": "ignore"}, {"tilt": "keep"}])
def test_unknown_policies_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=r"must be one of .*, got"):
        read_series(tmp_path, **option)


# ---- values


@pytest.mark.parametrize(
    ("stored_type", "intercept", "slope"), [(np.uint16, -1024, 1), (np.int16, 0, 1), (np.int16, -24, 1)]
)
def test_values_are_hu_whatever_sign_and_intercept(tmp_path, made, stored_type, intercept, slope):
    made.series(tmp_path, stored_type=stored_type, intercept=intercept, RescaleSlope=slope)
    np.testing.assert_array_equal(read_series(tmp_path, axcodes=None).array.T, made.volume())


def test_each_slice_has_its_own_rescale(tmp_path, made):
    def rescale(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + 0.25 * k, -1024 + k

    made.series(tmp_path, each=rescale)
    volume = read_series(tmp_path, axcodes=None)
    k = np.arange(8)[:, None, None]
    expected = (made.volume() + 1024.0) * (0.5 + 0.25 * k) - 1024 + k
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array.T, expected, atol=1e-3)


@pytest.mark.parametrize(("value", "limit"), [(24, None), (20, 24)])
def test_padding_becomes_air(tmp_path, made, value, limit):
    volume = made.volume()
    volume[:, :2] = -1000  # stored 24
    tags = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    made.series(tmp_path, volume, PixelPaddingValue=value, **tags)
    found = read_series(tmp_path, axcodes=None).array.T
    np.testing.assert_array_equal(found, np.where(volume == -1000, -1024, volume))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"RescaleType": "HU_MOD"}, "rescale: expected HU, the header says HU_MOD"),
        ({"RescaleType": "JANE"}, "rescale: expected HU, the header says another unit"),
        ({"RescaleIntercept": 0}, "HU range: no air: expected a minimum of -500 HU or less, found 24 to"),
        ({"RescaleIntercept": -3000}, "HU range: no tissue"),
        ({"RescaleSlope": 60, "RescaleIntercept": -3000}, "HU range: expected at most 32000 HU"),
    ],
)
def test_a_ct_that_is_not_in_hu_is_refused(tmp_path, made, change, reason):
    made.series(tmp_path, **change)
    with pytest.raises(VolumeError, match=reason):
        read_series(tmp_path)
    assert read_series(tmp_path, check_hu_range=False).array.shape == (16, 20, 8)


def test_a_unit_that_is_not_specified_is_a_warning(tmp_path, made):
    made.series(tmp_path, RescaleType="US")  # GDCM writes it into any CT that it saves
    volume = read_series(tmp_path, axcodes=None)
    np.testing.assert_array_equal(volume.array.T, made.volume())
    assert check(volume.report, "rescale").outcome == "warned"


def test_a_ct_without_rescale_is_refused_and_an_mr_needs_none(tmp_path, made):
    def drop(dataset, k):
        if k == 2:
            del dataset.RescaleSlope

    made.series(tmp_path / "ct", each=drop)
    with pytest.raises(VolumeError, match="rescale: 1 images have no rescale slope"):
        read_series(tmp_path / "ct")
    volume = np.abs(made.volume())
    made.series(tmp_path / "mr", volume, modality="MR")
    np.testing.assert_array_equal(read_series(tmp_path / "mr", axcodes=None).array.T, volume)


SYNTAXES = {
    "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "RLE": gdcm.TransferSyntax.RLELossless,
}


@pytest.mark.parametrize("stored_type", [np.uint16, np.int16])
@pytest.mark.parametrize("name", SYNTAXES)
def test_compressed_series_equal_the_plain_one(tmp_path, made, name, stored_type):
    intercept = -1024 if stored_type == np.uint16 else 0
    for path in made.series(tmp_path, stored_type=stored_type, intercept=intercept):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[name]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_series(tmp_path, axcodes=None).array.T, made.volume())


# ---- enhanced multi-frame files


@pytest.mark.parametrize("shared_rescale", [True, False])
@pytest.mark.parametrize("as_folder", [True, False])
def test_enhanced_ct_equals_the_classic_series(tmp_path, made, shared_rescale, as_folder):
    order = [3, 0, 7, 1, 2, 6, 5, 4]
    path = made.enhanced(tmp_path / "one.dcm", order=order, shared_rescale=shared_rescale)
    volume = read_series(tmp_path if as_folder else path)
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), made.volume() // 2 * 2)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)
    assert (volume.report.files, volume.report.slices) == (1, 8)


def test_enhanced_file_with_a_missing_frame_or_a_wrong_count_is_refused(tmp_path, made):
    made.enhanced(tmp_path / "a" / "one.dcm", order=[0, 1, 2, 4, 5])
    with pytest.raises(VolumeError, match=r"4 mm between the slices at 104 and 108 mm \(1 slice missing\)"):
        read_series(tmp_path / "a")
    made.enhanced(tmp_path / "b" / "one.dcm", each=lambda dataset: dataset.PerFrameFunctionalGroupsSequence.pop())
    with pytest.raises(VolumeError, match="it says 8 frames and describes 7"):
        read_series(tmp_path / "b")


def test_frames_without_places_are_refused(tmp_path):
    shutil.copy(get_testdata_file("SC_rgb_rle_2frame.dcm"), tmp_path / "x.dcm")
    with pytest.raises(VolumeError, match="2 frames without functional groups"):
        read_series(tmp_path)


# ---- the choice of the series


def test_the_rules_choose_and_the_report_names_the_others(tmp_path, made):
    made.series(tmp_path, series_uid="1.2.1", prefix="main")
    made.series(tmp_path, made.volume(5), series_uid="1.2.2", prefix="short")
    made.series(tmp_path, made.volume(12), series_uid="1.2.3", prefix="derived", ImageType=["DERIVED", "SECONDARY"])
    made.series(tmp_path, made.volume(12), series_uid="1.2.4", prefix="mip", ImageType=["ORIGINAL", "PRIMARY", "MIP"])
    made.series(tmp_path, made.volume(12), series_uid="1.2.5", prefix="mr", modality="MR")
    made.series(tmp_path, made.volume(2), series_uid="1.2.6", prefix="two")
    volume = read_series(tmp_path, rules=SeriesRules(modality="CT"))
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), made.volume())
    assert volume.report.files == 8
    others = "\n".join(volume.report.not_chosen)
    assert len(volume.report.not_chosen) == 5
    assert "5 images, 2 mm): ranks lower" in others
    assert "DERIVED\\SECONDARY, 12 images, 2 mm): ranks lower" in others
    assert "no measured volume (ImageType MIP)" in others
    assert "modality MR, expected CT" in others
    assert "2 images, expected at least 3" in others
    assert read_series(tmp_path, rules=SeriesRules(series_uid="1.2.2")).array.shape[2] == 5


def test_a_thick_series_is_left_for_a_thin_one(tmp_path, made):
    made.series(tmp_path, made.volume(12), series_uid="1.2.1", prefix="thick", SliceThickness=5)
    made.series(tmp_path, series_uid="1.2.2", prefix="thin")
    assert read_series(tmp_path).array.shape[2] == 12
    volume = read_series(tmp_path, rules=SeriesRules(max_thickness_mm=3))
    assert volume.array.shape[2] == 8
    assert "5 mm thick, expected at most 3 mm" in volume.report.not_chosen[0]


def test_a_localizer_of_the_same_series_stays_out(tmp_path, made):
    made.series(tmp_path)
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "orientation": (1, 0, 0, 0, 0, -1)}
    made.series(tmp_path, made.volume(1), prefix="scout", **tags)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), made.volume())
    assert volume.report.not_chosen[0].endswith("a localizer")


def test_a_series_with_a_fault_is_never_replaced_by_another_in_silence(tmp_path, made):
    made.series(tmp_path, heights=[0, 2, 4, 6, 10, 12, 14, 16], series_uid="1.2.1", prefix="a")
    made.series(tmp_path, made.volume(5), series_uid="1.2.2", prefix="b")
    with pytest.raises(VolumeError, match="1 slice missing"):
        read_series(tmp_path)
    assert read_series(tmp_path, rules=SeriesRules(series_uid="1.2.2")).array.shape[2] == 5


def test_without_series_uids_what_differs_in_kind_is_not_stacked(tmp_path, made):
    made.series(tmp_path, series_uid="", prefix="a")
    made.series(tmp_path, made.volume(5), series_uid="", prefix="b", SeriesNumber=4, origin=(-30, -20, 200))
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), made.volume())


def test_two_studies_in_one_folder_are_refused(tmp_path, made):
    made.series(tmp_path, prefix="a")
    made.series(tmp_path, prefix="b", series_uid="1.2.1", StudyInstanceUID="1.9")
    made.series(tmp_path, prefix="c", series_uid="1.2.2", PatientID="OTHER")
    with pytest.raises(VolumeError, match=r"choice: 3 studies or patients in one folder.*find_series"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (SeriesRules(modality="PT"), "no series fits: series 3 .*: modality CT, expected PT"),
        (SeriesRules(min_slices=9), "8 images, expected at least 9"),
        (SeriesRules(max_thickness_mm=1), "2 mm thick, expected at most 1 mm"),
        (SeriesRules(series_uid="1.1.1"), "not the series that series_uid names"),
    ],
)
def test_when_nothing_fits_every_series_has_its_reason(tmp_path, made, rules, reason):
    made.series(tmp_path)
    with pytest.raises(VolumeError, match=reason) as raised:
        read_series(tmp_path, rules=rules)
    assert not raised.value.report.suitable
    assert len(raised.value.report.not_chosen) == 1


@pytest.mark.parametrize("wrong", [{"min_slices": 1}, {"max_thickness_mm": 0}])
def test_rules_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        SeriesRules(**wrong)


# ---- one stack


def other_size(dataset, k):
    if k == 3:
        dataset.Rows, dataset.PixelData = 10, dataset.PixelData[: 10 * 16 * 2]


def other_orientation(dataset, k):
    if k == 3:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.9999, 0.0141]


def other_spacing(dataset, k):
    if k == 3:
        dataset.PixelSpacing = [0.8, 0.75]


def no_position(dataset, k):
    if k == 3:
        del dataset.ImagePositionPatient


def other_frame(dataset, k):
    if k > 3:
        dataset.FrameOfReferenceUID = "1.2.7"


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (other_size, "the 8 images of one series have 2 sizes"),
        (other_orientation, "the 8 images of one series have 2 orientations"),
        (other_spacing, "the 8 images of one series have 2 pixel spacings"),
        (other_frame, "the 8 images of one series have 2 frames of reference"),
        (no_position, "1 of 8 images have no position"),
    ],
)
def test_images_of_two_kinds_in_one_series_are_refused(tmp_path, made, each, reason):
    made.series(tmp_path, each=each)
    with pytest.raises(VolumeError, match=reason):
        read_series(tmp_path)


@pytest.mark.parametrize("same_uid", [True, False])
def test_a_repeated_slice_is_left_out_and_named(tmp_path, made, same_uid):
    paths = made.series(tmp_path)
    dataset = pydicom.dcmread(paths[4])
    if not same_uid:
        dataset.SOPInstanceUID = generate_uid()
    dataset.save_as(tmp_path / "again.dcm", enforce_file_format=True)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), made.volume())
    found = check(volume.report, "repeated slices")
    assert (found.outcome, volume.report.files) == ("corrected", 9)
    assert "at 108 mm" in found.detail


def test_two_phases_in_one_series_are_refused(tmp_path, made):
    made.series(tmp_path, prefix="a")
    made.series(tmp_path, made.volume() + 1, prefix="b")
    with pytest.raises(VolumeError, match=r"8 places have several different images .*: 100, 102, 104, 106, 108 \.\.\."):
        read_series(tmp_path)


def test_images_at_one_place_are_no_volume(tmp_path, made):
    made.series(tmp_path, np.repeat(made.volume(1), 5, axis=0), heights=[0] * 5)
    with pytest.raises(VolumeError, match="all images lie at one place"):
        read_series(tmp_path)


# ---- gaps


@pytest.mark.parametrize(
    ("heights", "reason"),
    [
        ([0, 2, 4, 8, 10, 12, 14, 16], r"4 mm between the slices at 104 and 108 mm \(1 slice missing\)"),
        ([0, 2, 4, 6, 10, 12, 16, 18], r"at 106 and 110 mm \(1 slice missing\), .* at 112 and 116 mm"),
        ([0, 2, 4, 6, 206, 208, 210, 212], r"200 mm between the slices at 106 and 306 mm \(99 slices missing\)"),
        ([0, 2, 4, 6.2, 8, 10, 12, 14], r"2\.2 mm between the slices at 104 and 106\.2 mm, 1\.8 mm"),
        (np.cumsum([0, 4.22, 4.22, 4.22, 1.14, 7.38, 7.38, 7.38]), "uneven, usual gap 4.22 mm: 1.14 mm between"),
        (np.arange(8) * 2 + 0.019 * np.arange(8) * (np.arange(8) - 7), "slices drift by up to|mm between"),
    ],
    ids=["missing", "two missing", "blocks", "jitter", "GE", "growing"],
)
def test_unequal_gaps_are_refused_with_their_places(tmp_path, made, heights, reason):
    made.series(tmp_path, heights=heights)
    with pytest.raises(VolumeError, match=reason) as raised:
        read_series(tmp_path)
    assert check(raised.value.report, "spacing").outcome == "refused"


@pytest.mark.parametrize("rounding", [0, 2])
def test_rounded_positions_count_as_equal(tmp_path, made, rounding):
    made.series(tmp_path, heights=np.round(np.arange(8) * 0.625, rounding or 6))
    volume = read_series(tmp_path)
    assert volume.affine[2, 2] == pytest.approx(0.625, abs=0.002)


@pytest.mark.parametrize("heights", [[0, 2, 4, 8, 10, 12, 14, 16], [0, 2, 4, 6.4, 8, 10, 11.6, 14]])
def test_resampling_makes_gaps_equal(tmp_path, made, heights):
    k, i, j = np.indices((8, 20, 16))
    linear = (np.take(heights, k) * 10 + i * 3 + j * 2 - 1000).astype(
        np.int16
    )  # linear in space: interpolation is exact
    linear[..., 0] = 0
    made.series(tmp_path, linear, heights=heights)
    volume = read_series(tmp_path, gaps="resample", axcodes=None)
    count = round(heights[-1] / 2) + 1
    assert volume.array.shape == (16, 20, count)
    assert check(volume.report, "spacing").outcome == "corrected"
    np.testing.assert_allclose(volume.affine, AFFINE @ np.diag([1, 1, heights[-1] / (count - 1) / 2, 1]), atol=1e-9)
    k, i, j = np.indices((count, 20, 16))
    expected = heights[-1] / (count - 1) * k * 10 + i * 3 + j * 2 - 1000
    np.testing.assert_allclose(volume.array.T[..., 1:], expected[..., 1:], atol=1e-3)


def test_a_wide_gap_is_not_filled_with_invention(tmp_path, made):
    made.series(tmp_path, heights=[0, 2, 4, 6, 14, 16, 18, 20])
    with pytest.raises(VolumeError, match="nothing is interpolated over more than 3 usual gaps"):
        read_series(tmp_path, gaps="resample")


# ---- gantry tilt

TILTED = (1, 0, 0, 0, np.cos(0.3), -np.sin(0.3))


def tilted_blob(made, path, columns=40, rows=48, slices=24):
    """A ball in space, seen by a tilted gantry whose table moves along z; its centre and the LPS of each voxel."""
    k, i, j = np.indices((slices, rows, columns)).astype(float)
    place = np.stack([-30 + 0.7 * j, -20 + 0.8 * i * np.cos(0.3), 100 - 0.8 * i * np.sin(0.3) + 2 * k], axis=-1)
    centre = np.array([-17.0, -4.0, 118.0])
    ball = np.exp(-(((place - centre) / 6) ** 2).sum(-1))
    made.series(path, (1500 * ball - 1000).round().astype(np.int16), orientation=TILTED, step=(0, 0, 1))
    return centre


def test_gantry_tilt_is_named_and_corrected_in_space(tmp_path, made):
    centre = tilted_blob(made, tmp_path)
    volume = read_series(tmp_path)
    found = check(volume.report, "gantry tilt")
    assert found.outcome == "corrected"
    assert "17.2 degrees" in found.detail
    edges = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(edges.T @ edges, np.eye(3), atol=1e-9)
    assert volume.report.spacing_mm == pytest.approx((0.7, 0.8, 2 * np.cos(0.3)), abs=1e-5)
    peak = np.unravel_index(np.argmax(gaussian_filter(volume.array.astype(float), 1)), volume.array.shape)
    place = (volume.affine @ [*peak, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(place, centre, atol=1.1)
    # The ball is round again: equal second moments along all axes of space.
    weights = np.clip(volume.array.astype(float) + 950, 0, None)
    points = np.stack(np.indices(volume.array.shape), axis=-1) @ volume.affine[:3, :3].T
    mean = (weights[..., None] * points).sum((0, 1, 2)) / weights.sum()
    spread = np.sqrt((weights[..., None] * (points - mean) ** 2).sum((0, 1, 2)) / weights.sum())
    np.testing.assert_allclose(spread, spread.mean(), rtol=0.05)


def test_gantry_tilt_can_be_refused(tmp_path, made):
    tilted_blob(made, tmp_path)
    with pytest.raises(VolumeError, match=r"gantry tilt: 17\.2 degrees; pass tilt='correct'"):
        read_series(tmp_path, tilt="refuse")


def test_slices_shifted_sideways_are_refused(tmp_path, made):
    def move(dataset, k):
        if k == 3:
            dataset.ImagePositionPatient = [-25.0, *dataset.ImagePositionPatient[1:]]

    made.series(tmp_path, each=move)
    with pytest.raises(VolumeError, match="shifted sideways against each other by up to 5 mm"):
        read_series(tmp_path)


def test_a_tilt_in_the_header_alone_is_a_warning(tmp_path, made):
    made.series(tmp_path, GantryDetectorTilt=18.5, ImagesInAcquisition=20)
    report = read_series(tmp_path).report
    assert check(report, "gantry tilt").outcome == "warned"
    assert check(report, "number of slices").detail == "8 found, the header counts 20 in the acquisition"


# ---- files


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-400])


def empty(path):
    path.write_bytes(b"")


def no_dicom(path):
    path.write_bytes(b"CANARYNAME" * 100)


def cut_header(path):
    path.write_bytes(path.read_bytes()[:600])


def bad_number(path):
    content = path.read_bytes()
    assert b"0.8\\0.7" in content
    path.write_bytes(content.replace(b"0.8\\0.7", b"x.8\\0.7"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_short, "cut short"),
        (empty, r"empty \(0 bytes\)"),
        (no_dicom, "not a DICOM file"),
        (cut_header, "damaged"),
        (bad_number, "damaged DICOM header"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("number", [0, 3])
def test_a_damaged_file_is_refused_and_not_left_out(tmp_path, made, damage, reason, number):
    path = made.series(tmp_path)[number]
    damage(path)
    with pytest.raises(VolumeError, match=reason) as raised:
        read_series(tmp_path)
    assert path.name in str(raised.value)
    assert "CANARY" not in "".join(traceback.format_exception(raised.value))
    assert str(tmp_path) not in str(raised.value.report.to_dict())


def test_what_is_plainly_no_slice_is_left_out_and_counted(tmp_path, made):
    made.series(tmp_path / "a" / "b")
    (tmp_path / "readme.txt").write_text("notes")
    (tmp_path / ".hidden").write_text("notes")
    (tmp_path / "README").write_text("notes")
    shutil.copy(get_testdata_file("reportsi.dcm"), tmp_path / "report.dcm")
    shutil.copy(get_testdata_file("rtdose.dcm"), tmp_path / "dose.dcm")
    shutil.copy(get_testdata_file("DICOMDIR"), tmp_path / "DICOMDIR")
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), made.volume())
    assert check(volume.report, "files").detail.startswith("all read; 6 ")


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(VolumeError, match="no DICOM images at all"):
        read_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_series(tmp_path / "none")


def test_a_list_of_files_is_a_series_too(tmp_path, made):
    paths = made.series(tmp_path)
    np.testing.assert_array_equal(read_series(paths[2:]).array, read_series(tmp_path).array[:, :, 2:])


# ---- the tree


def test_find_series_judges_all_series_of_all_studies(tmp_path, made):
    made.series(tmp_path / "s1" / "good", series_uid="1.2.1")
    made.series(tmp_path / "s1" / "gap", series_uid="1.2.2", heights=[0, 2, 4, 6, 10, 12, 14, 16])
    made.series(tmp_path / "s2" / "two", made.volume(2), series_uid="1.2.3", StudyInstanceUID="1.9")
    made.series(tmp_path / "s2" / "units", series_uid="1.2.4", StudyInstanceUID="1.9", RescaleType="ED")
    made.enhanced(tmp_path / "s3" / "one.dcm", each=lambda dataset: setattr(dataset, "StudyInstanceUID", "1.8"))
    damaged = made.series(tmp_path / "s4" / "cut", series_uid="1.2.6", StudyInstanceUID="1.7")
    cut_short(damaged[2])
    found = find_series(tmp_path, rules=SeriesRules(modality="CT"))
    reasons = {each.files[0].relative_to(tmp_path).parent.as_posix(): each.report.refusals for each in found}
    assert len(found) == 7
    assert reasons["s1/good"] == reasons["s3"] == []
    assert "1 slice missing" in reasons["s1/gap"][0]
    assert reasons["s2/two"] == ["choice: 2 images, expected at least 3"]
    assert reasons["s2/units"] == ["rescale: expected HU, the header says ED"]
    cut = [each.report.refusals[0] for each in found if each.files[0].parent.name == "cut"]
    assert sorted(cut)[0].startswith("files: 1 files beside it cannot be read")
    assert "cut short" in sorted(cut)[1]
    assert len({each.study for each in found if each.study}) == 4
    for each in found:
        if each.report.suitable:
            assert read_series(each.files).array.shape == (16, 20, 8)
            assert each.report.series
        assert "CANARY" not in str(each.report.to_dict())
        assert str(tmp_path) not in str(each.report.to_dict())
        assert "1.2.1" not in str(each.report.to_dict())


REAL_TREE = {
    # folder in pydicom's wheel: number of files of its series, and why they are not suitable
    "77654033/CR1": [(1, "1 images, expected at least 3")],
    "77654033/CT2": [(4, r"202.5 mm between the slices at -99.48 and 103.02 mm")],
    "98892001/CT2N": [(2, "a localizer")],
    "98892001/CT5N": [(5, None)],
    "98892003/MR2": [(1, "1 images"), (3, "have 3 orientations"), (3, "have 3 orientations")],
    "98892003/MR700": [(7, "PROJECTION IMAGE")],
}


def test_find_series_on_a_real_tree():
    root = Path(get_testdata_file("DICOMDIR")).parent
    found = {}
    for each in find_series(root):
        folder = each.files[0].relative_to(root).parent.as_posix()
        found.setdefault(folder, []).append((len(each.files), "".join(each.report.refusals)))
    for folder, expected in REAL_TREE.items():
        assert len(found[folder]) == len(expected)
        for (files, refusals), (count, reason) in zip(sorted(found[folder]), expected, strict=True):
            assert files == count
            assert (reason in refusals) if reason else not refusals
    assert read_series(root / "98892001" / "CT5N").array.shape == (16, 16, 5)


# ---- real series


SUITABLE = {
    # shape and spacing along column, row and slice of each folder
    "ct_totalseg_j2k": ((512, 512, 20), (0.9765625, 0.9765625, 2)),
    "mr_enhanced_philips": ((256, 256, 8), (1, 1, 1.2)),
    "mr_hippocrop1": ((35, 51, 32), (1, 1, 1)),
    "mr_jpegls": ((256, 256, 4), (1, 1, 1)),
    "pet_like_nonisotropic": ((64, 28, 4), (6.4, 4, 0.5)),
}


@pytest.mark.parametrize("name", SUITABLE)
def test_real_series_equal_itk(shared_data, name):
    itk = pytest.importorskip("itk")
    folder = shared_data / "dicom_series" / name
    volume = read_series(folder, axcodes=None)
    shape, spacing = SUITABLE[name]
    assert volume.array.shape == shape
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), spacing, atol=1e-3)
    files = sorted(folder.iterdir(), key=lambda path: height_of(path))
    image = itk.imread([str(path) for path in files] if len(files) > 1 else str(files[0]))
    values = itk.array_from_image(image).transpose(2, 1, 0)
    assert volume.array.std() > 1
    if name != "pet_like_nonisotropic":  # ITK takes the first slice's rescale for all
        reverse = not np.allclose(values, volume.array, rtol=1e-4)
        np.testing.assert_allclose(volume.array[:, :, :: -1 if reverse else 1], values, rtol=1e-4)
        assert not reverse or name == "mr_enhanced_philips"


def height_of(path):
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    if "ImagePositionPatient" not in dataset:
        return 0.0
    across, down = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    return float(np.cross(across, down) @ np.array(dataset.ImagePositionPatient, dtype=float))


def test_each_real_slice_has_its_own_slope(shared_data):
    folder = shared_data / "dicom_series" / "pet_like_nonisotropic"
    volume = read_series(folder, axcodes=None)
    for k, path in enumerate(sorted(folder.iterdir(), key=height_of)):
        dataset = pydicom.dcmread(path)
        expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        np.testing.assert_allclose(volume.array[:, :, k].T, expected, rtol=1e-5)


def test_a_real_enhanced_mr_equals_its_nifti(shared_data):
    folder = shared_data / "dicom_series"
    volume = read_series(folder / "mr_enhanced_philips", axcodes="RAS")
    image = nib.as_closest_canonical(nib.load(folder / "philips_enhanced_anatomical_001.nii.gz"))
    np.testing.assert_allclose(volume.affine, image.affine, atol=0.01)
    np.testing.assert_allclose(volume.array, image.get_fdata().squeeze(), rtol=1e-4)


def test_a_real_ct_fits_the_nifti_of_its_segmentation(shared_data):
    folder = shared_data / "dicom_series"
    volume = read_series(folder / "ct_totalseg_j2k", axcodes="RAS")
    image = nib.as_closest_canonical(nib.load(folder / "ct_totalseg_j2k_seg.nii.gz"))
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-4)
    labels = np.asarray(image.dataobj)
    assert labels.shape == volume.array.shape
    inside = volume.array[labels > 0]
    assert (inside > -200).mean() > 0.95  # organs and bones, no air
    assert (volume.array[::-1][labels > 0] > -200).mean() < (inside > -200).mean()


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("bad_ct_missing_slice", ["10 mm between the slices at 28.1075 and 38.1075 mm", "1 slice missing"]),
        (
            "ct_ge_tilt_varspacing",
            ["usual gap 4.22 mm", "1.14 mm between the slices at 60.6961 and 61.8361 mm", "7.38 mm"],
        ),
    ],
)
def test_real_series_with_faults_are_refused(shared_data, name, reasons):
    with pytest.raises(VolumeError) as raised:
        read_series(shared_data / "dicom_series" / name, check_hu_range=False)
    assert all(reason in str(raised.value) for reason in reasons)


def test_real_series_with_faults_are_mended_when_asked(shared_data):
    folder = shared_data / "dicom_series"
    missing = read_series(folder / "bad_ct_missing_slice", gaps="resample", check_hu_range=False)
    assert missing.report.spacing_mm == pytest.approx((0.4297, 0.4297, 5), abs=1e-3)
    assert missing.array.shape == (512, 512, 5)
    tilted = read_series(folder / "ct_ge_tilt_varspacing", gaps="resample")
    assert "18.5 degrees" in check(tilted.report, "gantry tilt").detail
    assert tilted.report.spacing_mm[2] == pytest.approx(28.56 * np.cos(np.radians(18.5)) / 7, abs=0.01)


def test_reports_quote_no_free_text_of_code_strings(tmp_path, made):
    made.series(tmp_path, made.volume(12), ImageType=["ORIGINAL", "PRIMARY", "DOE JOHN"], modality="JANE")
    (found,) = find_series(tmp_path)
    assert found.report.image_type == "ORIGINAL\\PRIMARY\\OTHER"
    assert found.report.modality == "OTHER"
    with pytest.raises(VolumeError, match="modality OTHER, expected CT"):
        read_series(tmp_path, rules=SeriesRules(modality="CT"))
