"""The files of predicted series: scores, places, pictures, and the reasons of what was refused."""

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
    series = [{"image_id": name} for name in ("a", "b")]
    opened = SimpleNamespace(report={"suitable": True, "checks": []})
    dataset = SimpleNamespace(series=series, refused=[{"image_id": "c", "report": REFUSAL}])
    dataset.cache = SimpleNamespace(open=lambda item: opened)
    settings = {"task": "binary", "class_names": ["no", "yes"], "output_dir": folder, "dataset": dataset}
    return SeriesWriter(**{**settings, **options})


def predict(handler):
    rows = [("a", 0, 0.2), ("a", 24, 0.9), ("b", 0, 0.4)]
    items = [{"image_id": i, "start": s, "first_mm": s * 1.25, "last_mm": s * 1.25 + 28.75} for i, s, _ in rows]
    engine = Engine(lambda *_: [{"pred": torch.tensor([1 - score, score])} for *_, score in rows])
    handler.attach(engine)
    engine.run([items])


def test_scores_places_and_reasons_are_written(tmp_path):
    predict(writer(tmp_path, threshold=0.5, refused=[{"image_id": "d", "report": REFUSAL}]))
    document = json.loads((tmp_path / "series.json").read_text())
    first, second = document["series"]
    assert (first["image"], first["decision"], second["decision"]) == ("a", "yes", "no")
    assert first["score"] == pytest.approx(0.9, abs=1e-6)
    assert {**first["top_window"], "score": 0} == {"start": 24, "first_mm": 30, "last_mm": 58.75, "score": 0}
    assert [each["start"] for each in first["windows"]] == [0, 24]
    assert first["volume"]["suitable"]
    assert [(each["image"], each["reasons"]) for each in document["refused"]] == [
        ("d", ["spacing: uneven"]),
        ("c", ["spacing: uneven"]),
    ]
    rows = list(csv.DictReader((tmp_path / "series.csv").open()))
    assert [row["outcome"] for row in rows] == ["predicted", "predicted", "refused", "refused"]
    assert (rows[0]["top_first_mm"], rows[0]["top_last_mm"]) == ("30.0", "58.75")
    assert rows[3]["reasons"] == "spacing: uneven"


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


def test_a_picture_of_no_windows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs at least one window"):
        plot_slice_scores([], tmp_path / "x.png", class_name="yes")
