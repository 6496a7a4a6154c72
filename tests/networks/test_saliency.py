"""Grad-CAM of made networks whose evidence lies at known places."""

import copy

import pytest
import torch
from torch import nn

from ttl_monai.networks import TransferClassifier, grad_cam


class BrightAndDark(nn.Module):
    """Two channels: how bright and how dark a voxel is; averaged over blocks of 2."""

    def __init__(self, spatial_dims):
        super().__init__()
        conv, pool = ((nn.Conv2d, nn.AvgPool2d), (nn.Conv3d, nn.AvgPool3d))[spatial_dims - 2]
        self.conv = conv(1, 2, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = pool(2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[(slice(None), 0, *[1] * spatial_dims)] = torch.tensor([1.0, -1.0])
            self.conv.bias.copy_(torch.tensor([-0.6, 0.4]))

    def forward(self, image):
        return self.pool(self.relu(self.conv(image)))


@pytest.fixture(params=[2, 3])
def case(request):
    """A network to which bright voxels mean class 1 and dark ones class 0, and an image with one blob of each."""
    network = TransferClassifier(BrightAndDark(request.param), weights="none", in_channels=1, num_classes=2)
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    image = torch.full((2, 1, *[16] * request.param), 0.5)
    for row, (bright, dark) in enumerate([(4, 10), (8, 2)]):
        image[(row, 0, *[slice(bright, bright + 2)] * request.param)] = 1
        image[(row, 0, *[slice(dark, dark + 2)] * request.param)] = 0
    return network, image


def place(found):
    return torch.stack(torch.unravel_index(found.argmax(), found.shape)).tolist()


def test_the_highest_place_is_that_of_the_evidence(case):
    network, image = case
    found = grad_cam(network, image)
    assert found.shape == image[:, 0].shape
    assert found.amax() == 1
    for each, start in zip(found, (4, 8), strict=True):
        assert all(at in (start, start + 1) for at in place(each)), "the bright blob, not the dark one"
    blobs = [(slice(dark, dark + 2),) * (image.ndim - 2) for dark in (10, 2)]
    assert all(each[blob].max() == 0 for each, blob in zip(found, blobs, strict=True))


def test_evidence_in_the_other_logit_counts_too(case):
    """Brightness that only lowers the first logit raises the second class as much."""
    network, image = case
    expected = grad_cam(network, image)
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))
    assert torch.allclose(grad_cam(network, image), expected)


def test_no_evidence_is_a_map_of_zeros(case):
    network, image = case
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert (grad_cam(network, image) == 0).all()


@pytest.mark.parametrize("frozen", [None, "all"])
def test_a_cut_or_frozen_network_is_left_as_it_was(frozen):
    network = TransferClassifier(
        "resnext3d14", weights="none", in_channels=1, truncate_at="layer2", freeze_up_to=frozen
    ).train()
    network.head[-1].weight.grad = torch.ones_like(network.head[-1].weight)
    before, flags = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    found = grad_cam(network, torch.rand(1, 1, 8, 32, 32))
    assert found.shape == (1, 8, 32, 32)
    assert 0 < found.amax() <= 1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == flags
    assert [name for name, each in network.named_parameters() if each.grad is not None] == ["head.2.weight"]
    assert (network.head[-1].weight.grad == 1).all()
    assert not any(each._forward_hooks or each._backward_hooks for each in network.modules())


def test_another_number_of_classes_is_refused():
    network = TransferClassifier("resnet18", weights="none", in_channels=1, num_classes=3)
    with pytest.raises(ValueError, match="second of two classes, but the network has 3"):
        grad_cam(network, torch.rand(1, 1, 64, 64))
