"""BIMCV-COVID19: a tree as published, labels by three rules, and pixels shown by their side-cars."""

import argparse
import json
import re

import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from ttl_monai.data import XrayReader
from ttl_monai.data.build import build_datalists
from ttl_monai.data.dicom import read_dicom
from ttl_monai.data.fingerprint import hash_item
from ttl_monai.data.phantom import make_phantom
from ttl_monai.data.sidecar import read_sidecar
from ttl_monai.data.sources import bimcv

TAGS = {
    "00080060": {"vr": "CS", "Value": ["DX"]},
    "00100020": {"vr": "LO", "Value": ["SECRET"]},
    "00280004": {"vr": "CS", "Value": ["MONOCHROME2"]},
}
# part, subject, session, rest of the name, label of the report
XRAYS = [
    ("covid19_neg", "sub-S1", "ses-E1", "run-1_bp-chest_vp-ap_dx", "['normal']"),
    ("covid19_neg", "sub-S2", "ses-E2", "run-1_bp-chest_vp-pa_cr", "['pneumonia', 'COVID 19']"),
    ("covid19_neg", "sub-S2", "ses-E3", "run-1_bp-chest_vp-ll_cr", "['normal']"),
    ("covid19_posi", "sub-S7", "ses-E7", "acq-1_run-1_bp-chest_vp-pa_cr", "['\tCOVID 19 ', ' infiltrates'"),
    ("covid19_posi", "sub-S7", "ses-E8", "run-1_bp-chest_vp-ap_dx", "['COVID 19 uncertain']"),
    ("covid19_posi", "sub-S8", "ses-E9", "run-1_bp-chest_vp-ap_dx", ""),
    ("covid19_posi", "sub-S8", "ses-E9", "run-2_bp-chest_dx", ""),
]
TABLES = {
    "covid19_neg/participants.tsv": "participant\tmodality_dicom\tbody_parts\tage\tgender\n"
    "sub-S1\t['DX']\t[['chest']]\t[60]\tM\nsub-S2\t['CR']\t[['chest']]\t[50]\tF\nderivatives\t\t\t\t\n",
    "covid19_posi/participants.tsv": "participant\tmodality_dicom\tbody_parts\tage\tgender\n"
    "sub-S7\t['CR', 'DX']\t[['chest']]\t[70, 71]\tF\nsub-S8\t['DX']\t[['chest']]\t[40]\tM\nderivatives\t\t\t\t\n",
    "covid19_posi/derivatives/EHR/sil_reg_covid_posi.tsv": "participant\tdate\ttest\tresult\n"
    "sub-S7\t21.03.2020\tPCR\tPOSITIVO\nsub-S7\t01.05.2020\tIGG\tNEGATIVO\nsub-S8\t02.04.2020\tPCR\tINDETERMINADO\n"
    "sub-S9\t02.04.2020\tPCR\tPOSITIVO\n",
    "covid19_posi/sub-S7/sub-S7_sessions.tsv": "session_id\tstudy_date\tmedical_evaluation\n"
    'ses-E7\t20200325\t"dos lineas\nen una"\nses-E8\t20200501.0\tinforme\n',
    "common.tsv": "covid19_posi\tcovid19_neg\nsub-S8\tsub-S2\n",
}


@pytest.fixture
def tree(tmp_path):
    reports = {"covid19_neg": "Labels_covid_NEG_JAN21.tsv", "covid19_posi": "labels_covid_posi.tsv"}
    for part, name in reports.items():
        cells = [f'{k}\t{s}\t{e}\tinforme\t"{v}"\t[]' for k, (p, s, e, _, v) in enumerate(XRAYS) if p == part]
        header = "\tPatientID\tReportID\tReport\tLabels\tLocalizations"
        write(tmp_path, f"{part}/derivatives/labels/{name}", "\n".join([header, *dict.fromkeys(cells)]) + "\n")
    for name, text in TABLES.items():
        write(tmp_path, name, text)
    for k, (part, subject, session, name, _) in enumerate(XRAYS):
        stem = tmp_path / part / subject / session / "mod-rx" / f"{subject}_{session}_{name}"
        write(tmp_path, stem.relative_to(tmp_path).as_posix() + ".json", json.dumps(TAGS))
        Image.fromarray(np.arange(k, k + 64, dtype=np.uint16).reshape(8, 8) * 50).save(f"{stem}.png")
        stem.with_name(stem.name + "_ct.nii.gz").touch()
    return tmp_path


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def read(folder, *options):
    parser = argparse.ArgumentParser()
    bimcv.add_arguments(parser)
    arguments = parser.parse_args([str(folder), *options])
    arguments.dataset_dir = folder
    return bimcv.read(arguments)


