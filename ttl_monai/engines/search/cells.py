"""One cell of a search: a training at one cut on one repeat, or an analysis that takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("train", "probe", "svcca")


@dataclass(frozen=True)
class Cell:
    """What a worker does in one go.

    Attributes:
        kind: "train" fine-tunes one network; "probe" reads out all points of the pretrained one by linear probes;
            "svcca" compares the whole network before and after its fine-tuning.
        point: the truncation point; None is the whole network, and for analyses all points.
        repeat: number of the repeat.
        key: 16 hex digits, a hash of all that decides the result (`Space.cell` makes it).
    """

    kind: str
    point: str | None
    repeat: int
    key: str

    @property
    def name(self) -> str:
        """For people and folders, such as `train-blocks.3.2-0`."""
        point = (self.point or "whole") if self.kind == "train" else None
        return "-".join(each for each in (self.kind, point, str(self.repeat)) if each)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """From what `to_json` gave."""
        return cls(values["kind"], values["point"], int(values["repeat"]), values["key"])
