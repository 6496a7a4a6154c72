import pytest
import torch
from ignite.engine import Engine, Events

from ttl_monai.handlers import LrFloorStop, StopOnNonFiniteLoss


def optimizer_at(*rates):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


@pytest.mark.parametrize(
    ("rates", "epochs"),
    [
        # 1e-3 * 0.1 ** epoch falls below 1e-6 after epoch 4; 1e-6 itself is not below
        ((1e-3,), 4),
        # a group that starts lower on purpose does not stop the run
        ((1e-7, 1e-3), 4),
    ],
)
def test_training_ends_at_the_floor(rates, epochs):
    optimizer = optimizer_at(*rates)
    engine = Engine(lambda *_: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def decay():
        for group in optimizer.param_groups:
            group["lr"] = round(group["lr"] * 0.1, 12)

    LrFloorStop(optimizer, 1e-6).attach(engine)
    engine.run([0], max_epochs=20)
    assert engine.state.epoch == epochs


def test_a_finished_run_does_not_train_again():
    optimizer = optimizer_at(1e-3)
    stop = LrFloorStop(optimizer, 1e-6)
    optimizer.param_groups[0]["lr"] = 1e-7
    steps = []
    engine = Engine(lambda _, batch: steps.append(batch))
    stop.attach(engine)
    engine.run([0], max_epochs=5)
    assert steps == []


@pytest.mark.parametrize("floor", [0, -1e-7, 1e-2])
def test_a_floor_that_makes_no_sense_raises(floor):
    with pytest.raises(ValueError, match=r"min_lr must lie above 0 and not above the learning rate 0\.001"):
        LrFloorStop(optimizer_at(1e-3), floor)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_names_the_batch(loss):
    batches = [{"image_id": ["a", "b"], "loss": 0.5}, {"image_id": ["c", "d"], "loss": loss}]
    engine = Engine(lambda _, batch: {"loss": torch.tensor(batch["loss"])})
    StopOnNonFiniteLoss("eval/ftl/last.pt").attach(engine)
    with pytest.raises(FloatingPointError, match=r"iteration 2.*c, d.*eval/ftl/last.pt"):
        engine.run(batches)
