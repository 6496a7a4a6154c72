import argparse
import json
from pathlib import Path

import pytest

from ttl_monai.cli import table
from ttl_monai.reports import results_table

REPO = Path(__file__).resolve().parents[2]
SECTION = "# Model\n\n<!-- begin results -->\n<!-- end results -->\n\nMore.\n"
RESULTS = {
    "dataset": "made",
    "backbone": "resnet50",
    "weights": "none",
    "spatial_size": 64,
    "max_epochs": 1,
    "command": "make it",
    "rows": [
        {
            "strategy": "FTL",
            "cut": None,
            "repeats": [{"split": 0, "test_auroc": 0.75, "test_auprc": 0.5, "test_auprc_trapezoid": 0.625}],
            "params": 1_000_000,
            "trainable_params": 1_000_000,
            "macs": 2_000_000_000,
            "latency_ms": 3.0,
        }
    ],
}


def ttl_table(*arguments):
    parser = argparse.ArgumentParser()
    table.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["table", *map(str, arguments)])
    return parsed.run(parsed)


@pytest.fixture
def bundle(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "README.md").write_text(SECTION, encoding="utf-8")
    (docs / "results.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    return tmp_path


def test_readme_gets_the_table_and_keeps_the_rest(bundle, capsys):
    assert ttl_table(bundle) == 0
    assert "written from" in capsys.readouterr().out
    text = (bundle / "docs/README.md").read_text(encoding="utf-8")
    assert text == SECTION.replace("results -->\n<!--", f"results -->\n\n{results_table(RESULTS)}\n<!--")


def test_second_run_changes_no_byte(bundle, capsys):
    ttl_table(bundle)
    before = (bundle / "docs/README.md").read_bytes()
    assert ttl_table(bundle) == 0
    assert "up to date" in capsys.readouterr().out
    assert (bundle / "docs/README.md").read_bytes() == before


def test_check_tells_a_stale_readme_by_its_status_and_writes_nothing(bundle, capsys):
    assert ttl_table(bundle, "--check") == 1
    assert "is stale; run: ttl table" in capsys.readouterr().err
    assert (bundle / "docs/README.md").read_text(encoding="utf-8") == SECTION
    ttl_table(bundle)
    assert ttl_table(bundle, "--check") == 0
    (bundle / "docs/results.json").write_text(json.dumps({**RESULTS, "dataset": "other"}), encoding="utf-8")
    assert ttl_table(bundle, "--check") == 1


def test_another_file_can_hold_the_section(bundle):
    other = bundle / "OTHER.md"
    other.write_text(SECTION, encoding="utf-8")
    assert ttl_table(bundle, "--readme", other) == 0
    assert "| FTL | - | 0.750 |" in other.read_text(encoding="utf-8")
    assert (bundle / "docs/README.md").read_text(encoding="utf-8") == SECTION


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", "{", r"results\.json is not valid JSON"),
        ("results.json", "{}", r"results\.json -> .*missing: dataset"),
        ("README.md", "# none", r"README\.md: expected one section"),
    ],
)
def test_bad_file_is_named(bundle, name, content, message):
    (bundle / "docs" / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ttl_table(bundle)


def test_missing_results_name_the_file(bundle):
    (bundle / "docs/results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        ttl_table(bundle)


@pytest.mark.parametrize("source", sorted(REPO.glob("bundles/*/docs/results.json")), ids=lambda path: path.parts[-3])
def test_committed_tables_are_those_of_the_committed_results(source):
    assert ttl_table(source.parents[1], "--check") == 0


@pytest.mark.skipif(not (REPO / "bundles/covid_ttl/docs/results.json").exists(), reason="no results are committed yet")
def test_the_table_of_the_projects_readme_is_that_of_the_bundle():
    assert ttl_table(REPO / "bundles/covid_ttl", "--readme", REPO / "README.md", "--check") == 0
