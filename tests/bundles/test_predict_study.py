"""A study of a DICOMweb server, predicted, and its results stored back: against a fake, and against Orthanc."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pydicom
import pytest

from tests.deploy.dicomweb_server import Server, serving
from ttl_monai.cli import main
from ttl_monai.deploy.pacs import Pacs

from .conftest import BUNDLES
from .predict_inputs import CANARY, PATIENT, leaks, write_scan, write_xray

MISSING = "dicomweb-client is not installed: pip install 'ttl-monai[dicomweb]'"
dicomweb = pytest.importorskip("dicomweb_client.api", reason=MISSING)
requests = pytest.importorskip("requests", reason=MISSING)
PLUGINS = [Path(folder, "libOrthancDicomWeb.so") for folder in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")]


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
    """A fresh Orthanc on loopback, its data in a temporary folder; gives the address of its DICOMweb."""
    program = shutil.which("Orthanc")
    plugin = next((path for path in PLUGINS if path.exists()), None)
    if program is None or plugin is None:
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian's orthanc and orthanc-dicomweb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        **{"Name": "test", "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db")},
        **{"HttpPort": port, "RemoteAccessAllowed": False, "DicomServerEnabled": False, "Plugins": [str(plugin)]},
        **{"AuthenticationEnabled": True, "RegisteredUsers": {"me": "word"}, "DicomWeb": {"Enable": True}},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/dicom-web"
    try:
        for _ in range(120):
            try:
                if requests.get(f"{url}/studies", auth=("me", "word"), timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.5)
        else:
            pytest.fail(f"Orthanc did not answer: {(tmp_path / 'orthanc.log').read_text()[-2000:]}")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["covid_ttl", "ctpa_ttl", "unet_ttl"])
def test_orthanc_has_the_results_beside_the_study(bundle, command, orthanc, tmp_path, monkeypatch):
    """STOW a study in, predict it, and find what came of it by QIDO."""
    if bundle == "ctpa_ttl":
        files = write_scan(tmp_path / "in", StudyInstanceUID="1.2.3.77")
    else:
        files = [write_xray(tmp_path / "in/a.dcm")]
    monkeypatch.setenv("TTL_DICOMWEB_USER", "me")
    monkeypatch.setenv("TTL_DICOMWEB_PASSWORD", "word")
    session = requests.Session()
    session.auth = ("me", "word")
    client = dicomweb.DICOMwebClient(orthanc, session=session)
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
