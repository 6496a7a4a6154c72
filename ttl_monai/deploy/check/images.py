"""The files of a datalist, each read as the training reads it, in threads."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from tqdm import tqdm

from ttl_monai.data import Datalist, LoadPaird, VolumeError, XrayReader
from ttl_monai.data.masks import name_pair, whole_numbers
from ttl_monai.data.reader import format_of
from ttl_monai.data.records import content_sha256
from ttl_monai.data.slices import FLAT, segmentation_items
from ttl_monai.data.volume_files import open_pair
from ttl_monai.data.volume_reader import REPORT_KEY
from ttl_monai.data.window_datasets import against_slices
from ttl_monai.deploy.check.problems import NOTE, PROBLEM, WARNING, Findings, reasons_of

SAMPLE = 16  # images of a section that `quick` looks at
_REMEDY = "mend the files, or take their rows out of the datalist"


@dataclass
class Look:
    """What one image is like.

    Attributes:
        place: its row, such as `training[3]`, and how it is named in results.
        section: its section.
        entry: its entry in the datalist.
        errors: why it cannot be used, none where it can.
        size: pixels along each axis.
        stored: format and type in which it is stored.
        count: images that it is cut into: slices, where a volume is cut, else 1.
        facts: "constant", "colour", "empty mask", or what the reader of volumes warned about.
        digest: SHA-256 of its content.
    """

    place: str
    section: str
    entry: dict[str, Any]
    errors: Sequence[str] = ()
    size: tuple[int, ...] = ()
    stored: str = ""
    count: int = 1
    facts: set[str] = field(default_factory=set)
    digest: str = ""


def look_at_images(
    entries: Sequence[tuple[str, int, dict[str, Any]]],
    data: Datalist,
    loader: Callable,
    *,
    axis: str | None,
    quick: bool = False,
    file_names: bool = False,
    workers: int | None = None,
) -> list[Look]:
    """Read images, in threads, with a progress bar.

    Args:
        entries: section, row and entry of each image.
        data: the datalist.
        loader: the first transform of the bundle's preprocessing, which reads.
        axis: across which volumes are cut (segmentation).
        quick: read `SAMPLE` images of each section, evenly spread.
        file_names: name images by their path in the data set, not only where its names are public.
        workers: threads, default: one a core.

    Returns:
        One an image that was read.
    """
    by_section: dict[str, list[Any]] = defaultdict(list)
    for each in entries:
        by_section[each[0]].append(each)
    chosen = [each for found in by_section.values() for each in (_spread(found) if quick else found)]

    def look(each: tuple[str, int, dict[str, Any]]) -> Look:
        section, row, entry = each
        named = entry["image"] if file_names or data.public_ids else entry["id"]
        found = Look(f"{section}[{row}] {named}", section, entry)
        image = data.dataset_dir / entry["image"]
        try:
            found.digest = content_sha256(image)
            _read(found, data, loader, axis)
            found.stored = _stored_as(image)
        except Exception as error:  # the reason is reported, whatever a parser raises on a damaged file
            cause = _refusals(error)
            found.errors = [_without_files(each, entry, data.dataset_dir) for each in cause or reasons_of(error)]
        return found

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(tqdm(pool.map(look, chosen), total=len(chosen), desc="reading", leave=False, disable=None))


def _spread(entries: list[Any]) -> list[Any]:
    numbers = np.linspace(0, len(entries) - 1, min(SAMPLE, len(entries))).round().astype(int)
    return [entries[number] for number in numbers]


def _read(found: Look, data: Datalist, loader: Any, axis: str | None) -> None:
    """Read one image and, for segmentation, its mask, as the bundle does."""
    entry = found.entry
    image = data.dataset_dir / entry["image"]
    if isinstance(loader, LoadPaird):
        _read_pair(found, loader, image, data.dataset_dir / entry["label"], axis)
    elif any(isinstance(each, XrayReader) for each in loader._loader.readers):
        reader = XrayReader(channels=3)  # as the loader's, but that colours are still to be seen
        pixels, _ = reader.get_data(reader.read(image))
        found.size = pixels.shape[:2]
        _note_pixels(found, pixels)
        if (pixels[..., 1:] != pixels[..., :1]).any():
            found.facts.add("colour")
    else:
        volume = loader({"image": str(image)})["image"]
        found.size = tuple(volume.shape[-3:])
        _note_pixels(found, np.asarray(volume))
        report = json.loads(volume.meta[REPORT_KEY]) if REPORT_KEY in volume.meta else None
        checks = (report or {}).get("checks", ())
        found.facts |= {f"{each['name']} {each['outcome']}" for each in checks if each["outcome"] != "passed"}
        if misfit := against_slices(entry.get("slices", ()), found.size[2], report):
            found.errors = [misfit]


def _read_pair(found: Look, loader: LoadPaird, image: Path, mask: Path, axis: str | None) -> None:
    item = {"image": str(image), "label": str(mask)}
    slices: list[Any] = segmentation_items([item], axis)
    found.count = len(slices)
    if slices[0]["axis"] == FLAT:
        loaded = loader(slices[0])
        pixels, classes = np.asarray(loaded["image"]), np.asarray(loaded["label"])
        found.size = tuple(pixels.shape[1:])
    else:
        volume, drawn = open_pair(image, mask, overlapping=loader.overlapping)
        where = name_pair(image, mask)
        pixels = np.asanyarray(volume.dataobj)
        classes = np.asarray(loader.encode(whole_numbers(np.asanyarray(drawn.dataobj), where), where))
        found.size = tuple(volume.shape)
    _note_pixels(found, pixels)
    if not classes.any():
        found.facts.add("empty mask")


def _note_pixels(found: Look, pixels: np.ndarray) -> None:
    if not np.isfinite(pixels).all():
        raise ValueError("NaN or infinite pixels")
    if pixels.min() == pixels.max():
        found.facts.add("constant")


def _stored_as(path: Path) -> str:
    """Format and type of the stored values, from the header."""
    if path.is_dir():
        return "folder of DICOM slices"
    kind = format_of(path)
    if kind == "pillow":
        with Image.open(path) as file:
            return f"{file.format} {file.mode}"
    if kind == "nifti":
        return f"NIfTI {nib.load(path).get_data_dtype()}"  # type: ignore[attr-defined]
    return "DICOM" if kind == "dicom" else "HDF5"


def _refusals(error: BaseException) -> list[str]:
    """What a reader of volumes refuses, for there the message names the folder; none for another error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, VolumeError):
        cause = cause.__cause__
    return cause.report.refusals if isinstance(cause, VolumeError) else []


