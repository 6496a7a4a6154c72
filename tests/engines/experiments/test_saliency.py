"""`ttl experiment saliency`: what it refuses before the first training, and the whole on made data."""

import json
import math

import pytest

from ttl_monai.cli import main
from ttl_monai.engines.experiments import Saliency

from ...bundles.conftest import BUNDLES


def options(folder, **changes):
    given = {
        "bundle": BUNDLES / "covid_ttl",
        "output_dir": folder,
        "data": {"make": "make_phantom", "patients": 8, "size": [96, 104]},
        "settings": {"spatial_size": 64, "network_def#weights": "none"},
        "rows": ["FTL", "TTL:blocks.1"],
        "masks": {"make": "make_masked_phantom", "patients": 3, "size": [96, 104]},
        "structures": {"finding": [1]},
    }
    return given | changes


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"methods": ["lime"]}, r"some of gradcam, gradcam\+\+, occlusion, got lime"),
        ({"methods": []}, "got none"),
        ({"structures": {}}, "at least one structure"),
        ({"masks": {"dataset_dir": None, "datalist": None}}, "no masked images: pass --set mask_dir=DIR"),
        ({"masks": {"make": "make_phantom", "patients": 8, "size": [96, 104]}}, "expected a datalist of segmentation"),
        ({"images": 0}, "images must be at least 1"),
        ({"runs": {"FTL": "a"}, "seeds": [0, 1]}, "runs are of one repeat, got 2"),
    ],
)
def test_what_it_refuses_before_the_first_training(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        Saliency(**options(tmp_path, **changes))


@pytest.mark.slow
def test_the_demo_leaves_results_and_pictures_and_changes_with_the_seed(tmp_path):
    found = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        small = ["--set", "methods=['gradcam']", "max_epochs=1", "spatial_size=64"]
        assert main(["experiment", "saliency", "--demo", "--seeds", str(seed), *small, "--out", str(folder)]) == 0
        document = json.loads((folder / "results.json").read_text())
        (table,) = document["tables"]
        assert [row["strategy"] for row in table["rows"]] == ["FTL", "TTL"]
        for row in table["rows"]:
            assert {"cut", "metrics", "params", "macs", "seconds", "published"} <= row.keys()
            assert 0 <= row["metrics"]["gradcam_maps"] <= 1
            assert row["randomised"][0]["drawn"] == "head"
        assert {"gradcam_finding_share", "test_auroc"} <= {each["metric"] for each in table["differences"]}
        assert 0 < document["masks"]["structures"]["finding"]["area"] < document["masks"]["structures"]["lungs"]["area"]
        assert all((folder / figure["file"]).stat().st_size > 1000 for figure in document["figures"])
        found.append([row["metrics"] for row in table["rows"]])
    assert found[0] != found[1]
    assert not any(isinstance(v, float) and math.isnan(v) for rows in found for row in rows for v in row.values())
