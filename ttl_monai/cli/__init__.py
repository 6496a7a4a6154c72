"""The `ttl` command: a thin face on the package, one file a verb."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from ttl_monai import __version__

# Each verb is a module of this package with `add_parser(subparsers)`, which sets `run=<function of the arguments>`.
VERBS = (
    *("points", "datalist", "search", "worker", "slurm", "svcca", "experiment", "report", "table"),
    *("check", "pack", "export", "lint", "fetch", "push", "predict"),
)


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        verbs: the verbs to add. A verb's module may import torch, so only the one that is called need be.
    """
    parser = argparse.ArgumentParser(
        prog="ttl",
        description="Truncated transfer learning: keep the lower layers of a pretrained network, drop the rest, "
        "fine-tune. Training and prediction run through `python -m monai.bundle run`; see the README.",
    )
    parser.add_argument("--version", action="version", version=f"ttl-monai {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs:
        importlib.import_module(f"ttl_monai.cli.{verb}").add_parser(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: the arguments after the program's name, default: those of the process.

    Returns:
        The exit status: 0, or 2 when the input was refused with one message.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # As the bundles' logging.conf: it says of each dataset that a decoder is lacking which no reader here uses.
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser(argv[:1] if argv[:1] and argv[0] in VERBS else VERBS).parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except (ValueError, TypeError, OSError) as error:
        print(f"ttl {arguments.verb}: {error}", file=sys.stderr)
        return 2
