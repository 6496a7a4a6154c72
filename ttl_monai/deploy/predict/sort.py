"""What lies in the input: images and series under pseudonymous keys, each with what speaks for and against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from ttl_monai.data import SeriesRules, VolumeReport, find_series
from ttl_monai.data.dicom_file import Refused, open_header
from ttl_monai.data.dicom_slices import NOT_ACQUIRED, why_unread
from ttl_monai.data.keys import pseudonym
from ttl_monai.data.reader import format_of
from ttl_monai.data.slices import is_volume
from ttl_monai.deploy.dicom_out.identity import MANUFACTURER
from ttl_monai.deploy.predict.staging import Staged, link
from ttl_monai.deploy.predict.suitability import JUDGED_TAGS, judge, judge_undescribed
from ttl_monai.files import file_sha256

__all__ = ["Item", "Sorted", "sort_inputs"]

SCANS = ("CT", "MR", "PT")  # modalities of which one file is a slice
_IDS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
KEY_DIGITS = 16


@dataclass
class Item:
    """One image, or one series.

    Attributes:
        key: pseudonym, keyed hash of the UID or, where there is none, of the content.
        kind: "image" or "series".
        format: "DICOM", "picture" or "NIfTI".
        path: what the reader is given: a file, or the folder of the slices.
        files: staged files.
        originals: the files of the input, for the key map alone.
        patient: pseudonym of PatientID, "" where there is none.
        study: pseudonym of StudyInstanceUID, likewise.
        report: what was checked.
    """

    key: str
    kind: str
    format: str
    path: Path
    files: list[Path]
    originals: list[Path]
    patient: str
    study: str
    report: VolumeReport


@dataclass
class Sorted:
    """All of an input.

    Attributes:
        items: suitable or not, in the order of their files.
        left_out: how many files are plainly no images.
    """

    items: list[Item] = field(default_factory=list)
    left_out: int = 0


def sort_inputs(
    staged: Sequence[Staged],
    folder: Path,
    accepts: Mapping[str, Any],
    *,
    key: bytes,
    series_rules: SeriesRules | None = None,
    gaps: str = "refuse",
) -> Sorted:
    """Put the files of an input in order, and judge them by their headers.

    Args:
        staged: the files.
        folder: a private folder, where the slices of each series are linked together.
        accepts: see `check_rules`.
        key: the site key.
        series_rules: what the reader of the bundle wants of a series, beside its modality.
        gaps: what that reader does about unequal gaps.

    Returns:
        The items. No text in them has a name or a value of a tag that could be one.
    """
    headers, broken, others = _read_headers(staged)
    scans = {path for path, header in headers.items() if str(header.get("Modality") or "") in SCANS}
    beside = {path.parent for path in scans}
    sorter = _Sorter(staged, accepts, key)
    # What cannot be read beside slices may be one of them: it goes with them, and speaks against their series.
    together = [
        each.path for each in staged if each.path in scans or (each.path in broken and each.path.parent in beside)
    ]
    for path in together:
        link(sorter.original[path], folder / "scans" / path.parent.name / path.name)
    for found in find_series(folder / "scans", rules=series_rules, gaps=gaps) if together else ():
        files = [_back(each, staged) for each in found.files]
        sorter.add_series(files, headers, found.report, folder / "series")
    for each in staged:
        if each.path in together:
            continue
        if each.path in broken:
            sorter.add_broken(each.path, broken[each.path])
        elif each.path in headers:
            sorter.add_image(each.path, headers[each.path])
        elif (kind := format_of(each.path)) in ("pillow", "nifti"):
            sorter.add_file(each.path, "picture" if kind == "pillow" else "NIfTI")
        elif each.named and each.path not in others:
            sorter.add_broken(each.path, "no image: expected DICOM, PNG, JPEG, TIFF, BMP or NIfTI")
        else:
            sorter.found.left_out += 1
    order = {each.path: number for number, each in enumerate(staged)}
    sorter.found.items.sort(key=lambda item: order[item.files[0]])
    return sorter.found


def _back(path: Path, staged: Sequence[Staged]) -> Path:
    """The staged file that a link in `scans` was made for."""
    return staged[0].path.parents[1] / path.parent.name / path.name


def _read_headers(staged: Iterable[Staged]) -> tuple[dict[Path, Dataset], dict[Path, str], set[Path]]:
    """The allowed tags of DICOM images; the reason for each file that is damaged; DICOM objects that are no images."""
    headers: dict[Path, Dataset] = {}
    broken: dict[Path, str] = {}
    others: set[Path] = set()
    for each in staged:
        try:
            each.path.stat()  # a link that leads nowhere has no format
            if format_of(each.path) != "dicom":
                continue
            header, _ = open_header(each.path, [*JUDGED_TAGS, *_IDS, "Rows", "Manufacturer"])
            is_folder = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
            ours = header.get("Manufacturer") == MANUFACTURER  # stored beside the images by an earlier prediction
            if is_folder or ours or str(header.get("Modality") or "") in NOT_ACQUIRED:
                others.add(each.path)
            else:
                headers[each.path] = header
        except Refused as refusal:
            broken[each.path] = refusal.reason
        except OSError as error:
            broken[each.path] = why_unread(error)
        except Exception as error:  # values that are no numbers or words; the texts may quote them
            broken[each.path] = f"damaged DICOM header ({type(error).__name__})"
    return headers, broken, others


class _Sorter:
    """Makes items, with keys that are given once."""

    def __init__(self, staged: Sequence[Staged], accepts: Mapping[str, Any], key: bytes) -> None:
        self.original = {each.path: each.original for each in staged}
        self.accepts, self.key, self.found = accepts, key, Sorted()
        self._given: dict[str, int] = {}

    def add_series(
        self, files: list[Path], headers: Mapping[Path, Dataset], report: VolumeReport, folder: Path
    ) -> None:
        """A series, as `find_series` judged it."""
        header = headers.get(files[0], Dataset())
        item = self._item("series", "DICOM", files, header, "SeriesInstanceUID", report)
        item.path = folder / item.key
        for number, file in enumerate(files):
            link(self.original[file], item.path / f"{number:05}.dcm")
        self._judge(item, header)

    def add_image(self, file: Path, header: Dataset) -> None:
        """A DICOM file of one image."""
        report = VolumeReport(source="DICOM", files=1)
        self._judge(self._item("image", "DICOM", [file], header, "SOPInstanceUID", report), header)

    def add_file(self, file: Path, kind: str) -> None:
        """A picture or a NIfTI file, which says nothing about what it shows."""
        report = VolumeReport(source=kind, files=1)
        self._item("image", kind, [file], Dataset(), "", report)
        try:
            takes = "series" if is_volume(file) else "image"
        except OSError as error:
            report.note("files", "refused", why_unread(error))
            return
        except ValueError:
            report.note("files", "refused", f"a damaged {kind} file")
            return
        if kind not in self.accepts["formats"]:
            report.note("format", "refused", f"{kind}, expected {' or '.join(self.accepts['formats'])}")
        elif self.accepts[takes] is None:
            found, wanted = ("a volume", "a single image") if takes == "series" else ("a single image", "a volume")
            report.note("kind of image", "refused", f"{kind}, {found}; expected {wanted}")
        else:
            judge_undescribed(report)

    def add_broken(self, file: Path, reason: str) -> None:
        """A file that cannot be read."""
        report = VolumeReport(source="", files=1)
        self._item("image", "unknown", [file], Dataset(), "", report)
        report.note("files", "refused", reason)

    def _judge(self, item: Item, header: Dataset) -> None:
        rules = self.accepts[item.kind]
        if rules is None:
            # Of the wrong kind: what else is found wrong with it does not matter.
            other, words = ("series", "a series") if item.kind == "image" else ("image", "a single image")
            item.report = VolumeReport(source="DICOM", files=len(item.files))
            item.report.note("kind of image", "refused", f"DICOM, {item.kind}; expected {words}")
            rules = {name: rule for name, rule in self.accepts[other].items() if name == "Modality"}
        judge(header, rules, item.report)

    def _item(self, kind: str, form: str, files: list[Path], header: Dataset, uid: str, report: VolumeReport) -> Item:
        text = str(header.get(uid) or "") if uid else ""
        key = pseudonym(self.key, text or self._content(files[0]))[:KEY_DIGITS]
        times = self._given[key] = self._given.get(key, 0) + 1
        item = Item(
            key=key if times == 1 else f"{key}-{times}",
            kind=kind,
            format=form,
            path=files[0],
            files=files,
            originals=[self.original[each] for each in files],
            patient=self._pseudonym(header.get("PatientID")),
            study=self._pseudonym(header.get("StudyInstanceUID")),
            report=report,
        )
        self.found.items.append(item)
        return item

    def _content(self, file: Path) -> str:
        """The hash of a file's content; of one that cannot be read its place, which is hashed, too."""
        try:
            return file_sha256(file)
        except OSError:
            return str(self.original[file])

    def _pseudonym(self, value: Any) -> str:
        return pseudonym(self.key, str(value))[:KEY_DIGITS] if value else ""
