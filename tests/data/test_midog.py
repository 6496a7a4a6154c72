"""MIDOG: corner boxes, regions as TIFF with or without alpha, patches of the right pixels, split by case."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from ttl_monai.data import XrayReader
from ttl_monai.data.build import build_datalists
from ttl_monai.data.sources import midog

WIDTH, HEIGHT = 150, 120


def pixels(case):
    """Another colour at each place: red by column, green by row, blue by case."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    return np.stack([columns, rows, np.full_like(rows, case)], axis=-1).astype(np.uint8)


def box(x, y, side=50):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def annotation(number, case, x, y, category=1, **other):
    return {"id": number, "image_id": case, "category_id": category, "bbox": box(x, y), "labels": [1, 2, 1], **other}


CONTENT = {
    "info": {"description": "MIDOG"},
    "images": [
        {"id": case, "file_name": f"{case:03}.tiff", "width": WIDTH, "height": HEIGHT, "tumor_type": "x"}
        for case in (1, 2, 3, 151)
    ],
    "categories": [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "hard negative"}],
    "annotations": [
        annotation(10, 1, 75, 60),
        annotation(11, 1, 70.5, 50.5, 2),
        annotation(12, 2, 3, 118),
        annotation(13, 2, 60, 60, 2),
        annotation(14, 3, 149, 1, 2),
        annotation(15, 3, 80, 50),
    ],
}


@pytest.fixture
def make(tmp_path):
    def _make(content=CONTENT, *, place="images", name="MIDOG.json"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        for case in (1, 2, 3):
            colours = pixels(case)
            if case == 2:  # some regions have an alpha channel
                colours = np.dstack([colours, np.full((HEIGHT, WIDTH), 255, np.uint8)])
            Image.fromarray(colours).save(tmp_path / place / f"{case:03}.tiff")
        return tmp_path

    return _make


def read(folder, *options):
    parser = argparse.ArgumentParser()
    midog.add_arguments(parser)
    arguments = parser.parse_args([str(folder), *options])
    arguments.dataset_dir = folder
    return midog.read(arguments)


def change(**lists):
    return {**CONTENT, **lists}


def with_box(bounds):
    return change(annotations=[{**CONTENT["annotations"][0], "bbox": bounds}])


@pytest.mark.parametrize("place", ["images", "."])
def test_patches_hold_the_pixels_about_the_middle_of_the_box(make, place, caplog):
    caplog.set_level("INFO")
    folder = make(place=place)
    table = read(folder, "--size", "32")
    assert (table.task, table.class_names) == ("binary", ["hard negative", "mitotic figure"])
    assert [(r.row, r.image, r.label, r.patient) for r in table.records[:3]] == [
        (1, "patches_32/001_00001.png", 1, "001"),
        (2, "patches_32/001_00002.png", 0, "001"),
        (3, "patches_32/002_00003.png", 1, "002"),
    ]
    # Column and row of the first pixel; at an edge the patch is moved into the region.
    corners = {1: (59, 44), 3: (0, 88), 5: (118, 0)}
    for row, (left, top) in corners.items():
        record = table.records[row - 1]
        patch = np.asarray(Image.open(folder / record.image))
        expected = pixels(int(record.patient))[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(patch, expected)
    shown, _ = XrayReader(channels=3).get_data((folder / table.records[0].image,))
    assert shown.shape == (32, 32, 3)
    assert "1 regions without annotations are left out" in caplog.text


def test_patches_that_are_there_are_kept_and_wrong_ones_replaced(make):
    folder = make()
    first = [folder / record.image for record in read(folder).records]
    before = [path.stat().st_mtime_ns for path in first]
    first[1].write_bytes(b"cut")
    read(folder)
    after = [path.stat().st_mtime_ns for path in first]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True, True, True]
    assert Image.open(first[1]).size == (64, 64)
    assert len(list((folder / "patches_64").iterdir())) == 6


def test_cases_are_split_whole(make):
    folder = make(name="MIDOG++.json")
    table = read(folder, "--patches", "cut")
    (made,) = build_datalists(table, folder, header={"name": "m"}, site_key=None, repeats=1)
    cases = [{entry["patient"] for entry in made[section]} for section in ("training", "validation", "test")]
    assert sorted(case for section in cases for case in section) == ["001", "002", "003"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("{", (), "is no JSON file"),
        ("[]", (), "has no lists images, categories, annotations"),
        (change(categories=CONTENT["categories"][:1]), (), "must have two categories, .* got 'mitotic figure'"),
        (change(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]), (), "got 'a', 'b'"),
        (change(annotations=[annotation(1, 9, 60, 60)]), (), "1 annotations are of an image or a category .*: row 1"),
        (change(annotations=[annotation(1, 1, 60, 60, 3)]), (), "an image or a category that is not in the file"),
        (change(annotations=[annotation(1, 151, 60, 60)]), (), "are of a region that is missing or no TIFF: row 1"),
        (with_box([80, 80, 50, 50]), (), r"not \[x1, y1, x2, y2\], two corners \(COCO's width and height"),
        (with_box([300, 80, 350, 130]), (), "its middle out of the region: row 1"),
        (with_box([1, 2, 3]), (), "have no box of four numbers: row 1"),
        (with_box(["1", 2, 3, 4]), (), "have no box of four numbers"),
        (CONTENT, ("--size", "128"), "6 annotations are of a region smaller than a patch of 128 pixels"),
        (CONTENT, ("--size", "4"), "--size must be at least 8 pixels, got 4"),
        (CONTENT, ("--annotations", "x.json"), "expected x.json in"),
        (CONTENT, ("--patches", "../x"), "--patches must be a folder in the data set's"),
    ],
)
def test_refuses(make, content, options, message):
    folder = make(content)
    with pytest.raises(ValueError, match=message):
        read(folder, *options)
    assert not list(folder.glob("patches*"))


def test_two_files_of_annotations_and_a_damaged_region_are_refused(make):
    folder = make()
    (folder / "MIDOG2022.json").write_text("{}")
    with pytest.raises(ValueError, match=r"one MIDOG\*.json \(2 found\) .*; --annotations names the file"):
        read(folder)
    path = folder / "images" / "001.tiff"
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(ValueError, match=r"(001.tiff cannot be read|missing or no TIFF)"):
        read(folder, "--annotations", "MIDOG.json")
