"""The comparison with the features before training: right numbers, and a training that does not notice it."""

import copy
import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ttl_monai.analysis import as_samples, cca, wachter_quantiles
from ttl_monai.handlers import SVCCAHandler
from ttl_monai.handlers.svcca import frozen_copy, spread
from ttl_monai.networks import TransferClassifier


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)
        self.drop, self.conv2 = nn.Dropout2d(0.5), nn.Conv2d(after, after, 3, stride=2, padding=1)

    def forward(self, image):
        return self.conv2(self.drop(torch.relu(self.norm(self.conv1(image)))))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage1, self.stage2 = nn.Sequential(Block(3, 4)), nn.Sequential(Block(4, 6), Block(6, 6))

    def forward(self, image):
        return self.stage2(self.stage1(image)).mean((2, 3))


def make_network(seed=0):
    torch.manual_seed(seed)
    return TransferClassifier(Tiny(), weights="none").train()


class Images(torch.utils.data.Dataset):
    def __init__(self, size=12, fail_at=None):
        self.pixels = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        self.fail_at = fail_at

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        if index == self.fail_at:
            raise OSError("a broken image")
        return {"image": self.pixels[index], "label": 0}


def prepare_batch(batch, device):
    return batch["image"].to(device), batch["label"]


def make_handler(network, folder, **options):
    given = {"dataset": Images(), "prepare_batch": prepare_batch, "run_dir": folder, "images": None, "batch_size": 5}
    return SVCCAHandler(network=network, **(given | options))


def move(network, amount=0.3):
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(amount * noise)


def run(handler, network, epochs, start=0, amount=0.3):
    """An engine whose epochs move the weights a little."""
    engine = Engine(lambda *_: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: move(network, amount))
    handler.attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": 1})
    engine.run([0], max_epochs=epochs)
    return engine


def read(folder):
    return list(csv.DictReader((folder / "svcca.csv").open()))


def test_coefficients_are_those_of_cca_on_all_positions(tmp_path):
    network = make_network()
    handler = make_handler(network, tmp_path, points="block")
    before = copy.deepcopy(network).eval()
    move(network)
    found = handler.compare()
    assert [each.point for each in found] == ["stage1.0", "stage2.0", None]
    network.eval()
    for each in found:
        parts = {"stage1.0": 1, "stage2.0": 2, None: 3}[each.point]
        maps = []
        for one in (before, network):
            blocks = [one.backbone.get_submodule(name) for name in ("stage1", "stage2")]
            layers = nn.Sequential(*[child for stage in blocks for child in stage.children()][:parts])
            with torch.no_grad():
                maps.append(run_graph(one, layers, parts, handler.dataset.pixels))
        expected = cca(*map(as_samples, maps))
        np.testing.assert_allclose(each.coefficients, expected.coefficients, atol=1e-9)
        assert (each.n, each.dims) == (expected.n, expected.dims)
        np.testing.assert_allclose(
            np.quantile(each.null, 0.5), wachter_quantiles(*expected.dims, expected.n, 0.5), atol=1e-3
        )


def run_graph(network, layers, parts, pixels):
    """The map after so many blocks, by hooks on the blocks' last convolutions: another way than the handler's."""
    names = ("stage1.0.conv2", "stage2.0.conv2", "stage2.1.conv2")
    kept = []
    hook = network.backbone.get_submodule(names[parts - 1]).register_forward_hook(lambda *a: kept.append(a[-1]))
    network(pixels)
    hook.remove()
    return kept[0]


def test_an_untrained_network_is_like_itself_and_a_new_one_is_not(tmp_path):
    network = make_network()
    handler = make_handler(network, tmp_path)
    same = handler.compare()
    assert all(each.coefficients.min() > 1 - 1e-6 for each in same)
    network.load_state_dict(make_network(seed=5).state_dict())
    assert all(each.coefficients.mean() < 0.95 for each in handler.compare())


def test_rows_of_every_other_epoch_and_of_the_last_one(tmp_path):
    network = make_network()
    handler = make_handler(network, tmp_path / "run", interval=2, log_dir=tmp_path / "logs")
    run(handler, network, epochs=5)
    rows = read(tmp_path / "run")
    assert [(row["epoch"], row["point"]) for row in rows] == [
        (epoch, point) for epoch in "245" for point in ("stage1.0", "whole")
    ]
    means = [float(row["mean"]) for row in rows if row["point"] == "whole"]
    assert 1 > means[0] > means[-1]
    assert all(row["level"] == "stage" and row["n"] == str(12 * (64 if "1" in row["point"] else 4)) for row in rows)
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [each.step for each in events.Scalars("svcca_mean/whole")] == [2, 4, 5]
    assert [each.value for each in events.Scalars("svcca_mean/whole")] == pytest.approx(means)


