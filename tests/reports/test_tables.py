import copy

import pytest

from ttl_monai.reports import results_table, results_tables, update_section


def row(strategy, cut, auroc, auprc, params=3_415_890, trainable=None, macs=131_000_000):
    repeats = [
        {"split": k, "seed": k, "test_auroc": a, "test_auprc": p, "test_auprc_trapezoid": p + 0.001}
        for k, (a, p) in enumerate(zip(auroc, auprc, strict=True))
    ]
    costs = {"params": params, "trainable_params": trainable or params, "macs": macs, "latency_ms": 12.34}
    return {"strategy": strategy, "cut": cut, "repeats": repeats, **costs}


@pytest.fixture
def results():
    return {
        "dataset": "a made data set",
        "backbone": "tf_efficientnet_lite0",
        "weights": "imagenet",
        "spatial_size": [128, 128],
        "max_epochs": 30,
        "threads": 2,
        "command": "python benchmarks/run.py --repeats 3",
        "rows": [
            row("TTL", "blocks.3", [0.9, 0.8, 0.7], [0.8, 0.8, 0.8], params=260_000, macs=61_000_000),
            row("TTL", "blocks.1", [0.8, 0.7, 0.6], [0.7, 0.7, 0.7], params=30_000, macs=40_000_000),
            row("FTL", None, [0.8, 0.9, 0.7], [0.8, 0.8, 0.8]),
            row("HTL", None, [0.6, 0.6, 0.6], [0.5, 0.6, 0.7], trainable=2562),
        ],
    }


# Every number by hand: mean and sample deviation of .7 .8 .9 are .8 and .1.
EXPECTED = """\
| strategy | cut | AUROC | AUPRC | AUPRC (trapezoid) | params (M) | trainable (M) | MACs (G) | latency (ms) |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| FTL | - | 0.800 ± 0.100 | 0.800 ± 0.000 | 0.801 ± 0.000 | 3.416 | 3.416 | 0.131 | 12.3 |
| HTL | - | 0.600 ± 0.000 | 0.600 ± 0.100 | 0.601 ± 0.100 | 3.416 | 0.003 | 0.131 | 12.3 |
| TTL | `blocks.1` | 0.700 ± 0.100 | 0.700 ± 0.000 | 0.701 ± 0.000 | 0.030 | 0.030 | 0.040 | 12.3 |
| TTL | `blocks.3` | 0.800 ± 0.100 | 0.800 ± 0.000 | 0.801 ± 0.000 | 0.260 | 0.260 | 0.061 | 12.3 |

Dataset: a made data set. Backbone: `tf_efficientnet_lite0`, weights: `imagenet`, 128x128 pixels, at most 30 epochs. \
Test set, mean ± sample standard deviation over 3 repeats, each with its own split by patient. AUPRC is average \
precision; the trapezoid stands beside it for comparison with the paper. Latency: one image on the CPU, 2 threads. \
No value is bold: none beats every other line in a paired t-test over the splits (p < 0.05).

Repeat it: `python benchmarks/run.py --repeats 3`
"""


def test_table_is_written_byte_for_byte(results):
    assert results_table(results) == EXPECTED


def test_table_does_not_depend_on_the_order_of_rows_or_repeats(results):
    results["rows"].reverse()
    for each in results["rows"]:
        each["repeats"].reverse()
    assert results_table(results) == EXPECTED


def test_table_leaves_its_input_alone(results):
    before = copy.deepcopy(results)
    results_table(results)
    assert results == before


def test_a_value_outside_the_noise_is_bold(results):
    # Always .1 above FTL, give or take .001, and .3 ± .1 above HTL: t(2) = 173 and 5.2, beyond the critical 4.3.
    results["rows"].append(row("LWFT", "blocks.2", [0.901, 0.999, 0.801], [0.3, 0.3, 0.9]))
    results["rows"] = [each for each in results["rows"] if each["strategy"] != "TTL"]
    text = results_table(results)
    assert "| **0.900 ± 0.099** | 0.500 ± 0.346 |" in text
    assert text.count("**") == 2
    assert "Bold: better than every other line" in text


def test_a_higher_mean_within_the_noise_is_not_bold(results):
    results["rows"].append(row("LWFT", "blocks.2", [0.99, 0.99, 0.71], [0.8, 0.8, 0.8]))
    assert "**" not in results_table(results)


def test_different_splits_are_not_compared(results):
    winner = row("LWFT", "blocks.2", [0.991, 0.999, 0.991], [0.9, 0.9, 0.9])
    winner["repeats"][2]["split"] = 7
    results["rows"].append(winner)
    assert "**" not in results_table(results)


def test_undefined_metric_is_nan_not_a_mean_of_the_rest(results):
    results["rows"][2]["repeats"][1]["test_auroc"] = None
    assert "| FTL | - | NaN | 0.800 ± 0.000 |" in results_table(results)


def test_one_repeat_shows_no_spread(results):
    for each in results["rows"]:
        del each["repeats"][1:]
    text = results_table(results)
    assert "± 0" not in text
    assert "one run, so that no spread is known" in text
    assert "t-test" not in text