def _without_files(text: str, entry: dict[str, Any], folder: Path) -> str:
    """A reason without the paths of the files, whose names may be those of patients."""
    files = [(str(folder / entry["image"]), "the image")]
    if isinstance(entry["label"], str):
        files.append((str(folder / entry["label"]), "the mask"))
        text = text.replace(f"{name_pair(files[0][0], files[1][0])}: ", "")
    for path, name in files:
        text = re.sub(re.escape(path) + r"[^\s:;,'\")]*", name, text)
    return text.removeprefix("the image: ")


def check_images(found: Findings, looks: Sequence[Look], total: int, *, in_channels: int, size: Sequence[int]) -> None:
    """Report what the images are like.

    Args:
        found: gets what is found.
        looks: of the images that were read.
        total: number of images of the list.
        in_channels: channels of the network's input.
        size: pixels that images are brought to; for windows of volumes, the slices first.
    """
    kind = "a sample" if len(looks) < total else "all"
    found.add("images", NOTE, f"{kind}: {len(looks)} of {total} images were read")
    _check_each(found, looks, in_channels, size)
    sound = [each for each in looks if not each.errors]
    for title, values in (
        ("sizes", ["x".join(map(str, each.size)) for each in sound]),
        ("stored as", [each.stored for each in sound]),
    ):
        most = Counter(values).most_common()
        more = f" and {len(most) - 5} others" if len(most) > 5 else ""
        shown = ", ".join(f"{value} ({number})" for value, number in most[:5])
        found.add("images", NOTE, f"{title}: {shown}{more}")
    _check_formats(found, sound)
    _check_same(found, looks)


