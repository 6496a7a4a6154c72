"""The sources of datalists: records as they stand in the table or the folders, and clear refusals."""

import argparse
import json
import shutil

import pytest

from ttl_monai.data.build import build_datalists
from ttl_monai.data.labels import class_labels, multi_labels, slice_numbers
from ttl_monai.data.phantom_ctpa import make_ctpa_phantom
from ttl_monai.data.sources import csv, folder, masks, msd, patient_finder


def read(source, *options, dataset_dir):
    parser = argparse.ArgumentParser()
    source.add_arguments(parser)
    arguments = parser.parse_args([str(option) for option in options])
    arguments.dataset_dir = dataset_dir
    return source.read(arguments)


@pytest.fixture
def read_csv(tmp_path):
    def _read(text, *options, encoding="utf-8"):
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        return read(csv, tmp_path / "t.csv", *options, dataset_dir=tmp_path)

    return _read


PLAIN = "file,who,sick\na.png,p1,0\nb.png,p1,1\nc.png,p2,1\nd.png,p3,0\ne.png,p4,0\nf.png,p5,1\n"
USUAL = ("--image", "file", "--patient", "who", "--label", "sick")
SLICED = "file,who,sick,at\na,p1,0,\nb,p2,1,9 3;4  6-8;\nc,p3,1,\n"
SLICES = (*USUAL, "--slices", "at")


def test_csv_reads_columns_by_name(read_csv):
    table = read_csv(PLAIN, *USUAL, "--class-names", "healthy", "sick", "--image-dir", "images/")
    assert (table.task, table.class_names, len(table.records)) == ("binary", ["healthy", "sick"], 6)
    assert table.records[1] == (3, "images/b.png", 1, "p1")


@pytest.mark.parametrize(
    ("separator", "encoding", "options"),
    [
        (";", "utf-8", ()),
        ("\t", "utf-8-sig", ()),
        ("|", "utf-8", ("--separator", "|")),
        (",", "utf-16", ()),
        (";", "cp1252", ("--encoding", "cp1252")),
    ],
)
def test_csv_reads_other_separators_and_encodings(read_csv, separator, encoding, options):
    text = PLAIN.replace("p1", "Jürgen").replace(",", separator).replace("\n", "\r\n")
    table = read_csv(text, *USUAL, *options, encoding=encoding)
    assert table.records[0] == (2, "a.png", 0, "Jürgen")
    assert len(table.records) == 6


def test_csv_counts_rows_as_a_spreadsheet_does(read_csv):
    text = 'file,who,sick\n"a.png","p\n1",0\n\nb.png,p2,1\nc.png,p3,7\nd.png,p4,0\n'
    with pytest.raises(
        ValueError, match=r"1 labels are unknown \(expected one of no, yes, or their numbers from 0\): row 5"
    ):
        read_csv(text, *USUAL, "--class-names", "no", "yes")


def test_csv_takes_names_or_numbers_for_classes(read_csv):
    floats = PLAIN.replace(",0", ",0.0").replace(",1", ",1.0")
    named = PLAIN.replace(",0", ",no").replace(",1", ",yes")
    labels = [
        [r.label for r in read_csv(text, *USUAL, "--class-names", "no", "yes").records]
        for text in (PLAIN, floats, named)
    ]
    assert labels[0] == labels[1] == labels[2] == [0, 1, 1, 0, 0, 1]


def test_csv_patient_from_the_path(read_csv):
    text = (
        "Path,sick\ntrain/patient0012/s1/v1.jpg,0\ntrain/patient0013/s1/v1.jpg,1\nother/v1.jpg,1\n"
        + "x/patient1/a,0\n" * 3
    )
    table = read_csv(text, "--image", "Path", "--patient-regex", r"patient(\d+)", "--label", "sick")
    assert [record.patient for record in table.records[:3]] == ["0012", "0013", ""]


