"""`ttl fetch`: get a bundle, verified and linted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ttl_monai.deploy.fetch import fetch_bundle


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "fetch",
        help="get a bundle, verified by its hash and linted",
        description="Get a bundle through MONAI's download. Its SHA-256 is verified before anything is unpacked or "
        "loaded, and it is linted before it gets its name; a bundle with findings is not written.",
        epilog="example: ttl fetch ORG/covid_ttl --out covid_ttl --sha256 HEX",
    )
    parser.add_argument(
        "source", metavar="NAME|URL", help="[ORG/]NAME on the Hugging Face hub, the address of a zip file, or the file"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder of the bundle")
    parser.add_argument(
        "--sha256",
        required=True,
        metavar="HEX",
        help="of the zip file, or of MANIFEST.json of a bundle on the hub, as whoever packed it published it",
    )
    parser.add_argument("--version", metavar="TAG", help="on the hub (default: the newest)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fetch one bundle.

    Returns:
        0.

    Raises:
        ValueError: the bundle was refused; nothing was written.
    """
    out = fetch_bundle(arguments.source, arguments.out, sha256=arguments.sha256, version=arguments.version)
    print(f"{out}: verified, no findings")
    return 0
