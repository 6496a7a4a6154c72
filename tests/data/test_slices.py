"""Slices of volumes: which there are, which way they are turned, and that a volume is put together again."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SliceInferer
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, SaveImaged
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from ttl_monai.data import SelectSliced, SliceOrientationd, segmentation_items, slice_items
from ttl_monai.data.slices import read_slice
from ttl_monai.networks import TransferUNet

from .conftest import made_volume, write_series

KEYS = ("image", "label")
AXES = ("axial", "coronal", "sagittal")
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


def load(axis):
    return Compose([LoadImaged(KEYS), EnsureChannelFirstd(KEYS), SliceOrientationd(KEYS, axis=axis)])


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
    volume = load(axis)(item)
    picture = SelectSliced(KEYS)({**volume, **items[3], "image": volume["image"], "label": volume["label"]})["image"]
    assert type(picture) is torch.Tensor
    assert picture.shape == volume["image"].shape[:3]
    steps = [np.diff(picture[0].numpy(), axis=direction) for direction in (1, 0)]
    assert [np.unique(step).tolist() for step in steps] == [[across], [down]]
    if axis == "axial":
        assert (picture // 400 == 3).all()  # from inferior to superior


@pytest.mark.parametrize("codes", ORDERS)
@pytest.mark.parametrize(("axis", "kept"), [("axial", [2]), ("coronal", range(8)), ("sagittal", range(5, 10))])
def test_only_slices_with_foreground_are_kept(make_item, codes, axis, kept):
    item = make_item(codes)
    items = slice_items([item], axis, foreground_only=True)
    volume = load(axis)(item)
    for each in items:
        assert SelectSliced("label")({"label": volume["label"], "slice": each["slice"]})["label"].any()
    assert [each["slice"] for each in items] == list(kept)


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
    with pytest.raises(ValueError, match="axis must be one of"):
        SliceOrientationd(KEYS, axis="z")
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2)), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(ValueError, match=r"four.nii: expected a 3D volume, got shape \(3, 4, 5, 2\)"):
        slice_items([{"image": tmp_path / "four.nii"}])
    (tmp_path / "bad.nii").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad.nii: expected a NIfTI volume, but it cannot be read"):
        slice_items([{"image": tmp_path / "bad.nii"}])
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)), tmp_path / "empty.nii")
    with pytest.raises(ValueError, match="expected at least one axial slice, got none of 1 volumes"):
        slice_items([{"image": item["image"], "label": tmp_path / "empty.nii"}], foreground_only=True)
    with pytest.raises(
        ValueError, match=r"'label' must be \(C, H, W, slices\) with a slice 6, got shape \(1, 4, 4, 6\)"
    ):
        SelectSliced("label")({"label": torch.zeros(1, 4, 4, 6), "slice": 6})


@pytest.mark.parametrize("codes", ORDERS)
@pytest.mark.parametrize("axis", AXES)
def test_a_whole_volume_is_put_together_with_its_affine(make_item, tmp_path, codes, axis):
    """Slice by slice through a 2D network, turned back and saved; all from a config but the network."""
    item = make_item(codes)
    preprocessing = ConfigParser(
        {
            "transforms": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "image"},
                    {"_target_": "EnsureChannelFirstd", "keys": "image"},
                    {"_target_": "ttl_monai.data.SliceOrientationd", "keys": "image", "axis": axis},
                    {"_target_": "ScaleIntensityd", "keys": "image"},
                ],
            }
        }
    ).get_parsed_content("transforms")
    torch.manual_seed(0)
    network = TransferUNet("resnet18", weights="none", in_channels=1, truncate_at="layer1").eval()
    loaded = preprocessing(item)
    with torch.no_grad():
        pred = SliceInferer(roi_size=(-1, -1), spatial_dim=2, sw_batch_size=3)(loaded["image"][None], network)
        single = network(torch.as_tensor(loaded["image"])[None, ..., 2])
    torch.testing.assert_close(torch.as_tensor(pred[..., 2]), single, rtol=0, atol=1e-5)
    back = Compose(
        [
            Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False),
            SaveImaged(
                "pred", output_dir=tmp_path / "out", output_postfix="seg", separate_folder=False, print_log=False
            ),
        ]
    )({"pred": pred[0], "image": loaded["image"]})
    assert back["pred"].shape[1:] == patient(codes).shape
    (saved,) = (tmp_path / "out").iterdir()
    found, original = nib.load(saved), nib.load(item["image"])
    np.testing.assert_allclose(found.affine, original.affine, atol=1e-5)
    assert found.shape == original.shape
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(original.affine),
        axcodes2ornt({"axial": "PLS", "coronal": "ILP"}.get(axis, "IPL")),
    )
    turned = nib.orientations.apply_orientation(found.get_fdata(), turn)
    np.testing.assert_allclose(turned[..., 2], single[0, 0].numpy(), atol=1e-5)
