import hashlib
import logging

import pytest
import torch

from ttl_monai.engines import start_from
from ttl_monai.networks import TransferClassifier, TransferUNet

NAMES = ["negative", "positive"]


def classifier(**settings):
    return TransferClassifier("resnet18", weights="none", in_channels=1, truncate_at="layer1", **settings)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "model.pt"
    torch.save(classifier().state_dict(), path)
    return path


def test_a_training_starts_from_the_weights_of_a_trained_network(weights, caplog):
    network = classifier()
    with caplog.at_level(logging.INFO):
        start_from(network, str(weights), NAMES)
    state = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    info = network.weight_info
    assert (info.source, info.sha256) == ("model.pt", hashlib.sha256(weights.read_bytes()).hexdigest())
    assert len(info.report.loaded) == len(state)
    assert "The training starts from model.pt" in caplog.text


def test_with_other_classes_the_head_is_new(weights):
    network = classifier(num_classes=5)
    head = network.head[-1].weight.clone()
    start_from(network, weights, list("abcde"))
    state = torch.load(weights, weights_only=True)
    assert torch.equal(network.head[-1].weight, head)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items() if "head" not in name)
    assert network.weight_info.report.reinitialised == ("head.2.weight", "head.2.bias")


def test_none_leaves_the_network_as_it_is():
    network = classifier()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_from(network, None, NAMES)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "network",
    [
        lambda: TransferClassifier("resnet18", weights="none", in_channels=1, truncate_at="layer2"),
        lambda: classifier(slim_after="stem"),
        lambda: TransferUNet("resnet18", weights="none", in_channels=1, out_channels=2, truncate_at="layer1"),
    ],
    ids=["deeper", "slimmed", "U-Net"],
)
def test_weights_of_another_network_are_refused(network, weights):
    with pytest.raises(ValueError, match=r"weights of another network: \d+ tensors differ, .*--start_from None"):
        start_from(network(), weights, NAMES)


def test_data_of_other_classes_than_the_network_has_is_refused(weights):
    with pytest.raises(
        ValueError, match=r"has 2 outputs, but the datalist 3 classes: pass --network_def#num_classes 3"
    ):
        start_from(classifier(), weights, ["a", "b", "c"])
