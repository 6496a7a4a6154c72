"""Dice, Jaccard and Hausdorff distance against plain set arithmetic and SciPy; empty masks are counted."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial.distance import cdist

from ttl_monai.data.spacing import with_spacing
from ttl_monai.handlers import Dice, Hausdorff95, Jaccard, to_structures

NAMES = ["background", "lung", "heart"]


def run_metric(metric, batches):
    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "value")
    return engine.run(batches).metrics


def blob(shape, seed, shift=0):
    """A bool mask of two rectangles."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(2):
        corner = [int(rng.integers(2, size // 2)) for size in shape]
        mask[tuple(slice(c + shift, c + shift + size // 3) for c, size in zip(corner, shape, strict=True))] = True
    return mask


def surface_points(mask):
    return np.argwhere(mask & ~binary_erosion(mask, border_value=0))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def jaccard(a, b):
    return (a & b).sum() / (a | b).sum()


def hausdorff95(a, b, spacing=1.0):
    distances = cdist(surface_points(a) * spacing, surface_points(b) * spacing)
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


ORACLES = [(Dice, dice), (Jaccard, jaccard), (Hausdorff95, hausdorff95)]
every_metric = pytest.mark.parametrize(("metric", "oracle"), ORACLES, ids=["dice", "jaccard", "hausdorff"])


@every_metric
@pytest.mark.parametrize("shape", [(24, 30), (16, 18, 14)], ids=["2D", "3D"])
def test_one_structure_over_all_batches(metric, oracle, shape):
    pairs = [(blob(shape, seed, seed % 3), blob(shape, seed)) for seed in range(5)]
    items = [(torch.tensor(a)[None] * 0.6, torch.tensor(b)[None].long()) for a, b in pairs]
    batches = [tuple(map(list, zip(*items[i : i + 2], strict=True))) for i in range(0, 5, 2)]
    found = run_metric(metric(class_names=["background", "lung"]), batches)
    assert type(found["value"]) is float
    assert found["value"] == pytest.approx(np.mean([oracle(a, b) for a, b in pairs]), abs=1e-5)
    assert found["value_left_out"] == found["value_false_alarms"] == 0
    assert set(found) == {"value", "value_left_out", "value_false_alarms"}


@every_metric
def test_two_channels_are_the_same_as_one(metric, oracle):
    a, b = (torch.tensor(blob((20, 20), seed))[None] for seed in (1, 2))
    one, two = (
        run_metric(metric(class_names=NAMES[:2]), [([p], [b.long()])])["value"]
        for p in (a * 0.9, torch.cat([~a * 0.9, a * 0.9]))
    )
    assert one == two


@every_metric
def test_classes_are_scored_one_by_one_without_the_background(metric, oracle):
    drawn = np.where(blob((24, 24), 0), 1, 0) + np.where(blob((24, 24), 1) & ~blob((24, 24), 0), 2, 0)
    guess = np.where(blob((24, 24), 0, 1), 1, 0) + np.where(blob((24, 24), 1, 2) & ~blob((24, 24), 0, 1), 2, 0)
    scores = torch.nn.functional.one_hot(torch.tensor(guess), 3).permute(2, 0, 1) * 0.2 + 0.1
    found = run_metric(metric(class_names=NAMES), [(scores[None], torch.tensor(drawn)[None, None])])
    expected = [oracle(guess == index, drawn == index) for index in (1, 2)]
    assert [found["value_lung"], found["value_heart"]] == pytest.approx(expected, abs=1e-5)
    assert found["value"] == pytest.approx(np.mean(expected), abs=1e-5)


@every_metric
def test_overlapping_structures_have_a_channel_each(metric, oracle):
    drawn = np.stack([blob((24, 24), seed) for seed in (0, 1)])
    guess = np.stack([blob((24, 24), seed, 2) for seed in (0, 1)])
    assert (drawn[0] & drawn[1]).any()
    found = run_metric(
        metric(class_names=["lung", "heart"], overlapping=True),
        [([MetaTensor(torch.tensor(guess) * 0.5)], [torch.tensor(drawn)])],
    )
    assert found["value"] == pytest.approx(np.mean([oracle(a, b) for a, b in zip(guess, drawn, strict=True)]), abs=1e-5)


def distances_by_transform(a, b, spacing):
    """The distance of each surface to the other mask's, by SciPy's distance transform."""
    surfaces = [mask & ~binary_erosion(mask, border_value=0) for mask in (a, b)]
    to_a, to_b = (distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return max(np.percentile(to_b[surfaces[0]], 95), np.percentile(to_a[surfaces[1]], 95))


SPACINGS = [(0.5, 2.0), (0.7, 0.7), None, (3.0, 0.25)]  # of four images, one of which does not state it


def test_each_image_has_its_own_millimetres():
    pairs = [(blob((24, 30), seed, 3), blob((24, 30), seed + 1)) for seed in range(4)]
    batch = (
        [torch.tensor(a)[None].float() for a, _ in pairs],
        [
            with_spacing(torch.tensor(b)[None].long(), spacing and (*spacing, 1.0))
            for (_, b), spacing in zip(pairs, SPACINGS, strict=True)
        ],
    )
    found = run_metric(Hausdorff95(class_names=NAMES[:2], millimetres=True), [batch])
    known = [(*pair, spacing) for pair, spacing in zip(pairs, SPACINGS, strict=True) if spacing]
    expected = np.mean([distances_by_transform(*each) for each in known])
    assert found["value"] == pytest.approx(expected, abs=1e-5)
    assert found["value"] == pytest.approx(np.mean([hausdorff95(a, b, np.array(s)) for a, b, s in known]), abs=1e-5)
    assert (found["value_left_out"], found["value_false_alarms"]) == (1, 0)
    in_pixels = run_metric(Hausdorff95(class_names=NAMES[:2]), [batch])
    assert in_pixels["value"] == pytest.approx(np.mean([hausdorff95(a, b) for a, b in pairs]), abs=1e-5)
    assert in_pixels["value_left_out"] == 0


def test_shifted_squares_are_apart_by_the_shift():
    """In closed form: of a square moved by 4 rows of 2.5 mm, more than 5 % of the surface is moved by all of it."""
    mask = torch.zeros(1, 40, 40)
    mask[:, 5:15, 5:25] = 1
    other = with_spacing(mask.roll(4, 1).long(), (2.5, 0.1, 1.0))
    found = run_metric(Hausdorff95(class_names=NAMES[:2], millimetres=True), [([mask], [other])])["value"]
    assert found == pytest.approx(4 * 2.5, abs=1e-5)


# Of each structure: an image where it is drawn and found, one where it is missed, one false alarm, one without it.
EMPTY = [(True, True), (False, True), (True, False), (False, False)]


@pytest.mark.parametrize(
    ("metric", "expected", "left_out"),
    [(Dice, (1 + 0) / 2, 2), (Jaccard, (1 + 0) / 2, 2), (Hausdorff95, 0.0, 3)],
    ids=["dice", "jaccard", "hausdorff"],
)
def test_empty_masks_are_left_out_and_counted(metric, expected, left_out):
    square = torch.zeros(1, 12, 12)
    square[:, 3:8, 3:8] = 1
    batches = [([square * found], [square * drawn]) for found, drawn in EMPTY]
    found = run_metric(metric(class_names=NAMES[:2]), batches)
    assert (found["value"], found["value_left_out"], found["value_false_alarms"]) == (expected, left_out, 1)


@every_metric
def test_a_structure_that_nowhere_is_drawn_is_named_and_left_out(metric, oracle, caplog):
    a, b = (torch.tensor(blob((20, 20), seed))[None] for seed in (1, 2))
    scores = torch.cat([~a, a, torch.zeros_like(a)]).float()
    with caplog.at_level(logging.WARNING):
        found = run_metric(metric(class_names=NAMES), [([scores], [b.long()])])
    assert found["value"] == pytest.approx(oracle(a.numpy()[0], b.numpy()[0]), abs=1e-5)
    assert math.isnan(found["value_heart"])
    assert "no image can be scored for heart: left out of the mean" in caplog.text
    with caplog.at_level(logging.WARNING):
        found = run_metric(metric(class_names=NAMES), [([scores], [torch.zeros_like(b).long()])])
    assert math.isnan(found["value"])
    assert "for lung, heart: the result is NaN" in caplog.text


def test_metrics_start_anew_each_epoch_and_can_be_named_in_json():
    config = {
        "_target_": "ttl_monai.handlers.Dice",
        "class_names": ["background", "lung"],
        "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
    }
    metric = ConfigParser(json.loads(json.dumps({"imports": ["$import monai"], "metric": config}))).get_parsed_content(
        "metric"
    )
    square = torch.zeros(1, 12, 12)
    square[:, 3:8, 3:8] = 1
    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "val_dice")
    assert engine.run([[{"pred": square, "label": square}]]).metrics["val_dice"] == 1
    assert engine.run([[{"pred": 1 - square, "label": square}]]).metrics["val_dice"] == 0


@pytest.mark.parametrize(
    ("scores", "mask", "overlapping", "message"),
    [
        ((2, 8, 8), (1, 8, 8), False, r"expected probabilities of 3 channels for .* lung, heart, got shape \(2, 8"),
        ((3, 8, 8), (1, 8, 7), False, r"the same size as the prediction, \(1, 8, 8\), got \(1, 8, 7\)"),
        ((3, 8, 8), (3, 8, 8), False, r"a mask of shape \(1, ...\)"),
        ((3, 8, 8), (1, 8, 8), True, r"a mask of shape \(3, ...\)"),
        ((3, 8), (1, 8), False, "expected probabilities of 3 channels"),
    ],
)
def test_other_shapes_are_refused(scores, mask, overlapping, message):
    with pytest.raises(ValueError, match=message):
        to_structures(torch.zeros(scores), torch.zeros(mask), class_names=NAMES, overlapping=overlapping)


@pytest.mark.parametrize(("value", "overlapping"), [(3, False), (255, False), (2, True), (-1, False), (0.5, True)])
def test_values_that_are_no_class_are_refused(value, overlapping):
    mask = torch.zeros(3 if overlapping else 1, 8, 8)
    mask[0, 2, 2] = value
    with pytest.raises(ValueError, match=rf"with the values 0 to {1 if overlapping else 2} .*{value}"):
        to_structures(torch.zeros(3, 8, 8), mask, class_names=NAMES, overlapping=overlapping)


@pytest.mark.parametrize(("names", "overlapping"), [(["background"], False), ([], True)])
def test_too_few_names_are_refused(names, overlapping):
    with pytest.raises(ValueError, match="class_names must have the background and at least one class"):
        Dice(class_names=names, overlapping=overlapping)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="Dice: no image was given"):
        Dice(class_names=NAMES).compute()


@pytest.mark.parametrize(("overlapping", "channels"), [(False, 1), (True, 2)])
def test_a_reference_follows_the_prediction_to_its_device(overlapping, channels):
    # "meta" stands for a GPU: a device that is not the mask's, on any machine.
    found, drawn = to_structures(
        torch.empty(2, 4, 4, device="meta"),
        torch.ones(channels, 4, 4),
        class_names=["a", "b"],
        overlapping=overlapping,
    )
    assert found.device == drawn.device == torch.device("meta")
