"""Several networks: FTL against TTL at the paper's cut, or the stage end nearest to half depth (supplement, B.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle.config_parser import ConfigParser

from ttl_monai.engines.configs import config_files, quiet
from ttl_monai.engines.experiments.cells import Row
from ttl_monai.engines.experiments.comparison import Comparison
from ttl_monai.networks import list_points
from ttl_monai.networks.backbones import build_backbone
from ttl_monai.networks.points import Point
from ttl_monai.networks.pretrained import load_backbone
from ttl_monai.networks.tracing import skeleton

logger = logging.getLogger(__name__)

# Where the paper's Table 3 cuts (PAPER.md section 2: the parameters say so).
PAPER_CUTS: Mapping[str, str] = {
    "resnet50": "layer3",
    "densenet121": "transition2",
    "densenet169": "transition2",
    "densenet201": "transition2",
    "efficientnet_b0": "blocks.4",
}
WEIGHTS = ("imagenet", "none", "available")


class Architectures(Comparison):
    """Compare FTL with TTL on several networks: one table each. Source: supplement B.1, Table 3.

    Args:
        backbones: `NAME[=CUT]` each, a name as in `build_backbone`. Without a cut it is the paper's for the paper's
            networks, else the end of the stage nearest to half the depth, which the table then says.
        weights: "imagenet", where a network that has none is an error; "none"; or "available": ImageNet's where they
            can be had, else none, which the table then says.
        options: see `Comparison`.

    Raises:
        ValueError: anything that a training would refuse.
    """

    def __init__(self, *, backbones: Sequence[str], weights: str = "imagenet", **options: Any) -> None:
        super().__init__(**options)
        if weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
        definition = ConfigParser.load_config_file(config_files(self.bundle, ())[0])["network_def"]
        knob = "backbone" if "backbone" in definition else "encoder"
        self._plans, self._notes = [], []
        for text in backbones:
            name, _, cut = text.partition("=")
            cut, notes = (cut, []) if cut else choose_cut(name)
            taken = available_weights(name) if weights == "available" else weights
            if taken == "none":
                notes = [*notes, "The network is not pretrained: it starts from random weights."]
            settings = {f"network_def#{knob}": name, "network_def#weights": taken}
            rows = [Row("FTL"), Row("TTL", cut)]
            self._plans.append(self.plan(rows, name=name.replace(":", "_"), settings=settings))
            self._notes.append(notes)
        if not self._plans:
            raise ValueError("expected at least one backbone, got none")
        self.check_only(self._plans)

    def run(self) -> dict[str, Any] | None:
        """Do the cells that are not done.

        Returns:
            `tables`, one a network; None where only some rows were asked for.
        """
        for plan, notes in zip(self._plans, self._notes, strict=True):
            for note in notes:
                logger.info("%s: %s", plan.name, note)
            self.work(plan)
        if self.only is not None:
            return None
        return {"tables": [{**self.table(p), "notes": n} for p, n in zip(self._plans, self._notes, strict=True)]}


def choose_cut(name: str) -> tuple[str, list[str]]:
    """Where to cut a network, and what is to be said of the choice.

    Args:
        name: a name as in `build_backbone`.

    Raises:
        ValueError: an unknown network, or one without stages.
    """
    plain = name.rpartition(":")[2]
    if plain in PAPER_CUTS:
        return PAPER_CUTS[plain], []
    cut = half_depth(list_points(skeleton(build_backbone(name))))
    return cut, [f"The paper has no cut for {name}: {cut} is the end of the stage nearest to half its depth in blocks."]


def half_depth(points: Sequence[Point]) -> str:
    """The end of a stage with nearest to half of the blocks below it; of two equally near the lower one.

    Args:
        points: all points of a network, in the order of depth.

    Raises:
        ValueError: no stage ends below the last feature map.
    """
    blocks = [each for each in points if each.level in ("stage", "block")]
    ends = [(abs((k + 1) / len(blocks) - 0.5), k) for k, each in enumerate(blocks[:-1]) if each.level == "stage"]
    if not ends:
        raise ValueError("the network has no stage that ends below its last feature map: give the cut as NAME=CUT")
    return blocks[min(ends)[1]].name


def available_weights(name: str) -> str:
    """The word "imagenet" where those weights of a network can be had, else "none"."""
    try:
        with quiet("ttl_monai"):
            load_backbone(name, "imagenet")
    except ValueError as error:
        logger.warning("%s is not pretrained here: %s", name, error)
        return "none"
    return "imagenet"
