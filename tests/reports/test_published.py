import json

import pytest

from ttl_monai.reports import published_row, published_table, results_table
from ttl_monai.reports.published import published_figures

TABLE = {
    "bundle": "covid_ttl",
    "dataset": "cxr_pid",
    "backbone": "resnet50",
    "weights": "imagenet",
    "spatial_size": 224,
    "max_epochs": 200,
}


def find(strategy, cut=None, **changes):
    return published_row({**TABLE, **changes}, {"strategy": strategy, "cut": cut})


@pytest.mark.parametrize(
    ("strategy", "cut", "changes", "expected"),
    [
        ("FTL", None, {}, ("0.853 ± 0.004", "0.861 ± 0.002", 23_500_000, 4_120_000_000)),
        ("TTL", "layer3", {}, ("0.865 ± 0.001", "0.870 ± 0.007", 8_550_000, 3_310_000_000)),
        ("TTL", "layer3.5", {}, ("0.865 ± 0.001", "0.870 ± 0.007", 8_550_000, 3_310_000_000)),
        ("TTL", "layer3.3", {}, ("0.861 ± 0.013", "0.871 ± 0.008", 6_310_000, 2_870_000_000)),
        ("TTL", "stem", {}, ("0.512", "0.481", None, None)),
        ("TTL, flattened", "stem", {}, (None, "0.676", None, None)),
        ("FTL", None, {"backbone": "timm:efficientnet_b0"}, ("0.795 ± 0.004", "0.794 ± 0.002", 3_630_000, 378_000_000)),
        ("TTL", "transition2", {"backbone": "densenet201"}, ("0.866 ± 0.006", "0.871 ± 0.012", 1_530_000, 2.11e9)),
        ("TTL", "blocks.2", {"backbone": "tf_efficientnet_lite0"}, ("0.865 ± 0.001", "0.870 ± 0.007", 8.55e6, 3.31e9)),
        ("FTL", None, {"weights": "source high"}, ("0.833", "0.834", None, None)),
        ("TTL", "layer2", {"weights": "source low"}, ("0.837", "0.833", None, None)),
        ("TTL", "layer3", {"bundle": "ctpa_ttl", "backbone": "resnext3d101"}, ("0.854", "0.889", None, None)),
        ("HTL", "all", {}, ("0.749", "0.761", None, None)),
        ("TTL, flattened", "blocks.2", {"backbone": "tf_efficientnet_lite0"}, (None, "0.850", None, None)),
        ("TTL", "blocks.1", {"backbone": "resnet18", "weights": "source low"}, ("0.827", "0.830", None, None)),
        ("FTL", None, {"bundle": "unet_ttl"}, None),
        ("FTL", None, {"bundle": None}, None),
        ("FTL", None, {"weights": "source other"}, None),
    ],
)
def test_the_nearest_published_row_is_taken(strategy, cut, changes, expected):
    found = find(strategy, cut, **changes)
    names = ("auroc", "auprc", "params", "macs")
    assert (found and tuple(found[name] for name in names)) == expected
    assert found is None or found["source"]


def test_what_differs_is_said_and_what_does_not_is_not():
    same = find("TTL", "layer3")["differs"]
    assert same.startswith(
        "data BIMCV-COVID19, 4,724 chest x-rays, three splits (ours: cxr_pid); AUPRC by the trapezoid"
    )
    other = find(
        "TTL", "blocks.2", backbone="tf_efficientnet_lite0", weights="none", spatial_size=[96, 96], max_epochs=4
    )
    for text in (
        "network resnet50 (ours: tf_efficientnet_lite0)",
        "weights imagenet (ours: none)",
        "cut layer3.5 (ours: blocks.2)",
        "size 224x224 (ours: 96x96)",
        "epochs at most 200 (ours: 4)",
    ):
        assert text in other["differs"]
        assert text not in same


def test_the_trap_in_table_3_is_named():
    assert "parameters are those of DenseNet201" in find("FTL", backbone="densenet121")["differs"]


def test_the_table_has_each_published_row_once_and_what_all_share_below():
    rows = [
        {"published": find("FTL")},
        {"published": find("FTL")},
        {"published": None},
        {"published": find("TF", "layer3")},
    ]
    text = "\n".join(published_table(rows))
    assert text.startswith("Published by the paper's authors, not measured here:\n\n| published | cut | network |")
    assert (
        text.count(
            "| FTL | - | `resnet50` | 0.853 ± 0.004 | 0.861 ± 0.002 | 23.500 | 4.120 | supplement, Table 3 | - |"
        )
        == 1
    )
    assert "| TF | `layer3` | `resnet50` |" in text
    assert text.count("data BIMCV-COVID19") == 1
    cuts = ("blocks.1", "blocks.2", "blocks.2")
    rows = [{"published": find("TTL", cut, backbone="tf_efficientnet_lite0")} for cut in cuts]
    assert "cut layer3.5 (ours: blocks.1, blocks.2)" in "\n".join(published_table(rows)), "of one row all cuts of ours"
    assert published_table([{"published": None}, {}]) == []


def test_a_table_of_results_shows_them_below_its_own():
    repeat = {"split": 0, "test_auroc": 0.75, "test_auprc": 0.5, "test_auprc_trapezoid": 0.625}
    costs = {"params": 1, "trainable_params": 1, "macs": 1, "latency_ms": 1}
    row = {"strategy": "FTL", "cut": None, "repeats": [repeat], **costs}
    results = {**TABLE, "command": "make it", "rows": [row], "notes": ["A note."]}
    plain, marked = (results_table({**results, "rows": [{**row, "published": each}]}) for each in (None, find("FTL")))
    assert marked.startswith(plain.rstrip("\n"))
    assert "Published by the paper's authors" in marked.removeprefix(plain.rstrip("\n"))
    assert "\n\nA note.\n" in plain


def test_every_published_row_has_a_source_and_no_number_twice():
    for each in published_figures()["sets"]:
        keys = [(r["backbone"], r["strategy"], r["cut"], r.get("weights")) for r in each["rows"]]
        assert len(keys) == len({*keys})
        assert all(row["source"] and (row["auroc"] or row["auprc"]) for row in each["rows"])
    json.dumps(published_figures())
