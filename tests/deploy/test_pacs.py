"""The client of a DICOMweb server: what it asks, how often, and what it does not tell."""

import logging
import ssl
import subprocess
import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pydicom
import pytest

from tests.bundles.predict_inputs import CANARY, write_scan, write_xray
from ttl_monai.deploy.pacs import Credentials, Pacs, PacsError, load_credentials

from .dicomweb_server import Server, serving

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed: pip install 'ttl-monai[dicomweb]'")
SECRET = "CANARYSECRET"


@pytest.fixture
def server(tmp_path):
    """A server with an x-ray, a report and a series of one study, behind a password."""
    server = Server("me", SECRET)
    files = [write_xray(tmp_path / "a.dcm"), write_xray(tmp_path / "b.dcm", Modality="SR")]
    files += write_scan(tmp_path / "scan", slices=3, StudyInstanceUID="1.2.3.77")
    server.instances = [pydicom.dcmread(file) for file in files]
    return server


def test_images_of_a_study_come_and_objects_go(server, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with serving(server) as url:
        pacs = Pacs(url, Credentials(user="me", password=SECRET))
        assert pacs.retrieve("1.2.3.77", tmp_path / "in") == 4, "the report stays there"
        pacs.store([tmp_path / "a.dcm"])
    came = [pydicom.dcmread(file) for file in sorted((tmp_path / "in").rglob("*.dcm"))]
    there = {each.SOPInstanceUID: each for each in server.instances if each.Modality != "SR"}
    assert {each.SOPInstanceUID for each in came} == set(there)
    assert all(each.PixelData == there[each.SOPInstanceUID].PixelData for each in came)
    assert [each.SOPInstanceUID for each in server.stored] == [server.instances[0].SOPInstanceUID]
    shown = capfd.readouterr()
    for text in (CANARY, SECRET, "1.2.3.77"):
        assert text not in caplog.text + shown.out + shown.err


def test_series_come_page_by_page_where_the_server_limits_its_answers(server, tmp_path):
    server.page = 1
    with serving(server) as url:
        assert Pacs(url, Credentials(user="me", password=SECRET)).retrieve("1.2.3.77", tmp_path / "in") == 4


def test_instances_of_another_study_are_refused(server, tmp_path):
    server.mixed_in = [pydicom.dcmread(write_xray(tmp_path / "other.dcm", StudyInstanceUID="1.2.3.78"))]
    with (
        serving(server) as url,
        pytest.raises(
            PacsError, match=r"the retrieval failed .*: it gave an instance of another study, attempt 1 of 3"
        ),
    ):
        Pacs(url, Credentials(user="me", password=SECRET)).retrieve("1.2.3.77", tmp_path / "in")


@pytest.mark.parametrize(
    ("fail", "asked", "match"),
    [
        (["503 Later", "429 Later"], 6, None),
        (["503 Later"] * 3, 3, "the search failed at the DICOMweb server: it answered 503, attempt 3 of 3"),
        (["404 None"], 1, "it answered 404, attempt 1 of 3"),
        (["500 Broken"], 1, "it answered 500"),
        (["200 OK"], 1, "no images of this study"),  # an empty answer
    ],
)
def test_a_request_is_repeated_where_waiting_helps(server, tmp_path, fail, asked, match):
    server.fail = list(fail)
    with serving(server) as url:
        pacs = Pacs(url, Credentials(user="me", password=SECRET), wait_s=0.01)
        if match is None:
            pacs.retrieve("1.2.3.77", tmp_path / "in")
        else:
            with pytest.raises(PacsError, match=match) as caught:
                pacs.retrieve("1.2.3.77", tmp_path / "in")
            told = "".join(traceback.format_exception(caught.value))
            assert not [text for text in ("StudyInstanceUID=", "/studies/", SECRET) if text in told]
    assert len(server.seen) == asked


def test_what_the_server_refuses(server, tmp_path):
    with serving(server) as url:
        with pytest.raises(PacsError, match="it answered 401, attempt 1 of 3"):
            Pacs(url, Credentials(user="me", password="wrong")).retrieve("1.2.3.77", tmp_path / "in")
        pacs = Pacs(url, Credentials(user="me", password=SECRET), wait_s=0.01)
        with pytest.raises(PacsError, match="no images of this study"):
            pacs.retrieve("1.2.3.78", tmp_path / "in")
        with pytest.raises(ValueError, match="expected the StudyInstanceUID"):
            pacs.retrieve("../1", tmp_path / "in")
    with pytest.raises(PacsError, match=r"no answer \(ConnectionError\), attempt 3 of 3"):
        pacs.retrieve("1.2.3.77", tmp_path / "in")


def test_a_token_is_sent_whatever_logins_the_user_has(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.wanted = f"Bearer {SECRET}"
    with serving(server) as url:
        assert Pacs(url, Credentials(token=SECRET)).retrieve("1.2.3.77", tmp_path / "in") == 4


class LeadsOut(BaseHTTPRequestHandler):
    """Sends whoever asks to an address without TLS."""

    def do_GET(self):
        self.send_response(307)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving_tls(folder):
    """A server with a certificate of its own for localhost, in `cert.pem`; gives its address."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    pem = [str(folder / name) for name in ("key.pem", "cert.pem")]
    try:
        subprocess.run([*command, "-keyout", pem[0], "-out", pem[1]], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed, so that there is no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem[1], pem[0])
    http = HTTPServer(("127.0.0.1", 0), LeadsOut)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


def test_a_certificate_that_nobody_signed_is_refused(tmp_path):
    with serving_tls(tmp_path) as url, pytest.raises(PacsError, match=r"certificate is not trusted .*attempt 1 of 3"):
        Pacs(url).retrieve("1.2.3", tmp_path / "in")


def test_nothing_leads_out_of_tls(tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    with serving_tls(tmp_path) as url, pytest.raises(PacsError, match="an address without TLS, attempt 1 of 3"):
        Pacs(url).retrieve("1.2.3", tmp_path / "in")


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://pacs.example/dicom-web", "expected https"),
        ("https://me:secret@pacs.example", "without user or password in it"),
        ("pacs.example", "expected the address of a DICOMweb server"),
        ("file:///etc", "expected the address of a DICOMweb server"),
    ],
)
def test_addresses_that_are_refused(url, match):
    with pytest.raises(ValueError, match=match) as caught:
        Pacs(url)
    assert "secret" not in str(caught.value)


def test_credentials_come_from_the_environment_or_a_private_file(tmp_path):
    names = {"TTL_DICOMWEB_USER": "me", "TTL_DICOMWEB_PASSWORD": SECRET}
    assert load_credentials(None, names) == Credentials(user="me", password=SECRET)
    assert load_credentials(None, {}) == Credentials()
    file = tmp_path / "credentials"
    file.write_text(f"TTL_DICOMWEB_TOKEN={SECRET}\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="expected mode 0600"):
        load_credentials(file)
    file.chmod(0o600)
    assert load_credentials(file, names).token == SECRET
    assert SECRET not in repr(load_credentials(file))
    file.write_text(f"password {SECRET}\n")
    with pytest.raises(ValueError, match="expected lines NAME=VALUE") as caught:
        load_credentials(file)
    assert SECRET not in str(caught.value)