def test_csv_reads_several_labels_with_unknown_ones(read_csv):
    text = "file,who,x,y z\na,p1,1.0,\nb,p2,0,-1\nc,p3,nan,1\n"
    options = ("--image", "file", "--suffix", ".png", "--patient", "who", "--label", "x", "y z")
    table = read_csv(text, *options, "--uncertain", "positive")
    assert (table.task, table.class_names) == ("multi-label", ["x", "y z"])
    assert [record.label for record in table.records] == [(1, None), (0, 1), (None, 1)]
    assert table.records[0].image == "a.png"
    with pytest.raises(ValueError, match=r"1 labels are unknown .*--uncertain says what -1 is.*: row 3"):
        read_csv(text, *options)


def test_csv_reads_slices_and_knows_none_of_positives_with_an_empty_cell(read_csv, caplog):
    table = read_csv(SLICED, *SLICES)
    assert table.slices == {"a": [], "b": [3, 4, 6, 7, 8, 9]}
    assert "1 positive images have no slices: only their own labels count" in caplog.text
    assert read_csv(SLICED, *USUAL).slices == {}


@pytest.mark.parametrize(
    ("cell", "numbers"),
    [("", []), ("7", [7]), ("2;1 2", [1, 2]), ("0-2 1-3", [0, 1, 2, 3]), ("x", None), ("-1", None), ("3-1", None)],
)
def test_slice_numbers(cell, numbers):
    assert slice_numbers(cell) == numbers


def test_csv_reads_masks(read_csv):
    options = (
        "--image",
        "f",
        "--image-dir",
        "i",
        "--mask",
        "f",
        "--mask-dir",
        "m",
        "--mask-suffix",
        ".gz",
        "--patient",
        "f",
    )
    table = read_csv("f\na.nii\nb.nii\n", *options, "--class-names", "background", "lung")
    assert (table.task, table.class_names) == ("segmentation", ["background", "lung"])
    assert table.records[0] == (2, "i/a.nii", "m/a.nii.gz", "a.nii")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (PLAIN, ("--image", "file", "--patient", "who"), "give either --label .* or --mask"),
        (PLAIN, (*USUAL, "--mask", "file"), "give either --label .* or --mask"),
        (PLAIN, ("--image", "file", "--label", "sick"), "give --patient COLUMN, or --patient-regex"),
        (PLAIN, (*USUAL[:-1], "ill"), "'ill' is missing or repeated; its columns are 'file', 'who', 'sick'"),
        (
            PLAIN.replace("sick", "who"),
            ("--image", "file", "--patient", "who", "--label", "file"),
            "'who' is missing or rep",
        ),
        (PLAIN + "g.png,p9\n", USUAL, "1 rows of t.csv do not have the header's 3 cells: row 8"),
        (PLAIN + "g.png,p9,\n", USUAL, r"1 labels are unknown \(expected a class in every row\): row 8"),
        (PLAIN + ",p9,1\n", USUAL, "1 images are an empty cell or a path out of the data set's folder: row 8"),
        (PLAIN + "../g.png,p9,1\n", USUAL, "out of the data set's folder: row 8"),
        (PLAIN, (*USUAL[:-1], "file"), "6 different values in 6 rows: is it the right column"),
        (PLAIN, (*USUAL, "--patient-regex", "("), "is no regular expression"),
        (PLAIN, (*USUAL, "--encoding", "klingon"), "'klingon' is not known"),
        (PLAIN, (*USUAL, "who", "--class-names", "a"), "1 names for 2 label columns"),
        ("", USUAL, "is missing or repeated"),
        (SLICED, (*SLICES[:-1], "who"), "3 cells of slices are not understood .*such as 3 4 10-20.*: rows 2, 3, 4"),
        (SLICED + "d,p4,0,3\n", SLICES, "1 images of the class '0', the negative one, have slices: row 5; "),
        (SLICED + "d,p4,1,3.5\ne,p5,1,4-2\nf,p6,0,-1\n", SLICES, r"3 cells of slices .*: rows 5, 6, 7"),
        (SLICED + "d,p4,2,\n" * 6, SLICES, "--slices needs two classes, .* the task is multi-class"),
        (SLICED, (*SLICES[:-2], "at", *SLICES[-2:]), "--slices needs two classes, .* the task is multi-label"),
    ],
)
def test_csv_refuses(read_csv, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_csv(text, *options)


def test_csv_of_another_encoding_is_refused_without_its_content(read_csv):
    with pytest.raises(ValueError, match=r"t\.csv is not utf-8; try --encoding cp1252") as caught:
        read_csv(PLAIN.replace("p1", "Jürgen"), *USUAL, encoding="cp1252")
    assert "rgen" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.fixture
def classes(tmp_path):
    for path in (
        "dog/p1_1.png",
        "dog/p1_2.PNG",
        "dog/deep/p2_1.png",
        "cat/p3_1.png",
        "cat/notes.txt",
        "cat/.hidden.png",
    ):
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / path).touch()
    return tmp_path / "set"


