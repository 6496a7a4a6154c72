"""`ttl export`: a trained run as a file for other engines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "export",
        help="write a trained run for ONNX Runtime, OpenVINO, TorchScript or torch.export",
        description="Write a trained run for another engine, for batches of any size, with preprocessing, class names "
        "and origin inside of the file; compare its outputs with the network's (or, with --int8, its metrics on the "
        "validation section) and keep it only if they agree. A JSON beside the file says what was compared.",
        epilog="example: ttl export bundles/covid_ttl/eval/ttl --to onnx --int8",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--to", required=True, metavar="FORM", help="onnx, openvino, torchscript or pt2")
    parser.add_argument("--int8", action="store_true", help="quantise (onnx and openvino), on images of the run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/export/model[_int8] with its suffix")
    parser.add_argument(
        "--dataset_dir", "--dataset-dir", type=Path, help="for --int8: folder of the run's images, if not made ones"
    )
    parser.add_argument("--datalist", type=Path, help="for --int8: their datalist")
    parser.add_argument(
        "--calibration_images",
        "--calibration-images",
        type=int,
        metavar="N",
        help="for --int8: training images that the ranges are taken of (default 100)",
    )
    parser.add_argument(
        "--max_drop",
        "--max-drop",
        type=float,
        metavar="X",
        help="for --int8: how much validation AUROC or Dice may be lost (default 0.02)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export one run.

    Returns:
        0.

    Raises:
        ValueError: see `export_run`; nothing was written.
    """
    own = ("dataset_dir", "datalist", "calibration_images", "max_drop")
    of_int8 = {name: getattr(arguments, name) for name in own if getattr(arguments, name) is not None}
    if of_int8 and not arguments.int8:
        raise ValueError(f"--{next(iter(of_int8))} is for --int8: pass that, too, or leave it out")
    from ttl_monai.deploy.export import export_run

    made = export_run(
        arguments.run_dir,
        arguments.to,
        int8=arguments.int8,
        out=arguments.out,
        **of_int8,
    )
    verified, size = made.document["verified"], sum(each["bytes"] for each in made.document["files"].values())
    print(f"{made.path}: {made.document['metadata']['precision']}, {size / 2**20:.1f} MiB")
    if arguments.int8:
        name = verified["metric"]
        print(
            f"{name} {verified['float32'][name]:.4f} in float32, {verified['int8'][name]:.4f} in int8 "
            f"({verified['difference']:+.4f}), validation section of {verified['validation_images']} entries"
        )
    else:
        shown = ", ".join(f"{value:.1e} (batch {batch})" for batch, value in verified["max_difference"].items())
        print(f"largest difference from the network: {shown}; allowed {verified['tolerance']:g}")
    return 0
