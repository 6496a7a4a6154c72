"""The main comparison: FTL, HTL, LWFT, TF and TTL on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttl_monai.engines.experiments.cells import Row
from ttl_monai.engines.experiments.comparison import Comparison


class Strategies(Comparison):
    """Compare strategies on the test section: metrics, parameters, MACs and time. Source: the paper's main comparison.

    On `unet_ttl` these are the truncated U-Nets of supplement A.2, by Dice and Jaccard.

    Args:
        rows: `STRATEGY[:CUT]` each; the first one is what the others are compared with.
        options: see `Comparison`.

    Raises:
        ValueError: anything that a training would refuse.
    """

    def __init__(self, *, rows: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._plan = self.plan([Row.parse(text) for text in rows])
        self.check_only([self._plan])

    def run(self) -> dict[str, Any] | None:
        """Do the cells that are not done.

        Returns:
            `tables` with one table; None where only some rows were asked for.
        """
        self.work(self._plan)
        return None if self.only is not None else {"tables": [self.table(self._plan)]}
