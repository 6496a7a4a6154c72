"""The cache of volumes and the data sets of windows on it."""

import argparse
import gc
import json
import logging
import os
import pickle
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.transforms import LoadImaged, RandFlipd, Resized

from ttl_monai.data import (
    Datalist,
    RandomWindowDataset,
    SeriesDataset,
    VolumeCache,
    VolumeReader,
    WindowDataset,
    make_ctpa_phantom,
)
from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.sources import csv


def transforms(size=None):
    load = LoadImaged("image", reader=VolumeReader(modality="CT"), ensure_channel_first=True)
    return [load] if size is None else [load, Resized("image", (size, size, -1), mode="area")]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    make_ctpa_phantom(folder, seed=2, patients=6, shape=(30, 64, 64))
    return folder


@pytest.fixture(scope="module")
def items(phantom):
    datalist = Datalist.load(phantom / "datalist.json", phantom)
    return datalist.section("training")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return VolumeCache(transforms(), tmp_path_factory.mktemp("cache"))


def fake_cache(lengths, report=None):
    """Volumes whose voxels say which slice they are in; items name them by number."""
    facts = report

    class Fake:
        def open(self, item):
            class Opened:
                array = np.arange(lengths[item["image"]], dtype=np.int16)[:, None, None] * np.ones((1, 2, 2), np.int16)
                report = facts

            return Opened

        def prepare(self, data, workers=0):
            return [lengths[item["image"]] for item in data]

    return Fake()


# ---- the cache


def test_a_cached_volume_equals_what_the_reader_gives(items, cache):
    for item in items[:4]:
        array, meta = VolumeReader(modality="CT").get_data((item["image"],))
        for _ in range(2):  # made, then found
            volume = cache.open(item)
            np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))
            np.testing.assert_allclose(volume.affine, meta["affine"])
            assert volume.report["suitable"]
            assert isinstance(volume.array, np.memmap)
            assert not volume.array.flags.writeable


def test_it_is_prepared_once_and_follows_file_and_transforms(items, tmp_path):
    folder = tmp_path / "cache"
    copied = tmp_path / "scan"
    source = Path(next(item["image"] for item in items if not item["image"].endswith(".gz")))
    shutil.copytree(source, copied)
    item = {"image": str(copied), "label": 1}

    def entries():
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}

    assert VolumeCache(transforms(32), folder).open(item).array.shape == (30, 32, 32)
    first = entries()
    VolumeCache(transforms(32), folder).open({**item, "label": 0})
    assert entries() == first
    assert VolumeCache(transforms(48), folder).open(item).array.shape == (30, 48, 48)
    assert len(entries()) == 2
    os.utime(next(copied.iterdir()), ns=(1, 1))
    VolumeCache(transforms(32), folder).open(item)
    assert len(entries()) == 3


def test_resizing_is_the_mean_over_areas(items, tmp_path):
    full = VolumeCache(transforms(), tmp_path / "a").open(items[0]).array.astype(float)
    half = VolumeCache(transforms(32), tmp_path / "b").open(items[0]).array
    expected = full.reshape(30, 32, 2, 32, 2).mean(axis=(2, 4))
    volume = VolumeCache(transforms(32), tmp_path / "b").open(items[0])
    np.testing.assert_allclose(
        volume.read_affine, VolumeReader(modality="CT").get_data((items[0]["image"],))[1]["affine"]
    )
    # the first place of the half is the middle of the first two by two
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], volume.read_affine @ [0.5, 0.5, 0, 1], atol=1e-4)
    np.testing.assert_allclose(half, expected, atol=0.51)


def test_entries_are_private_and_anonymous(items, tmp_path):
    VolumeCache(transforms(), tmp_path / "cache").open(items[0])
    names = sorted((tmp_path / "cache").iterdir())
    assert [path.suffix for path in names] == [".json", ".npy"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in names)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    text = names[0].read_text()
    assert set(json.loads(text)) == {"shape", "affine", "read_affine", "report"}
    assert "P00" not in text + names[0].name
    assert str(items[0]["image"]) not in text


def cut_array(folder):
    path = next(folder.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-1000])


def cut_json(folder):
    path = next(folder.glob("*.json"))
    path.write_bytes(path.read_bytes()[:20])


def other_array(folder):
    np.save(next(folder.glob("*.npy")), np.zeros((2, 2, 2), np.int16))


def pickled_array(folder):
    with next(folder.glob("*.npy")).open("wb") as file:
        pickle.dump([1], file)


@pytest.mark.parametrize("damage", [cut_array, cut_json, other_array, pickled_array])
def test_damaged_entries_are_made_anew(items, tmp_path, caplog, damage):
    cache = VolumeCache(transforms(), tmp_path / "cache")
    whole = np.array(cache.open(items[0]).array)
    damage(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cache.open(items[0]).array, whole)
    assert "is damaged" in caplog.text
    np.testing.assert_array_equal(np.load(next((tmp_path / "cache").glob("*.npy"))), whole)


