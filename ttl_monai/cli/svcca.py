"""`ttl svcca`: how alike the features of two runs are, point by point."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "svcca",
        help="compare the features of two runs at each truncation point",
        description="Compare the features of two runs by SVCCA at each truncation point, with the coefficients that "
        "random features of the same size would have beside them, and at all pairs of points. Images: those of the "
        "training and validation sections that RUN_B was trained on; the test section is never used. Every position "
        "of every image is a sample, every channel a feature. A run keeps no path of its data: "
        "say where they are, unless the bundle made them. Written: similarity.png, matrix.png, similarity.csv and "
        "similarity.json.",
        epilog="examples: ttl svcca initial bundles/covid_ttl/eval/ftl (what fine-tuning changed, on made images); "
        "ttl svcca eval/ftl eval/ttl --points block --dataset_dir DATA --datalist LIST; "
        "ttl svcca initial eval/ftl --points blocks.2 blocks.3",
    )
    parser.add_argument(
        "run_a", metavar="RUN_A", help="folder of a run, or `initial`: the network of RUN_B before its training"
    )
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="folder of a run, as bundles/covid_ttl/eval/ftl")
    parser.add_argument(
        "--points",
        nargs="+",
        default=["stage"],
        metavar="POINT",
        help="stage (ends of stages and of the network; default), block (blocks too), or names as `ttl points` lists",
    )
    parser.add_argument(
        "--dataset_dir", "--dataset-dir", "--data", type=Path, metavar="DIR", help="folder of the images"
    )
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="datalist of RUN_B, or another one")
    parser.add_argument("--images", type=int, metavar="N", help="use N images, spread over the list (default: all)")
    parser.add_argument(
        "--null",
        choices=("wachter", "permute"),
        default="wachter",
        help="random baseline: the closed form, or the features of exchanged images (default: %(default)s)",
    )
    parser.add_argument(
        "--variance",
        type=float,
        metavar="SHARE",
        help="keep the principal directions with this share of the variance, as 0.99 (default: all)",
    )
    parser.add_argument("--no-matrix", action="store_true", help="leave out the comparison of all pairs of points")
    parser.add_argument("--batch_size", "--batch-size", type=int, default=16, help="images at a time (default: 16)")
    parser.add_argument("--device", help="as cuda:1 or cpu (default: CUDA where there is one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: RUN_B/svcca)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare two runs, print a table and write the files.

    Raises:
        ValueError: no such run, no points in common, or data that are not there.
    """
    import torch

    from ttl_monai.engines.compare_runs import compare_runs
    from ttl_monai.reports.similarity import plot_matrix, plot_similarity, similarity_csv, similarity_text

    for option in ("images", "batch_size"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option} must be at least 1, got {value}")
    points = arguments.points
    document = compare_runs(
        arguments.run_a,
        arguments.run_b,
        points=points[0] if points in (["stage"], ["block"]) else points,
        dataset_dir=arguments.dataset_dir,
        datalist=arguments.datalist,
        images=arguments.images,
        null=arguments.null,
        variance=arguments.variance,
        matrix=not arguments.no_matrix,
        device=torch.device(arguments.device) if arguments.device else None,
        batch_size=arguments.batch_size,
    )
    folder: Path = arguments.out or arguments.run_b / "svcca"
    folder.mkdir(parents=True, exist_ok=True)
    plot_similarity(document, folder / "similarity.png")
    if document["matrix"] is not None:
        plot_matrix(document, folder / "matrix.png")
    (folder / "similarity.csv").write_text(similarity_csv(document), encoding="utf-8", newline="\n")
    (folder / "similarity.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(similarity_text(document))
    logger.info("Written to %s.", folder)
    return 0
