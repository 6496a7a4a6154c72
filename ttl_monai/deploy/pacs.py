"""A study from a DICOMweb server, and objects back: verified TLS, timeouts, bounded retries, nothing in logs."""

from __future__ import annotations

import importlib.util
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.uid import UID

from ttl_monai.data.dicom_slices import NOT_ACQUIRED

__all__ = ["Credentials", "Pacs", "PacsError", "load_credentials"]

USER, PASSWORD, TOKEN = "TTL_DICOMWEB_USER", "TTL_DICOMWEB_PASSWORD", "TTL_DICOMWEB_TOKEN"
TIMEOUTS_S = (10.0, 60.0)
"""To connect, and between two pieces of an answer."""
ATTEMPTS = 3
CHUNK = 2**24
"""Bytes above which an object is sent in pieces, which not every server takes."""
_AS_STORED = (("application/dicom", "*"),)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SERIES_UID, _MODALITY = "0020000E", "00080060"

Answer = TypeVar("Answer")


class PacsError(ValueError):
    """A server that cannot be reached, or refuses; the message has no address, UID or credential."""


class _OtherStudyError(Exception):
    """An instance that was not asked for: it may be of another patient."""


@dataclass(frozen=True)
class Credentials:
    """What a server wants to know; it is never printed.

    Attributes:
        user: of HTTP's basic authentication, with `password`.
        password: likewise.
        token: a bearer token in place of both.
    """

    user: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"


