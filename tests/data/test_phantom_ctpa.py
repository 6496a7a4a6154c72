"""The made CT angiographies: anatomy, emboli, no short cuts, and the files."""

import csv
import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_dilation, label
from sklearn.metrics import roc_auc_score

from ttl_monai.data import Datalist, demo_ctpa_phantom, find_series, make_ctpa_phantom, phantom_ctpa
from ttl_monai.data.phantom_ct import draw_ct
from ttl_monai.data.phantom_ctpa import draw_ctpa_phantom
from ttl_monai.data.volume_reader import VolumeReader

SHAPE = (30, 64, 64)  # smaller than the demo's, for speed


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    make_ctpa_phantom(folder, seed=3, patients=6, shape=SHAPE)
    return folder


def test_same_seed_gives_same_bytes_and_another_seed_another_phantom(small, tmp_path):
    make_ctpa_phantom(tmp_path / "again", seed=3, patients=6, shape=SHAPE)
    make_ctpa_phantom(tmp_path / "other", seed=4, patients=6, shape=SHAPE)
    assert tree(tmp_path / "again") == tree(small)
    images = [{data for name, data in tree(f).items() if "images/" in name} for f in (small, tmp_path / "other")]
    assert not images[0] & images[1]


def test_a_patient_looks_the_same_whatever_the_number_of_patients():
    few, many = (list(draw_ctpa_phantom(seed=5, patients=n, shape=SHAPE)) for n in (2, 4))
    for left, right in zip(few, many, strict=False):
        assert left[:4] == right[:4]
        np.testing.assert_array_equal(left.scan.hu, right.scan.hu)


@pytest.mark.parametrize("seed", range(4))
def test_the_emboli_are_filling_defects_of_the_arteries_and_the_only_difference(seed):
    negative, positive = (draw_ct(seed, positive=p) for p in (False, True))
    assert not negative.emboli.any()
    assert negative.slices == ()
    assert len(positive.slices) >= 4
    np.testing.assert_array_equal(negative.arteries, positive.arteries)
    assert not (positive.emboli & ~positive.arteries).any()
    assert 20 < np.median(positive.hu[positive.emboli]) < 150
    assert 280 < np.median(negative.hu[negative.arteries]) < 520
    away = ~binary_dilation(positive.emboli, iterations=2)
    np.testing.assert_array_equal(negative.hu[away], positive.hu[away])
    counted = [k for k in range(len(positive.hu)) if positive.emboli[k].sum() >= 2]
    assert list(positive.slices) == counted


