"""A study of a DICOMweb server, predicted, and its results stored back: against a fake, and against Orthanc."""

import os
import shutil

import pydicom
import pytest

from tests.deploy.dicomweb_server import Server, serving
from tests.orthanc import PASSWORD, USER, client_of, running_orthanc
from ttl_monai.cli import main
from ttl_monai.deploy.pacs import Pacs

from .conftest import BUNDLES
from .predict_inputs import CANARY, PATIENT, leaks, write_scan, write_xray

pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed: pip install 'ttl-monai[dicomweb]'")


@pytest.fixture
def command(train_once, site_key, tmp_path):
    """The command line for a study of a server."""

    def make(bundle, url, study, run_dir=None):
        names = ["predict", str(run_dir or train_once(bundle)), "--bundle", str(BUNDLES / bundle)]
        names += ["--from", "dicomweb", url, "--study", study, "--store", "--out", str(tmp_path / "out")]
        return [*names, "--site-key", str(site_key)]

    return make


def test_a_study_is_predicted_and_its_objects_are_stored(command, tmp_path, capfd):
    server = Server()
    server.instances = [pydicom.dcmread(write_xray(tmp_path / "a.dcm"))]
    with serving(server) as url:
        assert main(command("covid_ttl", url, "1.2.3.77")) == 0
    assert sorted(each.Modality for each in server.stored) == ["OT", "SR"]
    assert {each.StudyInstanceUID for each in server.stored} == {"1.2.3.77"}
    assert {str(each.PatientName) for each in server.stored} == {PATIENT["PatientName"]}
    shown = capfd.readouterr()
    assert "1 predicted" in shown.out
    assert not [text for text in (CANARY, "1.2.3.77") if text in shown.out + shown.err]
    assert not leaks(tmp_path / "out", but={"dicom"})
    # Once more: what is stored beside the study by now is ours, and no image to be predicted.
    server.instances += server.stored
    shutil.rmtree(tmp_path / "out")
    with serving(server) as url:
        assert main(command("covid_ttl", url, "1.2.3.77")) == 0
    assert len(server.stored) == 4


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["in", "--from", "dicomweb", "http://localhost", "--study", "1.2"], "either an INPUT, or a server"),
        ([], "either an INPUT, or a server"),
        (["in", "--store"], "go with --from dicomweb"),
        (["--from", "dimse", "http://localhost", "--study", "1.2"], "expected --from dicomweb URL"),
        (["--from", "dicomweb", "http://localhost"], "expected --from dicomweb URL with --study UID"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, match, tmp_path, capsys):
    assert main(["predict", "run", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert match in capsys.readouterr().err


@pytest.fixture
def orthanc(tmp_path):
    """The address of a fresh Orthanc's DICOMweb."""
    with running_orthanc(tmp_path) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["covid_ttl", "ctpa_ttl", "unet_ttl"])
def test_orthanc_has_the_results_beside_the_study(bundle, command, orthanc, tmp_path, monkeypatch):
    """STOW a study in, predict it, and find what came of it by QIDO."""
    if bundle == "ctpa_ttl":
        files = write_scan(tmp_path / "in", StudyInstanceUID="1.2.3.77")
    else:
        files = [write_xray(tmp_path / "in/a.dcm")]
    monkeypatch.setenv("TTL_DICOMWEB_USER", USER)
    monkeypatch.setenv("TTL_DICOMWEB_PASSWORD", PASSWORD)
    client = client_of(orthanc)
    client.store_instances([pydicom.dcmread(file) for file in files])
    assert main(command(bundle, orthanc, "1.2.3.77")) == 0
    found = client.search_for_series("1.2.3.77", fields=["Modality", "SeriesDescription"])
    modalities = sorted(each["00080060"]["Value"][0] for each in found)
    source = "CT" if bundle == "ctpa_ttl" else "DX"
    assert modalities == sorted([source, *(["SEG"] if bundle == "unet_ttl" else ["SR", "OT"])])
    for each in found:
        (made, *_) = client.retrieve_series("1.2.3.77", each["0020000E"]["Value"][0])
        assert (made.PatientID, str(made.PatientName)) == (PATIENT["PatientID"], PATIENT["PatientName"])
    with pytest.raises(ValueError, match="it answered 401"):
        Pacs(orthanc).retrieve("1.2.3.77", tmp_path / "again")
    assert os.environ["TTL_DICOMWEB_PASSWORD"] not in "".join(
        path.read_text(errors="ignore") for path in (tmp_path / "out").glob("*.json")
    )
