"""Where FTL, LWFT, TF and TTL see their evidence, against masks (the supplement's D)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttl_monai.analysis import PairedScores, mean_intervals, mean_measure, paired_differences
from ttl_monai.data import Datalist
from ttl_monai.engines.configs import quiet
from ttl_monai.engines.experiments.cells import Row
from ttl_monai.engines.experiments.comparison import Comparison, build_network_of
from ttl_monai.engines.experiments.maps import (
    EQUAL,
    OWN,
    MapScores,
    MaskedImages,
    masked_items,
    randomised_similarity,
    score_maps,
)
from ttl_monai.engines.experiments.repeats import made_data
from ttl_monai.engines.runs import build_network, load_spec
from ttl_monai.handlers.files import write_atomically
from ttl_monai.networks import SALIENCY_METHODS, TransferClassifier, evidence, fit_map
from ttl_monai.reports import plot_localisation, plot_maps, plot_randomised
from ttl_monai.reports.experiment_docs import shares_of

_CAMS = ("gradcam", "gradcam++")
_METHOD = "bootstrap over patients (percentile), paired by image, maps at equal size"


class Saliency(Comparison):
    """Compare where the networks of several strategies see their evidence.

    Every network is trained (or taken from `runs`), then its maps on masked images are scored: the share inside of each
    structure, beside the structure's share of the image, which is what a map that is the same everywhere gets; whether
    the highest place lies inside; how far the map spreads. All at one size (see `score_maps`). As a check of the maps
    themselves, weights are drawn anew from the head down (`randomised_similarity`).

    Args:
        rows: `STRATEGY[:CUT]` each; the first one is what the others are compared with.
        masks: the masked images: `dataset_dir` and `datalist` (one of segmentation), or `make` with the arguments of
            that function of `ttl_monai.data`.
        structures: bits of the masks by name of the structure.
        runs: folders of finished runs by row, in place of `rows` and of trainings.
        methods: as in `evidence`.
        target: class whose evidence is shown; of two classes by default the second.
        images: how many masked images, drawn by `map_seed`; None takes all.
        pictures: how many of them are drawn with their maps. 0 draws none: of images that must not be shown.
        checked_images: how many are used for the check with drawn weights; 0 leaves it out.
        map_seed: of the images and of drawn weights.
        map_batch: images at a time.
        options: see `Comparison`.

    Raises:
        ValueError: anything that a training would refuse, an unknown method, other networks than classifiers of 2D
            images, or masked images that cannot be read.
    """

    def __init__(
        self,
        *,
        rows: Sequence[str],
        masks: Mapping[str, Any],
        structures: Mapping[str, Sequence[int]],
        runs: Mapping[str, str | Path] | None = None,
        methods: Sequence[str] = SALIENCY_METHODS,
        target: int | None = None,
        images: int | None = None,
        pictures: int = 0,
        checked_images: int = 8,
        map_seed: int = 0,
        map_batch: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not methods or {*methods} - {*SALIENCY_METHODS}:
            given_methods = ", ".join(methods) or "none"
            raise ValueError(f"methods must be some of {', '.join(SALIENCY_METHODS)}, got {given_methods}")
        if not structures:
            raise ValueError("structures must name at least one structure with the bits that mark it, got none")
        self.methods, self.structures, self.target = tuple(methods), dict(structures), target
        self.images, self.pictures, self.checked_images = images, pictures, checked_images
        self.map_seed, self.map_batch = map_seed, map_batch
        given = {text: (Path(folder).absolute(),) for text, folder in (runs or {}).items()}
        if given and len(self.repeats) > 1:
            raise ValueError(f"runs are of one repeat, got {len(self.repeats)}: give one datalist and one seed")
        parsed = {text: Row.parse(text) for text in given or rows}
        self._plan = self.plan([replace(row, runs=given.get(text, ())) for text, row in parsed.items()])
        self.check_only([self._plan])
        self.masks = self._open(masks)
        masked_items(self.masks, images=images)
        network = build_network_of(self._plan, self._plan.rows[0])
        if not isinstance(network, TransferClassifier) or network.mean.ndim != 4:
            raise ValueError("maps are made of classifiers of 2D images; a bundle of another kind was given")

    def run(self) -> dict[str, Any] | None:
        """Train what is not trained, then make and score the maps.

        Returns:
            `tables` with one table, whose rows have `metrics` (means over images and repeats; `METHOD_SCORE` at equal
            size, `METHOD_SCORE_own` at each map's own), `intervals`, `seconds_per_map` and `randomised`, and whose
            `differences` are those of the maps; `masks`, the structures with their areas; `figures`. None where only
            some rows were asked for.
        """
        self.work(self._plan)
        if self.only is not None:
            return None
        names = [row.name for row in self._plan.rows]
        repeats = [self._score(number) for number in range(len(self._plan.repeats))]
        rows = [row for scores, _ in repeats for row in scores.rows]
        table = self.table(self._plan)
        for name, row in zip(names, table["rows"], strict=True):
            found = self._row(name, [scores for scores, _ in repeats])
            row |= found | {"metrics": row["metrics"] | found["metrics"]}
            row["randomised"] = repeats[0][1][name]
        table["differences"] += [each for name in names[1:] for each in self._differences(name, names[0], repeats)]
        write_atomically(self.output_dir / "maps.csv", _csv(rows).encode())
        areas = {name: _mean([row[f"{name}_area"] for row in rows]) for name in self.structures}
        return {
            "tables": [table],
            "masks": {
                "dataset": self.masks.name,
                "sha256": self.masks.sha256,
                "structures": {
                    name: {"area": _plain(area), "images": _known(repeats[0][0].rows, name)}
                    for name, area in areas.items()
                },
            },
            "figures": self._figures(names, table["rows"], areas),
        }

    def _open(self, masks: Mapping[str, Any]) -> Datalist:
        given = dict(masks)
        if make := given.pop("make", None):
            path = made_data(self.output_dir / "masked", make, given)
            return Datalist.load(path, path.parent)
        if not given.get("dataset_dir") or not given.get("datalist"):
            raise ValueError("no masked images: pass --set mask_dir=DIR mask_list=FILE, a datalist of segmentation")
        return Datalist.load(given["datalist"], given["dataset_dir"])

    def _networks(self, number: int) -> dict[str, TransferClassifier]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with quiet("ttl_monai"):
            return {row.name: build_network(self._plan.run(row, number)).to(device) for row in self._plan.rows}  # type: ignore[misc]

    def _masked(self, number: int) -> MaskedImages:
        runs = [self._plan.run(row, number) for row in self._plan.rows]
        return MaskedImages(runs, self.masks, self.structures, images=self.images, seed=self.map_seed)

    def _options(self) -> dict[str, Any]:
        spec = load_spec(self._plan.run(self._plan.rows[0], 0))
        return {"target": self.target, "multi_label": spec["task"] == "multi-label"}

    def _score(self, number: int) -> tuple[MapScores, dict[str, list[dict[str, Any]]]]:
        """Scores of a repeat, and of the first one the check with drawn weights."""
        networks, images, options = self._networks(number), self._masked(number), self._options()
        scores = score_maps(networks, images, methods=self.methods, batch_size=self.map_batch, **options)
        steps: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
        methods = [method for method in self.methods if method in _CAMS]
        if number == 0 and self.checked_images and methods:
            batch = torch.stack([images[index][0] for index in range(min(self.checked_images, len(images)))])
            for name, network in networks.items():
                steps[name] = randomised_similarity(network, batch, methods=methods, seed=self.map_seed, **options)
        return scores, steps

    def _row(self, name: str, repeats: Sequence[MapScores]) -> dict[str, Any]:
        """What a row says of its maps."""
        metrics: dict[str, float | None] = {}
        intervals: dict[str, list[float] | None] = {}
        for method in self.methods:
            for size in (EQUAL, OWN) if method in _CAMS else (EQUAL,):
                rows = [row for scores in repeats for row in scores.select(name, method, size)]
                end = "" if size == EQUAL else f"_{OWN}"
                values = {f"{method}_{score}{end}": [[row[score]] for row in rows] for score in self._scores()}
                metrics |= {key: _plain(_mean(column)) for key, column in values.items()}
                metrics[f"{method}_maps{end}"] = sum(not math.isnan(row["entropy"]) for row in rows) / len(rows)
                if size == EQUAL:
                    for key, column in values.items():  # one by one: a score that is undefined leaves no other out
                        found = mean_intervals({key: column}, [row["patient"] for row in rows]).intervals[key]
                        intervals[key] = found and [round(end_, 6) for end_ in found]
        seconds = {method: round(_mean([each.seconds[name, method] for each in repeats]), 4) for method in self.methods}
        return {"metrics": metrics, "intervals": intervals, "seconds_per_map": seconds}

    def _scores(self) -> list[str]:
        inside = [f"{name}_{what}" for name in self.structures for what in ("share", "pointing", "auroc")]
        return [*inside, "half_area", "entropy"]

    def _differences(self, name: str, other: str, repeats: Sequence[tuple[MapScores, Any]]) -> list[dict[str, Any]]:
        """A row minus the first one, on the images of which both have a map."""
        found = []
        for method in self.methods:
            for score in self._scores():
                pairs = []
                for scores, _ in repeats:
                    rows, others = (scores.select(each, method) for each in (name, other))
                    values = np.array([[a[score], b[score]] for a, b in zip(rows, others, strict=True)])
                    values[np.isnan(values).any(axis=1)] = np.nan
                    first, second = (mean_measure({score: values[:, k : k + 1]}) for k in range(2))
                    pairs.append(PairedScores([row["patient"] for row in rows], first, second))
                gap = paired_differences(pairs)[score]
                numbers = {key: _plain(getattr(gap, key)) for key in ("mean", "low", "high", "p")}
                head = {"a": name, "b": other, "metric": f"{method}_{score}", "n": gap.n, "patients": gap.patients}
                found.append({**head, **numbers, "method": _METHOD})
        return found

    def _figures(
        self, names: Sequence[str], rows: Sequence[Mapping[str, Any]], areas: Mapping[str, float]
    ) -> list[dict[str, str]]:
        figures = []
        shares = shares_of(rows, self.methods, list(self.structures))
        plot_localisation(shares, areas, names, self.output_dir / "localisation.png")
        figures.append(
            {
                "file": "localisation.png",
                "title": "Where the evidence lies",
                "alt": "Share of each network's maps inside of each structure, with 95 % intervals, beside its area.",
                "caption": "Maps at equal size. The dashed line is what a map that is the same everywhere gets.",
            }
        )
        if any(row["randomised"] for row in rows):
            steps = {name: row["randomised"] for name, row in zip(names, rows, strict=True)}
            plot_randomised(steps, self.output_dir / "randomised.png")
            figures.append(
                {
                    "file": "randomised.png",
                    "title": "Do the maps depend on the weights?",
                    "alt": "Rank correlation of the maps with those of the trained network, from the head down.",
                    "caption": "Weights drawn anew from the head down (Adebayo et al. 2018). Maps that stay alike when "
                    "all are drawn do not show what was learnt.",
                }
            )
        if self.pictures:
            figures.append(self._draw())
        return figures

    def _draw(self) -> dict[str, str]:
        """Maps of the first method, at equal size."""
        networks, images, method = self._networks(0), self._masked(0), self.methods[0]
        pictures, masks = zip(*(images[index] for index in range(min(self.pictures, len(images)))), strict=True)
        batch = torch.stack(pictures)
        found = {
            name: evidence(network, batch.to(network.mean.device), method=method, **self._options()).cpu()
            for name, network in networks.items()
        }
        grid = np.min([each.shape[1:] for each in found.values()], axis=0).tolist()
        plot_maps(
            batch.mean(dim=1).numpy(),
            {name: fit_map(each, batch.shape[2:], grid=grid).numpy() for name, each in found.items()},
            dict(zip(self.structures, np.stack(masks, axis=1), strict=True)),
            self.output_dir / "maps.png",
            title=f"{method}, maps at equal size",
        )
        return {
            "file": "maps.png",
            "title": "Maps on the same images",
            "alt": f"{method} of {', '.join(networks)} over {len(batch)} images with the outlines of the masks.",
            "caption": f"{method}, each map brought to the size of the coarsest one, then divided by its maximum.",
        }


def _known(rows: Sequence[Mapping[str, Any]], structure: str) -> int:
    return len({row["image"] for row in rows if not math.isnan(row[f"{structure}_area"])})


def _mean(values: Any) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(np.nanmean(array)) if not np.isnan(array).all() else math.nan


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return buffer.getvalue()
