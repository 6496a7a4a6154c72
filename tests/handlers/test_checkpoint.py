import json
import math

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler, from_engine
from monai.transforms import RandGaussianNoised

from ttl_monai.handlers import Auprc, OperatingPoint, RunCheckpoint, RunRecord, is_better
from ttl_monai.handlers.files import file_sha256, write_atomically

SPEC = {"network_def": {"_target_": "toy", "truncate_at": None}}


def items(n, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    images = torch.randn(n, 4, generator=generator) + labels[:, None]
    return [
        {"image": image, "label": label, "patient": f"p{i}", "image_id": f"i{i}"}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


class Run:
    """A training with every source of randomness that the bundles have: shuffling, transforms, dropout."""

    def __init__(
        self, run_dir, *, max_epochs=6, resume="never", spec=SPEC, validation=None, kill_at=None, seed=7, interval=1
    ):
        torch.manual_seed(3)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 2)
        )
        optimizer = torch.optim.Adam(self.network.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)
        train = Dataset(items(30, 0), RandGaussianNoised("image", prob=0.5))
        output = from_engine(["pred", "label"])
        self.evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(Dataset(validation or items(20, 1)), batch_size=8),
            network=self.network,
            key_val_metric={"val_auprc": Auprc(task="binary", class_names=["a", "b"], output_transform=output)},
            metric_cmp_fn=is_better,
            val_handlers=[
                OperatingPoint(task="binary", class_names=["a", "b"]),
                LrScheduleHandler(scheduler, print_lr=False, step_transform=lambda e: e.state.metrics["val_auprc"]),
            ],
        )
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=max_epochs,
            train_data_loader=DataLoader(train, batch_size=8, shuffle=True),
            network=self.network,
            optimizer=optimizer,
            loss_function=torch.nn.CrossEntropyLoss(),
            train_handlers=[ValidationHandler(interval=interval, validator=self.evaluator)],
        )
        self.record = RunRecord(run_dir=run_dir, evaluator=self.evaluator, optimizer=optimizer, facts={"seed": seed})
        self.record.attach(self.trainer)
        RunCheckpoint(
            run_dir=run_dir,
            network=self.network,
            optimizer=optimizer,
            lr_scheduler=scheduler,
            evaluator=self.evaluator,
            record=self.record,
            spec=spec,
            datasets=[train],
            seed=seed,
            resume=resume,
        ).attach(self.trainer)
        if kill_at is not None:
            self.trainer.add_event_handler(Events.ITERATION_STARTED(once=kill_at), self.kill)

    @staticmethod
    def kill(engine):
        raise KeyboardInterrupt

    def run(self):
        self.trainer.run()
        return self


def weights(path):
    return torch.load(path, weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kill_at", [2, 11, 23], ids=lambda i: f"iteration{i}")
def test_a_killed_run_that_is_resumed_ends_as_if_it_had_not_been(tmp_path, kill_at):
    straight = Run(tmp_path / "straight").run()
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "killed", kill_at=kill_at).run()
    resumed = Run(tmp_path / "killed", resume="auto").run()
    assert equal(straight.network.state_dict(), resumed.network.state_dict())
    assert equal(weights(tmp_path / "straight/model.pt"), weights(tmp_path / "killed/model.pt"))
    specs = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("straight", "killed")]
    for spec in specs:
        spec.pop("sha256")
    assert specs[0] == specs[1]
    timed = ("seconds", "training_seconds", "data_wait")
    histories = [
        [{k: v for k, v in row.items() if k not in timed} for row in r.record.history] for r in (straight, resumed)
    ]
    assert histories[0] == histories[1]
    assert json.loads((tmp_path / "killed/run.json").read_text())["status"] == "finished"


def test_another_seed_gives_other_weights(tmp_path):
    runs = [Run(tmp_path / str(seed), max_epochs=1, seed=seed).run() for seed in (1, 2)]
    assert not equal(runs[0].network.state_dict(), runs[1].network.state_dict())


def test_the_best_model_is_that_of_the_best_epoch(tmp_path):
    run = Run(tmp_path).run()
    values = [row["val_auprc"] for row in run.record.history]
    spec = json.loads((tmp_path / "model.json").read_text())
    assert spec["epoch"] == values.index(max(values)) + 1
    assert spec["validation"]["val_auprc"] == max(values)
    assert spec["threshold"] == run.record.history[spec["epoch"] - 1]["val_threshold"]
    assert spec["sha256"] == file_sha256(tmp_path / "model.pt")
    assert spec["network_def"] == SPEC["network_def"]