@pytest.mark.parametrize(
    ("size", "words"), [(128, "128x128 pixels"), ([128, 128], "128x128 pixels"), ([24, 32, 32], "24x32x32 voxels")]
)
def test_spatial_size_is_one_number_or_one_an_axis(results, size, words):
    results["spatial_size"] = size
    assert words in results_table(results)


def test_repeats_over_seeds_are_called_so(results):
    results["repeated"] = "seed"
    assert "over 3 repeats, each with its own seed." in results_table(results)


def test_segmentations_have_their_own_metrics(results):
    for each in results["rows"]:
        for k, repeat in enumerate(each["repeats"]):
            repeat |= {"test_dice": 0.9 - 0.1 * k, "test_jaccard": 0.5, "test_hausdorff95": None}
    text = results_table(results)
    assert text.startswith("| strategy | cut | Dice | Jaccard | HD95 | params (M) |")
    assert "| FTL | - | 0.800 ± 0.100 | 0.500 ± 0.000 | NaN | 3.416 |" in text
    assert "drawn, 0 where it was missed; HD95, in pixels, over those in which it is drawn and found. Latency" in text
    assert "AUPRC" not in text
    assert "Dice, " not in text, "one class has no table of classes"


def test_a_segmentation_of_several_classes_has_their_dice(results):
    for number, each in enumerate(results["rows"]):
        for k, repeat in enumerate(each["repeats"]):
            repeat |= {"test_dice": 0.9, "test_jaccard": 0.5, "test_hausdorff95": 3 + number + 0.001 * k * number}
            repeat |= {"test_dice_left_out": 4.0, "test_dice_false_alarms": 1.0, "test_dice_left lung": 0.9 - 0.1 * k}
            repeat |= {"test_dice_interval": [0.8, 0.9]}
            repeat |= {"test_dice_heart": None if number == 0 else 0.5}
    text = results_table(results)
    assert "| strategy | cut | Dice, left lung | Dice, heart |\n| --- | --- | ---: | ---: |\n| FTL | - | 0.800" in text
    assert "| TTL | `blocks.3` | 0.800 ± 0.100 | NaN |" in text
    for each in results["rows"]:
        for repeat in each["repeats"]:
            repeat["test_volume_dice"] = 0.75
    text = results_table(results)
    assert text.startswith("| strategy | cut | Dice (volumes) | Dice | Jaccard | HD95 |")
    assert "drawn and found. Dice (volumes) takes the slices of each volume together. Latency" in text
    for value, there in ((None, False), (2.5, True)):
        for each in results["rows"]:
            for repeat in each["repeats"]:
                repeat["test_hausdorff95_mm"] = value
        text = results_table(results)
        assert ("| HD95 | HD95 (mm) | params (M) |" in text) == there
        assert ("drawn and found. HD95 (mm) is over those of them whose files state the spacing" in text) == there
        assert ("| 2.500 ± 0.000 |" in text) == there
    # The first row has the smallest distance.
    assert "| **3.000 ± 0.000** |" in text
    assert text.count("**") == 2


def test_several_tables_stand_one_after_the_other(results):
    other = {**copy.deepcopy(results), "dataset": "another"}
    assert results_tables({"tables": [results, other]}) == results_table(results) + "\n" + results_table(other)


def test_unmeasured_cost_is_a_dash(results):
    results["rows"][2]["latency_ms"] = None
    assert "| 3.416 | 3.416 | 0.131 | - |" in results_table(results)


@pytest.mark.parametrize("key", ["dataset", "command", "rows"])
def test_missing_key_is_named(results, key):
    del results[key]
    with pytest.raises(ValueError, match=f"results must have .*missing: {key}"):
        results_table(results)


def test_missing_key_of_a_row_or_repeat_is_named(results):
    del results["rows"][0]["macs"]
    with pytest.raises(ValueError, match=r"the row TTL blocks\.3 must have .*missing: macs"):
        results_table(results)
    results["rows"][0]["macs"] = 1
    del results["rows"][0]["repeats"][1]["test_auroc"]
    with pytest.raises(ValueError, match=r"a repeat of TTL blocks\.3 .*missing: test_auroc"):
        results_table(results)


def test_nothing_to_show_is_an_error(results):
    results["rows"][0]["repeats"] = []
    with pytest.raises(ValueError, match=r"TTL blocks\.3 has no repeats"):
        results_table(results)
    results["rows"] = []
    with pytest.raises(ValueError, match="no rows"):
        results_table(results)


def test_section_is_replaced_and_the_rest_kept():
    readme = "# Head\n<!-- begin results -->\nold\n<!-- end results -->\ntail <!-- begin other -->x<!-- end other -->\n"
    after = update_section(readme, "results", "\nnew\n\n")
    assert after == readme.replace("old", "\nnew\n")
    assert update_section(after, "results", "new") == after


@pytest.mark.parametrize(
    "readme",
    [
        "nothing",
        "<!-- begin results -->",
        "<!-- end results --><!-- begin results -->",
        "<!-- begin results --><!-- end results -->" * 2,
    ],
)
def test_section_without_its_two_lines_is_refused(readme):
    with pytest.raises(ValueError, match=r"expected one section <!-- begin results -->.*put the two lines"):
        update_section(readme, "results", "new")
