"""DICOM segmentations of series: each frame on its slice, whatever the order, and refusals that name both files."""

import logging
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite

from ttl_monai.data import LoadPaird, segmentation_items
from ttl_monai.data.dicom_series import open_stack, read_series
from ttl_monai.data.slices import SLICE_AXCODES
from ttl_monai.data.volume_files import open_pair

from .conftest import AXIAL, CANARY, write_enhanced, write_segmentation, write_series

ORIENTATIONS = {
    "axial": AXIAL,
    "feet first": (-1, 0, 0, 0, 1, 0),  # the normal runs to the feet
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, 0, 0, -1),
}


def drawn(slices=8, rows=20, columns=16):
    """Two structures in the slices 2, 3 and 5, none of them symmetric, (slices, rows, columns)."""
    values = np.zeros((slices, rows, columns), np.uint8)
    values[2:4, 5:9, 3:12] = 1
    values[3, 12:18, 4:6] = 2
    values[5, 2:4, 10:15] = 2
    return values


def mixed(paths, values):
    """Sources and their values in an order that is neither that of names nor that of places."""
    order = np.random.default_rng(0).permutation(len(paths))
    return [paths[k] for k in order], values[order]


def write_pair(folder, values=None, **options):
    paths = write_series(folder / "scan", **options)
    values = drawn() if values is None else values
    return folder / "scan", write_segmentation(folder / "seg.dcm", *mixed(paths, values)), values


def by_highdicom(mask, shape, affine):
    """What highdicom makes of the places of the frames, on the grid of an image."""
    seg = pytest.importorskip("highdicom.seg").segread(mask)
    volume = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    to_ras = np.diag([-1, -1, 1, 1]) @ volume.affine
    expected = np.zeros(shape, np.uint8)
    for place in np.argwhere(volume.array):
        target = np.linalg.solve(affine, to_ras @ (*place, 1))[:3]
        assert np.abs(target - target.round()).max() < 0.02
        expected[tuple(target.round().astype(int))] = volume.array[tuple(place)]
    return expected


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_frames_lie_on_the_slices_that_they_refer_to(tmp_path, name):
    folder, mask, values = write_pair(tmp_path, orientation=ORIENTATIONS[name])
    assert int(dcmread(mask).NumberOfFrames) == 4, "frames only where something is drawn"
    image, found = open_pair(folder, mask)
    series = read_series(folder, axcodes=None)
    np.testing.assert_array_equal(found.affine, series.affine)
    np.testing.assert_array_equal(np.asarray(image.dataobj), series.array)
    array = np.asarray(found.dataobj)
    np.testing.assert_array_equal(array, values.T)
    np.testing.assert_array_equal(array, by_highdicom(mask, array.shape, found.affine))


@pytest.mark.parametrize("axis", SLICE_AXCODES)
def test_slices_of_a_segmentation_are_those_of_the_same_mask_as_nifti(tmp_path, axis):
    folder, mask, values = write_pair(tmp_path)
    nib.save(nib.Nifti1Image(values.T, read_series(folder, axcodes=None).affine), tmp_path / "same.nii.gz")
    load = LoadPaird(num_classes=3)
    items = [
        segmentation_items([{"image": str(folder), "label": str(label)}], axis, classes_of=load.slice_classes)
        for label in (mask, tmp_path / "same.nii.gz")
    ]
    assert [each["slice"] for each in items[0]] == [each["slice"] for each in items[1]]
    if axis == "axial":
        assert [each["slice"] for each in items[0]] == [2, 3, 5]
    for one, other in zip(*items, strict=True):
        pictures = [load(each) for each in (one, other)]
        for key in ("image", "label"):
            np.testing.assert_array_equal(pictures[0][key], pictures[1][key])
        assert pictures[0]["label"].any()


