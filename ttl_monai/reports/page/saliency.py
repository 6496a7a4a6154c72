"""Where networks see their evidence: shares of their maps inside of masks, beside what an even map gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from ttl_monai.reports.experiment_docs import methods_of
from ttl_monai.reports.page.blocks import Section, Table, fixed, interval
from ttl_monai.reports.page.inputs import Inputs
from ttl_monai.reports.page.strategies import differences_table
from ttl_monai.reports.tables import place_of

_SCORES = {"share": "share inside", "pointing": "pointing game", "auroc": "pixel AUROC"}
_NOTES = (
    "Share inside: of the mass of the map (equal size for all networks), how much lies in the structure; an even map "
    "gets the structure's share of the image. Pointing game: how often the highest point lies inside. "
    "Pixel AUROC: the chance that a pixel inside has a higher value than one outside. "
    "In brackets: 95 % intervals by the bootstrap over patients."
)


def saliency_section(inputs: Inputs) -> Section:
    """The scores of the maps and what differs between networks; nothing where no experiment has masks."""
    blocks: list[Table] = []
    for _, content in inputs.experiments:
        for table in content["tables"] if content.get("masks") else ():
            rows = [row for row in table["rows"] if row.get("metrics")]
            blocks += [_scores(rows, content["masks"])] if rows else []
            differences = [each for each in table.get("differences") or () if each["metric"].endswith("_share")]
            blocks += [differences_table(differences, "the same masks")] if differences else []
    return Section("saliency", "Where the evidence lies", blocks)


def _scores(rows: Sequence[Mapping[str, Any]], masks: Mapping[str, Any]) -> Table:
    lines, structures = [], masks["structures"]
    for structure, method in product(structures, methods_of(rows, list(structures))):
        area = fixed(structures[structure]["area"])
        for row in rows:
            name, metrics, intervals = f"{method}_{structure}", row["metrics"], row.get("intervals") or {}
            scores = [
                interval(metrics[f"{name}_{score}"], intervals.get(f"{name}_{score}"))
                if metrics.get(f"{name}_{score}") is not None
                else fixed(None)
                for score in _SCORES
            ]
            lines.append([method, structure, place_of(row), scores[0], area, *scores[1:]])
    images = ", ".join(f"{each['images']} with {name}" for name, each in masks["structures"].items())
    heads = ["map", "structure", "network", "share inside", "share of the image", *list(_SCORES.values())[1:]]
    caption = f"Maps inside of the masks of {masks['dataset']}"
    return Table(caption, heads, lines, text=3, notes=[f"Images: {images}.", _NOTES])
