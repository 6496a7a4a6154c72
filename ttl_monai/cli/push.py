"""`ttl push`: send a packed bundle to a Hugging Face repository."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ttl_monai.deploy.push import plan_push, push_bundle


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "push",
        help="send a packed bundle to a Hugging Face repository",
        description="Lint a packed bundle and list what would be sent, with sizes and hashes; --yes sends it, as a "
        "private repository. The token is the one of `hf auth login` or HF_TOKEN, never an option.",
        epilog="example: ttl push packed/covid_ttl --repo ORG/covid_ttl",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the packed bundle")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="the repository; made where there is none")
    parser.add_argument("--yes", action="store_true", help="send it")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List the files, and send them when told to.

    Returns:
        0.

    Raises:
        ValueError: the bundle was refused; nothing was sent.
    """
    uploads = plan_push(arguments.bundle, arguments.repo)
    for each in uploads:
        print(f"{each.size:>14,}  {each.sha256}  {each.path}")
    total = f"{len(uploads)} files, {sum(each.size for each in uploads):,} bytes"
    if arguments.yes:
        print(f"sent {total}: {push_bundle(arguments.bundle, arguments.repo)}")
    else:
        print(f"{total} would be sent to {arguments.repo}; add --yes to send them")
    print(f"others verify it by: ttl fetch {arguments.repo} --out DIR --sha256 {uploads[-1].sha256}")
    return 0