def _check_each(found: Findings, looks: Sequence[Look], in_channels: int, size: Sequence[int]) -> None:
    """What is wrong in single images, each kind once."""
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in looks:
        for error in each.errors:
            kinds[PROBLEM, f"cannot be used: {error}", _REMEDY].append(each.place)
        if "constant" in each.facts:
            kinds[WARNING, "constant: all pixels are equal, nothing is to be seen", _REMEDY].append(each.place)
        if "colour" in each.facts and in_channels == 1:
            remedy = "--in_channels 3 keeps the colours (the overlay data_pathology.json, for tissue)"
            kinds[WARNING, "in colour, which in_channels=1 turns into grey", remedy].append(each.place)
        if len(size) == 1 and each.size and max(each.size[:2]) < size[0]:
            what = f"smaller than the {size[0]} pixels that they are enlarged to"
            kinds[WARNING, what, "choose a smaller --spatial_size"].append(each.place)
        if len(size) == 3 and each.size and each.size[2] < size[0]:
            what = f"shorter than a window of {size[0]} slices, so that it is filled up with air"
            kinds[WARNING, what, "choose a smaller spatial_size"].append(each.place)
        for fact in each.facts:
            if fact.endswith((" corrected", " warned")):
                severity = NOTE if fact.endswith("corrected") else WARNING
                kinds[severity, f"volumes with {fact}", "see the reader's report in the results"].append(each.place)
    for (severity, what, remedy), places in kinds.items():
        found.add("images", severity, f"{len(places)} of {len(looks)} {what}", *places, remedy=remedy)
    for section, empty in _by_section(each for each in looks if "empty mask" in each.facts).items():
        of = sum(each.section == section and not each.errors for each in looks)
        severity = PROBLEM if len(empty) == of and section == "training" else WARNING if len(empty) == of else NOTE
        what = f"{len(empty)} of {of} masks are empty"
        remedy = "" if severity == NOTE else "are they the right files? See --mask_values"
        found.add("images", severity, what, *empty, remedy=remedy)


def _by_section(looks: Iterable[Look]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = defaultdict(list)
    for each in looks:
        places[each.section].append(each.place)
    return places


def _check_formats(found: Findings, sound: Sequence[Look]) -> None:
    """Formats that tell the class: what is then learnt is the source."""
    labels: dict[str, set[int]] = defaultdict(set)
    for each in sound:
        if type(each.entry["label"]) is int:
            labels[each.stored].add(each.entry["label"])
    if len(set().union(*labels.values())) > 1 and all(len(values) == 1 for values in labels.values()):
        what = f"the format of the files tells the class ({', '.join(sorted(labels))})"
        found.add("images", WARNING, what, remedy="a network may learn the source instead of the disease")


def _check_same(found: Findings, looks: Sequence[Look]) -> None:
    """Files that changed since the list was made, and identical ones, by content."""
    changed = [each.place for each in looks if each.digest and each.entry.get("sha256", each.digest) != each.digest]
    if changed:
        what = f"{len(changed)} images are not those that the list was made of (their sha256 differs)"
        found.add("images", PROBLEM, what, *changed, remedy="restore the files, or make the datalist anew")
    groups: dict[str, list[Look]] = defaultdict(list)
    for each in looks:
        if each.digest:
            groups[each.digest].append(each)
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for same in (each for each in groups.values() if len(each) > 1):
        places = " and ".join(each.place for each in same)
        listed = {each.entry.get("sha256") for each in same} == {same[0].digest}  # then the list's own check saw it
        if len({each.section for each in same}) > 1:
            if not listed:
                kinds[PROBLEM, "groups of identical images lie in two sections", "split by patient anew"].append(places)
        elif len({each.entry["patient"] for each in same}) > 1:
            remedy = "find out which patient is right, and take out the others"
            kinds[PROBLEM, "groups of identical images stand under two patients", remedy].append(places)
        elif len({json.dumps(each.entry["label"]) for each in same}) > 1 and type(same[0].entry["label"]) is not str:
            remedy = "find out which label is right, and take out the others"
            kinds[PROBLEM, "groups of identical images have different labels", remedy].append(places)
        else:
            kinds[WARNING, "groups of identical images of one patient", "take out all but one"].append(places)
    for (severity, what, remedy), alike in kinds.items():
        found.add("images", severity, f"{len(alike)} {what}", *alike, remedy=remedy)
