"""`ttl svcca` on tiny runs."""

import csv
import json
import re
import shutil

import matplotlib.image
import pytest
import torch
from monai.bundle import ConfigWorkflow

from tests.bundles.conftest import BUNDLES, TINY, write_tiny_data
from ttl_monai.cli import main
from ttl_monai.engines.compare_runs import compare_runs, initial_network, run_data
from ttl_monai.handlers import RunCheckpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trainings of small networks on one folder of images, and the weights that each started from."""
    folder = tmp_path_factory.mktemp("runs")
    datalist = write_tiny_data(folder / "data")
    starts, begin = {}, RunCheckpoint._start

    def start(self, engine):
        starts[self.run_dir.name] = {key: value.clone() for key, value in self.network.state_dict().items()}
        begin(self, engine)

    cuts = {
        "short": ("tf_efficientnet_lite0", "blocks.0"),
        "long": ("tf_efficientnet_lite0", "blocks.1"),
        "other": ("resnet18", "layer1"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoint, "_start", start)
        for name, (backbone, cut) in cuts.items():
            workflow = ConfigWorkflow(
                [str(BUNDLES / "covid_ttl/configs/train.json"), str(BUNDLES / "covid_ttl/configs/strategy_ttl.json")],
                logging_file=False,
                **TINY,
                **{"network_def#backbone": backbone, "cuts#ttl": cut, "seed": 4, "device": "$torch.device('cpu')"},
                dataset_dir=str(datalist.parent),
                datalist=str(datalist),
                cache_dir=str(folder / "cache"),
                output_dir=str(folder / name),
            )
            workflow.initialize()
            workflow.run()
    return folder, starts


def run(runs, *arguments):
    folder, _ = runs
    named = [str(folder / each) if each in ("short", "long", "other") else each for each in arguments]
    return main(["svcca", *data_of(folder), *named])  # options that are given again win


def data_of(folder):
    return "--dataset_dir", str(folder / "data"), "--datalist", str(folder / "data/tiny.json")


@pytest.mark.parametrize("name", ["short", "long"])
def test_the_initial_network_is_the_one_that_training_started_from(runs, name):
    folder, starts = runs
    state = torch.get_rng_state()
    network = initial_network(folder / name)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    found = network.state_dict()
    assert found.keys() == starts[name].keys()
    assert all(torch.equal(found[key], starts[name][key]) for key in found)


def test_random_weights_of_another_torch_are_refused(runs, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "long", tmp_path / "long")
    record = json.loads((tmp_path / "long/run.json").read_text())
    record["versions"]["torch"] = "1.0"
    (tmp_path / "long/run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"tensors of long started from random numbers that torch 1\.0 drew"):
        initial_network(tmp_path / "long")


def test_a_run_against_its_start_writes_figures_table_and_document(runs, capsys):
    folder, _ = runs
    assert run(runs, "initial", "long", "--points", "block") == 0
    out = folder / "long/svcca"
    document = json.loads((out / "similarity.json").read_text())
    assert document["runs"] == ["initial", "long"]
    assert document["data"]["images"] == 24, "training and validation, without the 7 test images"
    names = [each["point"] or "whole" for each in document["points"]]
    assert names[-2:] == ["blocks.1.0", "whole"]
    assert document["matrix"]["points"] == names
    rows = list(csv.DictReader((out / "similarity.csv").open()))
    assert [row["point"] for row in rows] == names
    assert [float(row["overlap"]) for row in rows] == [each["overlap"] for each in document["points"]]
    for name in ("similarity.png", "matrix.png"):
        assert matplotlib.image.imread(out / name).shape[0] > 300
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert "Transition: " in printed
    assert str(folder) not in (out / "similarity.json").read_text()


def test_runs_cut_at_other_points_are_compared_where_both_have_features(runs, tmp_path):
    arguments = ("--points", "block", "--out", str(tmp_path), "--no-matrix", "--images", "9", "--null", "permute")
    assert run(runs, "long", "short", *arguments) == 0
    document = json.loads((tmp_path / "similarity.json").read_text())
    # the end of the short one is in the middle of the long one: no end in common
    assert document["points"][-1]["point"] == "blocks.0.0"
    assert document["data"]["images"] == 9
    assert document["matrix"] is None
    assert {each["null"] for each in document["points"]} == {"permute"}
    assert not (tmp_path / "matrix.png").exists()


def test_named_points_and_a_moved_folder(runs, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "data", tmp_path / "moved")
    moved = ("--dataset_dir", str(tmp_path / "moved"), "--datalist", str(tmp_path / "moved/tiny.json"))
    found = {}
    for name, more in (("here", ()), ("there", moved)):
        out = tmp_path / name
        assert run(runs, "long", "long", "--points", "blocks.0", "blocks.1.0", "--out", str(out), *more) == 0
        found[name] = json.loads((out / "similarity.json").read_text())
    assert found["here"] == found["there"]
    assert [each["point"] for each in found["here"]["points"]] == ["blocks.0.0", "blocks.1.0"]
    assert all(min(each["coefficients"]) > 0.99 for each in found["here"]["points"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["long", "other"], "no points in common: long has blocks.0.0, blocks.1.1; other has layer1.1"),
        (["short", "long", "--points", "blocks.1"], "short has no point 'blocks.1'"),
        (["nowhere", "long"], "nowhere is no training run: expected a folder with model.json"),
        (["initial", "nowhere"], "nowhere is no training run"),
        (["initial", "long", "--dataset_dir", "gone"], "gone does not exist here: say by --dataset_dir"),
        (["initial", "long", "--images", "0"], "--images must be at least 1, got 0"),
        (["initial", "long", "--variance", "2"], r"share in \(0, 1\]"),
    ],
)
def test_what_cannot_be_compared_is_said(runs, capsys, arguments, message):
    assert run(runs, *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_made_data_are_found_in_the_bundle_or_asked_for(runs, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "long", tmp_path / "loose")
    record = json.loads((tmp_path / "loose/run.json").read_text())
    record["config"] |= {"dataset_dir": None, "datalist": None, "demo_dir": "$@bundle_root + '/data/demo'"}
    (tmp_path / "loose/run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="lies in no bundle: pass --dataset_dir and --datalist"):
        run_data(tmp_path / "loose")
    assert run_data(tmp_path / "loose", folder / "data", folder / "data/tiny.json").name == "tiny"


def test_a_run_keeps_no_path_of_its_data_which_are_asked_for(runs, tmp_path, caplog):
    folder, _ = runs
    record = json.loads((folder / "long/run.json").read_text())
    assert str(folder) not in json.dumps(record)
    passed = ("dataset_dir", "datalist", "cache_dir", "output_dir")
    assert {name: record["config"][name] for name in passed} == dict.fromkeys(passed, "given")
    assert record["config"]["bundle_root"].startswith("$"), "expressions of the bundle stay"
    with pytest.raises(ValueError, match=r"long keeps no path of the data .* pass --dataset_dir and --datalist"):
        run_data(folder / "long")
    with pytest.raises(ValueError, match="--datalist was given without --dataset_dir"):
        run_data(folder / "long", None, folder / "data/tiny.json")
    run_data(folder / "long", folder / "data", folder / "data/tiny.json")
    assert not caplog.messages
    other = write_tiny_data(tmp_path / "data", counts=(4, 4, 4))
    run_data(folder / "long", other.parent, other)
    assert caplog.messages == ["long was trained on another datalist than the given one (by SHA-256)."]


def test_one_image_in_each_batch_gives_the_same(runs):
    folder, _ = runs
    one, many = (
        compare_runs(
            *("initial", folder / "short"),
            dataset_dir=folder / "data",
            datalist=folder / "data/tiny.json",
            points="block",
            batch_size=size,
            matrix=False,
        )
        for size in (1, 24)
    )
    for a, b in zip(one["points"], many["points"], strict=True):
        assert a["coefficients"] == pytest.approx(b["coefficients"], abs=1e-4)
