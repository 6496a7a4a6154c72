"""Two folders as a source of segmentation: images, and masks of the same names."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from ttl_monai.data.dicom_folders import fold_series
from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sources import IMAGE_SUFFIXES, add_patient_regex, patient_finder, source_folder, warn_of_patients

HELP = "a folder of images and one of masks, paired by name"
EXAMPLE = r"ttl datalist masks DATA/xrays --patient-regex '([^/]+)_\d+\.png' --class-names background lung"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    add = parser.add_argument
    add("folder", type=Path, help="the folder that holds both")
    add(
        "--images",
        default="images",
        metavar="DIR",
        help="folder of the images in it; a folder with the slices of a CT, MR or PET series is one (default: "
        "%(default)s)",
    )
    add("--masks", default="masks", metavar="DIR", help="folder of the masks in it (default: %(default)s)")
    add("--mask-suffix", default="", help="what a mask's name has after the image's, before the ending, such as _mask")
    add(
        "--class-names",
        nargs="+",
        default=["background", "foreground"],
        metavar="NAME",
        help="names of the classes in the masks, the background first (default: %(default)s)",
    )
    add_patient_regex(parser, "an image's path from the folder of images on (default: each is a patient of its own)")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Pair the files of the two folders, the folders in them included, by their names without the ending.

    A folder with the DICOM slices of a series is one image, `images/NAME/` with `masks/NAME.dcm` or `.nii.gz`.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records; a record's row is the number of the image in the order of the paths.

    Raises:
        ValueError: no such folder, no image, an image without a mask or with several, or a mask without an image.
    """
    folder = source_folder(arguments, "images and masks")
    images, masks = _files(folder / arguments.images, series=True), _files(folder / arguments.masks)
    by_name: dict[str, list[Path]] = defaultdict(list)
    unnamed = 0
    for path, name in masks:
        if name.endswith(arguments.mask_suffix):
            by_name[name.removesuffix(arguments.mask_suffix)].append(path)
        else:
            unnamed += 1
    times = Counter(name for _, name in images)
    rows_of = {
        "images have no mask": [row for row, (_, name) in enumerate(images, 1) if name not in by_name],
        "images have several masks": [row for row, (_, name) in enumerate(images, 1) if len(by_name.get(name, ())) > 1],
        "images share a name with another": [row for row, (_, name) in enumerate(images, 1) if times[name] > 1],
    }
    problems = [
        f"{len(rows)} {what}: {name_rows(rows)}, in the order of their paths" for what, rows in rows_of.items() if rows
    ]
    if lone := len(by_name.keys() - times.keys()) + unnamed:
        problems.append(f"{lone} of {len(masks)} masks have no image; is --mask-suffix right?")
    raise_problems(problems, f"the folders {arguments.images} and {arguments.masks} do not pair")
    find_patient = patient_finder(arguments.patient_regex)
    records = [
        Record(
            row,
            path.relative_to(arguments.dataset_dir).as_posix(),
            by_name[name][0].relative_to(arguments.dataset_dir).as_posix(),
            find_patient(path.relative_to(folder / arguments.images).as_posix()),
        )
        for row, (path, name) in enumerate(images, 1)
    ]
    if not arguments.patient_regex:
        warn_of_patients(len(records))
    return Table("segmentation", list(arguments.class_names), records)


def _files(folder: Path, *, series: bool = False) -> list[tuple[Path, str]]:
    """Images below a folder, each with its path there without the ending, sorted; of a series, the folder."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder.name!r} in {folder.parent}; say --images and --masks")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if series:
        files = fold_series(files)
    found = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        ending = max((each for each in IMAGE_SUFFIXES if name.lower().endswith(each)), key=len, default="")
        if ending or path.is_dir():
            found.append((path, name[: len(name) - len(ending)]))
    if not found:
        raise ValueError(f"the folder {folder.name!r} has no images; endings looked for: {' '.join(IMAGE_SUFFIXES)}")
    return found
