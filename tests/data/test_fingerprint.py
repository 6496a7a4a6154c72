"""Hashes of items and transforms: equal in all processes, different where the meaning is."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, Resized, ToTensord, Transform

from ttl_monai.data.fingerprint import hash_item, hash_transforms

CODE = """
from monai.transforms import LoadImaged, Resized, ToTensord
from ttl_monai.data import CenterSquareCropd, XrayReader
from ttl_monai.data.fingerprint import hash_transforms
keys = "".join(["im", "age"])
made = hash_transforms([
    LoadImaged(keys, image_only=True, reader=XrayReader()), CenterSquareCropd(keys), Resized(keys, (8, 8)),
    ToTensord(keys, track_meta=False)])
"""


def test_hash_of_transforms_is_the_same_in_another_process():
    here: dict = {}
    exec(CODE.replace('"".join(["im", "age"])', '"image"'), here)
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE + "print(made.decode())"],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert there.stdout.strip() == here["made"].decode()
    assert len(here["made"]) == 64


def test_running_a_transform_does_not_change_its_hash():
    transforms = [Resized("image", (8, 8)), ToTensord("image")]
    before = hash_transforms(transforms)
    Compose(transforms)({"image": torch.rand(1, 4, 4)})
    assert hash_transforms(transforms) == before


class Holder(Transform):
    def __init__(self, value):
        self.value = value

    def __call__(self, data):
        return data


def add(x, y):
    return x + y


VALUES = [
    None, True, 1, 1.5, "a", b"a", (1, 2), [2, 1], {"a": 1}, {"a": 2}, {1, 2}, torch.float16, torch.device("cpu"),
    np.arange(3), np.arange(3.0), torch.zeros(2), torch.ones(2), functools.partial(add, 1), functools.partial(add, 2),
    add, np.add, len, np.float32, Resized("a", 3), Resized("b", 3), lambda x: x + 1, lambda x: x + 2, slice(1),
    slice(2), "a".upper, np,
]  # fmt: skip


def test_each_value_has_its_own_hash_and_keeps_it():
    first = [hash_transforms([Holder(value)]) for value in VALUES]
    assert len(set(first)) == len(VALUES)
    assert first == [hash_transforms([Holder(value)]) for value in VALUES]


def test_a_transform_that_holds_itself_ends():
    holder = Holder(None)
    holder.value = [holder]
    assert len(hash_transforms([holder])) == 64


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(TypeError, match=r"a cached transform holds a .*object.*, and whether that changes"):
        hash_transforms([Lambdad("image", functools.partial(add, object()))])


def test_hash_of_an_item(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"123")
    item = {"image": str(path), "label": np.array([1.0, np.nan])}
    first = hash_item(item)
    assert first == hash_item({"label": np.array([1.0, np.nan]), "image": path})  # order and type of path: no matter
    assert first != hash_item({**item, "label": np.array([1.0, 0.0])})
    path.write_bytes(b"1234")
    assert first != hash_item(item)


def test_a_folder_stands_for_its_files(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"1")
    first = hash_item({"image": str(tmp_path / "series")})
    (tmp_path / "series" / "1.dcm").write_bytes(b"12")
    second = hash_item({"image": str(tmp_path / "series")})
    (tmp_path / "series" / "2.dcm").write_bytes(b"2")
    third = hash_item({"image": str(tmp_path / "series")})
    assert len({first, second, third}) == 3
    assert hash_item({"image": [str(tmp_path / "series" / "1.dcm")]}) != first
