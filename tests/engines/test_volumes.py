"""Volumes found in a tree, and what the reader refuses of them."""

import re
import shutil
import threading
import time

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged
from pydicom import dcmread

from ttl_monai.data import SeriesDataset, VolumeCache, VolumeReader, WindowDataset, make_ctpa_phantom
from ttl_monai.engines import find_volumes


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Made scans, one of them without its middle slice, one NIfTI that holds no HU, and a file of something else."""
    folder = tmp_path_factory.mktemp("tree")
    make_ctpa_phantom(folder, seed=1, patients=3, shape=(24, 64, 64))
    (folder / "images/P0001_0/012.dcm").unlink()
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.int16), np.eye(4)), folder / "mask.nii.gz")
    return folder


def test_a_tree_gives_its_volumes_and_the_refusals(tree):
    found = find_volumes(str(tree), "", file_names=True)
    names = [f"images/P{n:04}_{k}" + (".nii.gz" if n == 2 else "") for n in (1, 2, 3) for k in (0, 1)]
    assert sorted(each["image_id"] for each in found.items) == sorted({*names, "mask.nii.gz"} - {names[0]})
    (refused,) = found.refused
    assert refused["image_id"] == names[0]
    assert any(each["outcome"] == "refused" and "missing" in each["detail"] for each in refused["report"]["checks"])
    assert "P0001" not in str(refused["report"])


def test_ids_without_names_are_hashes(tree):
    found, again = (find_volumes(str(tree), "") for _ in range(2))
    ids = [each["image_id"] for each in found.items + found.refused]
    assert len(set(ids)) == 7
    assert not any("P00" in each for each in ids)
    assert ids == [each["image_id"] for each in again.items + again.refused]


@pytest.mark.parametrize("name", ["images/P0003_1", "images/P0002_0.nii.gz"])
def test_one_series_or_one_file(tree, name):
    found = find_volumes(str(tree / name), "")
    assert (len(found.items), found.refused) == (1, [])


def trained_with(**reader):
    """What a run's model.json says of its reader."""
    return {"preprocessing": {"transforms": [{"_target_": "LoadImaged", "keys": "image", **reader}]}}


@pytest.mark.parametrize(
    ("trained", "gaps", "refused"),
    [
        (None, None, {"images/P0001_0": "1 slice missing"}),
        (trained_with(gaps="resample"), None, {}),
        (trained_with(gaps="resample"), "refuse", {"images/P0001_0": "1 slice missing"}),
        (trained_with(modality="CT"), "resample", {}),
        (
            trained_with(modality="MR", gaps="resample"),
            None,
            {f"images/P{n:04}_{k}": "modality CT" for n in (1, 3) for k in (0, 1)},
        ),
    ],
)
def test_series_are_judged_as_the_run_judged_or_as_asked(tree, trained, gaps, refused):
    found = find_volumes(str(tree), "", trained, file_names=True, gaps=gaps)
    assert {each["image_id"] for each in found.refused} == set(refused)
    for each in found.refused:
        assert refused[each["image_id"]] in str(each["report"]["checks"])


def test_a_series_without_uid_has_a_hash_too(tree, tmp_path):
    for path in sorted((tree / "images/P0003_0").glob("*.dcm")):
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = ""
        dataset.save_as(tmp_path / path.name)
    found = find_volumes(str(tmp_path), "")
    assert [bool(re.fullmatch("[0-9a-f]{16}", item["image_id"])) for item in found.items] == [True]
    assert found.refused == []


def test_reports_name_no_folder_whatever_its_name(tmp_path):
    folder = tmp_path / "Doe: John 1950"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(b"no DICOM")
    (refused,) = find_volumes(str(tmp_path), "").refused
    assert "not a DICOM file" in str(refused)
    assert "John" not in str(refused)
    assert "1950" not in str(refused)


def test_two_copies_of_a_file_have_different_ids(tree, tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        shutil.copy(tree / "images/P0002_0.nii.gz", tmp_path / name)
    first, second = (each["image_id"] for each in find_volumes(str(tmp_path), "").items)
    assert second == f"{first}#2"


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_the_reader_refuses_is_set_aside_to_predict_and_stops_an_evaluation(tree, threads):
    def cache():
        return VolumeCache([LoadImaged("image", reader=VolumeReader("CT"), ensure_channel_first=True)])

    items = find_volumes(str(tree), "", file_names=True).items
    series = SeriesDataset(items, cache(), size=12, spatial_size=64, threads=threads)
    assert series.data == [each for each in items if each["image_id"] != "mask.nii.gz"]
    (refused,) = series.refused
    assert refused["image_id"] == "mask.nii.gz"
    assert "no air" in str(refused["report"]["checks"])
    with pytest.raises(ValueError, match=r"1 of 6 volumes cannot be used; .*\n- mask.nii.gz: HU range: no air"):
        WindowDataset(items, cache(), size=12)


def test_not_more_series_are_prepared_at_once_than_there_are_threads(tree):
    items, lock, inside, most = find_volumes(str(tree), "", file_names=True).items, threading.Lock(), 0, 0

    class Counted(VolumeCache):
        def open(self, item):
            nonlocal inside, most
            with lock:
                inside, most = inside + 1, max(most, inside + 1)
            time.sleep(0.05)
            found = super().open(item)
            with lock:
                inside -= 1
            return found

    cache = Counted([LoadImaged("image", reader=VolumeReader("CT"), ensure_channel_first=True)])
    with pytest.raises(ValueError, match="threads must be at least 0, got -1"):
        SeriesDataset(items, cache, size=12, spatial_size=64, threads=-1)
    SeriesDataset(
        [each for each in items if each["image_id"] != "mask.nii.gz"], cache, size=12, spatial_size=64, threads=2
    )
    assert most == 2


@pytest.mark.parametrize(("name", "reason"), [("nothing", "does not exist"), ("", "no CT series and no NIfTI file")])
def test_a_folder_without_volumes_is_an_error(tmp_path, name, reason):
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(ValueError, match=reason):
        find_volumes(str(tmp_path / name), "")
