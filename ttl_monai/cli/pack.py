"""`ttl pack`: a finished run as a bundle that stands alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ttl_monai.deploy.packed import EXPORTS


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "pack",
        help="make a bundle of a finished run that others can use without this package",
        description="Make a self-contained bundle and a zip file of it: configs with the run's settings, weights, "
        "exported forms (compared with PyTorch), a model card with the run's figures, the code that the configs need, "
        "and a MANIFEST with the SHA-256 of every file. It is linted before it gets its name.",
        epilog="example: ttl pack bundles/covid_ttl/eval/ttl --out packed/covid_ttl --version 0.2.0",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished run (with model.pt)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the new folder of the bundle; its name is the bundle's"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the source bundle (default: the one that RUN lies in)"
    )
    parser.add_argument("--version", metavar="N.N.N", help="default: that of the source bundle")
    parser.add_argument("--changelog", metavar="TEXT", help="what is new in it (default: strategy, network and data)")
    parser.add_argument("--data-license", metavar="TEXT", help="licence of the data that the run was trained on")
    parser.add_argument(
        "--url", metavar="ADDRESS", help="where files of more than 25 MiB will lie, for large_files.yml (https)"
    )
    parser.add_argument(
        "--exports", nargs="*", choices=EXPORTS, default=EXPORTS, help=f"default: {' '.join(EXPORTS)}; none: no word"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Pack one run, and print what was written.

    Returns:
        0.

    Raises:
        ValueError: the run was refused; nothing was written.
    """
    from ttl_monai.deploy.manifest import MANIFEST, list_files
    from ttl_monai.deploy.pack import pack_run
    from ttl_monai.files import file_sha256

    packed = pack_run(
        arguments.run_dir,
        arguments.out,
        bundle=arguments.bundle,
        version=arguments.version,
        changelog=arguments.changelog,
        data_license=arguments.data_license,
        url=arguments.url,
        exports=tuple(arguments.exports),
    )
    sizes: dict[str, int] = {}
    for name in list_files(packed.folder)[0]:
        shown = f"{packed.package}/" if name.startswith(packed.package) else name
        sizes[shown] = sizes.get(shown, 0) + (packed.folder / name).stat().st_size
    for name, size in sizes.items():
        difference = packed.differences.get(name)
        print(
            f"{size:>14,}  {name}"
            + (f"  (differs from PyTorch by {difference:.2g})" if name in packed.differences else "")
        )
    print(f"{sum(sizes.values()):>14,}  {packed.folder}, no findings of ttl lint")
    print(f"{packed.archive.stat().st_size:>14,}  {packed.archive}")
    if packed.large and arguments.url is None:
        print(f"large_files.yml has no address yet for {', '.join(packed.large)}: pack with --url for the model zoo")
    print(
        f"sha256 of the zip file {file_sha256(packed.archive)}, of {MANIFEST} {file_sha256(packed.folder / MANIFEST)}"
    )
    return 0
