"""The `ttl` command: a thin face on the package, one file a verb."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ttl_monai import __version__

# Each verb is a module of this package with `add_parser(subparsers)`, which sets `run=<function of the arguments>`.
VERBS = (
    *("points", "datalist", "search", "worker", "slurm", "svcca", "experiment", "report", "table"),
    *("check", "pack", "export", "lint", "fetch", "push", "predict"),
)


class Parser(argparse.ArgumentParser):
    """Names what was probably meant; takes no option by its first letters, which may come to mean another one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    @property
    def verbs(self) -> dict[str, Parser]:
        """The parsers of the verbs; none of a verb's own parser."""
        return {
            name: parser
            for each in self._actions
            if isinstance(each, argparse._SubParsersAction)
            for name, parser in each.choices.items()
        }

    def error(self, message: str) -> NoReturn:
        """Print usage and error, with the nearest option or verb, and exit with status 2."""
        known = [*self._option_string_actions, *self.verbs]
        words = re.findall(r"(?<![\w-])(--[\w-]+)|invalid choice: '([^']*)'", message)
        wrong = [word for pair in words for word in pair if word and word not in known]
        near = [name for word in wrong for name in difflib.get_close_matches(word, known, 1)]
        super().error(message + (f"; did you mean {near[0]}?" if near else ""))


def build_parser(verbs: Sequence[str] = VERBS) -> Parser:
    """The parser of the command line.

    Args:
        verbs: the verbs to add. A verb's module may import torch, so only the one that is called need be.
    """
    parser = Parser(
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
    parser = build_parser(argv[:1] if argv[:1] and argv[0] in VERBS else VERBS)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.verbs[arguments.verb].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return int(arguments.run(arguments) or 0)
    except (ValueError, TypeError, OSError) as error:
        print(f"ttl {arguments.verb}: {error}", file=sys.stderr)
        return 2