@pytest.mark.parametrize("seed", range(4))
def test_a_scan_is_a_chest_in_hu(seed):
    scan = draw_ct(seed, positive=False)
    slices, rows, columns = scan.hu.shape
    assert scan.hu.dtype == np.int16
    assert scan.hu[:, :4, :4].max() < -850  # air in the corners
    lungs = (scan.hu > -920) & (scan.hu < -650)
    middle = lungs[slices // 2]
    assert all(0.08 < part.mean() < 0.9 for part in (middle[:, : columns // 2], middle[:, columns // 2 :]))
    spine = scan.hu[:, rows // 2 + 15 : rows // 2 + 25, columns // 2 - 4 : columns // 2 + 4]
    assert 100 < np.median(spine) < 400
    regions, count = label(scan.arteries)
    sizes = np.bincount(regions.ravel())[1:]
    assert count >= 1
    assert sizes.max() > 0.8 * sizes.sum()  # one tree
    assert scan.arteries[:, :, : columns // 2].sum() > 300  # on both sides
    assert scan.arteries[:, :, columns // 2 :].sum() > 300


def test_simple_statistics_do_not_tell_the_class():
    exams = list(draw_ctpa_phantom(seed=1, patients=30, shape=SHAPE))
    labels = np.array([exam.label for exam in exams])
    statistics = {
        "mean": [exam.scan.hu.mean() for exam in exams],
        "std": [exam.scan.hu.std() for exam in exams],
        "maximum": [exam.scan.hu.max() for exam in exams],
        "bright": [(exam.scan.hu > 250).mean() for exam in exams],
        "soft": [((exam.scan.hu > 0) & (exam.scan.hu < 100)).mean() for exam in exams],
        "DICOM": [exam.format == "DICOM" for exam in exams],
        "number": [exam.number for exam in exams],
        "patient": [int(exam.patient[1:]) for exam in exams],
    }
    areas = {name: roc_auc_score(labels, np.asarray(values, dtype=float)) for name, values in statistics.items()}
    assert all(0.3 < area < 0.7 for area in areas.values()), areas
    assert labels.mean() == 0.5


def test_dicom_and_nifti_read_as_drawn(small):
    reader, kinds = VolumeReader(modality="CT"), set()
    for exam in draw_ctpa_phantom(seed=3, patients=6, shape=SHAPE):
        path = small / "images" / (f"{exam.patient}_{exam.number}" + (".nii.gz" if exam.format == "NIfTI" else ""))
        array, meta = reader.get_data((path,))
        np.testing.assert_array_equal(array.transpose(2, 1, 0), exam.scan.hu)
        np.testing.assert_allclose(np.diag(meta["affine"])[:3], np.array(exam.scan.spacing_mm)[::-1] * [-1, -1, 1])
        middle = meta["affine"] @ [*((np.array(array.shape) - 1) / 2), 1]
        np.testing.assert_allclose(middle[:3], 0, atol=1e-3)
        kinds.add((exam.format, exam.label))
    assert kinds == {("DICOM", 0), ("DICOM", 1), ("NIfTI", 0), ("NIfTI", 1)}
    found = find_series(small)
    assert len(found) == 6  # of three patients; NIfTI files, lists and notes are left out
    assert all(each.report.suitable for each in found)


def test_headers_are_plausible_and_anonymous(small):
    files = sorted(small.rglob("*.dcm"))
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    assert len({ds.SOPInstanceUID for ds in found}) == len(found) == 6 * SHAPE[0]
    for ds in found[::17]:
        assert (ds.Modality, ds.RescaleType, ds.PatientIdentityRemoved) == ("CT", "HU", "YES")
        assert ds.SOPInstanceUID.is_valid
        assert not any((ds.StudyDate, ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber))


def test_the_datalist_fits_the_table_and_has_the_slices(small):
    datalist = Datalist.load(small / "datalist.json", small)
    assert (datalist.task, datalist.name, datalist.public_ids) == ("binary", "phantom_ctpa", True)
    entries = [entry for section in ("training", "validation", "test") for entry in datalist.section(section)]
    with (small / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {(row["image"], row["label"] == "positive", row["slices"]) for row in rows}
    assert table == {(e["image_id"], e["label"] == 1, " ".join(map(str, e["slices"]))) for e in entries}
    assert all(len(entry["slices"]) >= 4 if entry["label"] else not entry["slices"] for entry in entries)
    for exam in draw_ctpa_phantom(seed=3, patients=6, shape=SHAPE):
        (entry,) = (each for each in entries if each["image_id"].startswith(f"images/{exam.patient}_{exam.number}"))
        assert (entry["label"], tuple(entry["slices"])) == (exam.label, exam.scan.slices)


@pytest.mark.parametrize("slices", [[3, 2], [1, 1], [-1], ["1"], "1 2", [True]])
def test_slices_that_are_no_numbers_are_refused(small, tmp_path, slices):
    data = json.loads((small / "datalist.json").read_text())
    data["training"][0]["slices"] = slices
    (tmp_path / "list.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r'1 entries have "slices" that are no ascending numbers .*: training\[0\]'):
        Datalist.load(tmp_path / "list.json", small)


def test_a_folder_without_files_is_missing(small, tmp_path):
    data = json.loads((small / "datalist.json").read_text())
    (tmp_path / "images").mkdir()
    for section in ("training", "validation", "test"):
        for entry in data[section]:
            (tmp_path / entry["image"]).mkdir()
    (tmp_path / "list.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"12 of 12 files .* are missing"):
        Datalist.load(tmp_path / "list.json", tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"patients": 2}, "expected patients >= 3"), ({"shape": (16, 96, 96)}, "shape must be at least 24 x 64 x 64")],
)
def test_bad_options_are_refused(tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        make_ctpa_phantom(tmp_path, **options)


def test_the_demo_is_made_once_and_anew_when_a_slice_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_ctpa, "DEMO_PATIENTS", 4)
    monkeypatch.setattr(phantom_ctpa, "SHAPE", (24, 64, 64))
    folder = tmp_path / "demo"
    path = demo_ctpa_phantom(folder)
    whole, made = tree(folder), path.stat().st_mtime_ns
    assert demo_ctpa_phantom(folder) == path
    assert path.stat().st_mtime_ns == made
    slice_file = next(folder.rglob("*.dcm"))
    slice_file.write_bytes(slice_file.read_bytes()[:-10])
    demo_ctpa_phantom(folder)
    assert tree(folder) == whole
    (folder / "README.txt").write_text("mine")
    slice_file.unlink()
    with pytest.raises(ValueError, match="holds something else than made CT pulmonary angiographies"):
        demo_ctpa_phantom(folder)


def test_emboli_lie_far_from_the_borders():
    # so that the crop of a window keeps them
    for exam in draw_ctpa_phantom(seed=3, patients=6, shape=SHAPE):
        if exam.label:
            _, rows, columns = exam.scan.emboli.nonzero()
            assert rows.min() > 0.1 * SHAPE[1] < SHAPE[1] * 0.9 > rows.max()
            assert columns.min() > 0.1 * SHAPE[2] < SHAPE[2] * 0.9 > columns.max()


def test_nifti_states_its_orientation_and_unit(small):
    path = next(small.rglob("*.nii.gz"))
    header = nib.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"]), header.get_xyzt_units()[0]) == (1, 1, "mm")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"clots": (0, 3)}, r"clots must be the fewest and the most, each at least 1, got \(0, 3\)"),
        ({"clots": (4, 3)}, r"got \(4, 3\)"),
        ({"smallest_mm": 9}, "smallest_mm must be from 0 to 8"),
    ],
)
def test_clots_that_cannot_be_drawn_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        draw_ct(0, positive=True, **options)


def test_more_and_larger_clots_fill_more_of_the_arteries():
    few, many = ([draw_ct(s, positive=True, clots=c) for s in range(4)] for c in ((1, 1), (9, 9)))
    assert all(a.emboli.sum() < b.emboli.sum() for a, b in zip(few, many, strict=True))
    small, large = ([draw_ct(s, positive=True, smallest_mm=mm) for s in range(4)] for mm in (4.5, 8))
    assert sum(each.emboli.sum() for each in small) < sum(each.emboli.sum() for each in large)
