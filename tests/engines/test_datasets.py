import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import made_volume, write_series
from ttl_monai.engines import inference_items
from ttl_monai.engines.datasets import check_classes


class List:
    name = "other"
    class_names = ("normal", "ill")


def test_items_of_a_folder_are_pseudonymous_by_default(tmp_path):
    folder = tmp_path / "DOE^JANE"
    folder.mkdir()
    for name in ("b.png", "a.png"):
        (folder / name).write_bytes(name.encode())
    items = inference_items(str(folder), "")
    assert [item["image"] for item in items] == [str(folder / "a.png"), str(folder / "b.png")]
    assert [item["image_id"] for item in items] == [hashlib.sha256(n).hexdigest()[:16] for n in (b"a.png", b"b.png")]


def test_names_are_relative_to_the_folder_on_request(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.png").write_bytes(b"x")
    assert inference_items(str(tmp_path), "", file_names=True)[0]["image_id"] == "sub/a.png"
    assert inference_items(str(tmp_path / "sub/a.png"), "", file_names=True)[0]["image_id"] == "a.png"


def test_files_of_equal_content_are_one_item_unless_they_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, shade in (("a", 3), ("b", 3), ("c", 4)):
        Image.fromarray(np.full((8, 8), shade, np.uint8)).save(tmp_path / f"{name}.png")
    assert [Path(item["image"]).name for item in inference_items(str(tmp_path), "")] == ["a.png", "c.png"]
    assert "1 images repeat the content of another" in caplog.text
    assert len(inference_items(str(tmp_path), "", file_names=True)) == 3


def test_slices_of_a_scan_are_one_item_on_request(tmp_path):
    write_series(tmp_path / "ct/scan")
    write_series(tmp_path / "one", made_volume(slices=1))
    write_series(tmp_path / "films", modality="CR")
    (tmp_path / "a.png").write_bytes(b"x")
    items = inference_items(str(tmp_path), "", file_names=True, series=True)
    names = [item["image_id"] for item in items]
    assert names[:2] == ["a.png", "ct/scan"]
    assert [name.partition("/")[0] for name in names[2:]] == ["films"] * 8 + ["one"], "radiographs are images"
    (alone,) = inference_items(str(tmp_path / "ct/scan"), "", file_names=True, series=True)
    assert (alone["image"], alone["image_id"]) == (str(tmp_path / "ct/scan"), "scan")
    (pseudonym,) = inference_items(str(tmp_path / "ct/scan"), "", series=True)
    assert len(pseudonym["image_id"]) == 16
    assert len(inference_items(str(tmp_path / "ct"), "")) == 8


@pytest.mark.parametrize(("name", "message"), [("nowhere", "does not exist"), ("", "no image was found")])
def test_nothing_to_predict_is_an_error(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        inference_items(str(tmp_path / name), "")


def test_files_that_are_no_images_are_left_out_and_counted(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    with caplog.at_level("INFO"):
        items = inference_items(str(tmp_path), "", file_names=True)
    assert [item["image_id"] for item in items] == ["IM0001", "a.png"]
    assert "1 of 3 files is left out" in caplog.text


def test_other_classes_are_refused_and_both_are_named():
    with pytest.raises(ValueError, match=r"\['sick'\].*other has \['normal', 'ill'\]"):
        check_classes({"class_names": ["sick"]}, List())