def test_frontal_views_of_both_parts(tree, caplog):
    table = read(tree)
    assert (table.task, table.class_names) == ("binary", ["negative", "positive"])
    assert [(r.row, r.label, r.patient) for r in table.records] == [
        (1, 0, "sub-S1"),
        (2, 0, "sub-S2"),
        (4, 1, "sub-S7"),
        (5, 1, "sub-S7"),
        (6, 1, "sub-S8"),
    ]
    assert table.records[0].image == "covid19_neg/sub-S1/ses-E1/mod-rx/sub-S1_ses-E1_run-1_bp-chest_vp-ap_dx.png"
    assert "ASSUMPTION: no patient is in both" in caplog.text


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("--positive", "test"), [1, 2, 4]),
        (("--positive", "test", "--days", "3"), [1, 2]),
        (("--positive", "test", "--days", "41"), [1, 2, 4, 5]),
        (("--positive", "report"), [1, 4]),
        (("--positive", "report", "--findings", "COVID 19", "COVID 19 uncertain"), [1, 4, 5]),
    ],
)
def test_what_counts_as_positive(tree, options, rows):
    assert [record.row for record in read(tree, *options).records] == rows


def test_common_ids_make_one_patient_of_two(tree, caplog):
    table = read(tree, "--common-ids", "common.tsv")
    assert [r.patient for r in table.records] == ["sub-S1", "sub-S8", "sub-S7", "sub-S7", "sub-S8"]
    assert "ASSUMPTION" not in caplog.text


def test_an_xray_without_a_sound_sidecar_is_left_out(tree, caplog):
    first, second = sorted(tree.glob("covid19_posi/sub-S7/ses-*/mod-rx/*.json"))
    first.unlink()
    second.write_text("{")
    assert [record.row for record in read(tree).records] == [1, 2, 6]
    assert "2 x-rays have no sound JSON that says MONOCHROME1 or 2 and are left out: rows 4, 5" in caplog.text


def test_the_list_is_split_by_subject(tree):
    (made,) = build_datalists(
        read(tree), tree, header={"name": "b"}, site_key=b"k" * 32, repeats=1, fractions=(0.5, 0, 0.5)
    )
    assert sum(made["num_patients"].values()) == 4
    assert not re.search(r'"patient": "sub', json.dumps(made))


def drop(name):
    return lambda tree: (tree / name).unlink()


def edit(name, old, new):
    def change(tree):
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new))

    return change


EHR = "covid19_posi/derivatives/EHR/sil_reg_covid_posi.tsv"
SESSIONS = "covid19_posi/sub-S7/sub-S7_sessions.tsv"
TEST, REPORT = ("--positive", "test"), ("--positive", "report")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda tree: (tree / "covid19_neg").rename(tree / "neg"), (), "there is no covid19_neg in .*: expected both"),
        (drop("covid19_neg/participants.tsv"), (), "there is no participants.tsv"),
        (edit("covid19_neg/participants.tsv", "sub-S2", "sub-S3"), (), r"1 x-rays are of subjects .* lacks: row 2"),
        (edit("covid19_neg/participants.tsv", "participant\t", "who\t"), (), "'participant' is missing or repeated"),
        (drop(EHR), TEST, r"expected one table sil_reg_covid\*.tsv in .*, got 0"),
        (edit(EHR, "NEGATIVO", "QUIZAS"), TEST, "has 1 results other than POSITIVO, NEGATIVO and INDETERMINADO"),
        (edit(EHR, "21.03.2020", "2020-03-21"), TEST, r"has a date that is not written as %d.%m.%Y"),
        (edit(SESSIONS, "20200325", "25.3.20"), TEST, "a table of sessions has a date that is not written as %Y%m%d"),
        (edit(SESSIONS, "study_date", "date"), TEST, "a subject's table of sessions is missing or lacks session_id"),
        (drop(SESSIONS), TEST, "a subject's table of sessions is missing"),
        (drop("covid19_posi/derivatives/labels/labels_covid_posi.tsv"), REPORT, r"one table labels_\*.tsv"),
        (None, ("--common-ids", "none.tsv"), "there is no none.tsv"),
    ],
)  # fmt: skip
def test_refuses(tree, spoil, options, message):
    if spoil:
        spoil(tree)
    with pytest.raises(ValueError, match=message) as caught:
        read(tree, *options)
    assert "sub-S" not in str(caught.value)


