"""Experiments from the command line: one small one in the quick suite, and the demo of each."""

import json
import logging
import re

import pytest

from tests.bundles.conftest import BUNDLES, write_tiny_data
from ttl_monai.cli import main
from ttl_monai.cli.experiment import available
from ttl_monai.handlers.files import file_sha256

TINY = ["spatial_size=32", "batch_size=8", "max_epochs=1", "learning_rate=1e-3", "network_def#weights=none"]
FOREIGN = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small comparison of the smallest networks, and its command."""
    folder = tmp_path_factory.mktemp("experiment")
    listed = write_tiny_data(folder / "data")
    out = folder / "out"

    def run(*words, rows=("TTL:blocks.0", "TTL:stem"), settings=TINY):
        data = ["--dataset_dir", str(listed.parent), "--datalist", str(listed), "--seeds", "0", "--out", str(out)]
        return main(["experiment", "strategies", *data, "--rows", *rows, "--set", *settings, *words])

    said = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append((record.name, record.getMessage()))
    logging.getLogger().addHandler(listener)
    assert run() == 0
    logging.getLogger().removeHandler(listener)
    (folder / "said.json").write_text(json.dumps(said))
    return out, run


def test_it_says_one_line_a_cell_and_one_an_epoch(finished):
    said = json.loads((finished[0].parent / "said.json").read_text())
    epochs = [text for name, text in said if name == "ttl_monai.handlers.record.epochs"]
    assert len(epochs) == 2
    line = r"  epoch 1 of 1: train_loss \d\.\d{4}, val_auprc (0\.\d{4}|1\.0000) \(best \1, epoch 1\), \d+ s"
    assert all(re.fullmatch(line, text) for text in epochs)
    assert not [name for name, _ in said if name.startswith(("ignite", "ttl_monai.networks", "ttl_monai.validation"))]
    for name in ("ignite", "ttl_monai", "ttl_monai.validation"):  # left as they were
        assert not logging.getLogger(name).filters
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_the_results_have_what_readers_of_them_need(finished):
    out, _ = finished
    results = json.loads((out / "results.json").read_text())
    assert results["experiment"] == "strategies"
    assert str(out.parent) not in json.dumps(results)
    assert results["command"].startswith("ttl experiment strategies --dataset_dir DATA/data --datalist LISTS/tiny.json")
    (table,) = results["tables"]
    assert (table["dataset"], table["weights"], table["spatial_size"], table["max_epochs"]) == ("tiny", "none", 32, 1)
    for row in table["rows"]:
        assert {"params", "trainable_params", "macs", "latency_ms", "seconds"} <= row.keys()
        assert {"split", "seed", "val_auprc", "test_auroc", "test_auprc", "best_epoch", "wall_s"} <= row["repeats"][
            0
        ].keys()
        assert (out / row["run"] / "model.pt").is_file()
        assert row["published"]["source"] == "supplement, Table 3"
    found = {each["metric"]: each for each in table["differences"]}
    assert list(found) == ["test_auroc", "test_auprc"]
    values = [row["repeats"][0]["test_auroc"] for row in table["rows"]]
    assert found["test_auroc"]["mean"] == pytest.approx(values[1] - values[0], abs=1e-5)
    assert (found["test_auroc"]["a"], found["test_auroc"]["b"], found["test_auroc"]["p"]) == (
        "TTL stem",
        "TTL blocks.0",
        None,
    )


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_a_part_writes_no_results(finished):
    out, run = finished
    (out / "results.json").unlink()
    assert run("--only", "TTL:stem") == 0
    assert not (out / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*") if path.is_file()}
    assert run() == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*") if path.is_file()} == before


def test_a_folder_of_other_settings_or_data_is_refused(finished, capsys):
    _, run = finished
    assert run(settings=[*TINY, "patience=3"]) == 2
    assert re.search(
        r"made with other settings or data.*: patience 5 instead of 3\. Give another", capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_datalist_that_has_changed_is_refused(finished, capsys):
    out, run = finished
    listed = out.parent / "data" / "tiny.json"
    text = listed.read_text()
    listed.write_text(text.replace('"made_by": "tests"', '"made_by": "others"'))
    assert run() == 2
    assert "SHA-256 of the datalist" in capsys.readouterr().err
    listed.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["TTL:layer9"], "expected the name of a truncation point, got 'layer9'"),
        (["FTL", "FTL"], "expected at least one row and none twice, got FTL, FTL"),
    ],
)
def test_a_bad_row_is_refused_before_anything_is_trained(finished, capsys, rows, message):
    _, run = finished
    assert run(rows=rows) == 2
    assert message in capsys.readouterr().err
    assert run("--only", "TTL:blocks.1") == 2
    assert "only 'TTL:blocks.1' names no row: expected some of TTL:blocks.0, TTL:stem" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_starts_from_the_network_that_another_run_has_left(finished, tmp_path):
    out, _ = finished
    source = out / "runs" / "ttl_blocks.0_0" / "model.pt"
    target = tmp_path / "out"
    words = ["--rows", "TTL:stem", "--set", *TINY[:-1], f"network_def#weights={source}", "--out", str(target)]
    data = ["--dataset_dir", str(out.parent / "data"), "--datalist", str(out.parent / "data" / "tiny.json")]
    assert main(["experiment", "strategies", *data, *words]) == 0
    weights = json.loads((target / "runs/ttl_stem_0/run.json").read_text())["weights"]
    assert weights["sha256"] == file_sha256(source)
    assert (weights["source"], weights["reinitialised_backbone"]) == ("model.pt", 0)
    assert weights["loaded"] > 0
    assert weights["reinitialised"] == 2  # the head


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(available()))
def test_the_demo_leaves_results_and_a_page_that_needs_no_other_host(name, tmp_path):
    assert main(["experiment", name, "--demo", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == f"ttl experiment {name} --demo --out OUT"
    assert all((tmp_path / each["file"]).is_file() for each in results.get("figures", ()))
    rows = [row for table in results["tables"] for row in table["rows"]]
    assert rows
    assert all({"strategy", "cut", "metrics", "params", "macs", "seconds", "published"} <= row.keys() for row in rows)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not FOREIGN.search(page)


@pytest.mark.slow
def test_the_metrics_change_with_the_seed(tmp_path):
    found = []
    for seed in ("0", "1"):
        # The same split: what changes is the training.
        words = ["--demo", "--set", "resplit=False", "--seeds", seed, "--rows", "TTL:blocks.1"]
        assert main(["experiment", "strategies", *words, "--out", str(tmp_path / seed)]) == 0
        (table,) = json.loads((tmp_path / seed / "results.json").read_text())["tables"]
        found.append([table["rows"][0]["repeats"][0][name] for name in ("val_auprc", "test_auprc", "test_auroc")])
    assert found[0] != found[1]


@pytest.mark.slow
def test_pooled_rows_come_from_the_ledger_of_a_search(tmp_path, capsys):
    listed = write_tiny_data(tmp_path / "data")
    bundle, search, out = str(BUNDLES / "covid_ttl"), tmp_path / "search", tmp_path / "out"
    words = ["--bundle", bundle, "--dataset_dir", str(listed.parent), "--datalist", str(listed), "--out", str(search)]
    words += [word for text in TINY for word in ("--set", text)]
    points = ["--candidates", "blocks.0", "blocks.1", "--method", "exhaustive", "--repeats", "2", "--workers", "1"]
    assert main(["search", *words, *points]) == 0
    kept = {path: path.read_bytes() for path in search.rglob("*.json")}
    assert main(["experiment", "pooling", "--search", str(search), "--out", str(out)]) == 0
    assert {path: path.read_bytes() for path in search.rglob("*.json")} == kept  # its test section stays sealed
    results = json.loads((out / "results.json").read_text())
    rows = {(row["strategy"], row["cut"]): row for row in results["tables"][0]["rows"]}
    kinds = [("FTL", None), ("TTL", "blocks.0.0"), ("TTL", "blocks.1.1")]
    assert list(rows) == [key for s, cut in kinds for key in ((s, cut), (f"{s}, flattened", cut))]
    values = json.loads((search / "search.json").read_text())["curve"]
    for each in values:
        row = rows["TTL" if each["point"] else "FTL", each["point"]]
        assert [repeat["val_auprc"] for repeat in row["repeats"]] == pytest.approx(each["values"])
    assert rows["TTL, flattened", "blocks.0.0"]["params"] > rows["TTL", "blocks.0.0"]["params"]
    words = ["--search", str(search), "--set", "points=[blocks.2.1]", "--out", str(tmp_path / "other")]
    assert main(["experiment", "pooling", *words]) == 2
    assert "has not trained blocks.2.1; it has blocks.0.0, blocks.1.1" in capsys.readouterr().err
    assert {each["a"] for each in results["tables"][0]["differences"]} == {"FTL", "TTL blocks.0.0", "TTL blocks.1.1"}
