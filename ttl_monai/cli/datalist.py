"""`ttl datalist`: make the splits of a data set."""

from __future__ import annotations

import argparse
import importlib
import shlex
from pathlib import Path
from typing import Any

from ttl_monai.data.build import build_datalists, write_datalists
from ttl_monai.data.datalist import SECTIONS
from ttl_monai.data.keys import default_key_path, load_site_key
from ttl_monai.data.sources import SOURCES

# What says nothing about the content of a datalist, or names a place of this machine.
NOT_IN_COMMAND = {
    "verb",
    "kind",
    "run",
    "parser",
    "reader",
    "dataset_dir",
    "output_dir",
    "site_key",
    "overwrite",
    "workers",
}
OF_SPLIT = ("fractions", "repeats", "seed")


def add_parser(subparsers: Any) -> None:
    """Add the verb, with one subcommand a source.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    verb = subparsers.add_parser(
        "datalist",
        help="split a data set by patient into training, validation and test",
        description="Split a data set by patient, stratified by class, and write each split as a MONAI datalist. "
        "Nothing is written when anything is wrong. Patient ids are replaced by keys that only the holder of the "
        "site key can trace back; messages name rows, never patients.",
        epilog="`ttl datalist SOURCE --help` has an example.",
    )
    kinds = verb.add_subparsers(dest="kind", metavar="SOURCE", required=True)
    for kind in SOURCES:
        reader = importlib.import_module(f"ttl_monai.data.sources.{kind}")
        parser = kinds.add_parser(kind, help=reader.HELP, epilog=f"example: {reader.EXAMPLE}")
        reader.add_arguments(parser)
        _add_common_arguments(parser)
        parser.set_defaults(run=run, parser=parser, reader=reader)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    split = parser.add_argument_group("the split").add_argument
    split("--fractions", nargs=3, type=float, default=[0.64, 0.16, 0.2], metavar=("TRAINING", "VALIDATION", "TEST"))
    split("--repeats", type=int, default=3, help="number of different splits (default: %(default)s)")
    split("--seed", type=int, default=0, help="seed of the splits (default: %(default)s)")
    split("--no-hash", action="store_true", help="do not read the files: identical images are not found")
    split("--workers", type=int, help="threads that read the files (default: one a core)")
    about = parser.add_argument_group("what the datalist says").add_argument
    about("--name", help="name of the data set (default: that of its folder)")
    about("--source", default="", help="where the images come from: a citation or an address")
    about("--licence", default="", help="licence of the images")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--public-ids", action="store_true", help="public data: write the published patient ids, no keys")
    keys.add_argument(
        "--site-key",
        type=Path,
        metavar="FILE",
        help=f"key of the patient keys, made on first use (default: {default_key_path()})",
    )
    files = parser.add_argument_group("files").add_argument
    files(
        "--dataset-dir", type=Path, help="folder that the paths in the datalist are relative to (default: the source's)"
    )
    files("--output-dir", type=Path, default=Path(), help="where to write NAME_split0.json, ... (default: here)")
    files("--overwrite", action="store_true", help="replace datalists of the same name")


def run(arguments: argparse.Namespace) -> int:
    """Make the datalists of one source and print their counts.

    Args:
        arguments: the parsed command line.

    Returns:
        0.

    Raises:
        ValueError: the source cannot be split; nothing was written.
    """
    # absolute() keeps links, so that absolute paths in a table are found to lie in the folder as the user names it.
    dataset_dir = (arguments.dataset_dir or arguments.reader.default_dataset_dir(arguments)).absolute()
    arguments.dataset_dir = dataset_dir
    table = arguments.reader.read(arguments)
    if table.sections and (
        unused := [name for name in OF_SPLIT if getattr(arguments, name) != arguments.parser.get_default(name)]
    ):
        raise ValueError(
            f"the data set has a published split, which --{' and --'.join(unused)} cannot change; add --resplit to "
            "split it anew"
        )
    header = {
        "name": arguments.name or dataset_dir.resolve().name,
        "source": arguments.source,
        "licence": arguments.licence,
        "made_by": command_line(arguments),
    }
    datalists = build_datalists(
        table,
        dataset_dir,
        header=header,
        site_key=None if arguments.public_ids else load_site_key(arguments.site_key),
        fractions=arguments.fractions,
        repeats=arguments.repeats,
        seed=arguments.seed,
        hash_files=not arguments.no_hash,
        workers=arguments.workers,
    )
    for datalist, path in zip(
        datalists, write_datalists(datalists, arguments.output_dir, overwrite=arguments.overwrite), strict=True
    ):
        print(f"{path}\n{counts_table(datalist)}\n")
    return 0


def command_line(arguments: argparse.Namespace) -> str:
    """The command that makes the same datalists anywhere: without folders of this machine and without defaults.

    Args:
        arguments: the parsed command line, `dataset_dir` absolute.

    Returns:
        The command, in which DATASET_DIR stands for the data set's folder.
    """
    words = ["ttl", "datalist", arguments.kind]
    for option, value in vars(arguments).items():
        if option in NOT_IN_COMMAND or value == arguments.parser.get_default(option):
            continue
        if isinstance(value, Path):  # the source itself, the one positional argument
            path = value.absolute()
            if path.is_relative_to(arguments.dataset_dir):
                path = Path("DATASET_DIR") / path.relative_to(arguments.dataset_dir)
            words.append(shlex.quote(path.name if path.is_absolute() else path.as_posix()))
            continue
        words.append("--" + option.replace("_", "-"))
        if value is not True:
            words += [shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def counts_table(datalist: dict[str, Any]) -> str:
    """Patients, images and classes of each section as text, one line each."""
    rows: list[tuple[str, ...]] = [("", *SECTIONS)]
    rows.append(("patients", *(str(datalist["num_patients"][section]) for section in SECTIONS)))
    rows.append(("images", *(str(datalist["num_images"][section]) for section in SECTIONS)))
    if datalist["task"] != "segmentation":
        for name in datalist["class_names"]:
            rows.append((f"  {name}", *(str(datalist["counts"][section][name]) for section in SECTIONS)))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows)