def test_a_folder_without_frontal_views_is_refused(tmp_path):
    for part in ("covid19_neg", "covid19_posi"):
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match="no frontal x-rays among 0 PNG"):
        read(tmp_path)


# ---- pixels

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def show(folder, tags, pixels=RAMP):
    Image.fromarray(pixels).save(folder / "x.png")
    if tags is not None:
        text = (
            tags if isinstance(tags, str) else json.dumps({name: {"vr": "XX", "Value": v} for name, v in tags.items()})
        )
        (folder / "x.json").write_text(text)
    image = LoadImaged("image", image_only=True, reader="ttl_monai.data.XrayReader")({"image": folder / "x.png"})[
        "image"
    ]
    return np.asarray(image)


def windowed(values, center, width):
    """DICOM PS3.3 C.11.2.1.2.1, written anew."""
    return np.clip((values.astype(float) - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


MONO1, MONO2 = {"00280004": ["MONOCHROME1"]}, {"00280004": ["MONOCHROME2"]}
WINDOW = {"00281050": [2000.0, 1.0], "00281051": [1000, 2]}
TABLE = {"00283002": {"Value": [3, 1000, 8]}, "00283006": {"Value": [0, 100, 255]}}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (None, RAMP / 4080),
        ({"shapes": []}, RAMP / 4080),  # a side-car of another kind
        ("[1]", RAMP / 4080),
        (MONO2, RAMP / 4080),
        (MONO1, 1 - RAMP / 4080),
        (MONO2 | WINDOW, windowed(RAMP, 2000, 1000)),
        (MONO1 | WINDOW, 1 - windowed(RAMP, 2000, 1000)),
        (MONO2 | WINDOW | {"00281053": [2], "00281052": [-100]}, windowed(RAMP * 2.0 - 100, 2000, 1000)),
        (MONO2 | WINDOW | {"00283010": [TABLE]}, np.where(RAMP <= 1000, 0, np.where(RAMP == 1001, 100, 255)) / 255),
    ],
)
def test_sixteen_bits_are_shown_by_the_sidecar(tmp_path, tags, expected):
    np.testing.assert_allclose(show(tmp_path, tags), expected, atol=2e-4)


def test_eight_bits_are_only_turned_over(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_allclose(show(tmp_path, MONO1 | WINDOW, pixels), 1 - pixels / 255, atol=1e-6)
    (tmp_path / "x.json").write_text(json.dumps(TAGS))
    np.testing.assert_allclose(XrayReader().get_data((tmp_path / "x.png",))[0], pixels / 255, atol=1e-6)


def test_a_png_with_a_sidecar_looks_like_its_dicom(tmp_path):
    """The same stored values and tags, once as DICOM and once as BIMCV has them: an independent way to the picture."""
    make_phantom(tmp_path, seed=1, patients=6)
    checked = set()
    for path in sorted((tmp_path / "images").glob("*.dcm")):
        dicom = pydicom.dcmread(path)
        Image.fromarray(dicom.pixel_array).save(path.with_suffix(".png"))
        del dicom.PixelData
        path.with_suffix(".json").write_text(dicom.to_json())
        shown = XrayReader().get_data((path.with_suffix(".png"),))[0]
        np.testing.assert_allclose(shown, read_dicom(path), atol=1e-6)
        checked.add(dicom.PhotometricInterpretation)
    assert checked == {"MONOCHROME1", "MONOCHROME2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the file beside the image is no JSON"),
        (json.dumps({**TAGS, "00281050": {"Value": ["SECRET"]}}), "tags for display are damaged"),
        (json.dumps({**TAGS, "00283010": {"Value": [{}]}}), "tags for display are damaged"),
    ],
)
def test_a_damaged_sidecar_is_refused_without_its_content(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_sidecar(tmp_path / "x.png")
    assert "SECRET" not in str(caught.value)


def test_no_tag_but_those_for_display_is_kept(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(TAGS))
    assert [element.keyword for element in read_sidecar(tmp_path / "x.png")] == ["PhotometricInterpretation"]


def test_a_changed_sidecar_changes_what_a_cache_entry_belongs_to(tmp_path):
    (tmp_path / "x.png").write_bytes(b"1")
    hashes = [hash_item({"image": str(tmp_path / "x.png")})]
    for text in ("{}", "{ }"):
        (tmp_path / "x.json").write_text(text)
        hashes.append(hash_item({"image": str(tmp_path / "x.png")}))
    assert len(set(hashes)) == 3
