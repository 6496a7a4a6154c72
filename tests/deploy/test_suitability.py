"""What a bundle accepts: the rules as they are written, and headers against them."""

import json
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from ttl_monai.data import VolumeReport
from ttl_monai.deploy.predict.suitability import check_rules, judge

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
GOOD = {"formats": ["DICOM"], "image": {"Modality": {"values": ["CR"]}}, "series": None}


@pytest.mark.parametrize("name", ["covid_ttl", "ctpa_ttl", "unet_ttl"])
def test_the_rules_of_our_bundles_are_sound(name):
    rules = json.loads((BUNDLES / name / "configs/inference.json").read_text())["accepts"]
    check_rules({key: value for key, value in rules.items() if key != "_desc_"})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"more": 1}, "got {.*'more'"),
        ({"formats": ["JPEG"]}, "got {.*'JPEG'"),
        ({"image": None}, "got neither image nor series"),
        ({"image": {"PatientName": {"values": []}}}, "got PatientName .* in image"),
        ({"image": {"Modality": ["CR"]}}, r"got Modality \['CR'\] in image"),
        ({"image": {"Modality": {"values": "CR"}}}, "got Modality .* in image"),
        ({"series": {"Modality": {"values": ["CT"], "missing": "fine"}}}, "got 'fine' in series, Modality"),
    ],
)
def test_rules_that_are_none_are_refused(change, match):
    check_rules(GOOD)
    with pytest.raises(ValueError, match=f"expected accepts of inference.json .*{match}"):
        check_rules(GOOD | change)


@pytest.mark.parametrize(
    ("tags", "rule", "outcome", "detail"),
    [
        ({"Modality": "cr "}, {"values": ["CR"]}, "passed", "CR"),
        ({"Modality": "CT"}, {"values": ["CR", "DX"]}, "refused", "CT, expected CR or DX"),
        ({"Modality": "DOE"}, {"values": ["CR"]}, "refused", "another value, expected CR"),
        ({"Modality": "CT"}, {"values": ["CR"], "other": "warned"}, "warned", "CT, expected CR"),
        ({"Modality": ""}, {"values": ["CR"]}, "warned", "not stated, expected CR"),
        ({}, {"values": ["CR"], "missing": "refused"}, "refused", "not stated, expected CR"),
    ],
)
def test_a_header_is_compared(tags, rule, outcome, detail):
    header, report = Dataset(), VolumeReport(source="DICOM")
    for name, value in tags.items():
        setattr(header, name, value)
    judge(header, {"Modality": rule}, report)
    (check,) = report.checks
    assert (check.name, check.outcome, check.detail) == ("modality", outcome, detail)


@pytest.mark.parametrize(
    ("tags", "outcome"),
    [
        ({"ViewPosition": "PA", "PatientOrientation": ["A", "F"]}, "passed"),
        ({"PatientOrientation": ["A", "F"]}, "refused"),
        ({"PatientOrientation": ["PL", "F"]}, "refused"),
        ({"PatientOrientation": ["L", "F"]}, "warned"),
        ({"PatientOrientation": "L"}, "warned"),
        ({}, "warned"),
    ],
)
def test_the_view_is_told_by_where_the_rows_run(tags, outcome):
    header, report = Dataset(), VolumeReport(source="DICOM")
    for name, value in tags.items():
        setattr(header, name, value)
    judge(header, {"ViewPosition": {"values": ["PA", "AP"]}}, report)
    assert [check.outcome for check in report.checks] == [outcome]