def test_folder_reads_a_class_a_folder(classes, caplog):
    table = read(folder, classes, "--patient-regex", r"(p\d)_", dataset_dir=classes.parent)
    assert (table.task, table.class_names) == ("binary", ["cat", "dog"])
    assert table.records == [
        (1, "set/cat/p3_1.png", 0, "p3"),
        (2, "set/dog/deep/p2_1.png", 1, "p2"),
        (3, "set/dog/p1_1.png", 1, "p1"),
        (4, "set/dog/p1_2.PNG", 1, "p1"),
    ]
    assert "1 files in 'cat' are left out" in caplog.text
    assert "ASSUMPTION" not in caplog.text


def test_folder_says_aloud_that_each_file_is_a_patient(classes, caplog):
    table = read(folder, classes, "--class-names", "dog", "cat", dataset_dir=classes)
    assert len({record.patient for record in table.records}) == 4
    assert table.records[0].label == 0
    assert table.records[0].image.startswith("dog/")
    assert "ASSUMPTION: each of the 4 images is a patient of its own" in caplog.text


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (["train/a/1.png", "test/a/1.png"], (), "the folders are sections, not classes: test, train"),
        (["a/1.png"], (), "at least two different class folders, got a"),
        ([], (), "at least two different class folders, got none"),
        (["a/1.png", "b/x.txt"], (), "the class folder 'b' has no images; endings looked for: .png"),
        (["a/1.png", "b/1.png"], ("--class-names", "a", "c"), "no folder for c; the folders are a, b"),
    ],
)
def test_folder_refuses(tmp_path, make, options, message):
    for path in make:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(ValueError, match=message):
        read(folder, tmp_path, *options, dataset_dir=tmp_path)


def test_folder_outside_the_data_set_is_refused(classes, tmp_path):
    with pytest.raises(ValueError, match="must lie in --dataset-dir"):
        read(folder, classes, dataset_dir=tmp_path / "other")


def test_folder_takes_a_series_for_one_image(tmp_path):
    """From the phantom's scans, DICOM folders and NIfTI, to the entries of a datalist."""
    make_ctpa_phantom(tmp_path, seed=2, patients=3, shape=(24, 64, 64))
    listed = json.loads((tmp_path / "datalist.json").read_text())
    expected = {}
    for entry in (entry for section in ("training", "validation", "test") for entry in listed[section]):
        name = entry["image"].removeprefix("images/")
        place = f"set/{listed['class_names'][entry['label']]}/{name}"
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / entry["image"], tmp_path / place)
        expected[place] = (entry["label"], entry["patient"])
    assert sum((tmp_path / place).is_dir() for place in expected) == 4
    table = read(folder, tmp_path / "set", "--patient-regex", r"/(P\d+)_", dataset_dir=tmp_path)
    assert {record.image: (record.label, record.patient) for record in table.records} == expected
    header = {"name": "scans"}
    (made,) = build_datalists(table, tmp_path, header=header, site_key=None, repeats=1, hash_files=False)
    assert sum(made["num_images"].values()) == 6
    assert sum(made["num_patients"].values()) == 3


def test_folder_takes_each_xray_for_one_image(tmp_path, made):
    for name in ("a", "b"):
        made.series(tmp_path / name / "p1", made.volume(2), modality="DX")
    table = read(folder, tmp_path, dataset_dir=tmp_path)
    assert [record.image for record in table.records] == [f"{n}/p1/im{k}.dcm" for n in "ab" for k in ("00", "07")]