def test_wrong_transforms_are_refused(items, tmp_path):
    with pytest.raises(ValueError, match="must not depend on chance, but RandFlipd does"):
        VolumeCache([*transforms(), RandFlipd("image")], tmp_path)
    with pytest.raises(ValueError, match=r"must end with 'image' of shape \(1, I, J, K\), got \(64, 64, 30\)"):
        VolumeCache([LoadImaged("image", reader=VolumeReader())], tmp_path).open(items[0])
    assert not list(tmp_path.glob("*.tmp"))


# ---- all windows


def test_all_windows_in_order_with_their_labels(items, cache):
    data = WindowDataset(items, cache, size=12, min_slices=3, workers=0)
    assert len(data) == 3 * len(items)  # 30 slices: 12, 12 and 6
    for index, window in enumerate(data):
        item = items[index // 3]
        start = 12 * (index % 3)
        assert (window["start"], window["label"]) == (start, item["label"])
        assert (window["patient"], window["image_id"]) == (item["patient"], item["image_id"])
        assert window["window_label"] == (len(set(item["slices"]) & set(range(start, start + 12))) >= 3)
        assert window["image"].shape == (1, 12, 64, 64)
        assert window["image"].dtype == torch.int16
        assert {**data.data[index], "image": 0}.items() <= {**window, "image": 0}.items()
    assert (window["image"][:, 6:] == -1000).all()
    assert {window["window_label"] for window in data} == {0, 1}


def test_windows_for_the_network_are_the_scaled_centre(items, cache):
    raw, ready = (WindowDataset(items[:2], cache, size=12, spatial_size=size) for size in (None, 48))
    for a, b in zip(raw, ready, strict=True):
        expected = ((a["image"][..., 8:56, 8:56].float() + 100) / 1000).clamp(0, 1)
        torch.testing.assert_close(b["image"], expected)
        assert {**a, "image": 0} == {**b, "image": 0}


def test_fixed_windows_for_training_have_their_own_labels(items, cache):
    fixed = RandomWindowDataset(items, cache, size=12, min_slices=3, fixed=True, spatial_size=64)
    every = WindowDataset(items, cache, size=12, min_slices=3, spatial_size=64)
    assert len(fixed) == len(every) == len(fixed.data)
    assert [each["label"] for each in fixed] == [each["window_label"] for each in every]
    assert [each["label"] for each in fixed] != [each["label"] for each in every]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(fixed, every, strict=True))


