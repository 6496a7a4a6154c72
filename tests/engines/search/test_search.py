"""A whole search on tiny images, with a worker process."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from monai.bundle import ConfigWorkflow

from tests.bundles.conftest import BUNDLES, TINY, refused, write_tiny_data
from ttl_monai.engines.configs import open_workflow
from ttl_monai.engines.search import TruncationSearch
from ttl_monai.engines.search.methods import Outcome

BUNDLE = BUNDLES / "covid_ttl"
POINTS = ["blocks.0", "blocks.1.0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tiny images, in which an exhaustive search has run."""
    folder = tmp_path_factory.mktemp("search")
    write_tiny_data(folder / "data")
    make_search(folder, method="exhaustive", evaluate=True).run()
    return folder


def make_search(folder, **changes):
    values = {
        "dataset_dir": folder / "data",
        "datalist": folder / "data" / "tiny.json",
        "output_dir": folder / "out",
        "repeats": 2,
        "candidates": POINTS,
        "settings": {**TINY, "cache_dir": str(folder / "cache")},
        "workers": 1,
        "threads": 1,
        "command": "ttl search ...",
    }
    return TruncationSearch(BUNDLE, **{**values, **changes})


def read(folder, name="search.json"):
    return json.loads((folder / "out" / name).read_text())


@pytest.mark.distributed
def test_a_search_leaves_record_table_picture_and_overlay(place, tmp_path):
    document = read(place)
    assert [row["point"] for row in document["curve"]] == ["blocks.0.0", "blocks.1.0", None]
    assert all(len(row["values"]) == 2 for row in document["curve"])
    (method,) = document["methods"]
    assert (method["method"], method["cells"], method["done"]) == ("exhaustive", 6, 6)
    assert method["seconds"] == pytest.approx(sum(sum(row["seconds"]) for row in document["curve"]), abs=0.1)
    assert "exhaustive" in (place / "out" / "search.md").read_text()
    assert (place / "out" / "search.png").read_bytes().startswith(b"\x89PNG")
    if method["pick"] is not None:  # the overlay trains what was chosen
        files = [str(BUNDLE / "configs" / "train.json"), str(place / "out" / "strategy_ttl.json")]
        data = {"dataset_dir": str(place / "data"), "datalist": str(place / "data" / "tiny.json")}
        workflow = open_workflow(files, {**TINY, **data, "output_dir": str(tmp_path)})
        assert workflow.parser["network_def"]["truncate_at"] == method["pick"]


@pytest.mark.distributed
def test_no_training_saw_the_test_section(place):
    hidden = {entry["image"] for entry in json.loads((place / "data" / "tiny.json").read_text())["test"]}
    lists = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in (place / "out").rglob("*.json")}
    runs = list((place / "out" / "runs").glob("*/*/run.json"))
    assert len(runs) == 6
    for path in runs:
        listed = json.loads(lists[json.loads(path.read_text())["data"]["sha256"]].read_text())
        assert not hidden & {entry["image"] for section in ("training", "validation") for entry in listed[section]}
        assert listed["test"] == []


@pytest.mark.distributed
def test_the_test_section_is_opened_after_the_choice(place):
    test = read(place)["test"]
    assert test["metric"] == "test_auprc"
    assert {row["strategy"] for row in test["rows"]} <= {"TTL", "FTL"}
    assert all(len(row["values"]) == 2 for row in test["rows"])


@pytest.mark.distributed
def test_another_method_takes_what_is_trained(place):
    before = {path.name: path.stat().st_mtime_ns for path in (place / "out" / "results").iterdir()}
    document = make_search(place, method="two-stage", workers=0).run()  # without a worker, it would wait for ever
    assert {path.name: path.stat().st_mtime_ns for path in (place / "out" / "results").iterdir()} == before
    assert [row["method"] for row in document["methods"]] == ["two-stage", "exhaustive"]
    assert document["methods"][0]["cells"] == 6


@pytest.mark.distributed
def test_the_config_is_the_same_search(place):
    workflow = ConfigWorkflow(
        str(BUNDLE / "configs" / "search.json"),
        logging_file=False,
        workflow_type="train",
        method="exhaustive",
        dataset_dir=str(place / "data"),
        datalist=str(place / "data" / "tiny.json"),
        output_dir=str(place / "out"),
        repeats=2,
        candidates=POINTS,
        settings={**TINY, "cache_dir": str(place / "cache")},
        workers=0,
    )
    workflow.initialize()
    before = len(list((place / "out" / "results").iterdir()))
    workflow.run()
    assert len(list((place / "out" / "results").iterdir())) == before
    assert "exhaustive" in [row["method"] for row in read(place)["methods"]]


@pytest.mark.distributed
def test_the_record_of_a_search_with_other_settings_is_set_aside(place, tmp_path):
    shutil.copytree(place / "out", tmp_path / "out")
    before = read(place)
    document = make_search(place, method="exhaustive", rule="best", output_dir=tmp_path / "out", workers=0).run()
    assert (document["rule"], [row["method"] for row in document["methods"]]) == ("best", ["exhaustive"])
    (aside,) = (tmp_path / "out").glob("search-*.json")
    assert json.loads(aside.read_text()) == before