def test_a_resumed_run_compares_with_the_weights_before_training(tmp_path):
    network = make_network()
    run(make_handler(network, tmp_path / "straight"), network, epochs=3)

    network = make_network()
    run(make_handler(network, tmp_path / "resumed"), network, epochs=2)
    after_one = make_network()
    move(after_one)
    network = make_network()  # a new process builds the pretrained network first
    handler = make_handler(network, tmp_path / "resumed")
    network.load_state_dict(after_one.state_dict())  # then the checkpoint is loaded
    run(handler, network, epochs=3, start=1)  # the second epoch was not saved, though its row was
    assert read(tmp_path / "resumed") == read(tmp_path / "straight")


def test_a_finished_run_that_is_resumed_keeps_its_rows(tmp_path):
    network = make_network()
    run(make_handler(network, tmp_path), network, epochs=2)
    rows = read(tmp_path)
    handler = make_handler(network, tmp_path)
    engine = Engine(lambda *_: None)
    engine.add_event_handler(Events.STARTED, engine.terminate)
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    assert read(tmp_path) == rows


@pytest.mark.parametrize("fails", [False, True])
def test_flags_hooks_weights_and_random_numbers_are_as_found(tmp_path, fails):
    network = make_network()
    network.backbone.stage1.eval()  # a part in evaluation mode by choice
    network.backbone.get_submodule("stage1.0.conv1").register_forward_hook(lambda *_: None)

    def facts():
        return (
            {name: module.training for name, module in network.named_modules()},
            {name: len(module._forward_hooks) for name, module in network.named_modules()},
            {name: value.clone() for name, value in network.state_dict().items()},
            torch.get_rng_state(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global state is what is watched
            [parameter.requires_grad for parameter in network.parameters()],
        )

    handler = make_handler(network, tmp_path, dataset=Images(fail_at=7 if fails else None))
    before = facts()
    if fails:
        with pytest.raises(OSError, match="a broken image"):
            handler.compare()
    else:
        handler.compare()
    for old, new in zip(before, facts(), strict=True):
        if isinstance(old, dict):
            assert old.keys() == new.keys()
            assert all(torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])) for key in old)
        else:
            assert torch.equal(torch.as_tensor(old), torch.as_tensor(new))


def test_a_point_where_nothing_varies_is_left_out_with_a_warning(tmp_path, caplog):
    network = make_network()
    handler = make_handler(network, tmp_path)
    with torch.no_grad():
        network.backbone.get_submodule("stage1.0.conv2").weight.zero_()
    # above it, the zeros around the image still make positions differ
    assert [each.point for each in handler.compare()] == [None]
    assert "no SVCCA at stage1.0: expected features that vary" in caplog.text


def test_the_copy_has_no_hooks_and_shares_nothing():
    network = make_network()
    network.register_forward_hook(lambda *_: pytest.fail("the copy calls a hook"))
    copied = frozen_copy(network)
    copied(torch.rand(2, 3, 16, 16))
    move(network)
    assert not any(each.training or each._forward_hooks for each in copied.modules())
    assert not any(map(torch.equal, copied.parameters(), network.parameters()))


def test_attached_twice_it_compares_once(tmp_path, monkeypatch):
    network, calls = make_network(), []
    handler = make_handler(network, tmp_path)
    monkeypatch.setattr(handler, "compare", lambda: calls.append(0) or [])
    engine = Engine(lambda *_: None)
    handler.attach(engine)
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("size", "images", "expected"),
    [(10, None, list(range(10))), (10, 20, list(range(10))), (10, 4, [0, 3, 6, 9]), (5, 1, [0])],
)
def test_the_subset_is_spread_over_the_data(size, images, expected):
    assert spread(range(size), images) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"images": 0}, "images must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"points": ["stage9"]}, "got 'stage9'"),
        ({"dataset": []}, "the data set is empty"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_handler(make_network(), tmp_path, **options)


# Each of two processes: the same network, wrapped; what the handler finds is written by its rank.
WORKER = """
import importlib.util, json, os, sys
from pathlib import Path
import torch
spec = importlib.util.spec_from_file_location("tests_svcca", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
torch.distributed.init_process_group("gloo")
network = torch.nn.parallel.DistributedDataParallel(tests.make_network())
rank = int(os.environ["RANK"])
handler = tests.make_handler(network, Path(sys.argv[2]), rank=rank, dataset=tests.Images(size=7))
tests.run(handler, network.module, epochs=2)
json.dump([each.coefficients.tolist() for each in handler.compare()], open(f"{sys.argv[2]}/rank{rank}.json", "w"))
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_find_what_one_finds(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    (tmp_path / "two").mkdir()
    done = subprocess.run(
        [*command, __file__, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [(tmp_path / "two" / f"rank{rank}.json").read_text() for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    network = make_network()
    handler = make_handler(network, tmp_path / "one", dataset=Images(size=7))
    run(handler, network, epochs=2)
    for one, two in zip(read(tmp_path / "one"), read(tmp_path / "two"), strict=True):
        assert {name: one[name] for name in ("epoch", "point", "n")} == {
            name: two[name] for name in ("epoch", "point", "n")
        }
        for name in ("mean", "q1", "overlap", "excess_area"):
            assert float(one[name]) == pytest.approx(float(two[name]), abs=2e-6)
