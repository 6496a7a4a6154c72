"""slim_after (TransFusion): counts of the paper, shapes of networks built slim, and what is kept bit by bit."""

import copy
import math

import monai.networks.nets as monai_nets
import pytest
import timm
import torch
import torchvision
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ttl_monai.networks import TransferClassifier, count_macs, count_params, slim_after, truncate
from ttl_monai.networks.backbones import build_backbone


@pytest.fixture(scope="module")
def densenet201():
    return truncate(torchvision.models.densenet201())


@pytest.mark.parametrize(
    ("point", "millions", "giga_macs"),
    [
        pytest.param("layer1", 6.102, 1.687, marks=pytest.mark.slow),
        pytest.param("layer2", 7.137, 2.462, marks=pytest.mark.slow),
        ("layer3", 12.948, 3.563),
    ],
)
def test_resnet50_has_the_papers_counts(point, millions, giga_macs):
    # PAPER.md section 2
    network = TransferClassifier("resnet50", weights="none", slim_after=point)
    assert round(count_params(network) / 1e6, 3) == millions
    assert round(count_macs(network, torch.zeros(1, 3, 224, 224)) / 1e9, 3) == giga_macs


@pytest.mark.slow
def test_a_cut_inside_a_stage_has_the_papers_counts():
    network = TransferClassifier("resnet50", weights="none", slim_after="layer4.0")
    assert round(count_params(network) / 1e6, 1) == 17.9  # PAPER.md section 9
    assert round(count_macs(network, torch.zeros(1, 3, 224, 224)) / 1e9, 2) == 3.84


@pytest.mark.parametrize(
    ("point", "millions", "giga_macs"),
    [
        pytest.param("transition1", 5.099, 2.149, marks=pytest.mark.slow),
        ("transition2", 6.315, 2.797),
        pytest.param("transition3", 13.831, 4.156, marks=pytest.mark.slow),
    ],
)
def test_densenet201_has_the_papers_counts(densenet201, point, millions, giga_macs):
    network = TransferClassifier(densenet201, weights="none", slim_after=point)
    assert round(count_params(network) / 1e6, 3) == millions
    assert round(count_macs(network, torch.zeros(1, 3, 224, 224)) / 1e9, 3) == giga_macs


def slim_lite0():
    arch = ["ds_r1_k3_s1_e1_c8", "ir_r2_k3_s2_e6_c12", "ir_r2_k5_s2_e6_c20", "ir_r3_k3_s2_e6_c40"]
    arch += ["ir_r3_k5_s1_e6_c56", "ir_r4_k5_s2_e6_c96", "ir_r1_k3_s1_e6_c160"]
    blocks = decode_arch_def([[stage] for stage in arch])
    return EfficientNet(blocks, num_features=640, stem_size=32, round_chs_fn=round, act_layer=nn.ReLU6, num_classes=1)


@pytest.mark.parametrize(
    ("name", "point", "build_slim"),
    [
        ("resnet18", "layer2", lambda: ResNet(BasicBlock, (2, 2, 2, 2), channels=(64, 128, 128, 256), num_classes=1)),
        (
            "resnext50_32x4d",
            "layer1",
            lambda: ResNet(
                Bottleneck, (3, 4, 6, 3), channels=(64, 64, 128, 256), cardinality=32, base_width=4, num_classes=1
            ),
        ),
        ("densenet121", "stem", lambda: torchvision.models.DenseNet(16, (6, 12, 24, 16), num_classes=1)),
        ("tf_efficientnet_lite0", "stem", slim_lite0),
        (
            "monai:resnet18",
            "layer2",
            lambda: monai_nets.ResNet("basic", [2, 2, 2, 2], [64, 128, 128, 256], n_input_channels=3, num_classes=1),
        ),
        pytest.param(
            "monai:densenet121", "stem", lambda: monai_nets.DenseNet(3, 3, 1, growth_rate=16), marks=pytest.mark.slow
        ),
    ],
)
def test_shapes_are_those_of_a_network_built_slim(name, point, build_slim):
    slim = slim_after(build_backbone(name), point)
    oracle = truncate(build_slim())
    assert {key: value.shape for key, value in slim.state_dict().items()} == {
        key: value.shape for key, value in oracle.state_dict().items()
    }
    image = torch.rand(1, 3, *(32,) * (3 if name.startswith("monai") else 2))
    with torch.no_grad():
        assert slim.eval()(image).shape == oracle.eval()(image).shape


