"""The RSNA-STR data set: its table and tree, slices numbered from the feet, refusals by row, and windows of it."""

import argparse
import csv
import json
import os
import re
import shutil

import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImaged

from ttl_monai.cli import datalist as command
from ttl_monai.data import Datalist, RandomWindowDataset, VolumeCache, VolumeReader, WindowDataset, find_series
from ttl_monai.data.phantom_ctpa import draw_ctpa_phantom, write_dicom
from ttl_monai.data.sources import rsna_pe

# As in the published train.csv.
COLUMNS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "pe_present_on_image", "negative_exam_for_pe"),
    *("qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe"),
    *("chronic_pe", "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe"),
    "indeterminate",
)
SLICES = 24


@pytest.fixture(scope="module")
def exams():
    """Two scans of each of three patients, one of each class."""
    return list(draw_ctpa_phantom(seed=5, patients=3, shape=(SLICES, 64, 64)))


@pytest.fixture(scope="module")
def made(exams, tmp_path_factory):
    """train/STUDY/SERIES/IMAGE.dcm and train.csv, its rows in the order of the names, which is none in space."""
    root = tmp_path_factory.mktemp("rsna") / "set"
    rows = []
    for number, exam in enumerate(exams):
        write_dicom(root / "raw", exam, seed=5)
        study, series = f"{number:012x}", f"{number + 100:012x}"
        (root / "train" / study / series).mkdir(parents=True)
        for file in sorted((root / "raw").iterdir()):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            file.rename(root / "train" / study / series / f"{header.SOPInstanceUID}.dcm")
            place = round(header.ImagePositionPatient[2] / header.SliceThickness + (SLICES - 1) / 2)
            flags = dict.fromkeys(COLUMNS[3:], 0) | {"negative_exam_for_pe": 1 - exam.label}
            flags["pe_present_on_image"] = int(place in exam.scan.slices)
            rows.append([study, series, header.SOPInstanceUID, *flags.values()])
    (root / "raw").rmdir()
    write_table(root, sorted(rows, key=lambda row: row[2]))
    return root


