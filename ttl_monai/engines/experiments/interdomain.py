"""Pretrained on other images of the same kind: FTL and TTL from there, beside ImageNet (supplement, C.2 and Fig. 8)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttl_monai.engines.experiments.cells import Plan, Row
from ttl_monai.engines.experiments.comparison import Comparison
from ttl_monai.engines.experiments.repeats import made_data, make_repeats
from ttl_monai.reports.by_cut import curves_of, plot_by_cut


class InterDomain(Comparison):
    """Train on source data sets from random weights, then FTL and TTL on the target from each of these networks.

    Source: supplement C.2: CheXpert, whole and in two groups of labels, several labels an image. The groups of Table 4
    and of the authors' code are made by `ttl datalist chexpert --group`, as is what becomes of uncertain labels.

    The source's best epoch is chosen on its validation section; its test section is not used. Its backbone is loaded
    strictly, its head is left behind, and the target's head is new (`run.json` of the target has the report).

    Args:
        rows: on the target, `STRATEGY[:CUT]` each.
        source_dir: folder that the paths of the sources' datalists start from; None with made data.
        sources: `NAME=DATALIST` each, as `full=chexpert_split0.json`; a path below `source_dir` or any other.
        source_seed: of the trainings on the sources.
        source_settings: config ids and their values of the trainings on the sources, in place of `settings`.
        source_data: what is made where `source_dir` is None, as `data`.
        beside: further weights to start from, as "imagenet" and "none".
        options: see `Comparison`; of the target.

    Raises:
        ValueError: anything that a training would refuse, or a name given twice.
    """

    def __init__(
        self,
        *,
        rows: Sequence[str],
        sources: Sequence[str],
        source_dir: str | Path | None = None,
        source_seed: int = 0,
        source_settings: Mapping[str, Any] | None = None,
        source_data: Mapping[str, Any] | None = None,
        beside: Sequence[str] = ("imagenet",),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._rows = [Row.parse(text) for text in rows]
        if source_dir is None and source_data:
            made = dict(source_data)
            source_dir = made_data(self.output_dir / "source_data", made.pop("make"), made).parent
        if source_dir is None or not sources:
            raise ValueError("pass source_dir and sources: NAME=DATALIST, as full=chexpert_split0.json")
        folder, settings = Path(source_dir).absolute(), dict(source_settings or {})
        self._sources = {
            name: self._source(name, _find(path, folder), folder, source_seed, settings)
            for name, path in map(_split, sources)
        }
        if len(self._sources) < len(sources):
            raise ValueError(f"two sources have the same name: {', '.join(sources)}")
        self._beside = [self._target(name, {"network_def#weights": name}, None) for name in beside]
        plans = [*self._beside, *self._sources.values()]
        self.check_only([*plans, *(self._named(name) for name in self._sources)])

    def _source(self, name: str, path: Path, folder: Path, seed: int, settings: dict[str, Any]) -> Plan:
        repeats = make_repeats(folder, [path], [seed], resplit=False, folder=self.output_dir)
        changes = {"repeats": repeats, "dataset_dir": folder, "evaluated": False}
        return self.plan(
            [Row("FTL")], name=f"on_{name}", settings={**settings, "network_def#weights": "none"}, **changes
        )

    def _target(self, name: str, settings: Mapping[str, Any], weights: str | None) -> Plan:
        return self.plan(self._rows, name=f"from_{name}", settings=settings, weights=weights)

    def _named(self, name: str) -> Plan:
        """The target's plan of a source that may not be trained yet, for its names alone."""
        plan = self._beside[0] if self._beside else next(iter(self._sources.values()))
        return Plan(**{**vars(plan), "rows": tuple(self._rows), "name": f"from_{name}"})

    def run(self) -> dict[str, Any] | None:
        """Do the cells that are not done.

        Returns:
            `tables`, one a start, `sources` and `figures`; None where only some rows were asked for.
        """
        plans = list(self._beside)
        for name, plan in self._sources.items():
            self.work(plan, whole=True)
            model = plan.run(plan.rows[0], 0) / "model.pt"
            plans.append(self._target(name, {"network_def#weights": str(model)}, f"source {name}"))
        for plan in plans:
            self.work(plan)
        if self.only is not None:
            return None
        tables = [self.table(plan) for plan in plans]
        file = "figures/interdomain.png"
        curves = {f"from {table['weights']}": curves_of(table["rows"], {"": ""})[""] for table in tables}
        plot_by_cut(curves, self.output_dir / file, title=f"{tables[0]['dataset']}, {tables[0]['backbone']}")
        figure = {
            "file": file,
            "title": "Pretrained on other images of the same kind",
            "alt": "Test metrics against the truncation point, one line a network that the training started from.",
            "caption": "Mean over the repeats and one sample standard deviation to each side. Compare supplement, "
            "Fig. 8, whose AUPRC is by trapezoids and not the average precision.",
        }
        sources = [self._describe(name, plan) for name, plan in self._sources.items()]
        return {"tables": tables, "sources": sources, "figures": [figure]}

    def _describe(self, name: str, plan: Plan) -> dict[str, Any]:
        """A training on a source: what it learnt, how well, and the file that it left."""
        run = plan.run(plan.rows[0], 0)
        model, record = (json.loads((run / file).read_text(encoding="utf-8")) for file in ("model.json", "run.json"))
        return {
            "name": name,
            "dataset": record["data"]["name"],
            "class_names": model["class_names"],
            **model["validation"],
            "epochs": len(record["history"]),
            "sha256": model["sha256"],
        }


def _split(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path or "/" in name:
        raise ValueError(f"a source is NAME=DATALIST, as full=chexpert_split0.json, got {text!r}")
    return name, path


def _find(path: str, folder: Path) -> Path:
    found = [each for each in (folder / path, Path(path).absolute()) if each.is_file()]
    if not found:
        raise ValueError(f"there is no datalist {path!r}, neither below the source's folder nor as a path")
    return found[0]
