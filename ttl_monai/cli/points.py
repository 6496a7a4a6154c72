"""`ttl points`: where a backbone can be cut, and what each cut costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ttl_monai.networks.backbones import build_backbone
from ttl_monai.networks.points import Point, list_points
from ttl_monai.networks.tracing import default_example, skeleton

LEVELS = ("stage", "block", "layer")


def add_parser(subparsers: Any) -> None:
    """Add the verb.

    Args:
        subparsers: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser(
        "points",
        help="list the truncation points of a backbone",
        description="List the truncation points of a backbone: the names that truncate_at, freeze_up_to and slim_after "
        "take, and the size and cost of the network up to there. `share` is the part of the whole backbone (without "
        "pooling and classifier). No weights are needed, and nothing is computed or downloaded.",
        epilog="example: ttl points resnet50 --level stage",
    )
    parser.add_argument(
        "backbone", help="as in TransferClassifier: resnet50, timm:efficientnet_b0, resnext3d101, resnet50_3d, ..."
    )
    parser.add_argument(
        "--level",
        choices=LEVELS,
        help="how fine: stage, block (stages too; default where there are blocks), layer (every point)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="one number, or H W, or in 3D D H W, as 24 192 192 of the paper's CT windows (default: 224, in 3D 64)",
    )
    parser.add_argument("--weights", choices=["none"], default="none", help="accepted for symmetry: points need none")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the points of one backbone.

    Raises:
        ValueError: unknown backbone, or an image size that does not fit it.
    """
    model = skeleton(build_backbone(arguments.backbone))
    example_input = _example_input(default_example(model), arguments.image_size)
    points = list_points(model, example_input)
    if not points:
        raise ValueError(f"{arguments.backbone} has no truncation points: no feature map carries everything forward")
    shown = _select(points, arguments.level)
    if not shown:
        raise ValueError(
            f"{arguments.backbone} has no points of level {arguments.level!r}; --level layer lists every one"
        )
    if arguments.json:
        print(json.dumps(_document(arguments.backbone, shown, points[-1], example_input), indent=2))
    else:
        print(_table(arguments.backbone, shown, points[-1], example_input))


def _select(points: Sequence[Point], level: str | None) -> list[Point]:
    """Points of `level` and the coarser ones; None is the level of blocks, or every point where there are no blocks."""
    finest = LEVELS.index(level or "block")
    shown = [point for point in points if LEVELS.index(point.level) <= finest]
    return shown if shown or level else list(points)


def _example_input(example: torch.Tensor, image_size: list[int] | None) -> torch.Tensor:
    dims = example.dim() - 2
    size = list(example.shape[2:]) if image_size is None else image_size * (dims if len(image_size) == 1 else 1)
    if len(size) != dims or min(size) < 1:
        raise ValueError(f"expected --image-size with 1 or {dims} positive numbers, got {image_size}")
    return example.new_zeros((*example.shape[:2], *size))


def _document(backbone: str, shown: Sequence[Point], whole: Point, example_input: torch.Tensor) -> dict[str, Any]:
    rows = [{key: value for key, value in asdict(point).items() if key != "node"} for point in shown]
    return {
        "backbone": backbone,
        "input_shape": list(example_input.shape),
        "params": whole.params,
        "macs": whole.macs,
        "points": rows,
    }


def _table(backbone: str, shown: Sequence[Point], whole: Point, example_input: torch.Tensor) -> str:
    header = ("name", "level", "channels", "stride", "size", "params", "share", "GMACs", "share")
    rows = [
        (
            f"{point.name} (stem)" if "stem" in point.aliases else point.name,
            point.level,
            str(point.channels),
            str(point.stride),
            "x".join(map(str, point.spatial_size)),
            f"{point.params:,}",
            f"{point.params / whole.params:.1%}",
            f"{point.macs / 1e9:.3f}",
            f"{point.macs / whole.macs:.1%}",
        )
        for point in shown
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        left, right = row[:2], row[2:]
        cells = [text.ljust(width) for text, width in zip(left, widths, strict=False)]
        cells += [text.rjust(width) for text, width in zip(right, widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    shape = "x".join(map(str, example_input.shape[1:]))
    title = (
        f"{backbone}, input {shape}: {whole.params:,} parameters, {whole.macs / 1e9:.3f} GMACs without the classifier"
    )
    return "\n".join((title, "", *lines))