def write_table(root, rows, *, columns=COLUMNS, name="train.csv"):
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def read_table(root):
    with (root / "train.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def copy_or_link(source, target):
    """Images as hard links: tests remove them, and write none in place."""
    return shutil.copy(source, target) if source.endswith(".csv") else os.link(source, target)


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set", copy_function=copy_or_link)


def read(folder, *options):
    parser = argparse.ArgumentParser()
    rsna_pe.add_arguments(parser)
    arguments = parser.parse_args([str(folder), *options])
    arguments.dataset_dir = folder.parent
    return rsna_pe.read(arguments)


def image_of(number):
    return f"set/train/{number:012x}/{number + 100:012x}"


def test_series_have_the_labels_and_the_slices_of_the_scans(made, exams, caplog):
    table = read(made)
    assert (table.task, table.class_names, table.sections) == ("binary", ["negative", "positive"], {})
    assert {(r.image, r.label, r.patient) for r in table.records} == {
        (image_of(number), exam.label, exam.patient) for number, exam in enumerate(exams)
    }
    # The oracle is the scan itself; half of the series have their first instance at the head.
    assert table.slices == {image_of(number): list(exam.scan.slices) for number, exam in enumerate(exams)}
    first_rows = {}
    for row, cells in enumerate(read_table(made), 2):
        first_rows.setdefault(f"set/train/{cells[0]}/{cells[1]}", row)
    assert {r.image: r.row for r in table.records} == first_rows
    assert "ASSUMPTION" not in caplog.text


def test_from_feet_is_the_order_of_the_reader(made, exams):
    for number, exam in enumerate(exams[:2]):  # files from the feet, and from the head
        (found,) = find_series(made.parent / image_of(number))
        planes = [pydicom.dcmread(file).pixel_array.astype(int) - 1024 for file in found.from_feet]
        np.testing.assert_array_equal(planes, exam.scan.hu)


@pytest.mark.parametrize(
    ("orientation", "position", "axial"),
    [
        ([1, 0, 0, 0, 1, 0], lambda k: [0, 0, k], True),
        ([-1, 0, 0, 0, 1, 0], lambda k: [0, 0, k], True),  # mirrored: the normal points to the feet
        ([1, 0, 0, 0, 0, -1], lambda k: [0, k, 0], False),  # coronal
    ],
)
def test_from_feet_follows_the_normal(made, tmp_path, orientation, position, axial):
    heights = {}
    for k, file in enumerate(sorted((made.parent / image_of(0)).iterdir())[:5]):
        dataset = pydicom.dcmread(file)
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = orientation, position(3 * k)
        dataset.save_as(tmp_path / file.name)
        heights[tmp_path / file.name] = 3 * k
    (found,) = find_series(tmp_path)
    assert found.report.suitable
    assert [heights[file] for file in found.from_feet] == ([0, 3, 6, 9, 12] if axial else [])


def change(row, **cells):
    """A copy of a row with other cells, by the names of the columns."""
    return [cells.get(name, cell) for name, cell in zip(COLUMNS, row, strict=True)]


def exam_rows(rows, number):
    return [index for index, row in enumerate(rows) if row[0] == f"{number:012x}"]


def label_of(exams, label):
    return next(number for number, exam in enumerate(exams) if exam.label == label)


@pytest.mark.parametrize(("choice", "expected"), [("leave-out", None), ("negative", 0)])
def test_indeterminate_exams_are_left_out_and_counted_or_negative(copied, exams, caplog, choice, expected):
    number = label_of(exams, 0)
    rows = read_table(copied)
    for index in exam_rows(rows, number):
        rows[index] = change(rows[index], negative_exam_for_pe=0, indeterminate=1)
    write_table(copied, rows)
    with caplog.at_level("INFO"):
        table = read(copied, "--indeterminate", choice)
    labels = {record.image: record.label for record in table.records}
    assert labels.get(image_of(number)) == expected
    assert len(labels) == (5 if choice == "leave-out" else 6)
    assert f"1 indeterminate series are {'left out' if choice == 'leave-out' else 'taken as negative'}" in caplog.text


def test_series_without_patient_id_are_patients_of_their_own(copied, caplog):
    for file in (copied.parent / image_of(0)).iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientID = ""
        file.unlink()
        dataset.save_as(file)
    patients = {record.image: record.patient for record in read(copied).records}
    assert patients[image_of(0)] == f"{0:012x}"
    assert patients[image_of(1)] == "P0001"
    assert "ASSUMPTION: each of the 1 series without PatientID is a patient of its own" in caplog.text


# Each spoils the rows or the tree of positive exam `pos` and negative exam `neg`, and gives the rows to be named.


def negative_with_embolus(rows, pos, neg, root):
    index = exam_rows(rows, neg)[3]
    rows[index] = change(rows[index], pe_present_on_image=1)
    return [index]


def positive_called_negative(rows, pos, neg, root):
    indices = exam_rows(rows, pos)
    for index in indices:
        rows[index] = change(rows[index], negative_exam_for_pe=1)
    return [index for index in indices if str(rows[index][3]) == "1"]


def exam_of_no_kind(rows, pos, neg, root):
    indices = exam_rows(rows, neg)
    for index in indices:
        rows[index] = change(rows[index], negative_exam_for_pe=0)
    return indices[:1]


def exam_of_two_kinds(rows, pos, neg, root):
    indices = exam_rows(rows, neg)
    for index in indices:
        rows[index] = change(rows[index], indeterminate=1)
    return indices[:1]


def unequal_rows(rows, pos, neg, root):
    index = exam_rows(rows, neg)[4]
    rows[index] = change(rows[index], negative_exam_for_pe=0)
    return [index]


def duplicate(rows, pos, neg, root):
    rows.append(rows[7])
    return [len(rows) - 1]


def other_label(rows, pos, neg, root):
    rows[3] = change(rows[3], pe_present_on_image="")
    return [3]


def path_as_id(rows, pos, neg, root):
    rows[3] = change(rows[3], StudyInstanceUID="../other")
    return [3]


def ragged(rows, pos, neg, root):
    rows[5] = rows[5][:-1]
    return [5]


def no_folder(rows, pos, neg, root):
    shutil.rmtree(root.parent / image_of(neg))
    return exam_rows(rows, neg)[:1]


def no_file(rows, pos, neg, root):
    index = exam_rows(rows, pos)[2]
    (root.parent / image_of(pos) / f"{rows[index][2]}.dcm").unlink()
    return [index]


def more_files(rows, pos, neg, root):
    folder = root.parent / image_of(pos)
    shutil.copy(next(folder.iterdir()), folder / "more.dcm")
    return exam_rows(rows, pos)[:1]


def missing_slice(rows, pos, neg, root):
    """The row and the file of a slice in the middle are both gone."""
    (found,) = find_series(root.parent / image_of(neg))
    lost = found.from_feet[SLICES // 2]
    rows[:] = [row for row in rows if row[2] != lost.stem]
    lost.unlink()
    return exam_rows(rows, neg)[:1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (negative_with_embolus, "1 rows show an embolus in an exam that is negative or indeterminate"),
        (positive_called_negative, "rows show an embolus in an exam that is negative or indeterminate"),
        (exam_of_no_kind, "1 exams are neither negative nor indeterminate, and no image shows an embolus"),
        (exam_of_two_kinds, "1 exams are both negative and indeterminate"),
        (
            unequal_rows,
            "1 rows have 'negative_exam_for_pe' or 'indeterminate' other than the first row of their series",
        ),
        (duplicate, "1 rows have the image of another row"),
        (other_label, "1 rows have a label that is neither 0 nor 1"),
        (path_as_id, "1 rows have an id that is empty or no name of a file"),
        (ragged, r"1 rows of train\.csv do not have the header's cells"),
        (no_folder, "1 series have no folder"),
        (no_file, "1 images have no file"),
        (more_files, "1 series have more files than rows, so that labels of slices are missing"),
        (missing_slice, "the reader refuses series by their headers; .*--leave-out-refused:\n- 1 series"),
    ],
)
def test_what_does_not_fit_is_refused_by_row_without_ids(copied, exams, spoil, message):
    rows = read_table(copied)
    indices = spoil(rows, label_of(exams, 1), label_of(exams, 0), copied)
    write_table(copied, rows)
    with pytest.raises(ValueError, match=message) as caught:
        read(copied)
    named = re.search(r"rows? ([\d, ]+)", str(caught.value).split("\n")[-1])
    assert [int(row) for row in named[1].strip(", ").split(", ")] == [index + 2 for index in indices][:10]
    assert not re.search(r"[0-9a-f]{12}|P000\d", str(caught.value))


def test_series_that_the_reader_refuses_can_be_left_out(copied, exams, caplog):
    rows = read_table(copied)
    missing_slice(rows, None, label_of(exams, 0), copied)
    write_table(copied, rows)
    table = read(copied, "--leave-out-refused")
    assert image_of(label_of(exams, 0)) not in {record.image for record in table.records}
    assert len(table.records) == 5
    assert "left out: 1 series, row" in caplog.text


def test_tables_without_labels_are_refused_with_the_reason(copied):
    rows = [row[:3] for row in read_table(copied)]
    write_table(copied, rows, columns=COLUMNS[:3])
    with pytest.raises(ValueError, match=r"lacks the columns pe_present_on_image, .*without labels \(as test\.csv"):
        read(copied)
    (copied / "train.csv").rename(copied / "test.csv")
    with pytest.raises(ValueError, match=r"there is no train\.csv in .*; test\.csv is of no use: its labels are not"):
        read(copied)


def test_the_command_makes_lists_whose_windows_have_the_right_labels(made, exams, tmp_path):
    parser = argparse.ArgumentParser(prog="ttl")
    command.add_parser(parser.add_subparsers(dest="verb", required=True))
    words = ("datalist", "rsna_pe", made, "--repeats", "1", "--site-key", tmp_path / "key", "--output-dir", tmp_path)
    arguments = parser.parse_args([str(word) for word in words])
    assert arguments.run(arguments) == 0
    datalist = Datalist.load(tmp_path / "set_split0.json", made)
    assert not re.search("P000[1-3]", (tmp_path / "set_split0.json").read_text())
    assert json.loads((tmp_path / "set_split0.json").read_text())["num_patients"] == dict.fromkeys(datalist.entries, 1)
    cache = VolumeCache([LoadImaged("image", reader=VolumeReader(modality="CT"), ensure_channel_first=True)])
    for section in datalist.entries:
        items = datalist.section(section)
        for window in WindowDataset(items, cache, size=8):
            path = next(item["image"] for item in items if item["image_id"] == window["image_id"])
            number = int(re.search(r"train/(\w+)/", path)[1], 16)
            scan, start = exams[number].scan, window["start"]
            np.testing.assert_array_equal(window["image"][0], scan.hu[start : start + 8])
            inside = [k for k in scan.slices if start <= k < start + 8]
            assert (window["label"], window["window_label"]) == (exams[number].label, int(len(inside) >= 4))
    drawn = RandomWindowDataset(datalist.section("training"), cache, size=12, positive_fraction=1.0)
    drawn.set_random_state(0)
    assert {drawn[index]["label"] for index in range(8)} == {1}