def test_a_longer_run_goes_on_and_keeps_its_best(tmp_path):
    Run(tmp_path, max_epochs=2).run()
    longer = Run(tmp_path, max_epochs=4, resume="auto").run()
    assert [row["epoch"] for row in longer.record.history] == [1, 2, 3, 4]
    straight = Run(tmp_path / "straight", max_epochs=4).run()
    assert equal(straight.network.state_dict(), longer.network.state_dict())


def test_resuming_a_finished_run_trains_nothing(tmp_path):
    done = Run(tmp_path, max_epochs=2).run()
    again = Run(tmp_path, max_epochs=2, resume="auto").run()
    assert equal(done.network.state_dict(), again.network.state_dict())
    assert len(again.record.history) == 2


def test_no_nan_becomes_the_best_model(tmp_path, caplog):
    one_class = [item for item in items(40, 1) if item["label"] == 1]
    run = Run(tmp_path, max_epochs=2, validation=one_class).run()
    assert all(math.isnan(row["val_auprc"]) for row in run.record.history)
    assert not (tmp_path / "model.pt").exists()
    assert (tmp_path / "last.pt").exists()
    assert "No epoch had a finite val_auprc" in caplog.text


def test_another_network_is_refused_and_both_are_named(tmp_path):
    Run(tmp_path, max_epochs=1).run()
    before = (tmp_path / "last.pt").read_bytes()
    other = {"network_def": {"_target_": "toy", "truncate_at": "layer2"}}
    with pytest.raises(ValueError, match=r'"truncate_at": null.*"truncate_at": "layer2"'):
        Run(tmp_path, resume="auto", spec=other).run()
    assert (tmp_path / "last.pt").read_bytes() == before


def test_other_data_are_refused(tmp_path):
    Run(tmp_path, max_epochs=1, spec=SPEC | {"data_sha256": "a"}).run()
    with pytest.raises(ValueError, match='made with data_sha256 "a", but the config asks for "b"'):
        Run(tmp_path, resume="auto", spec=SPEC | {"data_sha256": "b"}).run()


def test_epochs_without_validation_have_no_metrics_and_no_best_model(tmp_path):
    run = Run(tmp_path, max_epochs=4, interval=2).run()
    assert ["val_auprc" in row for row in run.record.history] == [False, True, False, True]
    assert json.loads((tmp_path / "model.json").read_text())["epoch"] in (2, 4)


def test_a_run_that_goes_on_elsewhere_leaves_a_best_model_there(tmp_path):
    Run(tmp_path / "first", max_epochs=3).run()
    Run(tmp_path / "second", max_epochs=4, resume=str(tmp_path / "first/last.pt")).run()
    assert json.loads((tmp_path / "second/model.json").read_text())["epoch"] == 4


def test_resume_from_a_file_that_is_not_there_raises(tmp_path):
    with pytest.raises(
        ValueError, match=r"resume must be 'never', 'auto' or an existing checkpoint file, got 'no\.pt'"
    ):
        Run(tmp_path, resume="no.pt")


def test_a_new_run_does_not_keep_the_old_model(tmp_path):
    Run(tmp_path, max_epochs=1).run()
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, kill_at=1).run()
    assert not (tmp_path / "model.pt").exists()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_record_counts_time_and_data_wait(tmp_path):
    record = Run(tmp_path, max_epochs=1).run().record
    row = record.history[0]
    assert 0 < row["data_wait"] < 1
    assert row["training_seconds"] <= row["seconds"]
    assert math.isfinite(row["train_loss"])
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["seed"] == 7
    assert {"torch", "monai", "ttl_monai"} <= content["versions"].keys()
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_record_names_a_failure_without_its_text(tmp_path):
    engine = Engine(lambda *_: (_ for _ in ()).throw(ValueError("secret name")))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    RunRecord(run_dir=tmp_path, evaluator=engine, optimizer=optimizer, facts={}).attach(engine)
    with pytest.raises(ValueError, match="secret"):
        engine.run([0])
    text = (tmp_path / "run.json").read_text()
    assert '"status": "failed"' in text
    assert "secret" not in text
