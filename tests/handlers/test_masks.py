"""Scores of an evaluation on masks whose pixels can be counted by hand."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from ttl_monai.data.spacing import with_spacing
from ttl_monai.handlers import MaskScores
from ttl_monai.reports.overlays import structure_colours


def row_of(*runs):
    """A mask (1, 1, 10) of class indices from (class, pixels)."""
    return torch.tensor([[[index for index, count in runs for _ in range(count)]]])


def item(name, axis, drawn, found):
    scores = torch.nn.functional.one_hot(found[0], 3).permute(2, 0, 1).float()
    return {"image_id": name, "patient": "p", "axis": axis}, {"pred": scores, "label": drawn, "image": drawn / 2}


SLICES = [
    # volume a: of class 1 four drawn, two of them found, and two elsewhere; class 2 is missed in one slice
    item("a#0", "axial", row_of((1, 4), (0, 6)), row_of((1, 2), (0, 8))),
    item("a#1", "axial", row_of((2, 2), (0, 8)), row_of((0, 8), (1, 2))),
    # volume b: class 2 is not drawn anywhere, but found
    item("b#0", "axial", row_of((1, 5), (0, 5)), row_of((1, 5), (2, 5))),
]


def evaluate(folder, items, pictures=0):
    def step(engine, batch):
        engine.state.batch = [batch[0]]
        return [batch[1]]

    engine = Engine(step)
    MaskScores(class_names=["background", "one", "two"], output_dir=folder, pictures=pictures).attach(engine)
    engine.run(items)
    return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader((folder / "masks.csv").open()))


def test_volumes_are_scored_as_wholes_beside_their_slices(tmp_path):
    metrics, rows = evaluate(tmp_path, SLICES)
    assert metrics["test_volume_dice_one"] == pytest.approx((2 * 2 / (4 + 4) + 1) / 2)
    assert metrics["test_volume_dice_two"] == 0  # b does not show it
    assert metrics["test_volume_dice"] == pytest.approx(0.375)
    assert [row["dice_one"] for row in rows] == [f"{2 * 2 / (4 + 2):.6f}", "", "1.000000"]
    assert [row["hausdorff95_two"] for row in rows] == ["", "", ""]
    # The surface ends at columns 0 and 3, and at 0 and 1: the 95th percentile of 0, 0, 1, 2.
    assert float(rows[0]["hausdorff95_one"]) == pytest.approx(1.85)
    assert [row["drawn_two"] for row in rows] == ["0", "2", "0"]
    assert [row["found_two"] for row in rows] == ["0", "0", "5"]


def test_flat_images_have_no_volumes(tmp_path):
    metrics, _ = evaluate(tmp_path, [(named | {"axis": "flat"}, output) for named, output in SLICES])
    assert not any("volume" in name for name in metrics)


def test_a_structure_that_no_volume_shows_is_null(tmp_path):
    metrics, _ = evaluate(tmp_path, SLICES[:1])
    assert metrics["test_volume_dice_two"] is None
    assert math.isfinite(metrics["test_volume_dice"])


def test_spacing_gives_millimetres_and_the_proportions_of_the_picture(tmp_path):
    """Twenty rows of 2 mm and as many columns of 0.5 mm: a square of pixels is four times as high as wide."""
    drawn = torch.zeros(1, 20, 20, dtype=torch.long)
    drawn[:, 5:15, 5:15] = 1
    items = []
    for name, spacing in (("known", (2.0, 0.5, 1.0)), ("unknown", None)):
        named, output = item(name, "flat", drawn, drawn.roll(2, 1))
        items.append((named, {**output, "label": with_spacing(drawn, spacing)}))
    metrics, rows = evaluate(tmp_path, items, pictures=2)
    assert [row["hausdorff95_one"] for row in rows] == ["2.000000", "2.000000"]
    assert [row["hausdorff95_mm_one"] for row in rows] == ["4.000000", ""]
    assert metrics["n"] == 2
    for name, proportion in (("known", 4), ("unknown", 1)):
        picture = np.asarray(Image.open(tmp_path / f"masks/{name}_mask.png").convert("RGB"), dtype=float)
        fill = 0.2 * np.array(structure_colours(1)[0]) * 255 + 0.8 * 255 / 2  # within the mask the image is 1 / 2
        high, wide = (np.ptp(each) + 1 for each in np.nonzero(np.abs(picture - fill).max(axis=-1) < 3))
        # Eight rows have both masks: the filled ones, of ten, whose image is bright.
        assert high / wide == pytest.approx(proportion * 8 / 10, rel=0.1)
