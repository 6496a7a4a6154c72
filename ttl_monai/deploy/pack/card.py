"""The documents of a packed bundle: the model card on the zoo's template, the licence of the data, large files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ttl_monai.deploy.pack.run import FinishedRun
from ttl_monai.files import file_sha256

__all__ = ["LARGE", "write_card", "write_data_license", "write_large_files"]

LARGE = 25 * 2**20
"""Bytes of a file above which the zoo wants it in `large_files.yml`."""
# Of the run folder: no picture of a patient is among these.
PICTURES = {"curves.png": "curves.png", "test/roc_pr.png": "roc_pr.png"}
CAPTIONS = {
    "curves.png": "Training loss and validation metrics by epoch",
    "roc_pr.png": "ROC and precision-recall curves of the test section",
}


def write_card(run: FinishedRun, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write docs/README.md and its pictures.

    Every figure is read from `run.json`, `model.json` and `metrics.json`. What holds for the recipe, whatever was
    trained by it (authors, preprocessing, citation), is taken from the source bundle's card.

    Args:
        run: what is packed.
        folder: the new bundle.
        metadata: its metadata.
    """
    (folder / "docs").mkdir(exist_ok=True)
    shown = []
    for source, name in PICTURES.items():
        if (run.folder / source).is_file():
            shutil.copyfile(run.folder / source, folder / "docs" / name)
            shown.append(f"![{CAPTIONS[name]}]({name})")
    card = _sections((run.bundle / "docs" / "README.md").read_text(encoding="utf-8"))
    sections = {
        "Authors": card["Authors"],
        "Tags": card["Tags"],
        "Model Description": _model(run),
        "Data": _data(run),
        "Preprocessing": card["Preprocessing"] + "\n\n" + _preprocessing(run),
        "Performance": "\n\n".join([_performance(run), *shown]),
        "System Configuration": _system(run, metadata),
        "Limitations": "Research only: not a medical device, not for clinical use. Nothing here says how the model "
        "does on images of another hospital, device or population; scores are not calibrated.",
        "Commands": _commands(folder.name),
        "Citation": card["Citation"],
        "References": card["References"],
        "License": "Code and weights: see `LICENSE`. Data and pretrained weights: see `docs/data_license.txt`.",
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    text = f"# {metadata['name']}\n\n{metadata['description']}\n\n{body}\n"
    (folder / "docs" / "README.md").write_text(text, encoding="utf-8")


def write_data_license(run: FinishedRun, folder: Path, statement: str | None) -> None:
    """Write docs/data_license.txt.

    Args:
        run: what is packed.
        folder: the new bundle.
        statement: licence of the data that the run was trained on; None says that it is not stated.
    """
    data = run.record["data"]
    own = statement or "Its licence was not stated by whoever packed this bundle: ask them before you use the weights."
    weights = run.record["weights"]
    source = f"Pretrained weights that the training began with: {weights['source']}." if weights else ""
    recipe = (run.bundle / "docs" / "data_license.txt").read_text(encoding="utf-8").strip()
    text = f"""The network was trained on the data set {data["name"]} (SHA-256 of the list {data["sha256"]}).
{own}
No image of it is part of this bundle.
{source}

What the source bundle says of the data and weights that it comes with:

{recipe}
"""
    (folder / "docs" / "data_license.txt").write_text(text, encoding="utf-8")


def write_large_files(folder: Path, url: str | None) -> list[str]:
    """Write large_files.yml, as the zoo reads it.

    Args:
        folder: the new bundle.
        url: address (https) below which the large files will lie; None leaves the addresses open.

    Returns:
        Paths of the files above `LARGE`.
    """
    names = sorted(f"models/{each.name}" for each in (folder / "models").iterdir() if each.stat().st_size > LARGE)
    entries = [
        f'  - path: "{name}"\n    url: "{url.rstrip("/") + "/" + name if url else ""}"\n'
        f'    hash_val: "{file_sha256(folder / name)}"\n    hash_type: "sha256"\n'
        for name in names
    ]
    (folder / "large_files.yml").write_text("large_files:\n" + "".join(entries) if entries else "large_files: []\n")
    return names


def _sections(card: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.+)\n", card, flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head)]
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in [*lines, ["---"] * len(lines[0]), *rows]]
    return "\n".join(body)


