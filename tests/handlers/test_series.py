"""The files of predicted series: scores, places, pictures, Grad-CAM, and the reasons of what was refused."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from ttl_monai.handlers import SeriesWriter
from ttl_monai.reports import plot_slice_scores

REFUSAL = {"suitable": False, "checks": [{"name": "spacing", "outcome": "refused", "detail": "uneven"}]}


def writer(folder, **options):
    data = [{"image_id": name} for name in ("a", "b")]
    opened = SimpleNamespace(report={"suitable": True, "checks": []})
    dataset = SimpleNamespace(data=data, size=24, refused=[{"image_id": "c", "report": REFUSAL}])
    dataset.cache = SimpleNamespace(open=lambda item: opened)
    settings = {"task": "binary", "class_names": ["no", "yes"], "output_dir": folder, "dataset": dataset}
    return SeriesWriter(**{**settings, **options})


def predict(handler):
    """Series of 40 and of 20 slices of 1.25 mm, padded to 48 and 24."""
    scores = {"a": [0.2] * 24 + [0.9] * 8 + [0.7] * 16, "b": [0.4] * 24}
    items = [{"image_id": name, "slice_mm": torch.arange(40 if name == "a" else 20) * 1.25} for name in scores]
    engine = Engine(lambda _, batch: [{"pred": both(scores[item["image_id"]])} for item in batch])
    handler.attach(engine)
    engine.run([items[:1], items[1:]])


def both(scores):
    return torch.stack([1 - torch.tensor(scores), torch.tensor(scores)])


def test_scores_places_and_reasons_are_written(tmp_path):
    predict(writer(tmp_path, threshold=0.5, refused=[{"image_id": "d", "report": REFUSAL}]))
    document = json.loads((tmp_path / "series.json").read_text())
    first, second = document["series"]
    assert (first["image"], first["decision"], second["decision"]) == ("a", "yes", "no")
    # the second window: 8 slices of 0.9 and 8 of 0.7, without the padding
    assert first["score"] == pytest.approx(0.8, abs=1e-6)
    assert first["top_window"] == {"start": 24, "first_mm": 30, "last_mm": 48.75, "score": 0.8}
    assert [(each["start"], each["score"]) for each in first["windows"]] == [(0, 0.2), (24, 0.8)]
    assert [(each["first_mm"], each["last_mm"]) for each in second["windows"]] == [(0, 23.75)]
    assert first["volume"]["suitable"]
    assert [(each["image"], each["reasons"]) for each in document["refused"]] == [
        ("d", ["spacing: uneven"]),
        ("c", ["spacing: uneven"]),
    ]
    rows = list(csv.DictReader((tmp_path / "series.csv").open()))
    assert [row["outcome"] for row in rows] == ["predicted", "predicted", "refused", "refused"]
    assert (rows[0]["top_first_mm"], rows[0]["top_last_mm"]) == ("30.0", "48.75")
    assert rows[3]["reasons"] == "spacing: uneven"
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [(row["image"], row["decision"]) for row in rows] == [("a", "yes"), ("b", "no")]
    assert [float(row["probability_yes"]) for row in rows] == pytest.approx([0.8, 0.4], abs=1e-6)


def test_the_windows_are_pooled(tmp_path):
    predict(writer(tmp_path, pooling="mean"))
    scores = [each["score"] for each in json.loads((tmp_path / "series.json").read_text())["series"]]
    assert scores == pytest.approx([0.5, 0.4], abs=1e-6)


def test_the_picture_shows_where_the_score_is(tmp_path):
    predict(writer(tmp_path, threshold=0.5))
    names = [each["plot"] for each in json.loads((tmp_path / "series.json").read_text())["series"]]
    pictures = [np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int) for name in names]
    orange = [np.flatnonzero(((p - (213, 94, 0)) ** 2).sum(-1).min(axis=0) < 300) for p in pictures]
    # The highest window of the first series is its upper half; the second series has one window over all its slices.
    assert orange[0].size
    width = pictures[0].shape[1]
    assert np.median(orange[0]) > 0.5 * width
    assert np.ptp(orange[1]) > 0.8 * np.ptp(orange[0])


def test_nothing_but_refusals_is_written_too(tmp_path):
    writer(tmp_path).write()
    document = json.loads((tmp_path / "series.json").read_text())
    assert document["series"] == []
    assert [each["image"] for each in document["refused"]] == ["c"]
    assert (tmp_path / "predictions.csv").read_text() == "patient,image,label,probability_no,probability_yes\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"task": "multi-label"}, "expected the task 'binary', got 'multi-label'"),
        ({"pooling": "sum"}, "pooling must be one of max, mean, top-k"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        writer(tmp_path, **options)


@pytest.mark.parametrize("scores", [[], [0.5]])
def test_a_picture_of_no_slices_or_other_scores_is_refused(tmp_path, scores):
    places = [] if not scores else [1.0, 2.0]
    with pytest.raises(ValueError, match="a score for each of at least one slice"):
        plot_slice_scores(places, scores, {"first_mm": 0, "last_mm": 0, "score": 0}, tmp_path / "x.png", class_name="a")