def test_preparing_volumes_draws_no_random_number(items, tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    VolumeCache(transforms(), tmp_path).prepare(items[:1])
    assert torch.rand(1) == expected


def test_a_cache_without_a_folder_goes_with_the_object(items):
    cache = VolumeCache(transforms())
    folder = cache.cache_dir
    assert WindowDataset(items[:1], cache, size=12)[0]["image"].shape == (1, 12, 64, 64)
    assert len(list(folder.glob("*.npy"))) == 1
    del cache
    gc.collect()
    assert not folder.exists()


def test_wrong_options_of_windows_are_refused(items, cache):
    with pytest.raises(ValueError, match="label must be 'series' or 'window', got 'slice'"):
        WindowDataset(items, cache, label="slice")
    with pytest.raises(ValueError, match="between 1 and crop_from"):
        WindowDataset(items, cache, spatial_size=65)[0]


def test_items_without_labels_have_none(cache, items):
    data = WindowDataset([{"image": items[0]["image"]}], cache, size=12)
    assert set(data[0]) == {"image", "start"}


# ---- whole series


def test_a_series_holds_the_windows_of_the_evaluation_one_after_the_other(items, cache):
    windows = WindowDataset(items, cache, size=12, spatial_size=48)
    series = SeriesDataset(items, cache, size=12, spatial_size=48)
    assert len(series) == len(items)
    for index, each in enumerate(series):
        assert each["image_id"] == items[index]["image_id"]
        assert each["image"].shape == (1, 36, 48, 48)  # 30 slices, and 6 of air
        expected = torch.cat([windows[3 * index + number]["image"] for number in range(3)], dim=1)
        assert torch.equal(each["image"], expected)
    assert (each["image"][:, 30:] == 0).all()


def test_a_series_says_where_its_slices_and_voxels_lie(items, cache):
    """The phantom spans 240 mm about its middle: 30 slices of 8 mm."""
    (series,) = SeriesDataset(items[:1], cache, size=12, spatial_size=48)
    np.testing.assert_allclose(series["slice_mm"], np.arange(-116, 117, 8))
    volume = cache.open(items[0])
    for i, j, k in ((0, 0, 0), (47, 0, 3), (5, 40, 29)):
        np.testing.assert_allclose(series["affine"] @ [i, j, k, 1], volume.affine @ [i + 8, j + 8, k, 1])


# ---- volumes and slice labels that do not fit


def test_all_that_the_reader_refuses_is_named_in_one_error(items, tmp_path):
    bad = [{**item, "image_id": f"scan {n}", "image": str(tmp_path / f"DOE{n}")} for n, item in enumerate(items[:2])]
    for item in bad:
        Path(item["image"]).mkdir()
    cache = VolumeCache(transforms(), tmp_path / "cache")
    reason = (
        r"^2 of 4 volumes cannot be used; mend them or take their rows out of the datalist:\n"
        r"- scan 0: choice: no series fits.*\n- scan 1: choice: no series fits.*$"
    )
    for workers in (0, 1):
        with pytest.raises(ValueError, match=reason) as caught:
            WindowDataset([bad[0], items[2], bad[1], items[3]], cache, size=12, workers=workers)
        assert "DOE" not in str(caught.value)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_of_many_refused_volumes_ten_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^12 of 12 volumes (.|\n)*\n- number 9: .*\n- 2 more$"):
        VolumeCache(transforms()).prepare([{"image": str(tmp_path / "empty")}] * 12)


@pytest.mark.parametrize("data_set", [WindowDataset, RandomWindowDataset])
@pytest.mark.parametrize(
    ("slices", "check", "reason"),
    [
        ([26, 27, 28, 30], None, "'slices' names 30, but the volume has 30 slices: they count from 0 at the feet"),
        ([-1, 0, 1, 2], None, "'slices' names -1, but the volume has 30 slices"),
        ([1, 2, 3, 4], ("spacing", "corrected"), "do not fit, as the reader changed the slices .spacing: why.; label"),
        ([1, 2, 3, 4], ("repeated slices", "corrected"), r"reader changed the slices \(repeated slices: why\)"),
        ([1, 2, 3, 4], ("spacing", "passed"), None),
        ([1, 2, 3, 4], ("gantry tilt", "corrected"), None),
        ([26, 27, 28, 29], None, None),
    ],
)
def test_slice_labels_that_do_not_fit_are_refused(data_set, slices, check, reason):
    report = {"checks": [dict(zip(("name", "outcome"), check, strict=True), detail="why")]} if check else None
    item = {"image": "a", "image_id": "id 7", "label": 1, "slices": slices}
    # Without slice labels, nothing can be wrong with them.
    data = [item, {"image": "a", "image_id": "id 8", "label": 0, "slices": []}]

    def read():
        windows = data_set(data, fake_cache({"a": 30}, report), size=8, min_slices=4)
        return [windows[n] for n in range(len(windows))] * 9

    if reason is None:
        assert read()
    else:
        with pytest.raises(ValueError, match=rf"^1 of \d volumes cannot be used; .*:\n- id 7: .*{reason}"):
            read()


@pytest.mark.parametrize("change", ["missing", "repeated"])
def test_the_reader_notes_what_shifts_slice_labels(items, tmp_path, change):
    """The names of the checks, by the reader itself."""
    source = Path(next(item["image"] for item in items if not item["image"].endswith(".gz")))
    shutil.copytree(source, tmp_path / "scan")
    if change == "missing":
        (tmp_path / "scan/012.dcm").unlink()
    else:
        shutil.copy(source / "012.dcm", tmp_path / "scan/again.dcm")
    reader = VolumeReader(modality="CT", gaps="resample")
    cache = VolumeCache([LoadImaged("image", reader=reader, ensure_channel_first=True)])
    item = {"image": str(tmp_path / "scan"), "image_id": "id 7", "label": 1, "slices": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match="id 7: 'slices' do not fit, as the reader changed the slices"):
        WindowDataset([item], cache, size=12)
    assert len(WindowDataset([item | {"slices": []}], cache, size=12)) == 3


def test_slices_of_a_table_reach_the_windows(phantom, cache, tmp_path):
    """`ttl datalist csv --slices` on the phantom's table, against the phantom's own list."""
    parser = argparse.ArgumentParser()
    csv.add_arguments(parser)
    columns = ["--image", "image", "--patient", "patient_id", "--label", "label", "--slices", "slices"]
    arguments = parser.parse_args([str(phantom / "labels.csv"), *columns])
    arguments.dataset_dir = phantom
    table = csv.read(arguments)
    (made,) = build_datalists(table, phantom, header={"name": "x"}, site_key=None, repeats=1, hash_files=False)
    (tmp_path / "list.json").write_text(to_json(made))
    lists = [Datalist.load(path, phantom) for path in (tmp_path / "list.json", phantom / "datalist.json")]
    found, expected = (
        {item["image"]: item["slices"] for name in each.entries for item in each.section(name)} for each in lists
    )
    assert found == expected
    windows = RandomWindowDataset(lists[0].section("training"), cache, size=12, positive_fraction=1)
    windows.set_random_state(0)
    for n in range(4):
        window = windows[n]
        slices = expected[str(phantom / window["image_id"])]
        assert window["label"] == 1
        assert len(set(slices) & set(range(window["start"], window["start"] + 12))) >= 4


# ---- random windows


def test_forced_windows_are_positive_and_centred_with_jitter():
    lengths = {"a": 100, "b": 60}
    data = [{"image": "a", "label": 1, "slices": list(range(40, 50))}, {"image": "b", "label": 0, "slices": []}]
    windows = RandomWindowDataset(data, fake_cache(lengths), size=24, positive_fraction=1, jitter=12)
    windows.set_random_state(0)
    drawn = [windows[n % 2] for n in range(300)]
    assert all(window["label"] == 1 for window in drawn)
    starts = np.array([window["start"] for window in drawn])
    assert starts.min() == 45 - 12 - 12
    assert starts.max() == 45 - 12 + 12
    assert len(set(starts.tolist())) == 25
    for window in drawn[:20]:
        np.testing.assert_array_equal(window["image"][0, :, 0, 0], np.arange(24) + window["start"])


def test_other_windows_lie_anywhere_and_the_label_says_what_is_inside():
    slices = [10, 11, 12, 13]
    windows = RandomWindowDataset(
        [{"image": "a", "label": 1, "slices": slices}], fake_cache({"a": 60}), size=24, positive_fraction=0
    )
    windows.set_random_state(0)
    drawn = [windows[0] for _ in range(400)]
    assert {window["start"] for window in drawn} == set(range(37))
    assert all(window["label"] == (window["start"] <= 10) for window in drawn)


@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_the_share_of_forced_windows(fraction):
    data = [{"image": "a", "label": 1, "slices": [5, 6, 7, 8]}, *({"image": "b", "label": 0} for _ in range(9))]
    windows = RandomWindowDataset(
        data, fake_cache({"a": 30, "b": 30}), positive_fraction=fraction, windows_per_series=2
    )
    windows.set_random_state(0)
    assert len(windows) == 20
    labels = [windows[1]["label"] for _ in range(800)]
    assert np.mean(labels) == pytest.approx(fraction, abs=0.05)


def test_findings_in_distant_places_and_short_series():
    data = [{"image": "a", "label": 1, "slices": [*range(5, 11), *range(150, 156)]}]
    windows = RandomWindowDataset(data, fake_cache({"a": 200}), positive_fraction=1, jitter=3)
    windows.set_random_state(0)
    assert all(windows[0]["label"] == 1 for _ in range(50))
    short = RandomWindowDataset(
        [{"image": "a", "label": 1, "slices": [2, 3, 4, 5]}], fake_cache({"a": 10}), positive_fraction=1
    )
    window = short[0]
    assert (window["start"], window["label"], window["image"].shape) == (0, 1, (1, 24, 2, 2))
    assert (window["image"][0, 10:] == -1000).all()


def test_positives_without_slice_labels_are_left_out():
    data = [{"image": "a", "label": 1, "slices": []}, {"image": "b", "label": 0}, {"image": "a", "label": 1}]
    windows = RandomWindowDataset(data, fake_cache({"a": 30, "b": 30}), positive_fraction=0)
    assert [item["image"] for item in windows.data] == ["b"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"positive_fraction": 1.5}, r"expected positive_fraction in \[0, 1\]"),
        ({"jitter": -1}, "jitter >= 0"),
        ({"windows_per_series": 0}, "windows_per_series >= 1"),
        ({"min_slices": 25}, "expected 1 <= min_slices <= size"),
        ({}, "1 series, 1 negative or with slice labels, 0 with at least 4 positive slices"),
    ],
)
def test_options_that_cannot_work_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        RandomWindowDataset([{"image": "b", "label": 0}], fake_cache({"b": 30}), **options)


def test_a_seed_decides_the_windows_with_workers_too(items, cache):
    def epoch(seed, workers):
        data = RandomWindowDataset(items, cache, size=12, min_slices=3)
        set_rnd(data, seed)
        torch.manual_seed(seed)
        loader = DataLoader(data, batch_size=4, num_workers=workers)
        return torch.cat([batch["start"] for batch in loader])

    assert torch.equal(epoch(0, 0), epoch(0, 0))
    assert not torch.equal(epoch(0, 0), epoch(1, 0))
    assert torch.equal(epoch(0, 1), epoch(0, 1))
