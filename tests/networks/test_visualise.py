"""Images made to excite channels whose favourite is known, or whose activation must rise."""

import copy

import pytest
import torch
from torch import nn

from ttl_monai.networks import TransferClassifier, excite, mean_activations

QUICK = {"size": 32, "steps": 12, "jitter": 2}


class Colours(nn.Module):
    """Each channel is how bright one colour is above the others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_((1.5 * torch.eye(3) - 0.5).view(3, 3, 1, 1))

    def forward(self, image):
        return self.conv(image)


@pytest.fixture
def colours():
    return TransferClassifier(Colours(), weights="none", in_channels=3)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.relu1 = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.conv2, self.relu2 = nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(8, 8, 8)  # of 32 x 32 pixels one place is left

    def forward(self, image):
        return self.conv3(self.relu2(self.conv2(self.relu1(self.norm(self.conv1(image))))))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return TransferClassifier(Small(), weights="none", in_channels=3)


def test_a_channel_of_one_colour_makes_that_colour(colours):
    found = excite(colours, "conv", [0, 2], **QUICK | {"steps": 100, "learning_rate": 0.2})
    assert found.images.shape == (2, 3, 32, 32)
    for image, colour in zip(found.images, (0, 2), strict=True):
        others = [each for each in range(3) if each != colour]
        assert image[colour].mean() > 0.9
        assert image[others].mean() < 0.1
    assert torch.allclose(found.end, mean_activations(colours, "conv", found.images)[[0, 1], [0, 2]], atol=1e-6)
    assert found.end.min() > 0.9, "1 is the most that there is"


def test_the_input_is_normalised_as_the_network_asks(colours):
    colours.mean.fill_(0.5)
    colours.std.fill_(0.25)
    found = excite(colours, "conv", [1], **QUICK | {"steps": 100, "learning_rate": 0.2})
    assert found.end[0] == pytest.approx(4, rel=0.1), "(1 - 0.5) / 0.25 of one colour, -2 of half of the two others"


@pytest.mark.parametrize("point", ["conv1", "relu1", "conv2", None])
def test_the_activation_rises_at_any_point(small, point):
    found = excite(small, point, [1, 3], **QUICK)
    assert (found.end > found.start).all()
    assert 0 <= found.images.min() < found.images.max() <= 1


@pytest.mark.slow
def test_the_points_of_the_paper_exist_in_vgg19():
    torch.manual_seed(0)
    network = TransferClassifier("vgg19", weights="none", in_channels=3)
    for point in ("features.1", "features.5", "features.10", "features.20", "features.30"):
        found = excite(network, point, [2], **QUICK | {"steps": 2})
        assert found.end[0] > found.start[0], point


def test_the_seed_decides_and_each_channel_is_alone(small):
    first, again, other = (excite(small, "relu1", [1, 2], seed=seed, **QUICK).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.01)
    assert not torch.allclose(first[0], first[1], atol=0.01)
    alone = excite(small, "relu1", [2], seed=0, **QUICK).images
    assert torch.allclose(first[1], alone[0], atol=2e-2)


def test_regularisers_smooth(small):
    def roughness(**options):
        return excite(small, "conv2", [0], **QUICK | options).images.diff(dim=3).abs().mean()

    plain = roughness(blur=0, total_variation=0)
    assert roughness(blur=2, total_variation=0) < 0.8 * plain
    assert roughness(blur=0, total_variation=50) < 0.8 * plain


def test_no_step_is_the_noise_and_its_activation(small):
    found = excite(small, "relu1", [0], **QUICK | {"steps": 0})
    assert torch.equal(found.start, found.end)
    assert found.images.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("point", ["relu1", "nothing"])
def test_the_network_is_left_as_it_was(point):
    network = TransferClassifier(Small(), weights="none", in_channels=3, freeze_up_to="relu1").train()
    before, flags = copy.deepcopy(network.state_dict()), [part.training for part in network.modules()]
    trained = [each.requires_grad for each in network.parameters()]
    if point == "nothing":
        with pytest.raises(ValueError, match="nothing"):
            excite(network, point, [0], **QUICK)
    else:
        excite(network, point, [0], **QUICK | {"steps": 2})
    assert [part.training for part in network.modules()] == flags
    assert [each.requires_grad for each in network.parameters()] == trained
    assert all(each.grad is None for each in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(part._forward_hooks or part._backward_hooks for part in network.modules())


@pytest.mark.parametrize(
    ("channels", "options", "match"),
    [
        ([8], {}, r"from 0 to 7, got \[8\]"),
        ([], {}, r"from 0 to 7, got \[\]"),
        ([0], {"steps": -1}, "steps >= 0 .* got steps=-1"),
        ([0], {"jitter": 32}, "jitter < size, got .*jitter=32, size=32"),
    ],
)
def test_what_cannot_be_made_is_refused(small, channels, options, match):
    with pytest.raises(ValueError, match=match):
        excite(small, "relu1", channels, **QUICK | options)