def test_the_kept_part_is_bit_equal_and_the_rest_is_fresh():
    source = torchvision.models.resnet18()
    with torch.no_grad():  # as after training: nothing has its initial value
        for value in source.state_dict().values():
            value.add_(torch.rand(value.shape) if value.is_floating_point() else 7)
    before = copy.deepcopy(source.state_dict())
    slim = slim_after(source, "layer2")
    kept = truncate(source, "layer2").state_dict()
    state = slim.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())
    assert set(state) == set(truncate(source).state_dict())
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    for name, module in slim.named_modules():
        if f"{name}.weight" in kept or not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05), name
            assert module.weight.requires_grad
        else:
            for buffer, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
                assert torch.equal(state[f"{name}.{buffer}"], torch.full((module.num_features,), float(value))), name


def test_a_depthwise_convolution_starts_at_the_scale_of_its_own_filter():
    network = slim_after(build_backbone("tf_efficientnet_lite0"), "blocks.4")
    assert network.get_submodule("blocks.5.1.conv_dw").weight.std().item() == pytest.approx(math.sqrt(2 / 25), rel=0.05)


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("efficientnet_b0", "stem"),
        # inside a stage: the residual stream keeps its width
        pytest.param("efficientnet_b0", "blocks.3.0", marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", "layer3.1", marks=pytest.mark.slow),
        ("densenet121", "denseblock3.denselayer5"),
        ("timm:seresnet18", "layer2.0"),
        pytest.param("monai:seresnet50", "layer2.1", marks=pytest.mark.slow),
        pytest.param("vgg11_bn", "features.10", marks=pytest.mark.slow),
    ],
)
def test_slim_networks_compute_and_train(name, point):
    whole = truncate(build_backbone(name))
    slim = slim_after(whole, point)
    image = torch.rand(2, 3, *(32,) * (3 if name.startswith("monai") else 2))
    features = slim.train()(image)
    assert features.shape[1] < whole(image).shape[1]
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in slim.parameters())


def test_inside_a_stage_the_residual_stream_keeps_its_width():
    slim = slim_after(build_backbone("resnet50"), "layer3.2")
    assert slim.get_submodule("layer3.3.conv1").out_channels == 128
    assert slim.get_submodule("layer3.5.conv3").out_channels == 1024
    assert slim.get_submodule("layer4.0.conv3").out_channels == 1024


def test_slim_factor_is_honoured():
    source = build_backbone("resnet18")
    widths = [
        slim_after(source, "layer3", factor).get_submodule("layer4.1.conv2").out_channels for factor in (1, 2, 4, 3)
    ]
    assert widths == [512, 256, 128, 170]
    once = slim_after(source, "layer3", 1).state_dict()
    assert once["layer4.0.conv1.weight"].shape == source.layer4[0].conv1.weight.shape
    assert not torch.equal(once["layer4.0.conv1.weight"], source.layer4[0].conv1.weight)


class Scaled(nn.Module):
    """A raw parameter of the shape of the channels, as ConvNeXt's layer scale."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.gamma = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x):
        return self.second(self.first(x)) * self.gamma


@pytest.mark.parametrize(
    ("build", "point", "factor", "message"),
    [
        (
            lambda: timm.create_model("convnext_atto"),
            "stem",
            2,
            r"cannot rebuild '.*norm', a LayerNorm2d.*families can be",
        ),
        (Scaled, "first", 2, "cannot rebuild the raw tensor 'gamma'"),
        (
            lambda: build_backbone("resnext50_32x4d"),
            "layer2",
            3,
            r"'layer3\.0\.conv2'.* divide by its 32 groups; .*smaller",
        ),
        (lambda: build_backbone("resnet18"), "layer4", 2, "end of the backbone: nothing is left to slim"),
        (lambda: build_backbone("resnet18"), "layer9", 2, "layer9"),
        (lambda: build_backbone("resnet18"), "layer3", 0, "slim_factor must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_slimmed_is_named(build, point, factor, message):
    with pytest.raises(ValueError, match=message):
        slim_after(build(), point, factor)
