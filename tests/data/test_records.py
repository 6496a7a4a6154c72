"""The checks that hold for every source: counts and rows in the messages, never patients."""

import hashlib

import pytest

from ttl_monai.data.records import (
    Record,
    Table,
    check_records,
    drop_identical,
    hash_files,
    label_matrix,
    name_rows,
    relative_path,
)


def made_table(folder, *, patients=8, task="binary"):
    """One image a patient, of content that no other has, from row 2 on."""
    records = []
    for i in range(patients):
        (folder / f"{i}.png").write_bytes(b"image %d" % i)
        label = i % 2
        if task == "segmentation":
            label = f"mask{i}.png"
            (folder / label).write_bytes(b"mask %d" % i)
        records.append(Record(i + 2, f"{i}.png", label, f"SECRET{i}"))
    return Table(task, ["a", "b"], records)


def test_good_records_pass(tmp_path):
    check_records(made_table(tmp_path), tmp_path, min_patients=3)
    check_records(made_table(tmp_path, task="segmentation"), tmp_path, min_patients=3)


def spoil_missing(table, folder):
    (folder / "1.png").unlink()
    (folder / "4.png").unlink()


def spoil_directory(table, folder):
    (folder / "1.png").unlink()
    (folder / "1.png").mkdir()


def spoil_duplicate(table, folder):
    table.records.append(table.records[1]._replace(row=10))


def spoil_patient(table, folder):
    table.records[5] = table.records[5]._replace(patient="")


def spoil_patients(table, folder):
    table.records[:] = [record._replace(patient=f"SECRET{i % 2}") for i, record in enumerate(table.records)]


def spoil_class(table, folder):
    table.records[:] = [record._replace(label=int(i < 2)) for i, record in enumerate(table.records)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing, "2 images are missing in the data set's folder: rows 3, 6"),
        (spoil_directory, "1 images are missing in the data set's folder: row 3"),
        (spoil_duplicate, "2 duplicate rows name an image more than once: rows 3, 10"),
        (spoil_patient, "1 images have an empty patient id: row 7"),
        (spoil_patients, "the source has 2 patients: expected at least 3, one a section"),
        (spoil_class, "class 'b' has 2 patients: expected at least 3"),
        (lambda table, folder: table.records.clear(), "the source has no images"),
    ],
)
def test_check_refuses(tmp_path, spoil, message):
    table = made_table(tmp_path)
    spoil(table, tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        check_records(table, tmp_path, min_patients=3)
    assert "SECRET" not in str(caught.value)
    assert ".png" not in str(caught.value)


def test_check_lists_all_that_is_wrong_at_once(tmp_path):
    table = made_table(tmp_path)
    for spoil in (spoil_missing, spoil_duplicate, spoil_patient):
        spoil(table, tmp_path)
    with pytest.raises(ValueError, match=r"(?s)duplicate rows.*empty patient.*missing"):
        check_records(table, tmp_path, min_patients=3)


def test_missing_masks_are_found(tmp_path):
    table = made_table(tmp_path, task="segmentation")
    (tmp_path / "mask3.png").unlink()
    with pytest.raises(ValueError, match="1 masks are missing in the data set's folder: row 5"):
        check_records(table, tmp_path, min_patients=3)


def test_multi_label_class_needs_patients_with_a_positive(tmp_path):
    table = made_table(tmp_path)
    table = Table(
        "multi-label", ["a", "b"], [r._replace(label=(1.0, None if i else 1.0)) for i, r in enumerate(table.records)]
    )
    with pytest.raises(ValueError, match="class 'b' has 1 patients"):
        check_records(table, tmp_path, min_patients=3)


def test_hashes_are_sha256_in_order(tmp_path):
    for i in range(30):
        (tmp_path / str(i)).write_bytes(bytes([i]) * (i * 100_000))
    names = [str(i) for i in range(30)]
    assert hash_files(names, tmp_path, workers=4) == [
        hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in names
    ]


def test_first_of_identical_images_of_a_patient_is_kept_with_a_warning(tmp_path, caplog):
    table = made_table(tmp_path)
    (tmp_path / "copy.png").write_bytes(b"image 1")
    table.records.append(Record(10, "copy.png", 1, "SECRET1"))
    kept, hashes = drop_identical(table, tmp_path)
    assert [record.row for record in kept.records] == list(range(2, 10))
    assert hashes[1] == {"sha256": hashlib.sha256(b"image 1").hexdigest()}
    assert len(hashes) == len(kept.records)
    assert "1 images repeat another image of the same patient and are left out: row 10" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("label", "patient", "message"),
    [
        (1, "SECRET2", "2 images are identical in content but stand under two patients: rows 3, 10"),
        (0, "SECRET1", "2 images are identical in content but stand under two labels: rows 3, 10"),
        (0, "SECRET2", r"(?s)under two patients: rows 3, 10.*under two labels: rows 3, 10"),
    ],
)
def test_identical_images_of_two_patients_or_labels_are_refused(tmp_path, label, patient, message):
    table = made_table(tmp_path)
    (tmp_path / "copy.png").write_bytes(b"image 1")
    table.records.append(Record(10, "copy.png", label, patient))
    with pytest.raises(ValueError, match=message) as caught:
        drop_identical(table, tmp_path)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("mask", "refused"), [(b"mask 1", False), (b"another", True)])
