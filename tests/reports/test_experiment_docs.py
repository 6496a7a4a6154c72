import argparse
import json

import pytest
from PIL import Image

from ttl_monai.cli import table
from ttl_monai.reports.experiment_docs import experiments_section, methods_of, picture_name, shares_of, take_experiment


def row(strategy, cut, macs, auroc, **more):
    repeats = [
        {"split": k, "test_auroc": auroc + k / 100, "test_auprc": auroc, "test_auprc_trapezoid": auroc}
        for k in range(2)
    ]
    sizes = {"params": 1000 * macs, "trainable_params": 1000 * macs, "macs": macs, "latency_ms": 2.0}
    return {"strategy": strategy, "cut": cut, "repeats": repeats, **sizes, "run": "runs/of_someone", **more}


def results(name, rows, **more):
    head = {"dataset": "made", "backbone": "lite0", "weights": "none", "spatial_size": 64, "max_epochs": 1}
    gap = {"a": "TTL b", "b": "FTL", "metric": "test_auroc", "mean": -0.01, "low": -0.1, "high": 0.05, "n": 2, "p": 0.5}
    content = {
        **head,
        "rows": rows,
        "command": f"ttl experiment {name}",
        "differences": [{**gap, "method": "bootstrap"}],
    }
    return {"experiment": name, "command": f"ttl experiment {name}", "tables": [content], **more}


POOLING = results(
    "pooling",
    [
        row("FTL", None, 9, 0.8),
        row("TTL", "b", 3, 0.7),
        row("FTL, flattened", None, 9, 0.75),
        row("TTL, flattened", "b", 3, 0.72),
    ],
)
SCORES = {"gradcam_lungs_share": 0.4, "gradcam_lungs_auroc": 0.6, "gradcam++_lungs_share": 0.2}
SALIENCY = results(
    "saliency",
    [
        row("FTL", None, 9, 0.8, metrics=SCORES, intervals={"gradcam_lungs_share": [0.3, 0.5]}),
        row("TTL", "b", 3, 0.8, metrics=SCORES | {"gradcam_lungs_share": None}, intervals={}),
    ],
    masks={"dataset": "masked", "structures": {"lungs": {"area": 0.27, "images": 12}}},
)


def test_one_of_the_same_name_and_networks_is_replaced():
    record = take_experiment(take_experiment({}, SALIENCY), POOLING)
    assert [each["experiment"] for each in record["experiments"]] == ["pooling", "saliency"]
    again = take_experiment(record, {**POOLING, "command": "again"})
    assert [each["command"] for each in again["experiments"]] == ["again", "ttl experiment saliency"]
    other = json.loads(json.dumps(POOLING))
    other["tables"][0]["backbone"] = "resnet18"
    both = take_experiment(record, other)
    assert [picture_name(both, k) for k in range(3)] == ["pooling.png", "pooling1.png", "saliency.png"]
    assert "someone" not in json.dumps(both)
    headings = [line for line in experiments_section(both, {}).splitlines() if line.startswith("#")]
    title = "### With and without pooling before the head"
    assert headings == [f"{title}: `lite0` from none", f"{title}: `resnet18` from none", "### Where the evidence lies"]


def test_shares_have_their_intervals_and_are_nan_where_unknown():
    rows = SALIENCY["tables"][0]["rows"]
    assert methods_of(rows, ["lungs"]) == ["gradcam", "gradcam++"]
    shares = shares_of(rows, ["gradcam"], ["lungs"])["gradcam"]["lungs"]
    assert shares[0] == (0.4, 0.3, 0.5)
    assert str(shares[1][0]) == "nan"


def test_the_section_has_tables_differences_and_pictures():
    record = take_experiment(take_experiment({}, SALIENCY), POOLING)
    text = experiments_section(record, {"pooling.png": "docs/pooling.png"})
    assert text.index("### With and without pooling") < text.index("### Where the evidence lies")
    assert "| TTL b minus FTL | auroc | -0.010 | -0.100 to +0.050 | 2 | 0.50 |" in text
    assert "| gradcam | lungs | FTL | 0.400 (0.300 to 0.500) | 0.270 |" in text
    assert text.count("<img") == 1
    assert "12 with lungs" in text


def test_the_command_writes_section_and_pictures(tmp_path):
    docs = tmp_path / "bundle" / "docs"
    docs.mkdir(parents=True)
    sections = "".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in ("results", "experiments"))
    (docs / "README.md").write_text(sections)
    (docs / "results.json").write_text(json.dumps({"tables": POOLING["tables"]}))
    for content in (POOLING, SALIENCY):
        (tmp_path / content["experiment"]).mkdir()
        (tmp_path / content["experiment"] / "results.json").write_text(json.dumps(content))
        parser = argparse.ArgumentParser()
        table.add_parser(parser.add_subparsers())
        folder = str(tmp_path / content["experiment"])
        parsed = parser.parse_args(["table", str(docs.parent), "--experiment", folder])
        assert parsed.run(parsed) == 0
    for name in ("pooling", "saliency"):
        with Image.open(docs / f"{name}.png") as image:
            assert len(set(image.convert("L").resize((40, 40)).getdata())) > 3
        assert f'src="{name}.png"' in (docs / "README.md").read_text()
    parsed = parser.parse_args(["table", str(docs.parent), "--check"])
    assert parsed.run(parsed) == 0


@pytest.mark.parametrize("content", [{"experiment": "features", "tables": []}, {"tables": [1]}])
def test_what_has_no_table_is_refused(content):
    with pytest.raises(ValueError, match="expected the results of one of strategies"):
        take_experiment({}, content)
