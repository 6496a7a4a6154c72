"""A fresh Orthanc on loopback, for what a DICOMweb server of others takes and gives."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = ("orthanc", "orthanc-dicomweb")
PLUGINS = [Path(folder, "libOrthancDicomWeb.so") for folder in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")]
USER, PASSWORD = "me", "word"


def find_orthanc():
    """The program and its DICOMweb plugin, installed where TTL_TEST_APT=1 allows it; else the test is skipped."""
    found = shutil.which("Orthanc"), next((path for path in PLUGINS if path.exists()), None)
    if not all(found) and os.environ.get("TTL_TEST_APT") == "1":
        subprocess.run(["apt-get", "install", "--yes", *PACKAGES], check=True, capture_output=True)
        found = shutil.which("Orthanc"), next((path for path in PLUGINS if path.exists()), None)
    if not all(found):
        pytest.skip(f"no Orthanc with DICOMweb: install Debian's {' and '.join(PACKAGES)}, or set TTL_TEST_APT=1")
    return found


@contextmanager
def running_orthanc(folder):
    """Run it on a free port with its data in a folder; gives the address of its DICOMweb, for USER and PASSWORD."""
    requests = pytest.importorskip("requests", reason="needs pip install 'ttl-monai[dicomweb]'")
    program, plugin = find_orthanc()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        **{"Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db")},
        **{"HttpPort": port, "RemoteAccessAllowed": False, "DicomServerEnabled": False, "Plugins": [str(plugin)]},
        **{"AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD}, "DicomWeb": {"Enable": True}},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/dicom-web"
    try:
        for _ in range(120):
            try:
                if requests.get(f"{url}/studies", auth=(USER, PASSWORD), timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.5)
        else:
            pytest.fail(f"Orthanc did not answer: {(folder / 'orthanc.log').read_text()[-2000:]}")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def client_of(url):
    """A client of it."""
    requests, api = pytest.importorskip("requests"), pytest.importorskip("dicomweb_client.api")
    session = requests.Session()
    session.auth = (USER, PASSWORD)
    return api.DICOMwebClient(url, session=session)
