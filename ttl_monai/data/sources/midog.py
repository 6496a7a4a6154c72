"""MIDOG as a source: patches around the mitotic figures and the hard negatives of its TIFF regions."""

from __future__ import annotations

import argparse
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sources import source_folder, tell_origin, write_file

logger = logging.getLogger(__name__)

HELP = "MIDOG: a folder with MIDOG.json and regions as TIFF, of which patches are cut"
EXAMPLE = "ttl datalist midog DATA/midog --size 64 --public-ids"
CLASS_NAMES = ("hard negative", "mitotic figure")


class _Figure(NamedTuple):
    """One annotation: its number in the list from 1, the region's file, the middle in pixels (x, y), the label."""

    row: int
    region: Path
    middle: tuple[float, float]
    label: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "MIDOG 2021 and 2022 (https://zenodo.org/records/4643381, https://zenodo.org/records/6547151; each record "
        "states its licence) and MIDOG++ (Aubreville et al., Scientific Data 10:484, 2023, doi "
        "10.1038/s41597-023-02327-4). A region is a case, and split as a whole. The regions are too large to be read "
        "for each patch: the patches are written as PNG once, and what is there already is kept."
    )
    add = parser.add_argument
    add("folder", type=Path, help="the folder that holds MIDOG.json and the regions, or images/ with them")
    add("--annotations", metavar="FILE", help="the annotations in it (default: its one MIDOG*.json)")
    add("--size", type=int, default=64, help="side of a patch in pixels (default: %(default)s)")
    add("--patches", metavar="DIR", help="folder in it for the patches (default: patches_SIZE)")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Read the annotations and cut the patches.

    Source: Aubreville et al., doi 10.1038/s41597-023-02327-4, and the challenges' own notebooks. The file has the
    lists of COCO (images, categories, annotations), but a box is [x1, y1, x2, y2] in pixels: its corners, 50 pixels
    apart, about the point that was annotated. One category is "mitotic figure"; the other, called "hard negative" or
    "not mitotic figure", holds look-alikes. Regions without annotations (such as 151 to 200) were never annotated
    and are left out.

    A patch that would leave its region is moved into it, so that no pixel is made up.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`; `workers` threads cut.

    Returns:
        The records, a patch each; a record's row is the number of its annotation in the list, from 1, and its patient
        the case: the region's file without its ending.

    Raises:
        ValueError: no such file, other categories or boxes, or regions that are missing or too small, by annotation.
    """
    folder = source_folder(arguments, "MIDOG.json")
    if arguments.size < 8:
        raise ValueError(f"--size must be at least 8 pixels, got {arguments.size}")
    path = _annotations(folder, arguments.annotations)
    figures = _check(_read_json(path), folder, path.name, arguments.size)
    patches = folder / (arguments.patches or f"patches_{arguments.size}")
    if not patches.resolve().is_relative_to(folder.resolve()):
        raise ValueError("--patches must be a folder in the data set's")
    by_region: dict[Path, list[_Figure]] = {}
    for figure in figures:
        by_region.setdefault(figure.region, []).append(figure)
    with ThreadPoolExecutor(getattr(arguments, "workers", None) or os.cpu_count()) as pool:
        cutting = pool.map(lambda region: _cut(by_region[region], patches, arguments.size), by_region)
        list(tqdm(cutting, total=len(by_region), desc="regions", unit="file", mininterval=0.5))
    tell_origin(arguments, source="MIDOG, Aubreville et al., Scientific Data 10:484, 2023")
    records = [
        Record(f.row, _patch(f, patches).relative_to(arguments.dataset_dir).as_posix(), f.label, f.region.stem)
        for f in figures
    ]
    return Table("binary", list(CLASS_NAMES), records)


def _annotations(folder: Path, named: str | None) -> Path:
    found = [folder / named] if named else sorted(folder.glob("MIDOG*.json"))
    if len(found) != 1 or not found[0].is_file():
        what = named or f"one MIDOG*.json ({len(found)} found)"
        raise ValueError(f"expected {what} in {folder}; --annotations names the file")
    return found[0]


def _read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    lists = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise ValueError(f"{path} has no lists {', '.join(lists)}, as MIDOG.json has them")
    return content


def _check(content: dict[str, list[dict[str, Any]]], folder: Path, name: str, size: int) -> list[_Figure]:
    """The annotations as figures; raises one error with all that is wrong in them or in their regions."""
    categories = {each.get("id"): str(each.get("name")) for each in content["categories"]}
    if len(categories) != 2 or list(categories.values()).count(CLASS_NAMES[1]) != 1:
        raise ValueError(
            f"{name} must have two categories, {CLASS_NAMES[1]!r} and one of look-alikes, got "
            f"{', '.join(map(repr, categories.values())) or 'none'}"
        )
    regions = {each.get("id"): _region(folder, str(each.get("file_name"))) for each in content["images"]}
    sizes: dict[Path, tuple[int, int] | None] = {}
    wrong: dict[str, list[int]] = {}
    figures: list[_Figure] = []
    for row, each in enumerate(content["annotations"], 1):
        region, box = regions.get(each.get("image_id")), each.get("bbox")
        if region is None or each.get("category_id") not in categories:
            wrong.setdefault("are of an image or a category that is not in the file", []).append(row)
            continue
        if region not in sizes:
            sizes[region] = _size(region)
        problem = _problem(box, sizes[region], size)
        if problem:
            wrong.setdefault(problem, []).append(row)
            continue
        x1, y1, x2, y2 = box  # type: ignore[misc]
        label = int(categories[each["category_id"]] == CLASS_NAMES[1])
        figures.append(_Figure(row, region, ((x1 + x2) / 2, (y1 + y2) / 2), label))
    problems = [f"{len(rows)} annotations {what}: {name_rows(rows)}" for what, rows in wrong.items()]
    raise_problems(problems, f"{name} and the regions do not fit")
    if unlabelled := len(regions) - len({figure.region for figure in figures}):
        logger.info("%d regions without annotations are left out", unlabelled)
    return figures


def _region(folder: Path, name: str) -> Path:
    """The file of a region, beside the annotations or in images/; by its last name, which cannot lead elsewhere."""
    beside = folder / Path(name).name
    return beside if beside.is_file() else folder / "images" / beside.name


def _size(region: Path) -> tuple[int, int] | None:
    """Width and height by the header; None for a file that is missing or no TIFF."""
    try:
        with Image.open(region, formats=["TIFF"]) as image:
            return image.size
    except OSError:
        return None


def _problem(box: Any, region: tuple[int, int] | None, size: int) -> str:
    """What is wrong with a box or its region, in words; empty when nothing is."""
    if region is None:
        return "are of a region that is missing or no TIFF"
    if min(region) < size:
        return f"are of a region smaller than a patch of {size} pixels"
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return "have no box of four numbers"
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        return "have a box that is not [x1, y1, x2, y2], two corners (COCO's width and height are not used here)"
    inside = 0 <= x1 + x2 <= 2 * region[0] and 0 <= y1 + y2 <= 2 * region[1]
    return "" if inside else "have a box with its middle out of the region"


def _patch(figure: _Figure, folder: Path) -> Path:
    return folder / f"{figure.region.stem}_{figure.row:05}.png"


def _cut(figures: list[_Figure], folder: Path, size: int) -> None:
    """Write the patches of one region."""
    try:
        with Image.open(figures[0].region, formats=["TIFF"]) as file:
            image = file.convert("RGB")  # of a pyramid the first page, the full size; alpha is dropped
    except OSError as error:
        raise ValueError(f"{figures[0].region} cannot be read: {error}") from error
    for figure in figures:
        left, top = (
            min(max(round(middle - size / 2), 0), full - size)
            for middle, full in zip(figure.middle, image.size, strict=True)
        )
        buffer = BytesIO()
        image.crop((left, top, left + size, top + size)).save(buffer, format="PNG")
        write_file(_patch(figure, folder), buffer.getvalue())
