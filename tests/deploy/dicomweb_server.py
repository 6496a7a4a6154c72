"""A DICOMweb server of a few lines, on loopback: search, retrieval and storing of whole instances in memory."""

import base64
import io
import json
import threading
from contextlib import contextmanager
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pydicom

BOUNDARY = b"a-line-between"


class Server:
    """What it has, what it was sent, and how often it says "later" first."""

    def __init__(self, user="", password=""):
        self.instances, self.stored, self.seen, self.fail = [], [], [], []
        self.page = None  # as many series are told in one answer
        self.mixed_in = []  # instances that come with each series, though nobody asked for them
        self.wanted = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.seen.append((method, path))
        if self.wanted and environ.get("HTTP_AUTHORIZATION") != self.wanted:
            return self._answer(start_response, "401 Unauthorized")
        if self.fail:
            return self._answer(start_response, self.fail.pop(0))
        if method == "POST":
            parts = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
            self.stored.append(pydicom.dcmread(io.BytesIO(parts)))
            return self._answer(start_response, "200 OK", b"{}", "application/dicom+json")
        parts = path.strip("/").split("/")
        study = [each for each in self.instances if each.StudyInstanceUID == parts[1]]
        if len(parts) == 3:
            series = {each.SeriesInstanceUID: str(each.Modality) for each in study}
            found = [
                {"0020000E": {"vr": "UI", "Value": [uid]}, "00080060": {"vr": "CS", "Value": [modality]}}
                for uid, modality in series.items()
            ]
            if self.page is not None:
                start = int(parse_qs(environ.get("QUERY_STRING", "")).get("offset", ["0"])[0])
                found = found[start : start + self.page]
            return self._answer(start_response, "200 OK", json.dumps(found).encode(), "application/dicom+json")
        lines = []
        for each in [*(each for each in study if each.SeriesInstanceUID == parts[3]), *self.mixed_in]:
            file = io.BytesIO()
            each.save_as(file, enforce_file_format=True)
            lines += [b"--" + BOUNDARY, b"Content-Type: application/dicom", b"", file.getvalue()]
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'
        return self._answer(start_response, "200 OK", b"\r\n".join([*lines, b"--" + BOUNDARY + b"--"]), kind)

    @staticmethod
    def _answer(start_response, status, body=b"", kind="text/plain"):
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def serving(server):
    """Run it in a thread; gives its address."""
    with make_server("127.0.0.1", 0, server, handler_class=_Quiet) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join(10)
