"""Slices of volumes and of their masks: which there are, and which way they are turned."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from PIL import Image

from ttl_monai.data import LoadPaird, segmentation_items, slice_items
from ttl_monai.data.slices import read_mask_slice, read_slice

from .conftest import made_volume, write_series

# Storage orders of a file, and an affine with other spacing and a shift.
ORDERS = ("RAS", "LPS", "ASR", "SLP")


def affine_of(codes, shape):
    spacing = np.diag([0.8, 0.9, 2.5, 1.0])
    affine = spacing @ np.linalg.inv(inv_ornt_aff(axcodes2ornt(codes), shape))
    affine[:3, 3] += (-20, 7, 31)
    return affine


def patient(codes):
    """A volume that is brighter to the left, to posterior and to superior, in the order of `codes`."""
    left, posterior, superior = np.meshgrid(np.arange(10), np.arange(8), np.arange(6), indexing="ij")
    canonical = (left + 20 * posterior + 400 * superior).astype(np.int16)  # LPS
    turn = nib.orientations.ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    return nib.orientations.apply_orientation(canonical, turn)


@pytest.fixture
def make_item(tmp_path):
    def make(codes="RAS", name="v"):
        volume = patient(codes)
        affine = affine_of(codes, volume.shape)
        mask = ((volume // 400 == 2) & (volume % 20 > 4)).astype(np.uint8)  # one axial slice, one side
        item = {"patient": name}
        for key, data in (("image", volume), ("label", mask)):
            nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}_{codes}_{key}.nii.gz")
            item[key] = str(tmp_path / f"{name}_{codes}_{key}.nii.gz")
        return {**item, "image_id": name}

    return make


@pytest.mark.parametrize("codes", ORDERS)
@pytest.mark.parametrize(
    ("axis", "across", "down", "number"),
    [("axial", 1, 20, 6), ("coronal", 1, -400, 8), ("sagittal", 20, -400, 10)],
)
def test_slices_are_turned_as_a_radiologist_views_them(make_item, codes, axis, across, down, number):
    item = make_item(codes)
    items = slice_items([item], axis)
    assert [each["slice"] for each in items] == list(range(number))
    assert [each["image_id"] for each in items[:2]] == ["v#0", "v#1"]
    picture = read_slice(item["image"], axis, 3)
    steps = [np.diff(picture, axis=direction) for direction in (1, 0)]
    assert [np.unique(step).tolist() for step in steps] == [[across], [down]]
    if axis == "axial":
        assert (picture // 400 == 3).all()  # from inferior to superior
    values = read_slice(item["image"], axis, 2)
    expected = (values // 400 == 2) & (values % 20 > 4)
    np.testing.assert_array_equal(read_mask_slice(item["label"], item["image"], axis, 2), expected)


@pytest.mark.parametrize("codes", ORDERS)
@pytest.mark.parametrize(("axis", "kept"), [("axial", [2]), ("coronal", range(8)), ("sagittal", range(5, 10))])
def test_only_slices_with_foreground_are_kept(make_item, codes, axis, kept):
    item = make_item(codes)
    items = slice_items([item], axis, classes_of=LoadPaird(num_classes=2).slice_classes)
    for each in items:
        assert read_slice(item["label"], axis, each["slice"]).any()
    assert [each["slice"] for each in items] == list(kept)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"num_classes": 3, "mask_values": [0, 1, [3, 8]]}, [1, 3, 4, 5]),
        ({"num_classes": 2, "mask_values": [[0, 1], [3, 8]]}, [3, 4, 5]),  # 1 is drawn, but counts as background
        ({"num_classes": 2, "mask_values": [[0, 3, 8], 1]}, [1, 4]),
        ({"num_classes": 1, "bits": [1]}, [3, 4]),  # of 3
        ({"num_classes": 2, "bits": [[0, 2], 3]}, [1, 3, 4, 5]),
        ({"num_classes": 2, "bits": [2, 3]}, [5]),
    ],
)
def test_a_value_that_stands_for_no_structure_is_no_foreground(make_item, tmp_path, options, kept):
    item = make_item("LPS")
    mask = np.zeros((10, 8, 6), np.uint8)
    mask[2, 2, 1], mask[3, 2, 3], mask[4, 5, 4], mask[5, 5, 4], mask[6, 5, 5] = 1, 3, 1, 3, 8
    nib.save(nib.Nifti1Image(mask, nib.load(item["image"]).affine), tmp_path / "values.nii")
    item["label"] = str(tmp_path / "values.nii")
    items = segmentation_items([item], "axial", classes_of=LoadPaird(**options).slice_classes)
    assert [each["slice"] for each in items] == kept


def test_an_undeclared_value_of_a_volumes_mask_is_refused_before_training(make_item):
    item = make_item()
    with pytest.raises(ValueError, match=r"v_RAS_image.nii.gz and mask .*: the mask has the values 1, which are no"):
        slice_items([item], classes_of=LoadPaird(num_classes=2, mask_values=[0, 4]).slice_classes)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("four.nii", (10, 8, 6, 2), r"expected a 3D volume, got shape \(10, 8, 6, 2\); split several channels"),
        ("flat.nii", (10, 8), r"expected a 3D volume, got shape \(10, 8\)"),
        ("short.nii", (10, 8, 5), r"the image has the shape \(10, 8, 6\), the mask \(10, 8, 5\)"),
        ("half.nii", (10, 8, 6), "the mask has values that are no whole numbers"),
        ("picture.png", (10, 8), "the mask of a volume must be a NIfTI volume, a folder of DICOM slices or"),
        ("cut.nii.gz", None, "expected a NIfTI volume, but it cannot be read"),
        ("seg.dcm", None, "a DICOM segmentation refers to DICOM slices, but the image is no folder of them"),
    ],
)
def test_the_mask_of_a_volume_that_is_none_is_refused_with_both_names(make_item, tmp_path, name, shape, message):
    item = make_item("LPS")
    mask = tmp_path / name
    if shape is None:
        mask.write_bytes(b"nothing")
    elif name.endswith("png"):
        Image.fromarray(np.zeros(shape, np.uint8)).save(mask)
    else:
        values = np.full(shape, 0.5 if name == "half.nii" else 0, np.float32)
        nib.save(nib.Nifti1Image(values, nib.load(item["image"]).affine), mask)
    load = LoadPaird(num_classes=2)
    both = rf"^image .*v_LPS_image.nii.gz and mask \S*{name}: {message}"
    with pytest.raises(ValueError, match=both):
        load({"image": item["image"], "label": str(mask), "axis": "axial", "slice": 0})
    with pytest.raises(ValueError, match=both):
        slice_items([{**item, "label": str(mask)}], classes_of=load.slice_classes)


def test_items_follow_volumes_in_order(make_item, caplog):
    with caplog.at_level("INFO"):
        items = slice_items([make_item(name=name) for name in "ab"], "axial")
    assert [each["image_id"] for each in items] == [f"{name}#{number}" for name in "ab" for number in range(6)]
    assert "12 of 12 axial slices of 2 volumes" in caplog.text


def test_a_folder_of_dicom_slices_is_a_volume(tmp_path):
    write_series(tmp_path / "scan")
    items = segmentation_items([{"image": str(tmp_path / "scan"), "image_id": "scan"}], "axial")
    assert [(item["image_id"], item["axis"], item["slice"]) for item in items[:2]] == [
        ("scan#0", "axial", 0),
        ("scan#1", "axial", 1),
    ]
    # Axial slices from the feet on, as a radiologist views them: rows to posterior, columns to the left, as in DICOM.
    np.testing.assert_array_equal(read_slice(tmp_path / "scan", "axial", 3), made_volume()[3])
    write_series(tmp_path / "scan", series_uid="1.2.3.8", prefix="other")
    with pytest.raises(ValueError, match="scan: expected one series of slices, got 2; give each a folder of its own"):
        segmentation_items([{"image": str(tmp_path / "scan")}], "axial")


def test_other_files_and_axes_are_refused(make_item, tmp_path):
    item = make_item()
    with pytest.raises(ValueError, match="axis must be one of axial, coronal, sagittal, got 'z'"):
        slice_items([item], "z")
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2)), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(ValueError, match=r"four.nii: expected a 3D volume, got shape \(3, 4, 5, 2\)"):
        slice_items([{"image": tmp_path / "four.nii"}])
    (tmp_path / "bad.nii").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad.nii: expected a NIfTI volume, but it cannot be read"):
        slice_items([{"image": tmp_path / "bad.nii"}])
    stored = nib.load(item["image"])
    nib.save(nib.Nifti1Image(np.zeros(stored.shape, np.uint8), stored.affine), tmp_path / "empty.nii")
    with pytest.raises(ValueError, match="expected at least one axial slice, got none of 1 volumes"):
        slice_items([{**item, "label": tmp_path / "empty.nii"}], classes_of=LoadPaird(num_classes=2).slice_classes)
