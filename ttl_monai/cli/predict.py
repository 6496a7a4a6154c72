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
        "DICOM objects. Exit status: 0 all done, 1 some refused (see report.json), "
        "2 the command was refused, 3 nothing could be predicted.",
        epilog="example: ttl predict bundles/covid_ttl/eval/ttl STUDIES --out results",
    )
    parser.add_argument("model", metavar="BUNDLE", help="a finished run, or a bundle with models/model.pt")
    parser.add_argument(
        "source", metavar="INPUT", nargs="?", help="a file, a folder, or a list of them (.txt, .json); not with --from"
    )
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
    server = parser.add_argument_group("a study of a DICOMweb server in place of INPUT")
    server.add_argument("--from", nargs=2, metavar=("dicomweb", "URL"), dest="server", help="the root of the server")
    server.add_argument("--study", metavar="UID", help="StudyInstanceUID")
    server.add_argument("--store", action="store_true", help="send the DICOM objects back to it; implies --dicom")
    server.add_argument(
        "--credentials",
        type=Path,
        metavar="FILE",
        help="lines NAME=VALUE of TTL_DICOMWEB_USER and TTL_DICOMWEB_PASSWORD, or of TTL_DICOMWEB_TOKEN (default: the "
        "environment)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Predict, and print the table.

    Raises:
        ValueError: the input was refused as a whole; the message has no name of its files.
    """
    settings = dict(read_setting(text) for text in arguments.set)  # before the slow imports
    if (arguments.source is None) == (arguments.server is None):
        raise ValueError("name either an INPUT, or a server by --from dicomweb URL with --study UID")
    if arguments.server is None and (arguments.study or arguments.store or arguments.credentials):
        raise ValueError("--study, --store and --credentials go with --from dicomweb URL")
    if arguments.server is not None and (arguments.server[0] != "dicomweb" or not arguments.study):
        raise ValueError("expected --from dicomweb URL with --study UID")
    from ttl_monai.deploy.pacs import Pacs, load_credentials
    from ttl_monai.deploy.predict import predict_inputs, predict_study

    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells of each module that it copies
    options: dict[str, Any] = {
        "configs": arguments.bundle,
        "settings": settings,
        "dicom": arguments.dicom,
        "site_key": arguments.site_key,
        "key_map": arguments.key_map,
    }
    if arguments.server is None:
        results = predict_inputs(arguments.model, arguments.source, arguments.out, **options)
    else:
        pacs = Pacs(arguments.server[1], load_credentials(arguments.credentials))
        results = predict_study(arguments.model, pacs, arguments.study, arguments.out, store=arguments.store, **options)
    print("\n".join(results.lines()))
    return results.exit_code
