"""Features at several points in one pass are those of the truncated networks."""

import copy

import pytest
import timm
import torch
from monai.networks.nets import resnet18 as monai_resnet18
from torch import nn
from torchvision.models import densenet121, resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from ttl_monai.networks import PointFeatures, TransferClassifier, freeze_up_to, list_points, truncate
from ttl_monai.networks.features import choose_points, evaluation_mode

NETWORKS = {
    "resnet18": lambda: resnet18(weights=None),
    "densenet121": lambda: densenet121(weights=None),
    "lite0": lambda: timm.create_model("tf_efficientnet_lite0", pretrained=False),
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", pretrained=False),
    "monai-3d": lambda: monai_resnet18(spatial_dims=3, n_input_channels=1, num_classes=2),
}


def images(network, size=32):
    channels = next(each.in_channels for each in network.modules() if isinstance(each, nn.Conv2d | nn.Conv3d))
    dims = 3 if any(isinstance(each, nn.Conv3d) for each in network.modules()) else 2
    return torch.rand(2, channels, *(size,) * dims)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_point_gives_what_the_truncated_network_gives(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    # a few are enough: spread over all, the last one and the last feature map included
    points = list_points(network)
    some = points[:: max(1, len(points) // 3)] + points[-1:]
    names = [*(each.name for each in some), None]
    extract, image = PointFeatures(network, names), images(network)
    with torch.no_grad():
        features = extract(image)
        assert list(features) == list(dict.fromkeys(names))
        for point in names:
            expected = truncate(network, point)(image)
            assert torch.equal(features[point], expected), point
            assert extract.channels[point] == expected.shape[1]


def test_stages_are_those_of_torchvision_s_extractor():
    torch.manual_seed(0)
    network, names = resnet18().eval(), ["layer1", "layer2", "layer3", "layer4"]
    image = images(network)
    expected = create_feature_extractor(network, names)(image)
    features = PointFeatures(network, names)(image)
    assert all(torch.equal(features[name], expected[name]) for name in names)


class Overwriting(nn.Module):
    """Each map is overwritten by what follows: directly, through a view of it, by an operator."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)

    def forward(self, image):
        first = self.relu(self.conv1(image))
        second = self.drop(self.conv2(first)).relu_()
        third = self.conv3(second)
        third += 1
        return third.mean((2, 3))


def test_a_map_that_is_overwritten_later_is_kept():
    torch.manual_seed(0)
    network = Overwriting().eval()
    image = torch.rand(2, 3, 8, 8)
    names = ["conv1", "conv2", "conv3"]
    features = PointFeatures(network, names)(image)
    for name in names:
        assert torch.equal(features[name], truncate(network, name)(image)), name
        assert (features[name] < 0).any()


def test_modules_are_shared_and_what_lies_above_is_not_run():
    network = resnet18().eval()
    extract, image = PointFeatures(network, ["layer1"]), images(network)
    assert {id(each) for each in extract.parameters()} < {id(each) for each in network.parameters()}
    network.layer2.register_forward_hook(lambda *_: pytest.fail("layer2 was run"))
    before = extract(image)["layer1"]
    with torch.no_grad():
        network.layer1[1].conv2.weight.add_(1.0)
    assert not torch.equal(extract(image)["layer1"], before)


def test_a_classifier_s_images_are_normalised_as_it_does():
    torch.manual_seed(0)
    network = TransferClassifier("resnet18", weights="none", in_channels=1).eval()
    image = torch.rand(2, 1, 32, 32)
    extract = PointFeatures(network, ["layer1", None])
    features = extract(image)
    assert torch.equal(features[None], network.backbone(network.normalise(image)))
    assert torch.equal(features["layer1"], truncate(network.backbone, "layer1")(network.normalise(image)))
    assert not any("head" in name for name, _ in extract.named_parameters())


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([], ValueError, "at least one truncation point"),
        ("layer1", ValueError, "a list of at least one truncation point, got 'layer1'"),
        (["layer7"], ValueError, "got 'layer7'; nearest: layer"),
        ([3], TypeError, "name of a truncation point"),
    ],
)
def test_bad_points_are_refused(points, error, message):
    with pytest.raises(error, match=message):
        PointFeatures(resnet18(), points)


class TestChoosePoints:
    def test_stages_and_blocks_end_with_the_whole_network(self):
        network = resnet18()
        assert choose_points(network, "stage") == [
            *((f"layer{number}.1", "stage") for number in (1, 2, 3)),
            (None, "stage"),
        ]
        blocks = choose_points(network, "block")
        assert blocks[:3] == [("maxpool", "block"), ("layer1.0", "block"), ("layer1.1", "stage")]
        assert len(blocks) == 1 + 8

    def test_names_are_found_and_ordered(self):
        network = TransferClassifier("resnet18", weights="none", truncate_at="layer3")
        assert choose_points(network, ["layer2", "layer1.0"]) == [("layer1.0", "block"), ("layer2.1", "stage")]

    def test_a_network_without_blocks_shows_every_layer(self):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        assert [name for name, _ in choose_points(network, "stage")] == ["0", "1", None]

    @pytest.mark.parametrize(
        ("points", "message"), [("layer1", "'stage', 'block' or a list"), ([], "got none"), (["lay"], "got 'lay'")]
    )
    def test_bad_choices_are_refused(self, points, message):
        with pytest.raises(ValueError, match=message):
            choose_points(resnet18(), points)


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_mode_puts_every_flag_back(fails):
    network = freeze_up_to(resnet18().train(), "layer1")
    network.layer3.eval()  # a child in evaluation mode by choice
    flags = {name: module.training for name, module in network.named_modules()}
    before = copy.deepcopy(network.state_dict())
    try:
        with evaluation_mode(network):
            assert not any(module.training for module in network.modules())
            assert not network(torch.rand(2, 3, 32, 32)).requires_grad
            if fails:
                raise KeyError("stop")
    except KeyError:
        assert fails
    assert {name: module.training for name, module in network.named_modules()} == flags
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert len(set(flags.values())) == 2