def test_folder_refuses_a_scan_without_a_folder_of_its_own(tmp_path, made):
    made.series(tmp_path / "a", made.volume(3))
    made.series(tmp_path / "b" / "p1", made.volume(3))
    with pytest.raises(ValueError, match=r"the class folder 'a' holds the slices of a scan: .* a folder for each"):
        read(folder, tmp_path, dataset_dir=tmp_path)


# ---- masks


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_masks_pairs_by_name_whatever_the_ending(tmp_path):
    touch(tmp_path, "set/images/p2_1.jpg", "set/images/a/p1_1.nii.gz", "set/images/p1_2.dcm", "set/images/.hidden.png")
    touch(tmp_path, "set/masks/p1_2.png", "set/masks/a/p1_1.nii", "set/masks/p2_1.tif", "set/masks/notes.txt")
    options = ("--patient-regex", r"(p\d)_", "--class-names", "background", "lung")
    table = read(masks, tmp_path / "set", *options, dataset_dir=tmp_path)
    assert (table.task, table.class_names) == ("segmentation", ["background", "lung"])
    assert [tuple(record) for record in table.records] == [
        (1, "set/images/a/p1_1.nii.gz", "set/masks/a/p1_1.nii", "p1"),
        (2, "set/images/p1_2.dcm", "set/masks/p1_2.png", "p1"),
        (3, "set/images/p2_1.jpg", "set/masks/p2_1.tif", "p2"),
    ]


def test_masks_takes_the_folder_of_a_series_as_one_image(tmp_path, made):
    for name in ("a/p1", "p2"):
        made.series(tmp_path / "images" / name, made.volume(3))
    made.series(tmp_path / "images/p3", made.volume(2), modality="DX")  # two x-rays
    touch(tmp_path, "masks/a/p1.dcm", "masks/p2.nii.gz", "masks/p3/im00.png", "masks/p3/im07.dcm")
    touch(tmp_path, "images/p2/notes.txt")
    table = read(masks, tmp_path, dataset_dir=tmp_path)
    assert [tuple(record)[1:3] for record in table.records] == [
        ("images/a/p1", "masks/a/p1.dcm"),
        ("images/p2", "masks/p2.nii.gz"),
        ("images/p3/im00.dcm", "masks/p3/im00.png"),
        ("images/p3/im07.dcm", "masks/p3/im07.dcm"),
    ]


def test_masks_takes_other_folders_and_a_suffix(tmp_path, caplog):
    touch(tmp_path, "x/1.png", "x/2.png", "y/1_mask.png", "y/2_mask.png")
    options = ("--images", "x", "--masks", "y", "--mask-suffix", "_mask")
    table = read(masks, tmp_path, *options, dataset_dir=tmp_path)
    assert [record.label for record in table.records] == ["y/1_mask.png", "y/2_mask.png"]
    assert [record.patient for record in table.records] == ["1.png", "2.png"]
    assert "each of the 2 files is a patient of its own" in caplog.text
    assert "`ttl datalist csv` where a table names the patients" in caplog.text


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["images/1.png", "images/2.png", "masks/1.png"], (), "1 images have no mask: row 2"),
        (["images/1.png", "masks/1.png", "masks/1.tif"], (), "1 images have several masks: row 1"),
        (["images/1.png", "images/1.jpg", "masks/1.png"], (), "2 images share a name with another: rows 1, 2"),
        (["images/1.png", "masks/1.png", "masks/2.png"], (), "1 of 2 masks have no image; is --mask-suffix right"),
        (["images/1.png", "masks/1.png"], ("--mask-suffix", "_m"), "1 of 1 masks have no image"),
        (["images/1.png"], (), "there is no folder 'masks' in .*; say --images and --masks"),
        (["images/1.txt", "masks/1.png"], (), "the folder 'images' has no images; endings looked for: .png"),
    ],
)
def test_masks_refuses(tmp_path, names, options, message):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        read(masks, tmp_path, *options, dataset_dir=tmp_path)


# ---- msd

