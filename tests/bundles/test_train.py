import copy
import csv
import json
import math
import signal
import subprocess
import sys
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import ttl_monai.data
from ttl_monai.data import make_phantom
from ttl_monai.networks import backbones

from .conftest import BUNDLES, TINY, refused


def history(folder):
    return json.loads((folder / "run.json").read_text())["history"]


@pytest.mark.parametrize(
    ("bundle", "strategy", "knob"),
    [
        ("covid_ttl", None, {}),
        ("covid_ttl", "htl", {"freeze_up_to": "all"}),
        ("covid_ttl", "lwft", {"freeze_up_to": "blocks.1"}),
        ("covid_ttl", "tf", {"slim_after": "blocks.3"}),
        ("covid_ttl", "ttl", {"truncate_at": "blocks.3"}),
        ("ctpa_ttl", None, {}),
        ("ctpa_ttl", "htl", {"freeze_up_to": "all"}),
        ("ctpa_ttl", "lwft", {"freeze_up_to": "layer1"}),
        ("ctpa_ttl", "tf", {"slim_after": "layer2"}),
        ("ctpa_ttl", "ttl", {"truncate_at": "layer2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_strategy_trains_an_epoch(make_workflow, tmp_path, bundle, strategy, knob):
    overlays = [] if strategy is None else [f"strategy_{strategy}.json"]
    workflow = make_workflow("train.json", *overlays, bundle=bundle)
    assert workflow.check_properties() == []
    start = {k: v.clone() for k, v in workflow.parser.get_parsed_content("network_def").state_dict().items()}
    workflow.run()
    workflow.finalize()
    run, model = (json.loads((tmp_path / "run" / name).read_text()) for name in ("run.json", "model.json"))
    assert run["status"] == "finished"
    assert math.isfinite(run["history"][0]["train_loss"])
    assert {**model["network_def"], **knob} == model["network_def"]
    assert model["network_def"]["num_classes"] == 2
    resize = model["preprocessing"]["transforms"][-1]
    assert resize["_target_"] == "Resized"
    assert resize["spatial_size"] == {"covid_ttl": [32, 32], "ctpa_ttl": [36, 36, -1]}[bundle]
    assert (tmp_path / "run/curves.png").exists()
    state = torch.load(tmp_path / "run/model.pt", weights_only=True)
    moved = {name for name in state if not torch.equal(state[name], start[name])}
    assert "head.weight" in {name.split("head.")[0] + "head.weight" for name in moved if "head" in name}
    if "HTL" in run["strategy"]:
        assert all("backbone" not in name for name in moved), "a frozen backbone moved"
    else:
        assert any("backbone" in name for name in moved)


def test_svcca_is_written_and_changes_nothing(make_workflow, tmp_path):
    """Similarity falls from 1; the weights are those of a training without it, and a resumed run goes on."""
    own = {"svcca#images": 5, "network_def#backbone": "resnet18", "network_def#truncate_at": "layer1"}
    own["svcca#points"] = ["layer1.0", "layer1.1"]
    settings = {key: value for key, value in own.items() if "svcca" not in key}
    make_workflow("train.json", output_dir=str(tmp_path / "plain"), max_epochs=2, **settings).run()
    for name, epochs, resume in (("svcca", 1, "never"), ("svcca", 2, "auto"), ("straight", 2, "never")):
        folder = str(tmp_path / name)
        make_workflow("train.json", "svcca.json", output_dir=folder, max_epochs=epochs, resume=resume, **own).run()
    rows = [list(csv.DictReader((tmp_path / name / "svcca.csv").open())) for name in ("svcca", "straight")]
    assert rows[0] == rows[1]
    found = [(row["epoch"], row["point"], row["n"]) for row in rows[0]]
    assert found == [(epoch, point, "320") for epoch in "12" for point in ("layer1.0", "layer1.1")]
    assert all(0 < float(row["mean"]) < 0.9999 for row in rows[0])
    assert list((tmp_path / "svcca/tensorboard").iterdir())
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["network"] for name in ("plain", "straight")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_settings_come_from_the_protocol_on_own_data(make_workflow):
    workflow = make_workflow("train.json", spatial_size=..., batch_size=..., max_epochs=..., learning_rate=...)
    get = workflow.parser.get_parsed_content
    assert [get(key) for key in ("spatial_size", "cached_size", "batch_size", "max_epochs", "learning_rate")] == [
        224,
        256,
        64,
        200,
        1e-4,
    ]
    scheduler = get("lr_scheduler")
    assert (scheduler.mode, scheduler.factor, scheduler.patience) == ("max", 0.5, 5)


def test_nothing_is_written_into_the_working_directory(make_workflow, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    workflow = make_workflow("train.json", "strategy_ttl.json", **{"cuts#ttl": "blocks.0"})
    workflow.run()
    assert list((tmp_path / "cwd").iterdir()) == []


# Trains as `monai.bundle run` does, and is killed without warning in the middle of its second epoch.
KILLED = """
import json, os, signal, sys
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
workflow = ConfigWorkflow(json.loads(sys.argv[1]), logging_file=False, **json.loads(sys.argv[2]))
workflow.initialize()
workflow.parser.get_parsed_content("train#trainer").add_event_handler(
    Events.ITERATION_COMPLETED(once=3), lambda engine: os.kill(os.getpid(), signal.SIGKILL))
workflow.run()
"""


def test_a_run_killed_and_resumed_ends_with_the_same_weights(make_workflow, tiny_data, tmp_path):
    settings = {"max_epochs": 3, "cuts#ttl": "blocks.1"}
    make_workflow("train.json", "strategy_ttl.json", output_dir=str(tmp_path / "straight"), **settings).run()
    configs = [str(BUNDLES / "covid_ttl/configs" / name) for name in ("train.json", "strategy_ttl.json")]
    overrides = {
        **TINY,
        **settings,
        "dataset_dir": str(tiny_data.parent),
        "datalist": str(tiny_data),
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "killed"),
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(configs), json.dumps(overrides)], capture_output=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(history(tmp_path / "killed")) == 1
    make_workflow(
        "train.json", "strategy_ttl.json", output_dir=str(tmp_path / "killed"), resume="auto", **settings
    ).run()
    for name in ("model.pt", "last.pt"):
        a, b = (torch.load(tmp_path / folder / name, weights_only=True) for folder in ("straight", "killed"))
        a, b = (state.get("network", state) for state in (a, b))
        assert all(torch.equal(a[key], b[key]) for key in a), name
    best = [json.loads((tmp_path / name / "model.json").read_text())["epoch"] for name in ("straight", "killed")]
    assert best[0] == best[1]


def test_a_run_that_ended_at_the_floor_trains_no_more(make_workflow, tmp_path):
    settings = {"cuts#ttl": "blocks.0", "max_epochs": 9, "min_learning_rate": 9e-4, "patience": 0}
    for resume in ("never", "auto"):
        make_workflow("train.json", "strategy_ttl.json", resume=resume, **settings).run()
        rows = history(tmp_path / "run")
        assert len(rows) < 9, "the rate did not fall below the floor"
        if resume == "never":
            first = rows
    assert rows == first


def test_a_new_training_moves_the_old_one_aside(make_workflow, trained, tmp_path):
    old = (trained / "model.pt").read_bytes()
    make_workflow("train.json", "strategy_ttl.json", **{"cuts#ttl": "blocks.0"}).run()
    assert (trained / "model.pt").read_bytes() != old
    (aside,) = [path for path in tmp_path.iterdir() if path.name.startswith("run-")]
    assert (aside / "model.pt").read_bytes() == old


def test_the_flatten_head_fits_the_image_size(make_workflow, tmp_path):
    make_workflow("train.json", "strategy_ttl.json", **{"cuts#ttl": "blocks.3", "network_def#head": "flatten"}).run()
    assert torch.load(tmp_path / "run/model.pt", weights_only=True)["head.1.weight"].shape == (2, 80 * 2 * 2)


def test_a_nan_loss_names_the_images_of_its_batch(make_workflow):
    workflow = make_workflow("train.json", "strategy_ttl.json", learning_rate=1e30, max_epochs=3)
    with refused("training loss is (nan|inf).*images/0"):
        workflow.run()


@pytest.mark.parametrize(("strategy", "more"), [("htl", {}), ("lwft", {"cuts#lwft": "blocks.1"})])
def test_cached_features_train_the_same_network(make_workflow, tmp_path, strategy, more):
    """Without augmentation, features served from memory give the training that computing them anew gives."""
    states = []
    for name, cached in (("plain", False), ("cached", True)):
        workflow = make_workflow(
            "train.json",
            f"strategy_{strategy}.json",
            output_dir=str(tmp_path / name),
            cache_features=cached,
            **more,
            **{
                "max_epochs": 2,
                "rotate_degrees": 0.0,
                "cached_size": 32,
                "network_def#truncate_at": "blocks.2",
                "memory_format": "contiguous_format",
            },
        )
        workflow.run()
        states.append(torch.load(tmp_path / name / "last.pt", weights_only=True)["network"])
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], atol=2e-3, rtol=2e-3, msg=key)


def test_cached_features_of_windows_are_told_apart(make_workflow, tmp_path):
    """Each window has its own features, though windows of one series share its id: the validation stays the same."""
    histories = []
    for cached in (False, True):
        folder = tmp_path / f"run{cached}"
        # a rate that moves nothing: only the features could make a difference
        make_workflow(
            "train.json",
            "strategy_htl.json",
            bundle="ctpa_ttl",
            output_dir=str(folder),
            cache_features=cached,
            learning_rate=1e-8,
            min_learning_rate=1e-9,
        ).run()
        histories.append({k: v for k, v in history(folder)[0].items() if k.startswith("val_")})
    assert histories[0] == pytest.approx(histories[1], abs=1e-6)


def test_accumulated_steps_are_one_step_of_all_their_windows(make_workflow, tmp_path, monkeypatch):
    """Without batch norm, the gradients of two batches of 4 windows move the weights as those of one batch of 8."""
    torch.manual_seed(0)
    layers = {"conv1": nn.Conv3d(1, 4, 3, stride=2), "act": nn.ReLU(), "conv2": nn.Conv3d(4, 8, 3, stride=2)}
    monkeypatch.setitem(backbones.REGISTRY, "plain3d", lambda: nn.Sequential(copy.deepcopy(OrderedDict(layers))))
    plain = {"network_def#backbone": "plain3d", "optimizer#_target_": "torch.optim.SGD", "learning_rate": 10.0}
    still = {"flip": False, "rotate_degrees": 0.0, "crop_from": 32}  # else each batch draws its own
    states = {}
    for name, batch_size, steps in (("at once", 8, 1), ("in two", 4, 2), ("half", 4, 1)):
        batches = 2 if name == "in two" else 1
        own = {"batch_size": batch_size, "accumulation_steps": steps, "train#trainer#epoch_length": batches}
        folder = tmp_path / name
        workflow = make_workflow("train.json", bundle="ctpa_ttl", output_dir=str(folder), **plain, **still, **own)
        start = copy.deepcopy(workflow.parser.get_parsed_content("network_def").state_dict())
        workflow.run()
        states[name] = torch.load(folder / "last.pt", weights_only=True)["network"]
    for key, value in states["at once"].items():
        torch.testing.assert_close(states["in two"][key], value, rtol=0, atol=1e-5, msg=key)
    for other in (start, states["half"]):
        assert max((value - other[key]).abs().max() for key, value in states["at once"].items()) > 1e-3


def test_cached_features_need_a_frozen_part(make_workflow):
    with refused("nothing is frozen|no frozen part"):
        make_workflow("train.json", cache_features=True).run()


def test_mlflow_on_request_keeps_its_store_in_the_run_folder(make_workflow, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is an extra: pip install 'ttl-monai[tracking]'")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    make_workflow("train.json", "strategy_ttl.json", tracking="mlflow", **{"cuts#ttl": "blocks.0"}).run()
    assert (tmp_path / "run/mlruns.db").stat().st_size > 0
    assert list((tmp_path / "cwd").iterdir()) == []


def evaluate(make_workflow, trained, *more, **overrides):
    overrides = {"output_dir": ..., "run_dir": str(trained), **overrides}
    workflow = make_workflow("train.json", *more, "evaluate.json", **overrides)
    workflow.run()
    workflow.finalize()
    return json.loads((trained / "test/metrics.json").read_text())


def test_evaluation_reads_everything_from_the_run(make_workflow, trained, tiny_data):
    metrics = evaluate(make_workflow, trained)
    model = json.loads((trained / "model.json").read_text())
    assert metrics["n"] == 7
    assert metrics["model_sha256"] == model["sha256"]
    assert metrics["test_threshold"] == model["threshold"]
    assert metrics["same_datalist_as_training"] is True
    rows = list(csv.DictReader((trained / "test/predictions.csv").open()))
    assert [row["patient"] for row in rows] == [item["patient"] for item in json.loads(tiny_data.read_text())["test"]]
    scores = np.array([float(row["probability_positive"]) for row in rows])
    positive = np.array([row["label"] == "positive" for row in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert metrics["test_auroc"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert [row["decision"] == "positive" for row in rows] == list(scores >= model["threshold"])
    assert (trained / "test/roc_pr.png").stat().st_size > 1000


def test_a_network_that_differs_from_the_run_is_an_error_naming_both(make_workflow, trained):
    with refused(r'asks for \{"truncate_at": "blocks.2"\}.*trained with \{"truncate_at": "blocks.1"\}'):
        evaluate(make_workflow, trained, **{"network_def#truncate_at": "blocks.2"})


@pytest.mark.parametrize("config", ["evaluate.json", "inference.json"])
def test_the_made_images_never_stand_in_for_own_data(make_workflow, trained, config, monkeypatch):
    monkeypatch.setattr(ttl_monai.data, "demo_phantom", partial(make_phantom, patients=6, size=(96, 112)))
    names = [config] if config == "inference.json" else ["train.json", config]
    quiet = dict.fromkeys(("spatial_size", "max_epochs", "learning_rate", "network_def#weights"), ...)
    workflow = make_workflow(
        *names,
        run_dir=str(trained),
        demo_dir=str(trained.parent / "demo"),
        **quiet | {"dataset_dir": ..., "datalist": ..., "output_dir": ...},
    )
    with refused("the run was not trained on the made images"):
        workflow.run()


def test_a_changed_checkpoint_is_refused(make_workflow, trained):
    state = torch.load(trained / "model.pt", weights_only=True)
    torch.save(state | {"mean": state["mean"] + 1}, trained / "model.pt")
    with refused("SHA-256 differs"):
        evaluate(make_workflow, trained)


def test_prediction_of_a_folder_equals_the_evaluation(make_workflow, trained, tiny_data, tmp_path):
    evaluate(make_workflow, trained)
    workflow = make_workflow(
        "inference.json",
        workflow_type="infer",
        run_dir=str(trained),
        file_names=True,
        datalist=...,
        output_dir=str(tmp_path / "out"),
        **dict.fromkeys(("spatial_size", "max_epochs", "learning_rate", "network_def#weights"), ...),
    )
    assert workflow.check_properties() == []
    workflow.run()
    predicted = {
        row["image"]: float(row["probability_positive"])
        for row in csv.DictReader((tmp_path / "out/predictions.csv").open())
    }
    assert "tiny.json" not in predicted
    for row in csv.DictReader((trained / "test/predictions.csv").open()):
        assert predicted[row["image"]] == pytest.approx(float(row["probability_positive"]), abs=1e-5)
