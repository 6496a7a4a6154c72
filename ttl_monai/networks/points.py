"""Ordered truncation points of any convolutional backbone, found in its traced graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from ttl_monai.networks.cuts import Cut, find_cuts
from ttl_monai.networks.tracing import default_example, trace

Level = Literal["stage", "block", "layer"]


@dataclass(frozen=True)
class Point:
    """A place where a network can be cut: one tensor, or one concatenation, carries everything forward.

    Attributes:
        name: the module whose output it is (the block, or the transition that ends a stage, where it is one).
        level: `stage` (the end of a container of blocks, with the transition that follows it), `block` (the end of a
            block, or the stem), `layer` (any other).
        channels: size of the channel axis; of the concatenation where several tensors are alive.
        stride: size of the example input over that of the map, along the last axis.
        spatial_size: (H, W) or (D, H, W) of the map for the example input.
        params: parameters up to here.
        macs: multiply-accumulates up to here in the paper's convention, for one example input.
        stage: the container of blocks that the point belongs to.
        aliases: other names of the same point.
        node: name of the output node in `trace(model).graph`.
    """

    name: str
    level: Level
    channels: int
    stride: int
    spatial_size: tuple[int, ...]
    params: int
    macs: int
    stage: str | None = None
    aliases: tuple[str, ...] = field(default=(), repr=False)
    node: str = field(default="", repr=False)


def _under(path: str, container: str) -> bool:
    return path.startswith(container + ".") if container else True


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _find_blocks(cuts: Sequence[Cut]) -> dict[int, str]:
    """Position of a cut -> block that ends there.

    A block is the outermost module of several layers that is not itself a container: a container ends together with
    the last module of several layers in it, or holds more than one of them (an inverted residual holds one, its
    squeeze-excitation).
    """
    ends = {path: index for index, cut in enumerate(cuts) for path, block_like in cut.names if block_like}
    single = set()
    for path, end in ends.items():
        inner = [inner_end for other, inner_end in ends.items() if _under(other, path)]
        if len(inner) < 2 and end not in inner:
            single.add(path)
    return {ends[path]: path for path in ends if path in single and not any(_under(path, other) for other in single)}


def _find_stages(cuts: Sequence[Cut], blocks: dict[int, str]) -> dict[int, str]:
    """Position of a cut -> container of blocks (and nothing else) that ends there, or whose transition does."""
    holders = {_parent(block) for block in blocks.values()} - {""}
    for cut in cuts:
        for path in cut.paths():
            inside_block = any(path == block or _under(path, block) for block in blocks.values())
            holders -= {holder for holder in holders if _under(path, holder) and not inside_block}
    ends = {_parent(block): index for index, block in sorted(blocks.items()) if _parent(block) in holders}
    stages = {}
    for holder, end in ends.items():
        is_last = end == max(ends.values())
        position = end
        for index in range(end + 1, len(cuts)):
            cut = cuts[index]
            siblings = [path for path in cut.paths() if _under(path, _parent(holder))]
            in_block = any(path == block or _under(path, block) for path in siblings for block in blocks.values())
            if not siblings or in_block or (is_last and cut.has_layers):
                break
            position = index
        stages[position] = holder
    return stages


def _find_stem(cuts: Sequence[Cut], first_block: str) -> int | None:
    """Position of the last cut before the first block."""
    inside = [any(path == first_block or _under(path, first_block) for path in cut.paths()) for cut in cuts]
    return inside.index(True) - 1 if inside.index(True) else None


def _name_of(cut: Cut, block: str | None, blocks: Iterable[str]) -> str:
    """The block; else the outermost module without blocks inside; without any blocks the layer itself."""
    if block is not None:
        return block
    paths = cut.paths()
    whole = [path for path in paths if not any(_under(inner, path) for inner in blocks)]
    return (whole if blocks else paths)[-1 if blocks else 0]


def name_points(cuts: Sequence[Cut], example_input: torch.Tensor) -> list[Point]:
    """Names and levels of the cuts that are the output of a module."""
    times = [path for cut in cuts for path in set(cut.paths())]
    for cut in cuts:
        # A module that is called at several points (one activation for a whole network) names none of them.
        cut.names = [(path, block_like) for path, block_like in cut.names if times.count(path) == 1]
    named = [cut for cut in cuts if cut.names]
    blocks = _find_blocks(named)
    stages = _find_stages(named, blocks)
    stem = _find_stem(named, blocks[min(blocks)]) if blocks else None
    points = []
    for index, cut in enumerate(named):
        block = blocks.get(index)
        name = _name_of(cut, block, blocks.values())
        level: Level = "stage" if index in stages else "block" if block or index == stem else "layer"
        stage = _parent(block) if block and _parent(block) in stages.values() else stages.get(index)
        aliases = dict.fromkeys((*cut.paths(), *cut.identities, *(["stem"] if index == stem else [])))
        aliases.pop(name)
        size = cut.shape[2:]
        stride = round(example_input.shape[-1] / size[-1])
        points.append(
            Point(name, level, cut.shape[1], stride, size, cut.params, cut.macs, stage, tuple(aliases), cut.node.name)
        )
    return points


def list_points(model: nn.Module, example_input: torch.Tensor | None = None) -> list[Point]:
    """The truncation points of a backbone, from the input to the last feature map.

    Source: the paper's candidate truncation points (supplement C.1, Fig. 4 and 6), here found in the graph itself: a
    point is a module's output after which one tensor alone carries everything forward, or after which the tensors in
    use are exactly the operands of one later concatenation (dense connections; the point's output is then their
    concatenation). Nothing is computed: shapes and counts come from the meta device.

    Args:
        model: any convolutional network with one image as input, in 2D or 3D; left as it was found.
        example_input: (B, C, *spatial), default zeros of (1, C, 224, 224) or (1, C, 64, 64, 64).

    Raises:
        ValueError: the network cannot be traced or has no convolution.

    Example:
        >>> from torchvision.models import resnet18
        >>> [point.name for point in list_points(resnet18()) if point.level == "stage"]
        ['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    """
    example_input = default_example(model) if example_input is None else example_input
    return name_points(find_cuts(trace(model), example_input), example_input)


def find_point(points: Sequence[Point], name: str) -> Point:
    """The point of this name: its module, its stage (the end of it), a unique suffix of these, or `stem`.

    Raises:
        TypeError: the name is no string (positions in the list of points are refused).
        ValueError: no point, or several, have this name; the nearest valid names are listed.
    """
    if not isinstance(name, str):
        raise TypeError(f"expected the name of a truncation point such as {points[0].name!r}, got {name!r}")
    names = {alias: point for point in points for alias in (*point.aliases, point.name)}
    if name in names:
        return names[name]
    if not name.isdigit():
        matches = {point.name: point for alias, point in names.items() if alias.endswith("." + name)}
        if len(matches) == 1:
            return next(iter(matches.values()))
        if matches:
            raise ValueError(f"expected the name of one truncation point, got {name!r}, which is {list(matches)}")
    suffixes = [alias.split(".", start)[-1] for alias in names for start in range(alias.count(".") + 1)]
    near = difflib.get_close_matches(name, dict.fromkeys(suffixes), n=5, cutoff=0.5)
    main = [point.name for point in points if point.level == "stage"] or [point.name for point in points]
    raise ValueError(
        f"expected the name of a truncation point, got {name!r}; "
        + (f"nearest: {', '.join(near)}; " if near else "")
        + f"{'stages' if points and main[0] != points[0].name else 'points'}: {', '.join(main)}"
    )