def load_credentials(path: Path | None, environment: Mapping[str, str] | None = None) -> Credentials:
    """Credentials of a file, or else of the environment; never of the command line, which others can read.

    Args:
        path: a file of lines NAME=VALUE with the names of the environment, that only its owner may read; None takes
            the environment.
        environment: default: that of the process.

    Returns:
        The credentials, empty where there are none.

    Raises:
        ValueError: others may read the file, or it has other lines; nothing of it is quoted.
    """
    found = dict(os.environ if environment is None else environment)
    if path is not None:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ValueError("the file of the credentials may be read by others: expected mode 0600; `chmod 600` it")
        pairs = [line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = {name.strip(): value.strip() for name, _, value in pairs}
        if not found or not set(found) <= {USER, PASSWORD, TOKEN}:
            raise ValueError(
                f"expected lines NAME=VALUE of {USER}, {PASSWORD} or {TOKEN} in the file of the credentials"
            )
    return Credentials(found.get(USER, ""), found.get(PASSWORD, ""), found.get(TOKEN, ""))


class Pacs:
    """A DICOMweb server.

    Args:
        url: its root, such as https://pacs.example/dicom-web; without TLS only on this machine.
        credentials: for it.
        attempts: of each request; only answers that say "later" (408, 429, 503, 504) and lost connections are tried
            again.
        wait_s: before the second attempt; it doubles.

    Raises:
        ValueError: an address that is none or has credentials in it, no TLS, or dicomweb-client is not installed.
    """

    def __init__(
        self, url: str, credentials: Credentials | None = None, *, attempts: int = ATTEMPTS, wait_s: float = 1.0
    ) -> None:
        if importlib.util.find_spec("dicomweb_client") is None:
            raise ValueError(
                "DICOMweb needs dicomweb-client, which is not installed: pip install 'ttl-monai[dicomweb]'"
            )
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password:
            raise ValueError(
                "expected the address of a DICOMweb server, as https://HOST/dicom-web, without user or password in it "
                f"(credentials come from {USER} and {PASSWORD}, {TOKEN}, or a file)"
            )
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("expected https: over http patients and credentials would be sent for all to read")
        import requests
        from dicomweb_client.api import DICOMwebClient

        # They tell addresses with UIDs of studies at several levels; what fails is told by our own errors.
        for name in ("dicomweb_client", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        session = requests.Session()
        session.verify = True
        if parts.scheme == "https":
            del session.adapters["http://"]  # no redirection leads out of TLS
        given = credentials or Credentials()
        if given.token:
            # As `auth`, because a login of ~/.netrc would take the place of a header.
            session.auth = partial(_with_token, token=given.token)
        elif given.user:
            session.auth = (given.user, given.password)
        self._client: Any = DICOMwebClient(url.rstrip("/"), session=session, timeout=TIMEOUTS_S, chunk_size=CHUNK)
        self._client.set_http_retry_params(retry=False)  # its retries end in an error with the answer's text
        self._attempts, self._wait_s = attempts, wait_s

    def retrieve(self, study: str, folder: Path) -> int:
        """Write the images of a study to files, a folder a series; reports and the like are left there.

        Args:
            study: its StudyInstanceUID.
            folder: a private folder.

        Returns:
            How many instances were written.

        Raises:
            ValueError: no UID; `PacsError`: the server does not answer, refuses, or has no images of the study.
        """
        if not UID(study).is_valid:
            raise ValueError("expected the StudyInstanceUID of a study, digits and dots")
        count = 0
        for number, series in enumerate(self._series_of(study)):
            if _value(series, _MODALITY) in NOT_ACQUIRED:
                continue
            uid = _value(series, _SERIES_UID)
            place = folder / f"series{number:04}"
            place.mkdir(parents=True)
            count += self._ask("the retrieval", partial(self._write, study, uid, place))
        if not count:
            raise PacsError("the server has no images of this study")
        return count

    def _series_of(self, study: str) -> list[dict[str, Any]]:
        """All series of a study. A server may limit its answers; one that knows no pages repeats its first."""
        found: dict[str, dict[str, Any]] = {}
        seen = 0
        while True:
            search = partial(self._client.search_for_series, study, offset=seen or None, fields=["Modality"])
            page = self._ask("the search", search)
            new = {_value(each, _SERIES_UID): each for each in page}
            if not new.keys() - found.keys():
                return list(found.values())
            found |= new
            seen += len(page)

    def _write(self, study: str, series: str, folder: Path) -> int:
        """One series, instance by instance, so that it need not fit into memory."""
        count = 0
        for dataset in self._client.iter_series(study, series, media_types=_AS_STORED):
            if dataset.StudyInstanceUID != study:
                raise _OtherStudyError
            dataset.save_as(folder / f"{count:06}.dcm", enforce_file_format=True)
            count += 1
        return count

    def store(self, files: Sequence[Path]) -> None:
        """Send objects to the server.

        Args:
            files: DICOM files.

        Raises:
            PacsError: the server does not answer, or did not take all of them.
        """
        for file in files:
            dataset = dcmread(file)
            answer = self._ask("storing", partial(self._client.store_instances, [dataset]))
            if answer.get("FailedSOPSequence"):
                raise PacsError("the server did not take an object; what it took before stays there")

    def _ask(self, what: str, request: Callable[[], Answer]) -> Answer:
        """Run a request, again where waiting may help. Texts of errors have addresses with UIDs: none is kept."""
        import requests

        later = {408, 429, 503, 504}
        for attempt in range(1, self._attempts + 1):
            try:
                return request()
            except requests.HTTPError as error:
                status = getattr(error.response, "status_code", None)
                reason, again = f"it answered {status}", status in later
            except requests.exceptions.SSLError:
                reason, again = "its certificate is not trusted (REQUESTS_CA_BUNDLE names a file of others)", False
            except requests.exceptions.InvalidSchema:
                reason, again = "it leads to an address without TLS", False
            except _OtherStudyError:
                reason, again = "it gave an instance of another study", False
            except requests.RequestException as error:
                reason, again = f"no answer ({type(error).__name__})", True
            except Exception as error:  # parsers of a damaged answer raise anything, with texts that quote it
                reason, again = f"an answer that cannot be read ({type(error).__name__})", False
            # Outside of the `except`, so that no traceback has the error with the address.
            if not again or attempt == self._attempts:
                raise PacsError(
                    f"{what} failed at the DICOMweb server: {reason}, attempt {attempt} of {self._attempts}"
                )
            time.sleep(self._wait_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")


def _with_token(request: Any, *, token: str) -> Any:
    """A request of `requests` with a bearer token."""
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _value(entry: Mapping[str, Any], tag: str) -> str:
    """The value of a tag in DICOM's JSON."""
    return str((entry.get(tag, {}).get("Value") or [""])[0])
