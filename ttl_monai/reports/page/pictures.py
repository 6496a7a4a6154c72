"""Pictures and segmentations: Grad-CAM, figures of experiments, and how well masks fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ttl_monai.reports.figures import PALETTE
from ttl_monai.reports.page.blocks import NONE, Block, Figure, Gallery, Section, Table, fixed, interval
from ttl_monai.reports.page.inputs import Inputs, shown_key
from ttl_monai.reports.page.runs import Run
from ttl_monai.reports.page.svg import new_figure

MOST = 12  # pictures of a gallery
WORST = 6
FORMATS = {".png", ".jpg", ".jpeg", ".webp"}


def gallery_section(inputs: Inputs) -> Section:
    """Grad-CAM pictures, named by key or number."""
    figures = []
    for number, path in enumerate(inputs.pictures[:MOST]):
        name = shown_key(path.name.removesuffix("_gradcam.png"), number).replace("row", "image")
        alt = f"Grad-CAM of {name}: the image in grey, in colour what speaks for the class"
        figures.append(Figure(f"gradcam{number}", name, alt, path))
    more = len(inputs.pictures) - len(figures)
    said = [f"{more} more pictures lie in the folders of the runs."] if more > 0 else []
    lacking = ["No Grad-CAM picture was found: predict with --gradcam True, and name that folder as well."]
    return Section("gallery", "Grad-CAM", [Gallery(figures), *said] if figures else [], [] if figures else lacking)


def figures_section(inputs: Inputs) -> Section:
    """The figures that experiments have drawn."""
    figures = []
    for number, (folder, each) in enumerate(
        (folder, each) for folder, content in inputs.experiments for each in content.get("figures") or ()
    ):
        path = _inside(folder, each["file"])
        figures.append(Figure(f"figure{number}", each["title"], each["alt"], path, each.get("caption", ""), wide=True))
    return Section("figures", "Figures of the experiments", figures)


def segmentation_section(inputs: Inputs) -> Section:
    """Dice and Jaccard of each structure, and the images with the lowest Dice."""
    runs = [run for run in inputs.runs if run.masks is not None]
    blocks: list[Block] = [] if not runs else [_overlap_table(runs)]
    for number, run in enumerate(runs):
        blocks += [_distribution(f"overlap{number}", run), *_worst(number, run)]
    return Section("segmentation", "Segmentation", blocks)


def _inside(folder: Path, name: str) -> Path:
    """A file that a record names: a picture within its folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{folder / 'results.json'} names the figure {name!r}: expected a picture ({', '.join(sorted(FORMATS))}) "
            "in its folder"
        )
    return path


def _overlap_table(runs: list[Run]) -> Table:
    rows = []
    for run in runs:
        found: Any = run.masks
        for what in ("dice", "jaccard"):
            all_of = interval(run.metrics.get(f"test_{what}"), run.metrics.get(f"test_{what}_interval"))
            each = [
                fixed(float(np.nanmean(column))) if np.isfinite(column).any() else NONE
                for column in found.scores[what].T
            ]
            rows.append([run.title, what.capitalize(), all_of, *(each if len(found.structures) > 1 else [])])
    structures = runs[0].masks.structures if runs[0].masks is not None else ()
    heads = ["run", "metric", "mean (95 % interval)", *(structures if len(structures) > 1 else ())]
    rows = [row for row in rows if len(row) == len(heads)]
    note = "Means over the images in which a structure is drawn, 0 where it was missed; bootstrap over patients."
    return Table("Overlap with the reference, test section", heads, rows, text=2, notes=[note])


def _distribution(name: str, run: Run) -> Figure:
    found: Any = run.masks
    figure, (axes,) = new_figure(1.6 + 0.55 * len(found.structures))
    said = []
    for shift, what, color in ((-0.19, "dice", PALETTE[0]), (0.19, "jaccard", PALETTE[2])):
        columns = [column[np.isfinite(column)] for column in found.scores[what].T]
        places = [place for place, column in enumerate(columns) if column.size]
        axes.boxplot(
            [columns[place] for place in places],
            positions=[place + shift for place in places],
            orientation="horizontal",
            widths=0.3,
            patch_artist=True,
            boxprops={"facecolor": "white", "edgecolor": color, "linewidth": 1.5},
            medianprops={"color": color, "linewidth": 2.5},
            whiskerprops={"color": color},
            capprops={"color": color},
            flierprops={"marker": ".", "markersize": 4, "markeredgecolor": color},
        )
        axes.plot([], [], color=color, linewidth=3, label=what.capitalize())
        said += [f"{what} of {found.structures[k]} median {np.median(columns[k]):.3f}" for k in places]
    axes.set_yticks(range(len(found.structures)), found.structures)
    low = min(float(np.nanmin(found.scores[what])) for what in ("dice", "jaccard"))
    axes.set(
        xlim=(math.floor(10 * low - 0.2) / 10, 1.02),
        ylim=(len(found.structures) - 0.4, -0.6),
        xlabel="overlap of an image",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=10, frameon=False)
    return Figure(name, f"{run.title}: overlap by structure", f"Boxes: {'; '.join(said)}.", figure)


def _worst(number: int, run: Run) -> list[Block]:
    """The images of lowest mean Dice, with the pictures that the evaluation has drawn of them."""
    found: Any = run.masks
    with np.errstate(invalid="ignore"):
        known = np.isfinite(found.scores["dice"])
        mean = np.where(known, found.scores["dice"], 0).sum(axis=1) / known.sum(axis=1)
    order = [int(row) for row in np.argsort(mean, kind="stable") if np.isfinite(mean[row])][:WORST]
    rows = [[shown_key(found.images[row], row), fixed(float(mean[row]))] for row in order]
    blocks: list[Block] = [Table(f"{run.title}: lowest Dice", ["image", "mean Dice"], rows)]
    figures = []
    for place, (row, words) in enumerate(zip(order, rows, strict=True)):
        path = run.evaluated / "test" / "masks" / f"{found.images[row]}_mask.png"
        if path.is_file():
            alt = f"The image, the predicted masks with solid and the reference with dashed outlines; Dice {words[1]}"
            figures.append(Figure(f"mask{number}-{place}", f"{words[0]}: Dice {words[1]}", alt, path))
    blocks += [Gallery(figures)] if figures else []
    return blocks
