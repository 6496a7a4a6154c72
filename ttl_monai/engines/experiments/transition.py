"""Where features stop being reused, by SVCCA against random features, and TTL there (supplement, C.1 and Fig. 7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from ttl_monai.engines.compare_runs import INITIAL, compare_runs
from ttl_monai.engines.experiments.cells import Row
from ttl_monai.engines.experiments.comparison import Comparison
from ttl_monai.engines.feature_moments import NULLS
from ttl_monai.handlers.files import write_atomically
from ttl_monai.reports import plot_similarity

logger = logging.getLogger(__name__)


class TransitionPoint(Comparison):
    """The five steps of supplement C.1: FTL, SVCCA of its features before and after, the null, the pick, TTL there.

    SVCCA is computed on the images of training and validation; the test section decides nothing.

    Args:
        points: "stage", "block" or names: where the features are compared.
        null: "wachter" (the closed form) or "permute" (features of exchanged images).
        variance: keep the principal directions with this share of the variance, so that fewer samples suffice; None
            keeps all.
        images: use so many images, spread over the list; None takes all.
        confirm: train TTL at the points that were picked.
        options: see `Comparison`.

    Raises:
        ValueError: anything that a training would refuse.
    """

    def __init__(
        self,
        *,
        points: str | Sequence[str] = "block",
        null: str = "wachter",
        variance: float | None = None,
        images: int | None = None,
        confirm: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if null not in NULLS:
            raise ValueError(f"null must be one of {', '.join(NULLS)}, got {null!r}")
        if variance is not None and not 0 < variance <= 1:
            raise ValueError(f"variance must be a share in (0, 1], got {variance}")
        if self.only is not None:
            raise ValueError("only is for experiments of several rows: this one trains FTL, then what it picks")
        self._options = {"points": points, "null": null, "variance": variance, "images": images}
        self._confirm = confirm
        self._whole = self.plan([Row("FTL")])

    def run(self) -> dict[str, Any]:
        """Do what is not done.

        Returns:
            `tables`, `transition` (the pick of each repeat, or the reason why there is none) and `figures`.
        """
        self.work(self._whole)
        found, figures = [], []
        for number, repeat in enumerate(self.repeats):
            run = self._whole.run(self._whole.rows[0], number)
            logger.info("Repeat %d: features before and after the training are compared.", number)
            document = compare_runs(
                INITIAL,
                run,
                dataset_dir=self.dataset_dir,
                datalist=repeat.datalist,
                matrix=False,
                **self._options,  # type: ignore[arg-type]
            )
            figures.append(self._draw(document, number))
            names = ("pick", "determined", "reason", "picks")
            found.append({"split": number, **{name: document[name] for name in names}})
            logger.info("Repeat %d: %s.", number, document["reason"])
        plan = self.plan([Row("FTL"), *(Row("TTL", cut) for cut in self._cuts(found))])
        self.work(plan)
        notes = [f"Repeat {each['split']}: {each['reason']}." for each in found]
        return {"tables": [{**self.table(plan), "notes": notes}], "transition": found, "figures": figures}

    def _cuts(self, found: Sequence[dict[str, Any]]) -> list[str]:
        """The picks that are cuts, each once: the end of the network is FTL."""
        picks = dict.fromkeys(each["pick"] for each in found if each["determined"] and each["pick"])
        return list(picks) if self._confirm else []

    def _draw(self, document: dict[str, Any], number: int) -> dict[str, str]:
        """The figure of a repeat, and its record beside it."""
        file = f"figures/svcca{number}.png"
        plot_similarity(document, self.output_dir / file)
        write_atomically(
            (self.output_dir / file).with_suffix(".json"), (json.dumps(document, indent=1) + "\n").encode()
        )
        what = f"overlap picks {document['pick'] or 'the whole network'}" if document["determined"] else "no pick"
        return {
            "file": file,
            "title": f"Features before and after fine-tuning, repeat {number}",
            "alt": f"SVCCA coefficients at each truncation point beside those of random features; {what}.",
            "caption": f"{document['reason']}. Images of training and validation. Compare supplement, Fig. 7.",
        }
