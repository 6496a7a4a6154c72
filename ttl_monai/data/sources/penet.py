"""PENet's CT pulmonary angiographies as a source: data.hdf5 and series_list.pkl, with their published split."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from pickle import Unpickler
from typing import Any

from ttl_monai.data.hdf5 import SLICE_MM, dataset_length
from ttl_monai.data.records import Record, Table, name_rows, raise_problems
from ttl_monai.data.sources import source_folder, tell_origin, warn_of_patients

logger = logging.getLogger(__name__)

HELP = "PENet's CT pulmonary angiographies: a folder with data.hdf5 and series_list.pkl"
EXAMPLE = "ttl datalist penet DATA/penet --no-hash"
VOLUMES, INDEX = "data.hdf5", "series_list.pkl"
SECTION_OF_PHASE = {"train": "training", "val": "validation", "test": "test"}
_ATTRIBUTES = {"study_num", "slice_thickness", "is_positive", "num_slices", "pe_idxs", "phase", "type"}
_CLASS = ("ct.ct_pe", "CTPE")


class _Series:
    """Stands for the `CTPE` objects of the pickle: attributes and nothing else."""


class _NotAllowed(Exception):
    """What a pickle asks for beyond the one class."""


class _SeriesUnpickler(Unpickler):
    """Builds lists, dictionaries, texts, numbers and `_Series`; whatever else a pickle asks for is refused, unrun."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == _CLASS:
            return _Series
        raise _NotAllowed(f"it asks for {module_name}.{global_name}, and only {'.'.join(_CLASS)} is built")


