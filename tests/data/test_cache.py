"""The cache: never stale, self-healing, safe for several writers, and without patient data."""

import logging
import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    MapTransform,
    RandGaussianNoised,
    Resized,
    ScaleIntensityd,
    ToTensord,
)
from PIL import Image
from pydicom.data import get_testdata_file

from ttl_monai.data import CachedDataset, CenterSquareCropd, XrayReader

CANARY = "CANARYNAME"


class Count(MapTransform):
    """Counts how often the chain before the cache is run, in a file, so that processes can share it."""

    def __init__(self, keys, log):
        super().__init__(keys)
        self.log = log

    def __call__(self, data):
        with Path(self.log).open("a") as file:
            file.write("x")
        return data


def chain(log, size=16):
    return [
        LoadImaged("image", image_only=True, reader=XrayReader()),
        EnsureChannelFirstd("image"),
        CenterSquareCropd("image"),
        Resized("image", (size, size)),
        Count("image", str(log)),
    ]


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").touch()
    return tmp_path / "log"


@pytest.fixture
def items(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    made = []
    for n in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / f"{n}.png")
        made.append({"image": str(folder / f"{n}.png"), "label": n % 2, "patient": f"p{n}"})
    return made


def runs(log):
    return len(log.read_text())


def entries(folder):
    return sorted(Path(folder).iterdir())


def test_second_reading_is_a_hit_with_equal_values(tmp_path, items, log):
    first = [CachedDataset(items, chain(log), tmp_path / "cache")[n] for n in range(4)]
    assert runs(log) == 4
    second = [CachedDataset(items, chain(log), tmp_path / "cache")[n] for n in range(4)]
    assert runs(log) == 4
    plain = [CachedDataset(items, chain(log), None)[n] for n in range(4)]
    assert runs(log) == 8
    for a, b, c, item in zip(first, second, plain, items, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert set(a) == set(b) == set(c) == set(item)
        assert (a["label"], a["patient"]) == (b["label"], b["patient"]) == (item["label"], item["patient"])
        for image in (a["image"], b["image"], c["image"]):
            assert type(image) is torch.Tensor
            assert image.dtype == torch.float32
            assert image.shape == (1, 16, 16)
        torch.testing.assert_close(a["image"], c["image"], atol=2.5e-4, rtol=0)
    assert len(entries(tmp_path / "cache")) == 4


def test_images_take_two_bytes_a_pixel(tmp_path, items, log):
    CachedDataset(items, chain(log, size=64), tmp_path / "cache")[0]
    size = entries(tmp_path / "cache")[0].stat().st_size
    assert 2 * 64 * 64 <= size < 2 * 64 * 64 + 500


def test_values_that_16_bits_cannot_hold_keep_32(tmp_path, items):
    transform = [LoadImaged("image", image_only=True, reader=XrayReader()), Lambdad("image", lambda x: x * 1e6)]
    for _ in range(2):
        image = CachedDataset(items, transform, tmp_path / "cache")[0]["image"]
        assert image.max() > 9e5
        assert torch.isfinite(image).all()


def test_labels_keep_their_type_and_nan(tmp_path, items):
    item = {**items[0], "label": np.array([1.0, np.nan, 70000.0], np.float32), "weight": 0.25}
    transform = [LoadImaged("image", image_only=True, reader=XrayReader()), ToTensord("weight")]
    for _ in range(2):
        result = CachedDataset([item], transform, tmp_path / "cache")[0]
        np.testing.assert_array_equal(result["label"].numpy(), item["label"])
        assert result["label"].dtype == torch.float32
        assert float(result["weight"]) == 0.25


# ---- never stale


def test_changed_file_is_read_again(tmp_path, items, log):
    dataset = CachedDataset(items, chain(log), tmp_path / "cache")
    before = dataset[0]["image"]
    path = Path(items[0]["image"])
    status = path.stat()
    Image.fromarray(np.full((20, 30), 77, np.uint8)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = dataset[0]["image"]
    assert runs(log) == 2
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, torch.full((1, 16, 16), 77 / 255), atol=2.5e-4, rtol=0)


def test_same_name_in_another_folder_is_another_item(tmp_path, items, log):
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "images", other)  # keeps size and time
    moved = [{**item, "image": item["image"].replace("/images/", "/other/")} for item in items]
    CachedDataset(items, chain(log), tmp_path / "cache")[0]
    CachedDataset(moved, chain(log), tmp_path / "cache")[0]
    assert runs(log) == 2