def _model(run: FinishedRun) -> str:
    record, definition = run.record, {**run.spec["network_def"]}
    target = definition.pop("_target_").rpartition(".")[2]
    definition["weights"] = record["weights"]["source"] if record["weights"] else "none"
    counts = {
        "parameters": f"{record['params']:,}",
        "of them trained": f"{record['trainable_params']:,}",
        "MACs": f"{record['macs']:,}",
    }
    rows = [(name, f"`{json.dumps(value)}`") for name, value in definition.items()]
    return f"`{target}`, {run.network}; strategy {run.spec['strategy']}.\n\n" + _table(
        ("setting", "value"), [*rows, *counts.items()]
    )


def _data(run: FinishedRun) -> str:
    data, spec = run.record["data"], run.spec
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(spec["class_names"]))
    text = f"Data set {data['name']}, task {spec['task']}, classes {classes}. SHA-256 of its list: `{data['sha256']}`."
    counts = {section: each for section, each in (data["counts"] or {}).items() if each}
    if not counts:
        return text
    names = list(dict.fromkeys(name for each in counts.values() for name in each))
    rows = [(section, *(each.get(name, "-") for name in names)) for section, each in counts.items()]
    return f"{text}\n\n{_table(('images', *names), rows)}"


def _preprocessing(run: FinishedRun) -> str:
    steps = [each["_target_"].rpartition(".")[2] for each in run.spec["preprocessing"]["transforms"]]
    size = run.spec["spatial_size"]
    shape = " x ".join(map(str, size)) if isinstance(size, list) else f"{size} x {size}"
    channels = run.spec["network_def"]["in_channels"]
    return f"Here: {', '.join(steps)}; the network sees {shape} pixels in {channels} channel(s)."


def _performance(run: FinishedRun) -> str:
    metrics, spec = run.metrics, run.spec
    validation = _table(
        (f"validation, epoch {spec['epoch']}", "value"),
        [(name, f"{value:.4f}") for name, value in spec["validation"].items()],
    )
    if not metrics:
        return f"The test section was not evaluated.\n\n{validation}"
    rows = []
    for name, value in run.scores.items():
        low, high = metrics.get(f"{name}_interval") or (None, None)
        rows.append((name, f"{value:.4f}", f"{low:.4f} to {high:.4f}" if low is not None else "-"))
    test = _table(("test", "value", "95 % interval"), rows)
    return f"{metrics['n']} images of the test section.\n\n{test}\n\n{validation}"


def _system(run: FinishedRun, metadata: Mapping[str, Any]) -> str:
    record = run.record
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    course = f"{len(record['history'])} epochs in {record['wall_s']:.0f} s on {record['device']}"
    core = {name: metadata[f"{name.lower()}_version"] for name in ("MONAI", "PyTorch", "NumPy")}
    needed = ", ".join(f"{name} {value}" for name, value in {**core, **metadata["required_packages_version"]}.items())
    return (
        f"Trained for {course} with {versions}.\n\nNeeds {needed}. The code of the network lies in the bundle: nothing "
        "else is to be installed."
    )


def _commands(name: str) -> str:
    run, data = "python -W ignore -m monai.bundle run --config_file", "--dataset_dir DATA --datalist LIST"
    elsewhere = "--output_dir OUT --cache_dir CACHE"  # the MANIFEST names no file that is written into the bundle
    return f"""```bash
{run} {name}/configs/inference.json --dataset_dir IMAGES --output_dir OUT
{run} "['{name}/configs/train.json','{name}/configs/evaluate.json']" {data} {elsewhere}
{run} {name}/configs/train.json {data} {elsewhere}
```

```python
network = monai.bundle.load("{name}", bundle_dir=".", device="cpu").eval()
```"""