def test_masks_of_identical_images_are_compared_by_content(tmp_path, mask, refused):
    table = made_table(tmp_path, task="segmentation")
    (tmp_path / "copy.png").write_bytes(b"image 1")
    (tmp_path / "copymask.png").write_bytes(mask)
    table.records.append(Record(10, "copy.png", "copymask.png", "SECRET1"))
    if refused:
        with pytest.raises(ValueError, match="under two labels: rows 3, 10"):
            drop_identical(table, tmp_path)
    else:
        kept, hashes = drop_identical(table, tmp_path)
        assert len(kept.records) == 8
        assert hashes[1]["label_sha256"] == hashlib.sha256(b"mask 1").hexdigest()


def test_files_that_cannot_be_read_are_refused(tmp_path):
    table = made_table(tmp_path)
    (tmp_path / "3.png").unlink()
    (tmp_path / "3.png").mkdir()
    with pytest.raises(ValueError, match="1 files cannot be read: row 5"):
        drop_identical(table, tmp_path)


def test_label_matrix_of_each_task():
    assert label_matrix("multi-class", 3, [2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert str(label_matrix("multi-label", 2, [(1, None), (0, 1)]).tolist()) == "[[1.0, nan], [0.0, 1.0]]"
    assert label_matrix("segmentation", 2, ["a", "b"]).shape == (2, 0)
    assert label_matrix("binary", 2, []).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("/data/set/a.png", "a.png"),
        ("/data/settings/a.png", None),
        ("/etc/passwd", None),
        ("../a.png", None),
        ("a/../../b.png", None),
        ("..", None),
        ("..a.png", "..a.png"),
    ],
)
def test_relative_path_stays_in_the_folder(tmp_path, text, expected):
    assert relative_path(text, tmp_path.__class__("/data/x/../set")) == expected


def test_name_rows_shortens():
    assert name_rows([4]) == "row 4"
    assert name_rows(range(2, 40)) == "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 28 more"


def test_the_hash_of_a_folder_is_that_of_its_files_whatever_their_names(tmp_path):
    for folder, names in (("a", ("1", "2")), ("b", ("x/9", "3")), ("c", ("1", "2"))):
        for name, content in zip(names, (b"one", b"two"), strict=True):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (tmp_path / "c" / "2").write_bytes(b"other")
    (tmp_path / "empty").mkdir()
    first, same, other, empty = hash_files(["a", "b", "c", "empty"], tmp_path)
    assert first == same != other
    assert empty is None