def test_a_mask_is_shifted_with_a_tilted_series(tmp_path):
    """A body of one value and its mask stay on each other when the slices are made upright."""
    body = np.where(drawn() > 0, 500, -1000).astype(np.int16)
    step = (0, np.sin(np.radians(20)), np.cos(np.radians(20)))
    folder, mask, _ = write_pair(tmp_path, (drawn() > 0).astype(np.uint8), volume=body, step=step, gap=3.0)
    image, found = open_pair(folder, mask)
    assert image.shape[1] > 20
    array, pixels = np.asarray(found.dataobj), np.asarray(image.dataobj)
    # Half-way between the two values the linear and the nearest shift part.
    np.testing.assert_array_equal(array[pixels > 0], 1)
    np.testing.assert_array_equal(array[pixels < -900], 0)
    assert abs(int(array.sum()) - int((drawn() > 0).sum())) <= 10


def test_segments_that_overlap_are_bits(tmp_path):
    """Of numbers, the third segment would be the first and the second at once."""
    layers = np.stack([drawn() == 1, drawn() > 0, drawn() == 2], axis=-1).astype(np.uint8)
    paths = write_series(tmp_path / "scan")
    item = {"image": str(tmp_path / "scan"), "label": str(write_segmentation(tmp_path / "seg.dcm", paths, layers))}
    load = LoadPaird(num_classes=3, bits=[2, 1, 0])
    items = segmentation_items([item], "axial", classes_of=load.slice_classes)
    assert [each["slice"] for each in items] == [2, 3, 5]
    for each in items:
        expected = np.moveaxis(layers[each["slice"]][..., ::-1], -1, 0)
        np.testing.assert_array_equal(load(each)["label"], expected)
    items = segmentation_items([item], "axial", classes_of=LoadPaird(num_classes=1, bits=[2]).slice_classes)
    assert [each["slice"] for each in items] == [3, 5], "slices of the third segment"


@pytest.mark.parametrize("options", [{"num_classes": 2}, {"num_classes": 1, "bits": [0]}])
def test_fractions_are_refused_and_whole_ones_taken(tmp_path, options):
    paths, load = write_series(tmp_path / "scan"), LoadPaird(**options)
    for share in (0.5, 1.0):
        values = ((drawn() > 0)[..., None] * share).astype(np.float32)
        mask = write_segmentation(tmp_path / f"{share}.dcm", paths, values, kind="FRACTIONAL")
        classes = partial(load.slice_classes, tmp_path / "scan", mask, "axial", 3)
        if share < 1:
            with pytest.raises(ValueError, match=r"image \S*scan and mask \S*0.5.dcm: the segmentation has fractions"):
                classes()
        else:
            np.testing.assert_array_equal(classes()[0], drawn()[3] > 0)


def test_a_label_map_has_its_numbers(tmp_path):
    paths = write_series(tmp_path / "scan")
    mask = write_segmentation(tmp_path / "seg.dcm", *mixed(paths, drawn()), kind="LABELMAP")
    np.testing.assert_array_equal(np.asarray(open_pair(tmp_path / "scan", mask)[1].dataobj), drawn().T)
    classes = LoadPaird(num_classes=2, bits=[0, 1]).slice_classes(tmp_path / "scan", mask, "axial", 3)
    np.testing.assert_array_equal(classes, [drawn()[3] == 1, drawn()[3] == 2])


def shift_position(dataset):
    dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[0] += 0.7


def forget_source(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence


def swap_spacing(dataset):
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = measures.PixelSpacing[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift_position, "does not lie on the pixels of the slice to which it refers"),
        (swap_spacing, "does not lie on the pixels of the slice to which it refers"),
        (forget_source, "a frame of the segmentation does not say to which slice it belongs"),
    ],
)
def test_frames_that_lie_elsewhere_are_refused(tmp_path, change, message):
    folder, mask, _ = write_pair(tmp_path)
    dataset = dcmread(mask)
    change(dataset)
    dcmwrite(mask, dataset)
    with pytest.raises(ValueError, match=rf"image \S*scan and mask \S*seg.dcm: .*{message}"):
        open_pair(folder, mask)


