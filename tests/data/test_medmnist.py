"""MedMNIST: 2D and 3D files as published, written out and listed with their split."""

import argparse
import sys
import types

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from ttl_monai.data import Datalist, VolumeReader
from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.sources import medmnist

COUNTS = {"train": 6, "val": 4, "test": 4}


def arrays(shape, labels=lambda count: np.arange(count) % 2, seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for short, count in COUNTS.items():
        made[f"{short}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        found = np.asarray(labels(count), dtype=np.uint8)
        made[f"{short}_labels"] = found.reshape(count, -1)
    return made


def save(folder, name, content):
    np.savez(folder / name, **content)
    return folder / name


def read(path, *options):
    parser = argparse.ArgumentParser()
    medmnist.add_arguments(parser)
    arguments = parser.parse_args([str(path), *options])
    arguments.dataset_dir = path.parent
    return medmnist.read(arguments), arguments


@pytest.mark.parametrize(
    ("name", "shape", "labels", "task"),
    [
        ("pneumoniamnist_64.npz", (64, 64), lambda n: np.arange(n) % 2, "binary"),
        ("dermamnist.npz", (28, 28, 3), lambda n: np.arange(n) % 7, "multi-class"),
        ("chestmnist.npz", (28, 28), lambda n: np.eye(14)[np.arange(n)], "multi-label"),
    ],
)
def test_two_dimensions_become_png(tmp_path, name, shape, labels, task):
    content = arrays(shape, labels)
    table, arguments = read(save(tmp_path, name, content))
    assert table.task == task
    assert table.class_names == list(medmnist.CLASS_NAMES[name.split("_")[0].removesuffix(".npz")])
    assert [record.row for record in table.records] == list(range(1, 15))
    assert list(table.sections.values()) == ["training"] * 6 + ["validation"] * 4 + ["test"] * 4
    record = table.records[7]
    assert record.image == f"{name.removesuffix('.npz')}/val00001.png"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / record.image)), content["val_images"][1])
    np.testing.assert_array_equal(np.atleast_1d(record.label), content["val_labels"][1])
    assert arguments.licence == ("CC BY-NC 4.0" if name.startswith("derma") else "CC BY 4.0")


def test_three_dimensions_become_volumes_that_the_3d_bundle_reads(tmp_path):
    content = arrays((12, 10, 8))
    content["train_images"][0, 0] = 0
    table, _ = read(save(tmp_path, "adrenalmnist3d_64.npz", content), "--spacing", "2.5")
    assert (table.task, table.class_names) == ("binary", ["normal", "hyperplasia"])
    image = nib.load(tmp_path / table.records[0].image)
    values = content["train_images"][0].astype(float)
    hu = np.where(values > 0, values / 255 * 1000 - 100, -1000)
    np.testing.assert_allclose(image.get_fdata(), hu, atol=0.5)
    assert image.header.get_zooms() == (2.5, 2.5, 2.5)
    assert table.slices[table.records[0].image] == []
    assert table.slices[table.records[1].image] == list(range(12))
    loaded = LoadImaged("image", reader=VolumeReader(modality="CT"))({"image": str(tmp_path / table.records[0].image)})
    assert np.prod(loaded["image"].shape) == 960


def test_the_published_split_makes_one_list(tmp_path):
    path = save(tmp_path, "pneumoniamnist.npz", arrays((28, 28)))
    table, _ = read(path)
    (made,) = build_datalists(table, tmp_path, header={"name": "p", "source": "", "licence": ""}, site_key=None)
    assert made["split"] == "published"
    (tmp_path / "list.json").write_text(to_json(made))
    assert len(Datalist.load(tmp_path / "list.json", tmp_path).section("test")) == 4


def test_a_second_run_writes_nothing_anew(tmp_path):
    path = save(tmp_path, "pneumoniamnist.npz", arrays((28, 28)))
    first = [(tmp_path / record.image).stat().st_mtime_ns for record in read(path)[0].records]
    assert [(tmp_path / record.image).stat().st_mtime_ns for record in read(path)[0].records] == first


GOOD = arrays((28, 28))
LACKING = {key: value for key, value in GOOD.items() if key != "val_labels"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pneumoniamnist.npz", None, "there is no pneumoniamnist.npz in .*; --download fetches it"),
        ("mine.npz", GOOD, "mine.npz is not named as MedMNIST names its files"),
        ("pneumoniamnist.npz", b"text", "no file of MedMNIST, or damaged"),
        ("pneumoniamnist.npz", LACKING, "lacks the arrays val_labels"),
        (
            "pneumoniamnist.npz",
            {**GOOD, "val_images": GOOD["val_images"] / 255},
            "expected 8-bit images .* got float64",
        ),
        ("pneumoniamnist.npz", {**GOOD, "val_labels": GOOD["val_labels"][:2]}, "8-bit images with a label each"),
        ("pneumoniamnist.npz", {**GOOD, "val_labels": GOOD["val_labels"] + 1}, r"expected one of 0 to 1\): rows 8, 10"),
        ("chestmnist.npz", {**GOOD, "train_labels": np.zeros((6, 3), np.uint8)}, r"expected 14 values 0 or 1\): row 1"),
        ("pneumoniamnist.npz", {**GOOD, "val_labels": np.array([{}] * 4)}, "damaged: Object arrays cannot be loaded"),
    ],
)
def test_refuses(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        save(tmp_path, name, content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_download_goes_through_the_package_or_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(ValueError, match=r"needs the medmnist package: pip install 'ttl-monai\[medmnist\]'"):
        read(tmp_path / "pneumoniamnist_64.npz", "--download")

    def fetch(**options):
        assert options == {"split": "test", "download": True, "root": str(tmp_path), "size": 64}
        save(tmp_path, "pneumoniamnist_64.npz", GOOD)

    package = types.SimpleNamespace(INFO={"pneumoniamnist": {"python_class": "Kind"}}, Kind=fetch)
    monkeypatch.setitem(sys.modules, "medmnist", package)
    assert len(read(tmp_path / "pneumoniamnist_64.npz", "--download")[0].records) == 14

    def fail(**_):
        raise RuntimeError("no network")

    package.Kind = fail
    (tmp_path / "pneumoniamnist_64.npz").unlink()
    with pytest.raises(ValueError, match=r"could not be downloaded \(no network\); fetch it by hand"):
        read(tmp_path / "pneumoniamnist_64.npz", "--download")
