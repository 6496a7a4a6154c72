"""CheXpert: two tables as published, groups of labels, policies, views and the published split."""

import argparse

import pytest

from ttl_monai.data.build import build_datalists
from ttl_monai.data.sources import chexpert

COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.LABELS]
FRONTAL, LATERAL = ("Frontal", "AP"), ("Lateral", "")
# The supplement's Table 4 and the authors' code as PAPER.md tells them, written down anew.
TABLE_4 = {
    "low": {"Lung Opacity", "Consolidation", "Pneumonia", "Pneumothorax", "Pleural Effusion", "Pleural Other"},
    "high": {"Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Edema", "Atelectasis", "Fracture"}
    | {"Support Devices"},
    "low-code": {"Lung Opacity", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pleural Effusion"}
    | {"Pleural Other"},
    "high-code": {"No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Pneumothorax"}
    | {"Fracture", "Support Devices"},
}


def line(path, view=FRONTAL, **labels):
    cells = [labels.get(name.replace(" ", "_"), "") for name in chexpert.LABELS]
    return ",".join([f"CheXpert-v1.0-small/{path}", "Female", "68", *view, *cells])


TRAIN = [
    line("train/patient00001/study1/view1_frontal.jpg", No_Finding="1.0", Support_Devices="-1.0"),
    line("train/patient00002/study2/view1_frontal.jpg", ("Frontal", "PA"), Lung_Opacity="-1.0", Fracture="1.0"),
    line("train/patient00002/study2/view2_lateral.jpg", LATERAL, Lung_Opacity="1.0", Edema="0.0"),
    line("train/patient00003/study1/view1_frontal.jpg", Edema="0.0", Pneumonia="1.0"),
]
VALID = [line("valid/patient64541/study1/view1_frontal.jpg", Pneumonia="1.0", Edema="1.0")]


@pytest.fixture
def make(tmp_path):
    def _make(train=TRAIN, valid=VALID, columns=COLUMNS):
        folder = tmp_path / "renamed"
        for name, lines in (("train", train), ("valid", valid)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
            for text in lines:
                image = folder / text.split(",")[0].removeprefix("CheXpert-v1.0-small/")
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(text.encode())
        return folder

    return _make


def read(folder, *options):
    parser = argparse.ArgumentParser()
    chexpert.add_arguments(parser)
    arguments = parser.parse_args([str(folder), *options])
    arguments.dataset_dir = folder.parent
    return chexpert.read(arguments)


def test_published_tables_with_the_authors_policy(make):
    table = read(make())
    assert (table.task, table.class_names) == ("multi-label", list(chexpert.LABELS))
    assert [(r.row, r.image, r.patient) for r in table.records] == [
        (2, "renamed/train/patient00001/study1/view1_frontal.jpg", "patient00001"),
        (3, "renamed/train/patient00002/study2/view1_frontal.jpg", "patient00002"),
        (5, "renamed/train/patient00003/study1/view1_frontal.jpg", "patient00003"),
        (7, "renamed/valid/patient64541/study1/view1_frontal.jpg", "patient64541"),
    ]
    assert list(table.sections.values()) == ["training"] * 3 + ["validation"]
    assert table.records[0].label == (1, *[0] * 12, 1)  # U-Ones, blank as negative
    assert [k for k, value in enumerate(table.records[1].label) if value] == [3, 12]


@pytest.mark.parametrize(
    ("options", "devices", "edema"),
    [
        ((), [1, 0, 0], [0, 0, 0]),
        (("--uncertain", "negative"), [0, 0, 0], [0, 0, 0]),
        (("--uncertain", "unknown"), [None, 0, 0], [0, 0, 0]),
        (("--blank", "unknown"), [1, None, None], [None, None, 0]),
        (("--blank", "unknown", "--uncertain", "unknown"), [None] * 3, [None, None, 0]),
    ],
)
def test_policies(make, options, devices, edema):
    labels = [record.label for record in read(make(), *options).records[:3]]
    assert [each[13] for each in labels] == devices
    assert [each[5] for each in labels] == edema


@pytest.mark.parametrize("group", TABLE_4)
def test_groups_of_labels_by_name(make, group):
    table = read(make(), "--group", group)
    assert set(table.class_names) == TABLE_4[group]
    assert table.class_names == [name for name in chexpert.LABELS if name in TABLE_4[group]]
    positive = {name for name, value in zip(table.class_names, table.records[1].label, strict=True) if value}
    assert positive == {"Lung Opacity", "Fracture"} & TABLE_4[group]


@pytest.mark.parametrize(
    ("view", "rows"),
    [("frontal", [2, 3, 5, 7]), ("lateral", [4]), ("AP", [2, 5, 7]), ("PA", [3]), ("all", [2, 3, 4, 5, 7])],
)
def test_views(make, view, rows):
    assert [record.row for record in read(make(), "--views", view).records] == rows


def test_the_published_split_is_kept_and_lacks_what_it_lacks(make, caplog):
    train = [*TRAIN, line("train/patient00004/study1/view1_frontal.jpg", Edema="1.0", Pneumonia="1.0")]
    folder = make(train)
    table = read(folder, "--group", "low-code")
    patients = {section: {r.patient for r in table.records if table.sections[r.image] == section} for section in
                ("training", "validation")}  # fmt: skip
    assert patients["validation"] == {"patient64541"}
    kept = [k for k, name in enumerate(table.class_names) if name in ("Edema", "Pneumonia")]
    small = table.__class__(
        table.task,
        [table.class_names[k] for k in kept] + ["Lung Opacity"],
        [r._replace(label=(*(r.label[k] for k in kept), int(r.patient in ("patient00001", "patient00002"))))
         for r in table.records],
        sections=table.sections,
    )  # fmt: skip
    (made,) = build_datalists(small, folder.parent, header={"name": "c"}, site_key=b"k" * 32)
    assert made["split"] == "published"
    assert [len(made[section]) for section in ("training", "validation", "test")] == [4, 1, 0]
    assert "validation has no image of Lung Opacity, as published" in caplog.text


def test_resplit_mixes_both_tables(make):
    assert read(make(), "--resplit").sections == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": [name for name in COLUMNS if name != "Edema"]}, "'Edema' is missing or repeated"),
        ({"columns": [*COLUMNS[:3], "View", *COLUMNS[4:]]}, "train.csv must have each column once, but 'Frontal/Lat"),
        ({"train": [*TRAIN, "x,y"]}, "1 rows of train.csv do not have the header's 19 cells: row 6"),
        ({"valid": [line("valid/patient1/study1/v.jpg", Edema="2")]}, r"valid.csv .*\n.*a label other than .*: row 2"),
        ({"train": [line("train/x/study1/v.jpg")]}, r"path without \.\.\./patientNUMBER/study\.\.\.: row 2"),
        ({"train": [line("../patient1/study1/v.jpg")]}, "path without"),
        ({"train": [line("train/patient1/study1/v.jpg", ("Top", ""))]}, "another view than Frontal and Lateral: row 2"),
    ],
)
def test_refuses(make, change, message):
    folder = make(**change)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_a_table_or_a_patient_too_much_is_refused(make):
    folder = make(valid=[line("valid/patient00003/study9/view1_frontal.jpg", Pneumonia="1.0")])
    header = {"name": "c"}
    table = read(folder)
    table = table.__class__(table.task, ["Pneumonia"], [r._replace(label=(r.label[7],)) for r in table.records] +
                            [table.records[0]._replace(row=99, image=table.records[0].image, label=(1,))],
                            sections=table.sections)  # fmt: skip
    with pytest.raises(ValueError, match=r"2 duplicate rows name an image more than once: rows 2, 99"):
        build_datalists(table, folder.parent, header=header, site_key=b"k" * 32)
    table.records.pop()
    table.records[0] = table.records[0]._replace(label=(1,))
    with pytest.raises(ValueError, match=r"patients in two sections: rows 5, 7; split by patient with --resplit"):
        build_datalists(table, folder.parent, header=header, site_key=b"k" * 32)
    (folder / "valid.csv").unlink()
    with pytest.raises(ValueError, match=r"there is no valid\.csv"):
        read(folder)
