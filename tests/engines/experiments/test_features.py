"""`Features`: a row for each channel, what it refuses, and the picture."""

import json

import pytest
from PIL import Image

from ttl_monai.engines.experiments import Features, conduct

SMALL = {"backbone": "resnet18", "weights": "none", "points": ["relu", "layer1"], "channels": 2, "size": 32, "steps": 2}


def test_rows_with_costs_and_activations_and_a_picture(tmp_path):
    (tmp_path / "real").mkdir()
    Image.new("RGB", (40, 48), (200, 30, 30)).save(tmp_path / "real/a.png")
    experiment = Features(**SMALL, output_dir=tmp_path / "out", image_dir=tmp_path / "real", jitter=2)
    conduct(experiment, name="features", output_dir=tmp_path / "out")
    document = json.loads((tmp_path / "out/results.json").read_text())
    assert document["experiment"] == "features"
    rows = document["tables"][0]["rows"]
    assert len({row["cut"] for row in rows}) == 2
    assert rows[0]["macs"] < rows[2]["macs"]
    assert rows[0]["params"] < rows[2]["params"]
    for row in rows:
        assert row["metrics"]["end"] > row["metrics"]["start"]
        assert row["metrics"]["real"] is not None
        assert row["seconds"] > 0
        assert row["published"] is None
    (figure,) = document["figures"]
    assert Image.open(tmp_path / "out" / figure["file"]).width > 300
    assert {"title", "alt", "caption"} <= figure.keys()


def test_the_seed_decides_channels_and_images(tmp_path):
    def ends(seed):
        found = Features(**SMALL, output_dir=tmp_path, jitter=2, seed=seed).run()["tables"][0]["rows"]
        return [(row["channel"], row["metrics"]["end"]) for row in found]

    assert ends(0) == ends(0)
    assert ends(0) != ends(1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"points": []}, r"at least one truncation point, got \[\]"),
        ({"points": ["layer9"]}, "layer9"),
        ({"channels": 65}, "has 64 channels, but 65 are asked for"),
        ({"channels": [64]}, r"from 0 to 63, got \[64\]"),
        ({"backbone": "resnet18_3d", "points": ["layer1"]}, "networks of 2D, but resnet18_3d is one of 3D"),
    ],
)
def test_what_it_refuses(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        Features(**SMALL | changes, output_dir=tmp_path)
