"""`ttl predict`: predict what lies in a file, a folder or a list, and say what is not suitable."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ttl_monai.data.keys import default_key_path
from ttl_monai.settings import read_setting


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "predict",
        help="predict DICOM, pictures or NIfTI with a trained bundle; what is not suitable is refused with the reason",
        description="Sort the images and series of a file, a folder or a list, refuse what the bundle is not for "
        "(`accepts` in its inference.json) or what is damaged, and predict the rest by the bundle's own workflow. "
        "Results name items by keyed hashes; no name of a file, folder or patient is in any of them, except in the "
        "DICOM objects. Exit status: 0 all done, 2 some refused (see report.json), 3 nothing could be predicted.",
        epilog="example: ttl predict bundles/covid_ttl/eval/ttl STUDIES --out results",
    )
    parser.add_argument("model", metavar="BUNDLE", help="a finished run, or a bundle with models/model.pt")
    parser.add_argument("source", metavar="INPUT", help="a file, a folder, or a list of them (.txt, .json)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="the bundle of a run that lies outside of it")
    parser.add_argument(
        "--dicom",
        action="store_true",
        help="write DICOM too, in DIR/dicom: a structured report and a picture, or a segmentation; these carry the "
        "patient of the source",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="a value of inference.json, as batch_size=4"
    )
    parser.add_argument(
        "--site-key", type=Path, metavar="FILE", help=f"key of the keyed hashes (default: {default_key_path()})"
    )
    parser.add_argument(
        "--key-map", type=Path, metavar="FILE", help="write which key stands for which files; keep it to yourself"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Predict, and print the table.

    Raises:
        ValueError: the input was refused as a whole; the message has no name of its files.
    """
    settings = dict(read_setting(text) for text in arguments.set)  # before the slow imports
    from ttl_monai.deploy.predict import predict_inputs

    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells of each module that it copies
    results = predict_inputs(
        arguments.model,
        arguments.source,
        arguments.out,
        configs=arguments.bundle,
        settings=settings,
        dicom=arguments.dicom,
        site_key=arguments.site_key,
        key_map=arguments.key_map,
    )
    print("\n".join(results.lines()))
    return results.exit_code
