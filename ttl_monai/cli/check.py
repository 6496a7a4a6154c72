"""`ttl check`: all that would go wrong in a training, before an epoch is spent."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ttl_monai.settings import read_setting


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "check",
        help="find all problems of a training before it starts: config, datalist, images, weights, memory, disk",
        description="Find all problems of a training at once, each with its place and remedy: the config, the "
        "datalist, every image and mask, the weights, one batch through the network, the room on the disk, the run's "
        "folder. Nothing is written to the folders of the data and of the runs. Exit status: 0, 2 with problems, with "
        "--strict 1 with warnings.",
        epilog="example: ttl check bundles/covid_ttl --dataset_dir DATA/xrays --datalist DATA/xrays_split0.json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, as bundles/covid_ttl")
    parser.add_argument(
        "--dataset_dir", "--dataset-dir", type=Path, help="folder of the images; default: data that the bundle makes"
    )
    parser.add_argument("--datalist", type=Path, help="the datalist (`ttl datalist` makes one)")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="overlay on train.json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="a value of the config, as max_epochs=20"
    )
    parser.add_argument("--quick", action="store_true", help="read a sample of 16 images of each section")
    parser.add_argument("--no-batch", action="store_true", help="leave out the batch through the network")
    parser.add_argument("--workers", type=int, help="threads that read images (default: one a core)")
    parser.add_argument(
        "--file_names",
        "--file-names",
        action="store_true",
        help="name images by their path, which may hold a patient's name (default: by the ids of the datalist)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 when there are warnings")
    parser.add_argument("--json", action="store_true", help="print JSON, with all places")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found.

    Raises:
        ValueError: no bundle, or a setting that is none.
    """
    settings = dict(read_setting(text) for text in arguments.set)  # before the slow imports
    from ttl_monai.deploy.check import check_bundle

    found = check_bundle(
        arguments.bundle,
        dataset_dir=arguments.dataset_dir,
        datalist=arguments.datalist,
        overlays=arguments.overlay,
        settings=settings,
        quick=arguments.quick,
        batch=not arguments.no_batch,
        file_names=arguments.file_names,
        workers=arguments.workers,
    )
    if arguments.json:
        print(json.dumps(found.to_json(strict=arguments.strict), indent=2))
    else:
        print("\n".join(found.lines()))
    return found.exit_code(strict=arguments.strict)