@dataclass(frozen=True)
class _Study:
    """What the index says of one series, checked; `length` is the number of slices in the HDF5 file."""

    row: int
    number: int
    positive: bool
    slices: list[int]
    phase: str | None
    kind: str
    length: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source to `parser`."""
    parser.description = (
        "PENet's data (Huang et al., npj Digital Medicine 3:61, 2020) are Stanford's, under terms of their own; the "
        "code is at https://github.com/marshuang80/penet. The published split is kept; --fractions, --repeats and "
        "--seed hold with --resplit. The pickle is read without running anything in it."
    )
    add = parser.add_argument
    add("folder", type=Path, help=f"the folder that holds {VOLUMES} and {INDEX}")
    add(
        "--pe-types",
        nargs="+",
        default=["central", "segmental"],
        metavar="TYPE",
        help="positive series of other types are left out, as in PENet's experiments (default: %(default)s)",
    )
    add("--resplit", action="store_true", help="split anew, instead of keeping the published split")


def default_dataset_dir(arguments: argparse.Namespace) -> Path:
    """The folder itself."""
    return Path(arguments.folder)


def read(arguments: argparse.Namespace) -> Table:
    """Read the index and look into the HDF5 file for the size of each series.

    Source: PENet's `ct/ct_pe.py`, `datasets/ct_pe_dataset_3d.py` and `args/base_arg_parser.py`. The index is a pickled
    list of objects with `study_num`, `slice_thickness`, `is_positive`, `num_slices`, `pe_idxs` (slices with an embolus,
    from 0, in the order of the HDF5 file), `phase` (train, val, test) and `type`; the HDF5 file has one data set a
    series, its key the study's number.

    Note:
        162 positive series of validation and test, nearly all that are not central, have empty `pe_idxs`: nobody marked
        their slices, so that PENet's labels of their windows are wrong. A positive series without marked slices gets no
        `slices` here, so that only its series label counts.

    Args:
        arguments: the parsed options of `add_arguments`, and the absolute `dataset_dir`.

    Returns:
        The records, with slices and, unless `--resplit`, sections; a record's row is its number in the list.

    Raises:
        ValueError: files that are missing, a pickle that asks for more than that class, or entries that do not fit
            themselves or the HDF5 file, by row.
    """
    folder = source_folder(arguments, VOLUMES)
    if lacking := [name for name in (VOLUMES, INDEX) if not (folder / name).is_file()]:
        raise ValueError(f"there is no {' and no '.join(lacking)} in {folder}")
    studies = _check(_read_index(folder / INDEX), folder / VOLUMES)
    place = (folder / VOLUMES).relative_to(arguments.dataset_dir).as_posix()
    kept = _of_types(studies, arguments.pe_types)
    image = {study.row: f"{place}#{study.number}" for study in kept}
    records = [Record(s.row, image[s.row], int(s.positive), str(s.number)) for s in kept]
    marked = [study for study in kept if study.slices or not study.positive]
    if unmarked := len(kept) - len(marked):
        logger.warning("%d positive series have no marked slices: only their series labels count", unmarked)
    phases = {study.phase for study in kept}
    if not arguments.resplit and None in phases and len(phases) > 1:
        rows = name_rows(study.row for study in kept if study.phase is None)
        raise ValueError(f"{INDEX} says no phase for some series: {rows}; split all of them anew with --resplit")
    published = not arguments.resplit and None not in phases
    warn_of_patients(len(kept), "series", "PENet's data do not tell patients")
    tell_origin(arguments, source="PENet, Huang et al., npj Digital Medicine 3:61, 2020")
    return Table(
        "binary",
        ["negative", "positive"],
        records,
        slices={image[study.row]: study.slices for study in marked},
        sections={image[s.row]: SECTION_OF_PHASE[str(s.phase)] for s in kept} if published else {},
    )


def _read_index(path: Path) -> list[dict[str, Any]]:
    """The attributes of each object in the list."""
    try:
        with path.open("rb") as file:
            found = _SeriesUnpickler(file).load()
    except _NotAllowed as refusal:
        raise ValueError(f"{path.name} is refused, and nothing of it was run: {refusal}") from None
    except Exception as error:  # damaged pickles raise anything, with texts that may quote what stands in them
        raise ValueError(f"{path.name} is no pickle, or damaged ({type(error).__name__})") from None
    if not isinstance(found, list) or not all(isinstance(each, _Series) for each in found):
        raise ValueError(f"{path.name} is refused: expected a list of {'.'.join(_CLASS)}")
    entries = [dict(vars(each)) for each in found]
    if wrong := [row for row, entry in enumerate(entries, 1) if entry.keys() != _ATTRIBUTES]:
        raise ValueError(
            f"{path.name} is refused: {len(wrong)} entries do not have the attributes {', '.join(sorted(_ATTRIBUTES))} "
            f"and no others: {name_rows(wrong)}"
        )
    return entries


def _check(entries: list[dict[str, Any]], volumes: Path) -> list[_Study]:
    """All entries, sound; raises one error with all that is wrong."""
    times = Counter(entry["study_num"] for entry in entries if _is_count(entry["study_num"]))
    wrong: dict[str, list[int]] = {}
    studies, differ = [], 0
    for row, entry in enumerate(entries, 1):
        study, problem = _study(row, entry, volumes)
        if study is not None and times[study.number] > 1:
            problem = "have the study number of another, perhaps in another section of the split"
        if study is None or problem:
            wrong.setdefault(problem, []).append(row)
            continue
        differ += entry["num_slices"] != study.length
        studies.append(study)
    raise_problems(
        [f"{len(rows)} entries {problem}: {name_rows(rows)}" for problem, rows in wrong.items()],
        f"{INDEX} cannot be used",
    )
    if differ:
        logger.warning("%d series have another length in %s than in %s, and keep it", differ, VOLUMES, INDEX)
    return studies


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _study(row: int, entry: dict[str, Any], volumes: Path) -> tuple[_Study | None, str]:
    """One entry, or None and what is wrong in it."""
    number, slices, positive, phase = (entry[key] for key in ("study_num", "pe_idxs", "is_positive", "phase"))
    if not _is_count(number):
        return None, "have no study number"
    if type(positive) not in (bool, int) or positive not in (0, 1):
        return None, "have an 'is_positive' that is neither 0 nor 1"
    if phase is not None and (not isinstance(phase, str) or phase not in SECTION_OF_PHASE):
        return None, f"have a phase that is none of {', '.join(SECTION_OF_PHASE)}"
    if not isinstance(entry["type"], str):
        return None, "have a 'type' that is no text"
    if entry["slice_thickness"] != SLICE_MM:
        return None, f"have a slice thickness other than {SLICE_MM:g} mm, which the reader takes for all"
    if not isinstance(slices, list) or not all(map(_is_count, slices)):
        return None, "have 'pe_idxs' that are no list of numbers from 0"
    if slices and not positive:
        return None, "are negative and have slices with an embolus"
    length = dataset_length(f"{volumes}#{number}")
    if length is None:
        return None, f"have no volume (slices, rows, columns) in {VOLUMES}"
    if slices and max(slices) >= length:
        return None, f"mark slices beyond the last one in {VOLUMES}"
    return _Study(row, number, bool(positive), sorted(set(slices)), phase, entry["type"], length), ""


def _of_types(studies: list[_Study], types: list[str]) -> list[_Study]:
    """The negative series, and the positive ones of these types; says how many others there are."""
    found = Counter(study.kind for study in studies if study.positive)
    if lacking := [kind for kind in types if kind not in found]:
        logger.warning("no positive series of type %s; there are %s", ", ".join(lacking), ", ".join(sorted(found)))
    if left_out := {kind: count for kind, count in found.items() if kind not in types}:
        logger.warning(
            "%d positive series are left out, as their type is not in --pe-types: %s",
            sum(left_out.values()),
            ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items())),
        )
    return [study for study in studies if not study.positive or study.kind in types]