@pytest.fixture
def refuse(tmp_path, caplog):
    """Look that a pair is refused by one error that names both files, and nobody."""

    def check(folder, mask, message):
        with caplog.at_level(logging.INFO), pytest.raises(ValueError, match=message) as raised:
            open_pair(folder, mask)
        text = str(raised.value)
        assert text.startswith(f"image {folder} and mask {mask}: ")
        told = text.replace(str(tmp_path), "") + caplog.text
        assert CANARY not in told
        assert "CANARYID7" not in told
        assert not any(each.instance in told for each in open_stack(folder).slices)

    return check


def test_a_segmentation_of_other_slices_is_refused(tmp_path, refuse):
    folder, mask, _ = write_pair(tmp_path)
    write_series(tmp_path / "other")
    refuse(tmp_path / "other", mask, "refers to 3 images that are not among the 8 slices of the series; is it that of")
    # The last slice has no frame, but the segmentation names it.
    open_stack(folder).slices[-1].path.unlink()
    refuse(folder, mask, "refers to 1 images that are not among the 7 slices of the series; .* or are slices missing")


def test_a_frame_of_a_slice_that_is_missing_is_refused(tmp_path, refuse):
    """Drawn on the last slice; without it, its frame would be lost."""
    folder, mask, _ = write_pair(tmp_path, np.roll(drawn(), 2, axis=0))
    open_stack(folder).slices[-1].path.unlink()
    refuse(folder, mask, "refers to 1 images that are not among the 7 slices")


def test_what_is_no_segmentation_of_one_value_a_pixel_is_refused(tmp_path, refuse):
    paths = write_series(tmp_path / "scan")
    layers = np.stack([drawn() == 1, drawn() > 0], axis=-1).astype(np.uint8)
    refuse(
        tmp_path / "scan",
        write_segmentation(tmp_path / "o.dcm", paths, layers),
        "segments .* overlap; declare the struct",
    )
    refuse(tmp_path / "scan", paths[0], "a mask in DICOM must be a segmentation object")
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "o.dcm").read_bytes()[:3000])
    refuse(tmp_path / "scan", tmp_path / "cut.dcm", "the mask cannot be read|a mask in DICOM must be")


def test_an_enhanced_series_is_refused(tmp_path, refuse):
    write_enhanced(tmp_path / "scan/all.dcm")
    paths = write_series(tmp_path / "other")
    mask = write_segmentation(tmp_path / "seg.dcm", paths, drawn())
    refuse(tmp_path / "scan", mask, "a segmentation of an enhanced multi-frame series is not read; store it as NIfTI")


def test_a_real_series_has_its_mask(tmp_path, shared_data):
    """MR with an oblique field of view."""
    folder = shared_data / "dicom_series/mr_hippocrop1"
    if not folder.is_dir():
        pytest.skip("the series mr_hippocrop1 is not at hand")
    slices = open_stack(folder).slices
    series = read_series(folder, axcodes=None)
    values = np.zeros(series.array.T.shape, np.uint8)  # slices, rows, columns
    values[4:9][series.array.T[4:9] > np.quantile(series.array, 0.9)] = 1
    values[6, 2:5, 3:9] = 2
    mask = write_segmentation(tmp_path / "seg.dcm", *mixed([each.path for each in slices], values))
    _, found = open_pair(folder, mask)
    array = np.asarray(found.dataobj)
    np.testing.assert_array_equal(array, values.T)
    np.testing.assert_array_equal(found.affine, series.affine)
    np.testing.assert_array_equal(array, by_highdicom(mask, array.shape, found.affine))
    load = LoadPaird(num_classes=2, mask_values=[[0, 1], 2])
    (item,) = segmentation_items(
        [{"image": str(folder), "label": str(mask)}], "sagittal", classes_of=load.slice_classes
    )[:1]
    assert load(item)["label"].any()
