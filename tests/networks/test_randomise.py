"""Weights drawn anew from the head down change all above the step and nothing below it."""

import copy

import pytest
import torch
from torch import nn

from ttl_monai.networks import TransferClassifier, randomise_down


@pytest.fixture
def case():
    torch.manual_seed(0)
    network = TransferClassifier("resnet18", weights="none", in_channels=1, truncate_at="layer3").train()
    return network, torch.rand(4, 1, 48, 48)


def test_stage_by_stage_down_to_the_input(case):
    network, images = case
    before = copy.deepcopy(network.state_dict())
    names, changed = [], []
    for name, found in randomise_down(network, images):
        names.append(name)
        assert not any(part.training for part in found.modules())
        weights = {key: value for key, value in found.named_parameters() if value.ndim > 1}
        changed.append({key.split(".")[1] for key, value in weights.items() if not torch.equal(value, before[key])})
        assert 1e-3 < found(images).std() < 10, "the signal neither grows nor vanishes"
    assert names == ["head", "layer3.1", "layer2.1", "layer1.1"]
    assert changed == [
        {"2"},
        {"2", "layer3"},
        {"2", "layer3", "layer2"},
        {"2", "layer3", "layer2", "layer1", "conv1"},
    ]
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training


def test_the_seed_decides(case):
    network, images = case
    first, again, other = (list(randomise_down(network, images, seed=seed))[-1][1](images) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_weights_of_an_unknown_kind_are_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.gain = nn.Conv2d(1, 2, 3), nn.PReLU(), nn.Parameter(torch.ones(1))

        def forward(self, image):
            return self.norm(self.conv(image))

    network = TransferClassifier(Scale(), weights="none", in_channels=1)
    network.head.append(Scale())
    with pytest.raises(ValueError, match="Scale has weights but no reset_parameters"):
        next(randomise_down(network, torch.rand(1, 1, 8, 8)))
