"""What the runs were made of: data and splits, versions, seeds, hashes, commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ttl_monai.reports.page.blocks import NONE, Section, Table
from ttl_monai.reports.page.inputs import Inputs
from ttl_monai.reports.page.runs import Run
from ttl_monai.reports.search_document import command_lines, search_title

# A path from a root, which may tell of a machine or of a patient; also with a drive, a home, or as the value of `=`.
ABSOLUTE = re.compile(r"(?<![\w.)\]}*/-])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\s'\",;\])}]+")


def data_section(inputs: Inputs) -> Section:
    """Images by section and class, and the patients of the evaluated ones."""
    tables, seen = [], set()
    for run in inputs.runs:
        data = run.record.get("data") or {}
        known = any((data.get("counts") or {}).values()) or data.get("images")
        if not known or data.get("sha256") in seen:
            continue
        seen.add(data.get("sha256"))
        tables.append(_counts(run, data))
    for document in inputs.searches:
        tables += _search_counts(document)
    return Section("data", "Data and split", tables)


def provenance_section(inputs: Inputs) -> Section:
    """Versions, seeds, hashes and commands."""
    blocks: list[str | Table] = []
    if inputs.runs:
        heads = ["run", "seed", "network", "weights", "image size", "device", "data (SHA-256)", "model (SHA-256)"]
        rows = [_run_line(run) for run in inputs.runs]
        blocks.append(Table("Runs", heads, rows, text=len(heads), notes=_seeds(inputs)))
    versions = [run.record.get("versions") or {} for run in inputs.runs]
    versions += [content["versions"] for _, content in inputs.experiments if content.get("versions")]
    names = list(dict.fromkeys(name for each in versions for name in each))
    if names:
        known = {name: dict.fromkeys(str(each[name]) for each in versions if name in each) for name in names}
        rows = [[name, ", ".join(found)] for name, found in known.items()]
        blocks.append(Table("Versions", ["package", "version"], rows, text=2))
    commands = [[content.get("experiment") or "results", content.get("command")] for _, content in inputs.experiments]
    commands += [[str(table.get("dataset")), table.get("command")] for table in inputs.tables]
    commands += [[search_title(each), line] for each in inputs.searches for line in command_lines(each)]
    shown: dict[str, list[str]] = {}
    for title, line in commands:
        if line:
            shown.setdefault(line, [str(title), without_places(line)])  # an experiment's name before its data's
    rows = list(shown.values())
    if rows:
        blocks.append(Table("Commands that repeat it", ["what", "command"], rows, text=2))
    return Section("provenance", "Provenance", blocks)


def _seeds(inputs: Inputs) -> list[str]:
    """The seeds of the repeats of experiments, of which the table of runs has the first."""
    repeats = [[each.get("seed") for each in row.get("repeats") or ()] for t in inputs.tables for row in t["rows"]]
    found = dict.fromkeys(", ".join(map(str, seeds)) for seeds in repeats if len(seeds) > 1)
    return [f"Seeds of the repeats, of which the first is shown: {seeds}." for seeds in found]


def without_places(text: str) -> str:
    """A command or a sentence without the paths of one machine."""
    return ABSOLUTE.sub("PATH", text)


def _run_line(run: Run) -> list[str]:
    network, size = run.spec["network_def"], run.spec["spatial_size"]
    sides = size if isinstance(size, list) else [size, size]
    hashes = [str((run.record.get("data") or {}).get("sha256") or NONE), str(run.spec.get("sha256") or NONE)]
    weights = without_places(str(network.get("weights")))
    return [
        *(run.title, str(run.record["seed"]), run.network, weights, "x".join(map(str, sides))),
        *(str(run.record.get("device", NONE)), *(each[:16] for each in hashes)),
    ]


def _counts(run: Run, data: Mapping[str, Any]) -> Table:
    """Images by class of each section, as the datalist counts them."""
    counts: Mapping[str, Any] = data["counts"] if any((data.get("counts") or {}).values()) else data["images"]
    named = [each for each in counts.values() if isinstance(each, Mapping)]
    classes = list(dict.fromkeys(name for each in named for name in each))
    rows = []
    for section, each in counts.items():
        values = [each.get(name, 0) for name in classes] if isinstance(each, Mapping) else [each]
        rows.append([section, *(_count(value) for value in values)])
    tested = run.metrics.get("bootstrap", {}).get("patients")
    notes = [f"The test section that was evaluated has {tested} patients."] if tested else []
    return Table(
        f"{without_places(run.data)}: images by section" + (" and class" if classes else ""),
        ["section", *(classes or ["images"])],
        rows,
        notes=notes,
    )


def _count(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{number} {name}" for name, number in value.items())
    return str(value)


def _search_counts(document: Mapping[str, Any]) -> list[Table]:
    patients, images = document.get("patients"), document.get("images")
    if not patients or not images:
        return []
    sections = [name for name in patients[0] if any(each[name] for each in patients)]
    heads = ["repeat", *(f"{section}, {what}" for section in sections for what in ("patients", "images"))]
    rows = [
        [str(number + 1), *(str(each[section]) for section in sections for each in (of, in_))]
        for number, (of, in_) in enumerate(zip(patients, images, strict=True))
    ]
    note = "The test section was sealed while the search ran."
    return [Table(f"Search: {search_title(document)}", heads, rows, notes=[note])]
