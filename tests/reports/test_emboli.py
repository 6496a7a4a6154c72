import pytest

from ttl_monai.reports import emboli_table


@pytest.fixture
def results():
    keys = ("test_auroc", "test_auprc", "pairs_won", "elsewhere_auroc")
    repeats = [{"seed": seed, **dict.fromkeys(keys, 0.75 + 0.1 * seed)} for seed in range(2)]
    row = {"backbone": "net", "weights": "none", "strategy": "TTL", "cut": "layer2", "params": 1_500_000}
    return {
        "pairs": {"training": 64, "validation": 20, "test": 40},
        "diameters_mm": [6.0, 14.0],
        "margin_mm": 3.0,
        "spatial_size": [24, 48, 48],
        "command": "make it",
        "rows": [
            {**row, "shuffled": False, "repeats": repeats},
            {**row, "cut": None, "shuffled": True, "repeats": repeats[:1]},
        ],
    }


def test_a_row_has_means_and_the_note_says_what_it_is(results):
    text = emboli_table(results)
    assert "| `net` | none | TTL | `layer2` |" + " 0.800 ± 0.071 |" * 4 + " 1.500 |" in text
    assert "| `net` | none | TTL, labels shuffled | - |" + " 0.750 |" * 4 + " 1.500 |" in text
    assert "nothing follows from it for patients" in text
    assert "64, 20 and 40 pairs" in text
    assert text.endswith("Repeat it: `make it`\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.pop("margin_mm"), "missing: margin_mm"),
        (lambda r: r["rows"].clear(), "no rows"),
        (lambda r: r["rows"][0].pop("shuffled"), r"the row net layer2 must have .* missing: shuffled"),
        (lambda r: r["rows"][0]["repeats"].clear(), "has no repeats"),
        (lambda r: r["rows"][0]["repeats"][0].pop("pairs_won"), "missing: pairs_won"),
    ],
)
def test_results_that_lack_something_are_refused(results, change, reason):
    change(results)
    with pytest.raises(ValueError, match=reason):
        emboli_table(results)