@pytest.mark.parametrize("relabelled", [{"label": 5}, {"label": torch.tensor([1.0])}])
def test_changed_label_is_given_back(tmp_path, items, log, relabelled):
    CachedDataset(items, chain(log), tmp_path / "cache")[0]
    result = CachedDataset([{**items[0], **relabelled}], chain(log), tmp_path / "cache")[0]
    assert float(result["label"]) == float(relabelled["label"])


def scaled(factor):
    def scale(x):
        return x * factor

    return scale


FACTOR = 2.0


def by_global(x):
    return x * FACTOR


class Times(MapTransform):
    def __init__(self, keys, factor):
        super().__init__(keys)
        self.factor = factor

    def __call__(self, data):
        return {**data, **{key: data[key] * self.factor for key in self.key_iterator(data)}}


class Halve(Times):
    def __call__(self, data):
        return {**data, **{key: data[key] * self.factor / 2 for key in self.key_iterator(data)}}


LOAD = LoadImaged("image", image_only=True, reader=XrayReader())
CHANGES = [
    # two chains whose results differ
    ([LOAD, Resized("image", 8, size_mode="longest")], [LOAD, Resized("image", 9, size_mode="longest")]),
    ([LOAD], [LOAD, ScaleIntensityd("image")]),
    ([LOAD], [LoadImaged("image", image_only=True, reader=XrayReader(channels=3))]),
    ([LOAD, Lambdad("image", lambda x: x * 2)], [LOAD, Lambdad("image", lambda x: x * 3)]),
    ([LOAD, Lambdad("image", scaled(2))], [LOAD, Lambdad("image", scaled(3))]),
    ([LOAD, Times("image", 2)], [LOAD, Times("image", 3)]),
    ([LOAD, Times("image", np.array([2.0]))], [LOAD, Times("image", np.array([3.0]))]),
    ([LOAD, Times("image", 2)], [LOAD, Halve("image", 2)]),
    ([Compose([LOAD, Times("image", 2)])], [Compose([LOAD, Times("image", 4)])]),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_changed_transform_is_run_again(tmp_path, items, before, after):
    CachedDataset(items, before, tmp_path / "cache")[0]
    cached = CachedDataset(items, after, tmp_path / "cache")[0]["image"]
    torch.testing.assert_close(cached, CachedDataset(items, after)[0]["image"], atol=2e-3, rtol=0)
    assert len(entries(tmp_path / "cache")) == 2


def test_changed_global_of_a_function_is_seen(tmp_path, items, monkeypatch):
    transform = [LOAD, Lambdad("image", by_global)]
    before = CachedDataset(items, transform, tmp_path / "cache")[0]["image"]
    monkeypatch.setitem(by_global.__globals__, "FACTOR", 4.0)
    after = CachedDataset(items, transform, tmp_path / "cache")[0]["image"]
    torch.testing.assert_close(after, before * 2)


def test_random_transforms_stay_random_and_do_not_change_the_entry(tmp_path, items, log):
    for std in (0.1, 0.5):
        transform = [*chain(log), RandGaussianNoised("image", prob=1.0, std=std)]
        dataset = CachedDataset(items, transform, tmp_path / "cache")
        assert not torch.equal(dataset[0]["image"], dataset[0]["image"])
    assert runs(log) == 1


def test_set_data_keeps_the_entries(tmp_path, items, log):
    dataset = CachedDataset(items[:2], chain(log), tmp_path / "cache")
    dataset[0], dataset[1]
    dataset.set_data(items)
    assert len(dataset) == 4
    dataset[0]
    assert runs(log) == 2


# ---- damaged entries


def _empty(path):
    path.write_bytes(b"")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _garbage(path):
    path.write_bytes(os.urandom(600))


def _zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 0xFF
    path.write_bytes(content)


def _pickle(path):
    torch.save({"image": torch.zeros(1, 16, 16)}, path)


def _other(path):
    from safetensors.torch import save_file

    save_file({"image": torch.zeros(1, 16, 16)}, path)


@pytest.mark.parametrize("damage", [_empty, _cut, _garbage, _zeros, _flipped, _pickle, _other])
def test_damaged_entry_heals_itself(tmp_path, items, log, caplog, damage):
    dataset = CachedDataset(items, chain(log), tmp_path / "cache")
    good = dataset[0]["image"]
    damage(entries(tmp_path / "cache")[0])
    with caplog.at_level(logging.DEBUG):
        assert torch.equal(dataset[0]["image"], good)
    assert "is damaged" in caplog.text
    caplog.clear()
    assert torch.equal(dataset[0]["image"], good)
    assert "damaged" not in caplog.text
    assert runs(log) == 2
    assert len(entries(tmp_path / "cache")) == 1


def test_full_disk_costs_time_only(tmp_path, items, log, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with caplog.at_level(logging.WARNING):
        assert CachedDataset(items, chain(log), tmp_path / "cache")[0]["image"].shape == (1, 16, 16)
    assert "No space left on device" in caplog.text
    assert entries(tmp_path / "cache") == []


def test_left_temporary_files_are_cleared(tmp_path, items, log):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for name, age in (("old.tmp", 7200), ("new.tmp", 5)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    CachedDataset(items, chain(log), folder)
    assert [path.name for path in entries(folder)] == ["new.tmp"]


def test_broken_image_is_not_cached(tmp_path, items, log):
    Path(items[0]["image"]).write_text("broken")
    dataset = CachedDataset(items, chain(log), tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            dataset[0]
    assert entries(tmp_path / "cache") == []


# ---- several readers and writers


def test_loader_workers_fill_it_together(tmp_path, items, log):
    data = items * 3
    for _ in range(2):
        dataset = CachedDataset(data, chain(log), tmp_path / "cache")
        loader = DataLoader(dataset, batch_size=3, num_workers=2)
        images = torch.cat([batch["image"] for batch in loader])
        expected = torch.stack([CachedDataset(items, chain(log))[n]["image"] for n in range(4)] * 3)
        torch.testing.assert_close(images, expected, atol=2.5e-4, rtol=0)
    assert len(entries(tmp_path / "cache")) == 4


def _read_all(items, log, folder, barrier, results):
    dataset = CachedDataset(items, chain(log), folder)
    barrier.wait()
    results.put([float(dataset[n % 4]["image"].sum()) for n in range(40)])


def test_two_processes_at_once(tmp_path, items, log):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_read_all, args=(items, log, tmp_path / "cache", barrier, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    sums = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sums[0] == sums[1]
    assert len(entries(tmp_path / "cache")) == 4


# ---- privacy


def test_no_patient_data_in_the_cache(tmp_path, log):
    folder = tmp_path / CANARY
    folder.mkdir()
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.PatientName, dataset.PatientID, dataset.StudyDescription = f"{CANARY}^TAG", CANARY, CANARY
    dataset.save_as(folder / f"{CANARY}.dcm")
    assert CANARY.encode() in (folder / f"{CANARY}.dcm").read_bytes()
    item = {"image": str(folder / f"{CANARY}.dcm"), "label": 1, "patient": CANARY, "image_id": CANARY}
    transform = [*chain(log), Lambdad("image", lambda x: MetaTensor(x, meta={"name": CANARY}))]
    cache = tmp_path / "cache"
    for _ in range(2):
        result = CachedDataset([item], transform, cache)[0]
        assert result["patient"] == CANARY
        assert not hasattr(result["image"], "meta")
    assert len(entries(cache)) == 1
    for entry in entries(cache):
        assert CANARY not in entry.name
        assert CANARY.encode() not in entry.read_bytes()
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_damage_is_reported_without_the_name_of_the_image(tmp_path, items, log, caplog):
    dataset = CachedDataset(items, chain(log), tmp_path / "cache")
    dataset[0]
    _empty(entries(tmp_path / "cache")[0])
    with caplog.at_level(logging.DEBUG, logger="ttl_monai"):
        dataset[0]
    assert items[0]["image"] not in caplog.text


def test_folder_of_others_is_made_private_or_named(tmp_path, items, log, caplog):
    (tmp_path / "empty").mkdir(mode=0o755)
    CachedDataset(items, chain(log), tmp_path / "empty")
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    (tmp_path / "used").mkdir()
    (tmp_path / "used").chmod(0o755)
    (tmp_path / "used" / "thing").touch()
    with caplog.at_level(logging.WARNING):
        CachedDataset(items, chain(log), tmp_path / "used")
    assert "can be read by others" in caplog.text
    assert stat.S_IMODE((tmp_path / "used").stat().st_mode) == 0o755


# ---- misuse


def test_a_changed_string_cannot_be_cached(tmp_path, items):
    transform = [Lambdad("patient", str.upper)]
    with pytest.raises(TypeError, match="must leave 'patient' as it is or turn it into a tensor, got str"):
        CachedDataset(items, transform, tmp_path / "cache")[0]


def test_items_are_dicts(tmp_path, items, log):
    with pytest.raises(TypeError, match=r"items must be dicts .* got str"):
        CachedDataset([items[0]["image"]], chain(log), tmp_path / "cache")[0]


def test_cache_dir_is_a_folder(items, log):
    with pytest.raises(ValueError, match="cache_dir must be a folder, got the file"):
        CachedDataset(items, chain(log), log)
