"""HAM10000: the table as published, images in two folders or one, the lesion as the group."""

import argparse

import pytest

from ttl_monai.data.build import build_datalists
from ttl_monai.data.sources import ham10000

HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"
ROWS = [f"HAM_{k // 2:07},ISIC_{24306 + k:07},{name},histo,80.0,male,scalp" for k, name in
        enumerate(name for name in ham10000.CLASS_NAMES for _ in range(6))]  # fmt: skip
FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")


@pytest.fixture
def make(tmp_path):
    def _make(rows=ROWS, header=HEADER, table="HAM10000_metadata.csv", folders=FOLDERS, separator=","):
        (tmp_path / table).write_text("\n".join([header, *rows]).replace(",", separator) + "\n")
        for k, row in enumerate(rows):
            image = tmp_path / folders[k % len(folders)] / f"{row.split(',')[1]}.jpg"
            image.parent.mkdir(exist_ok=True)
            image.write_bytes(row.encode())
        return tmp_path

    return _make


def read(folder, *options):
    parser = argparse.ArgumentParser()
    ham10000.add_arguments(parser)
    arguments = parser.parse_args([str(folder), *options])
    arguments.dataset_dir = folder
    return ham10000.read(arguments)


def test_seven_classes_and_lesions_that_stay_together(make):
    folder = make()
    table = read(folder)
    assert (table.task, table.class_names) == ("multi-class", ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"])
    assert [tuple(record) for record in table.records[5:8]] == [
        (7, "HAM10000_images_part_2/ISIC_0024311.jpg", 0, "HAM_0000002"),
        (8, "HAM10000_images_part_1/ISIC_0024312.jpg", 1, "HAM_0000003"),
        (9, "HAM10000_images_part_2/ISIC_0024313.jpg", 1, "HAM_0000003"),
    ]
    (made,) = build_datalists(
        table, folder, header={"name": "ham"}, site_key=None, repeats=1, fractions=(0.34, 0.33, 0.33)
    )
    lesions = [{entry["patient"] for entry in made[section]} for section in ("training", "validation", "test")]
    assert not lesions[0] & lesions[1] | lesions[0] & lesions[2] | lesions[1] & lesions[2]
    assert sum(map(len, lesions)) == 21


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"folders": (".",)}, ()),
        ({"folders": ("jpg",)}, ("--images", "jpg")),
        ({"folders": ("HAM10000_images_part1", "HAM10000_images_part2")}, ()),
        (
            {"table": "HAM10000_metadata", "header": HEADER + ",dataset", "rows": [row + ",rosendahl" for row in ROWS]},
            (),
        ),
        ({"table": "HAM10000_metadata.tab", "separator": "\t"}, ()),
    ],
)
def test_the_forms_in_which_the_set_is_found(make, change, options):
    table = read(make(**change), *options)
    assert len(table.records) == 42
    assert [record.label for record in table.records[::6]] == list(range(7))


def test_images_that_the_table_lacks_are_said(make, caplog):
    folder = make()
    (folder / FOLDERS[0] / "ISIC_1.jpg").touch()
    assert len(read(folder).records) == 42
    assert "1 images are not in HAM10000_metadata.csv and are left out" in caplog.text


def again(folder):
    (folder / FOLDERS[1] / "ISIC_0024306.jpg").touch()


@pytest.mark.parametrize(
    ("change", "spoil", "options", "message"),
    [
        ({"header": HEADER.replace("dx,", "diagnosis,", 1)}, None, (), "'dx' is missing or repeated"),
        ({"rows": [*ROWS, "HAM_9,ISIC_9,scc,histo,1,male,ear"]}, None, (), "1 rows have another dx than .*: row 44"),
        ({}, lambda f: (f / FOLDERS[0] / "ISIC_0024306.jpg").unlink(), (), "1 images have no .jpg in .*: row 2"),
        ({}, again, (), "1 images lie in several folders; --images names those to use: row 2"),
        ({}, None, ("--images", "jpg"), "there is no folder jpg"),
        ({}, lambda f: (f / "HAM10000_metadata.csv").unlink(), (), "there is no HAM10000_metadata.csv"),
    ],
)  # fmt: skip
def test_refuses(make, change, spoil, options, message):
    folder = make(**change)
    if spoil:
        spoil(folder)
    with pytest.raises(ValueError, match=message):
        read(folder, *options)


def test_a_row_twice_is_refused(make):
    folder = make([*ROWS, ROWS[0]])
    with pytest.raises(ValueError, match="2 duplicate rows name an image more than once: rows 2, 44"):
        build_datalists(read(folder), folder, header={"name": "ham"}, site_key=None)