@pytest.mark.parametrize(("made_by", "stays"), [("probe", True), ("svcca", False)])
def test_a_method_that_names_no_cut_leaves_the_overlay_of_another(tmp_path, made_by, stays):
    overlay = tmp_path / "out" / "strategy_ttl.json"
    overlay.parent.mkdir()
    overlay.write_text(json.dumps({"_desc_": f"At the point that `ttl search --method {made_by}` chose."}))
    search = make_search(tmp_path, method="svcca")
    search._write_choice(None, Outcome("svcca", False, None, "too few samples", ()))
    assert overlay.is_file() == stays


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/ttl", "search", "--out", "a b"], "ttl search --out 'a b'"),
        (["/lib/ttl_monai/cli/__main__.py", "search"], "ttl search"),
        (["/lib/monai/bundle/__main__.py", "run"], "python -m monai.bundle run"),
        (["benchmarks/search.py", "--work", "W"], "python benchmarks/search.py --work W"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_was_typed(tmp_path, monkeypatch, words, expected):
    monkeypatch.setattr(sys, "argv", words)
    assert make_search(tmp_path).again == expected


def test_a_misspelt_option_of_the_config_is_refused():
    workflow = ConfigWorkflow(
        str(BUNDLE / "configs" / "search.json"), logging_file=False, workflow_type="train", methud="probe"
    )
    with refused("'methud' is no setting here; did you mean 'method'"):
        workflow.initialize()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("svcca", "determined", "reason"),
    [
        # One or two directions a side at the end of the network, where there is one sample an image.
        ({"variance": 0.3}, True, "the end of the network is the last stage end distinct from random features"),
        ({}, False, "too few samples: 24 at the end of the network"),
    ],
)
def test_svcca_compares_the_trained_network_with_the_one_before(place, svcca, determined, reason):
    trained = {path.name for path in (place / "out" / "runs").iterdir()}
    overlay = place / "out" / "strategy_ttl.json"
    before = overlay.read_bytes()
    document = make_search(place, method="svcca", svcca=svcca).run()
    row = next(row for row in document["methods"] if row["method"] == "svcca")
    assert reason in row["reason"]
    assert (row["determined"], row["pick"], row["cells"]) == (determined, None, 2)
    points = {each["point"]: each for each in document["svcca"]}
    assert list(points) == ["blocks.0.0", "blocks.1.0", None]
    assert points["blocks.0.0"]["n"] == 24 * 16 * 16  # every position of every image of training and validation
    assert min(points["blocks.0.0"]["quartiles"]) > max(points["blocks.0.0"]["null_quartiles"])
    assert overlay.read_bytes() == before  # that of another method stays where no cut is named
    assert {path.name for path in (place / "out" / "runs").iterdir()} >= trained


@pytest.mark.distributed
@pytest.mark.slow
def test_the_probe_needs_no_training_and_is_a_model(place, tmp_path):
    document = make_search(place, method="probe", evaluate=True).run()
    probe = next(row for row in document["methods"] if row["method"] == "probe")
    assert probe["before_training"]["seconds"] < probe["seconds"]
    rows = {row["strategy"]: row for row in document["test"]["rows"]}
    assert len(rows["PROBE"]["values"]) == 2
    assert (place / "out" / "probe" / "repeat1" / "model.json").is_file()


@pytest.mark.distributed
@pytest.mark.slow
def test_ctrl_c_stops_in_order_and_the_same_command_goes_on(tmp_path):
    write_tiny_data(tmp_path / "data")
    settings = {**TINY, "cache_dir": str(tmp_path / "cache")}
    command = [
        *(sys.executable, "-W", "ignore", "-m", "ttl_monai.cli", "search", "--bundle", str(BUNDLE)),
        *("--method", "exhaustive", "--dataset_dir", str(tmp_path / "data")),
        *("--datalist", str(tmp_path / "data" / "tiny.json"), "--repeats", "2", "--candidates", *POINTS),
        *("--out", str(tmp_path / "out"), "--workers", "1", "--threads", "1"),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]
    results = tmp_path / "out" / "results"
    # A shell's background job, as these tests may run in, hands on that this signal is ignored.
    own = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **own)
    deadline = time.monotonic() + 200
    while not list(results.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert f"this goes on:\n  ttl search --bundle {BUNDLE} --method exhaustive" in said
    assert f"--out {tmp_path / 'out'}" in said
    finished = {path.name: path.read_bytes() for path in results.glob("*.json")}
    assert 1 <= len(finished) < 6
    listing = shutil.which("ps")
    if listing:
        running = subprocess.run([listing, "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert str(tmp_path / "out") not in running
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert again.returncode == 0, again.stderr
    after = {path.name: path.read_bytes() for path in results.glob("*.json")}
    assert len(after) == 6
    assert {name: after[name] for name in finished} == finished


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "guess"}, "method must be one of two-stage, probe, svcca, exhaustive, got 'guess'"),
        ({"datalist": None}, "pass both dataset_dir and datalist, or neither"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        make_search(tmp_path, **changes)
    assert not (tmp_path / "out").exists()
