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
    (docs / "results.json").write_text(json.dumps({"tables": [RESULTS]}), encoding="utf-8")
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
    (bundle / "docs/results.json").write_text(
        json.dumps({"tables": [{**RESULTS, "dataset": "other"}]}), encoding="utf-8"
    )
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
        ("results.json", "{}", r"results\.json -> .*missing: tables"),
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


SEARCH = "\n<!-- begin search -->\n<!-- end search -->\n"


@pytest.fixture
def searched(bundle):
    from tests.engines.search.test_methods import make_space, play
    from ttl_monai.engines.search.document import make_document
    from ttl_monai.engines.search.methods import TwoStage

    header = {"dataset": "made", "bundle": "made", "backbone": "toy", "weights": "none", "train_patients": None}
    header |= {"settings": {"max_epochs": 1}, "patients": [{"training": 5}] * 2, "images": [{"training": 5}] * 2}
    method = TwoStage(make_space(header=header))
    _, results, _, _ = play(method)
    document = make_document(method.space, [method], results, {}, commands={"two-stage": "ttl search ..."})
    (bundle / "docs/search.json").write_text(json.dumps({"searches": [document]}))
    with (bundle / "docs/README.md").open("a") as file:
        file.write(SEARCH)
    return bundle


def test_searches_are_written_and_drawn(searched):
    assert ttl_table(searched) == 0
    text = (searched / "docs/README.md").read_text()
    assert "| two-stage | `b.1` |" in text
    assert "(search0.png)" in text
    assert (searched / "docs/search0.png").read_bytes().startswith(b"\x89PNG")
    assert ttl_table(searched, "--check") == 0


def test_a_check_draws_nothing_and_finds_a_stale_search(searched):
    assert ttl_table(searched, "--check") == 1
    assert not (searched / "docs/search0.png").exists()


def test_another_readme_links_to_the_pictures_where_they_are(searched, tmp_path):
    other = tmp_path / "README.md"
    other.write_text(SECTION + SEARCH)
    assert ttl_table(searched, "--readme", other) == 0
    assert "(docs/search0.png)" in other.read_text()


def test_a_readme_without_the_section_of_searches_is_told(searched):
    (searched / "docs/README.md").write_text(SECTION)
    with pytest.raises(ValueError, match=r"search\.json -> .*expected one section <!-- begin search -->"):
        ttl_table(searched)


def test_other_records_have_sections_of_their_own(bundle, monkeypatch):
    monkeypatch.setattr(table, "emboli_table", lambda content: f"made of {content['what']}\n")
    (bundle / "docs/emboli.json").write_text('{"what": "it"}', encoding="utf-8")
    readme = bundle / "docs/README.md"
    readme.write_text("<!-- begin emboli -->\n<!-- end emboli -->\n" + SECTION, encoding="utf-8")
    assert ttl_table(bundle) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("<!-- begin emboli -->\n\nmade of it\n\n<!-- end emboli -->\n")
    assert "| FTL | - | 0.750 |" in text


def test_tables_of_an_experiment_replace_those_of_the_same_data_and_network(bundle, tmp_path):
    new = {**RESULTS, "max_epochs": 9, "rows": [{**RESULTS["rows"][0], "run": "runs/ftl_none_0"}]}
    other = {**RESULTS, "backbone": "resnet18"}
    (tmp_path / "results.json").write_text(json.dumps({"experiment": "strategies", "tables": [new, other]}))
    assert ttl_table(bundle, "--results", tmp_path / "results.json") == 0
    tables = json.loads((bundle / "docs/results.json").read_text())["tables"]
    assert [(each["backbone"], each["max_epochs"]) for each in tables] == [("resnet50", 9), ("resnet18", 1)]
    assert "runs/" not in json.dumps(tables)
    assert "at most 9 epochs" in (bundle / "docs/README.md").read_text(encoding="utf-8")
