"""The page put together: sections in their order, a summary above them, one HTML file; tables and figures beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from matplotlib import rc_context

import ttl_monai
from ttl_monai.reports.page.blocks import Figure, Gallery, Section, Table
from ttl_monai.reports.page.curves import calibration_section, curves_section
from ttl_monai.reports.page.decisions import confusion_section, operating_section, wrong_section
from ttl_monai.reports.page.inputs import Inputs, read_inputs
from ttl_monai.reports.page.pictures import figures_section, gallery_section, segmentation_section
from ttl_monai.reports.page.provenance import data_section, provenance_section
from ttl_monai.reports.page.saliency import saliency_section
from ttl_monai.reports.page.strategies import strategies_section
from ttl_monai.reports.page.summary import summarise
from ttl_monai.reports.page.svg import STYLE
from ttl_monai.reports.page.training import complexity_section, training_section
from ttl_monai.reports.page.truncation import similarity_section, truncation_section

logger = logging.getLogger(__name__)

SENSITIVITIES = (0.9, 0.95, 0.99)
# Sections of single runs: of an experiment with several repeats they show the first of each row.
OF_RUNS = ("curves", "calibration", "operating", "confusion", "segmentation", "wrong", "training")


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    sensitivities: Sequence[float] = SENSITIVITIES,
    prevalence: float | None = None,
    png: str | Path | None = None,
    csv: bool = False,
    as_json: bool = False,
) -> Path:
    """Write one HTML file about trainings, searches, comparisons of features and experiments.

    The file needs no other one and no network: drawings are inline SVG, pictures data URIs. Sections for which the
    runs have no data are left out, and said in one line at its end. Images are named by the first digits of their
    pseudonym, or by their row in the run's table; no path is shown.

    Args:
        runs: folders of trainings (`run.json`), searches (`search.json`), `ttl svcca` (`similarity.json`), experiments
            (`results.json`) and inferences with Grad-CAM, in any mix.
        out: the HTML file; its folder is made.
        title: the heading; default: from the experiment or the data.
        sensitivities: for which thresholds are chosen on the validation section.
        prevalence: for the predictive values; default: that of each test section.
        png: a folder for the figures as PNG.
        csv: write the tables as CSV into a folder beside the page, `<name of the page>_tables`.
        as_json: write all tables into one JSON file beside the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: no folder, one that holds nothing of the kind, files that contradict each other, a sensitivity that
            is not above 0 and at most 1, or a prevalence that is not between 0 and 1.
    """
    wrong = [each for each in sensitivities if not 0 < each <= 1]
    if wrong or (prevalence is not None and not 0 < prevalence < 1):
        raise ValueError(
            f"sensitivities must be above 0 and at most 1, a prevalence between 0 and 1; got {wrong or prevalence}"
        )
    out, inputs = Path(out), read_inputs(runs)
    with rc_context(STYLE):
        sections = [
            strategies_section(inputs),
            truncation_section(inputs),
            saliency_section(inputs),
            figures_section(inputs),
            similarity_section(inputs),
            curves_section(inputs),
            calibration_section(inputs),
            operating_section(inputs, sensitivities, prevalence),
            confusion_section(inputs),
            segmentation_section(inputs),
            wrong_section(inputs),
            gallery_section(inputs),
            training_section(inputs),
            complexity_section(inputs),
            data_section(inputs),
            provenance_section(inputs),
        ]
        sections = [_of_first_repeat(section, inputs) for section in sections]
        page = _render(title or _title(inputs), sections, inputs)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8", newline="\n")
        if png is not None:
            _write_pictures(sections, Path(png))
    if csv:
        _write_csv(sections, out.with_name(f"{out.stem}_tables"))
    if as_json:
        tables = {name: table.document() for section in sections for name, table in section.tables()}
        text = json.dumps(tables, indent=4, ensure_ascii=False) + "\n"
        out.with_suffix(".json").write_text(text, encoding="utf-8", newline="\n")
    logger.info("Report: %s (%.1f MB)", out, out.stat().st_size / 1e6)
    return out


def _of_first_repeat(section: Section, inputs: Inputs) -> Section:
    """The section, with a line on which repeats it shows where there are others."""
    most = max((run.repeats for run in inputs.runs), default=1)
    if most == 1 or section.name not in OF_RUNS or not section.blocks:
        return section
    note = "Of the first repeat of each row; means over all repeats are in the table of strategies."
    return replace(section, blocks=[note, *section.blocks])


def _render(title: str, sections: Sequence[Section], inputs: Inputs) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    place = files("ttl_monai.reports.page")
    environment.filters["svg"] = _drawing
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["gallery"] = lambda block: isinstance(block, Gallery)
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    template = environment.from_string(place.joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        style=Markup(place.joinpath("page.css").read_text(encoding="utf-8")),
        sections=[section for section in sections if section.blocks],
        missing=[line for section in sections for line in section.missing],
        summary=summarise(inputs),
        version=ttl_monai.__version__,
    )


def _drawing(figure: Figure) -> Markup:
    """The SVG as it is: made here, its texts escaped by the writer of the XML."""
    return Markup(figure.svg())


def _title(inputs: Inputs) -> str:
    names = [str(content["experiment"]) for _, content in inputs.experiments if content.get("experiment")]
    data = [str(each["dataset"]) for each in (*inputs.tables, *inputs.searches) if each.get("dataset")]
    data += [str((run.record.get("data") or {}).get("name") or "") for run in inputs.runs]
    parts = [", ".join(dict.fromkeys(names)), ", ".join(dict.fromkeys(filter(None, data)))]
    return ": ".join(filter(None, parts)) or "Report"


def _write_pictures(sections: Sequence[Section], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for figure in section.figures():
            (folder / f"{figure.name}.png").write_bytes(figure.png())


def _write_csv(sections: Sequence[Section], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for name, table in section.tables():
            (folder / f"{name}.csv").write_text(table.csv(), encoding="utf-8", newline="")
