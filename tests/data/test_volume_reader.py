"""The readers in MONAI's transforms, by name and from JSON."""

import json

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.data import list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd

from ttl_monai.data import DicomSeriesReader, VolumeReader
from ttl_monai.data.volume_reader import REPORT_KEY


def test_a_config_names_the_reader_and_its_options(tmp_path, made):
    made.series(tmp_path / "a" / "deep")
    made.series(tmp_path / "a" / "mr", made.volume(20), modality="MR", series_uid="1.2.1")
    config = {
        "_target_": "LoadImaged",
        "keys": "image",
        "reader": "ttl_monai.data.DicomSeriesReader",
        "modality": "CT",
        "axcodes": "RAS",
        "ensure_channel_first": True,
    }
    load = ConfigParser({"load": config}).get_parsed_content("load")
    image = load({"image": str(tmp_path / "a")})["image"]
    assert image.shape == (1, 16, 20, 8)
    assert nib.aff2axcodes(image.affine.numpy()) == ("R", "A", "S")
    report = json.loads(image.meta[REPORT_KEY])
    assert report["suitable"]
    assert "modality MR, expected CT" in report["not_chosen"][0]
    assert made.canary not in str(image.meta)
    turned = Orientationd("image", "LPS")({"image": image})["image"]
    np.testing.assert_array_equal(turned[0].numpy(), made.volume().transpose(2, 1, 0))


def test_dicom_and_nifti_collate_into_one_batch(tmp_path, made):
    made.series(tmp_path / "series")
    affine = np.diag([0.7, 0.8, 2, 1.0])  # another orientation than the series
    nib.save(nib.Nifti1Image(made.volume().transpose(2, 1, 0)[::-1, ::-1], affine), tmp_path / "x.nii.gz")
    load = Compose([LoadImaged("image", reader=VolumeReader), EnsureChannelFirstd("image")])
    items = [load({"image": str(tmp_path / name)}) for name in ("series", "x.nii.gz")]
    batch = list_data_collate(items)["image"]
    assert batch.shape == (2, 1, 16, 20, 8)
    np.testing.assert_array_equal(batch[0], batch[1])
    assert [json.loads(text)["source"] for text in batch.meta[REPORT_KEY]] == ["DICOM", "NIfTI"]


@pytest.mark.parametrize("reader", [DicomSeriesReader, VolumeReader])
def test_no_other_reader_takes_over_what_was_refused(tmp_path, made, reader):
    made.series(tmp_path, heights=[0, 2, 4, 6, 10, 12, 14, 16])
    with pytest.raises(ValueError, match="1 slice missing"):
        LoadImage(reader=reader)(str(tmp_path))
    image = LoadImage(reader=reader, gaps="resample")(str(tmp_path))
    assert image.shape == (16, 20, 9)


@pytest.mark.parametrize(
    ("reader", "name", "taken"),
    [
        (DicomSeriesReader, "series", True),
        (DicomSeriesReader, "series/im00.dcm", True),
        (DicomSeriesReader, "x.nii.gz", False),
        (VolumeReader, "x.nii.gz", True),
        (VolumeReader, "series", True),
        (VolumeReader, "notes.txt", False),
        (DicomSeriesReader, "none", False),
    ],
)
def test_which_names_a_reader_takes(tmp_path, made, reader, name, taken):
    made.series(tmp_path / "series")
    (tmp_path / "x.nii.gz").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("notes")
    assert reader().verify_suffix(str(tmp_path / name)) == taken


def test_a_list_of_files_is_one_volume(tmp_path, made):
    paths = made.series(tmp_path)
    assert LoadImage(reader=DicomSeriesReader)([str(path) for path in paths]).shape == (16, 20, 8)


@pytest.mark.parametrize(
    "wrong", [{"gaps": "fill"}, {"tilt": "ignore"}, {"axcodes": "LLS"}, {"min_slices": 0}, {"max_thickness_mm": -1}]
)
def test_wrong_options_stop_at_once(wrong):
    with pytest.raises(ValueError, match="must"):
        DicomSeriesReader(**wrong)
