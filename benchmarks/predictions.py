"""Draw what trained runs of unet_ttl predict beside the reference: image, reference, and one column a run.

The volumes are the first of the datalist's test section, and of each the slice that has most of the reference: nothing
is chosen by how well it went. The masks are those that inference.json writes. For data whose licence lets pictures be
shown.

    python benchmarks/predictions.py --runs "FTL=OUT/runs/ftl_none_0" "TTL, blocks.2=OUT/runs/ttl_blocks.2_0" \
        --dataset_dir DATA/hippocampus --datalist datalists/hippocampus_split0.json \
        --out bundles/unet_ttl/docs/predictions.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow

from ttl_monai.data import Datalist
from ttl_monai.data.slices import read_slice, read_unit_slice, slice_items
from ttl_monai.engines import load_spec
from ttl_monai.reports import MaskPanel, plot_masks

INFERENCE = Path(__file__).resolve().parents[1] / "bundles/unet_ttl/configs/inference.json"


def predict(run_dir: Path, item: dict[str, Any], axis: str) -> np.ndarray:
    """The slice of an item in the mask that a run predicts for its volume, (rows, columns)."""
    with tempfile.TemporaryDirectory() as folder:
        workflow = ConfigWorkflow(
            str(INFERENCE),
            workflow_type="infer",
            logging_file=False,
            **{"dataset_dir": item["image"], "run_dir": str(run_dir), "output_dir": folder},
        )
        workflow.initialize()
        workflow.run()
        (mask,) = Path(folder).glob("*_mask.nii.gz")
        return np.array(read_slice(mask, axis, item["slice"]))


def show(item: dict[str, Any], runs: dict[str, Path], title: str, classes: int) -> list[MaskPanel]:
    """The row of pictures of one volume."""
    axis = load_spec(next(iter(runs.values())))["axis"]
    slices = slice_items([item], axis)
    reference = [read_slice(each["label"], axis, each["slice"]) for each in slices]
    number = int(np.argmax([(mask > 0).sum() for mask in reference]))
    image = read_unit_slice(item["image"], axis, number)
    image = np.clip(image / np.quantile(image, 0.995), 0, 1)  # a few bright vessels make all else dark
    drawn, *found = (
        np.stack([mask == index for index in range(1, classes + 1)])
        for mask in (reference[number], *(predict(run, slices[number], axis) for run in runs.values()))
    )
    panels = [MaskPanel(title, image, np.zeros_like(drawn)), MaskPanel("reference", image, drawn)]
    return panels + [MaskPanel(name, image, each, drawn) for name, each in zip(runs, found, strict=True)]


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, metavar="TITLE=DIR", help="folders of trainings")
    parser.add_argument("--dataset_dir", required=True, help="folder that the datalist's paths start from")
    parser.add_argument("--datalist", required=True, help="the list that the runs were trained on")
    parser.add_argument("--count", type=int, default=3, help="how many volumes (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the PNG file")
    arguments = parser.parse_args()
    runs = {title: Path(folder) for title, _, folder in (each.rpartition("=") for each in arguments.runs)}
    data = Datalist.load(arguments.datalist, arguments.dataset_dir)
    names = data.class_names[1:]
    panels = [
        panel
        for number, item in enumerate(data.section("test")[: arguments.count], 1)
        for panel in show(item, runs, f"test patient {number}", len(names))
    ]
    plot_masks(panels, names, arguments.out, across=len(runs) + 2)


if __name__ == "__main__":
    main()