DATASET = {
    "name": "Hippocampus",
    "reference": "a hospital",
    "licence": "CC-BY-SA 4.0",
    "labels": {"0": "background", "2": "posterior", "1": "anterior"},
    "training": [
        {"image": "./imagesTr/h_001.nii.gz", "label": "./labelsTr/h_001.nii.gz"},
        {"image": "imagesTr/h_004.nii.gz", "label": "labelsTr/h_004.nii.gz"},
    ],
    "test": ["./imagesTs/h_002.nii.gz"],
}


def read_msd(folder, content, *options):
    (folder / "task").mkdir(exist_ok=True)
    (folder / "task" / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read(msd, folder / "task", *options, dataset_dir=folder)


def test_msd_takes_the_cases_with_masks_and_the_classes_in_order(tmp_path, caplog):
    with caplog.at_level("INFO"):
        table = read_msd(tmp_path, DATASET)
    assert (table.task, table.class_names) == ("segmentation", ["background", "anterior", "posterior"])
    assert [tuple(record) for record in table.records] == [
        (1, "task/imagesTr/h_001.nii.gz", "task/labelsTr/h_001.nii.gz", "h_001"),
        (2, "task/imagesTr/h_004.nii.gz", "task/labelsTr/h_004.nii.gz", "h_004"),
    ]
    assert "1 cases of the challenge's test section have no mask" in caplog.text
    assert [record.patient for record in read_msd(tmp_path, DATASET, "--patient-regex", r"_(\d)").records] == ["0", "0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ([], "has no list 'training'"),
        ({"training": {}}, "has no list 'training'"),
        (
            DATASET | {"labels": {"0": "background", "2": "x"}},
            r"must name the classes of the values 0, 1, ... in 'labels'",
        ),
        (DATASET | {"labels": {"0": "x", "1": "x"}}, "must name the classes"),
        (DATASET | {"labels": None}, "must name the classes .*, got None"),
        (
            DATASET | {"training": [{"image": "a.nii"}, "b.nii", {"image": "../../a", "label": "b"}]},
            "3 cases .*: rows 1, 2, 3",
        ),
    ],
)
def test_msd_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_msd(tmp_path, content)


def test_msd_without_its_file_names_the_other_source(tmp_path):
    with pytest.raises(ValueError, match=r"there is no dataset.json .*`ttl datalist masks`"):
        read(msd, tmp_path, dataset_dir=tmp_path)


@pytest.mark.parametrize(
    ("pattern", "text", "patient"),
    [
        (None, " p1 ", "p1"),
        (r"p\d+", "x/p12.png", "p12"),
        (r"(\d+)_(\d+)", "12_3", "12"),
        ("z", "abc", ""),
        ("(z)?a", "a", ""),
    ],
)
def test_patient_finder(pattern, text, patient):
    assert patient_finder(pattern)(text) == patient


def test_class_labels_order_numbers_before_words():
    labels, names = class_labels(["10", "2", "x", "2", "10", "x", "2", "2", "2"])
    assert names == ["2", "10", "x"]
    assert labels == [1, 0, 2, 0, 1, 2, 0, 0, 0]
    assert class_labels(["b", "a", "", "c"], ["a", "b"])[0] == [1, 0, None, None]
    with pytest.raises(ValueError, match="at least two different classes, got 1"):
        class_labels(["a"] * 9)


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        (("1", "0", ""), {}, (1, 0, None)),
        (("1.0", "0.0", "NaN"), {}, (1, 0, None)),
        (("", "1", "nan"), {"blank": "negative"}, (0, 1, 0)),
        (("-1.0", "1", "0"), {"uncertain": "unknown"}, (None, 1, 0)),
        (("-1", "1", "0"), {"uncertain": "negative"}, (0, 1, 0)),
        (("-1", "1", "0"), {}, None),
        (("2", "1", "0"), {"uncertain": "positive"}, None),
        (("yes", "1", "0"), {}, None),
        (("inf", "1", "0"), {}, None),
    ],
)
def test_multi_labels(cells, options, expected):
    assert multi_labels([cells], **options) == [expected]
