"""Inflation: a repeated slice gives the 2D activations where no padding of the depth reaches, and the rest is kept."""

import copy

import monai.networks.nets as monai_nets
import pytest
import timm
import torch
import torchvision
from timm.layers import pad_same
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from ttl_monai.networks import (
    ResNeXt3D,
    TransferClassifier,
    count_macs,
    count_params,
    freeze_up_to,
    inflate,
    list_points,
    slim_after,
    truncate,
)
from ttl_monai.networks.backbones import build_backbone
from ttl_monai.networks.layers3d import SamePad3d, inflate_kernel, inflate_state
from ttl_monai.networks.pretrained import load_backbone

DEPTH = 64


def flat_resnext():
    """ResNeXt with one block a stage, its norm statistics those of some images."""
    torch.manual_seed(0)
    network = ResNet(Bottleneck, (1, 1, 1, 1), cardinality=32, base_width=4, num_classes=10)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.rand(8, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def resnext():
    return flat_resnext()


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("tf_efficientnet_lite0")[0].eval()


def clear(*layers):
    """First and last depth position out of DEPTH that no padding reaches after these layers.

    Args:
        layers: (kernel size, stride, padding before) along the depth.
    """
    first, last = 0, DEPTH - 1
    for kernel, stride, before in layers:
        first = -(-(first + before) // stride)
        last = (last + before - (kernel - 1)) // stride
    return first, last


STEM = ((7, 1, 3), (3, 2, 1))  # the convolution keeps the depth, the pooling halves it
# SAME: at a stride of 2 and an even size one position less is padded before than behind.
K3, K5, K3_2, K5_2 = (3, 1, 1), (5, 1, 2), (3, 2, 0), (5, 2, 1)
KEEPS_ALL = ((3, 1, 1), K3, *[K3] * 2, *[K5] * 2, *[K3] * 3, *[K5] * 3, *[K5] * 4, K3)


@pytest.mark.parametrize(
    ("network", "keep_depth", "point", "layers"),
    [
        ("resnext", 1, "layer1.0", [*STEM, (3, 1, 1)]),
        ("resnext", 1, "layer2.0", [*STEM, (3, 1, 1), (3, 2, 1)]),
        ("resnext", 1, "layer3.0", [*STEM, (3, 1, 1), *[(3, 2, 1)] * 2]),
        ("resnext", 1, "layer4.0", [*STEM, (3, 1, 1), *[(3, 2, 1)] * 3]),
        ("resnext", 0, "layer3.0", [(7, 2, 3), (3, 2, 1), (3, 1, 1), *[(3, 2, 1)] * 2]),
        ("lite0", 1, "blocks.0.0", [K3, K3]),
        ("lite0", 1, "blocks.1.0", [K3, K3, K3_2]),
        ("lite0", 1, "blocks.2.0", [K3, K3, K3_2, K3, K5_2]),
        ("lite0", 1, "blocks.3.0", [K3, K3, K3_2, K3, K5_2, K5, K3_2]),
        ("lite0", 0, "blocks.1.0", [K3_2, K3, K3_2]),
        ("lite0", 5, "blocks.4.0", KEEPS_ALL[:10]),
        ("lite0", 5, "blocks.5.0", KEEPS_ALL[:13]),
        ("lite0", 5, "blocks.6.0", KEEPS_ALL),
    ],
)
def test_a_repeated_slice_gives_the_2d_activations(network, keep_depth, point, layers, request):
    flat = truncate(request.getfixturevalue(network), point)
    deep = inflate(flat, keep_depth)
    torch.manual_seed(1)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = flat(image)
        got = deep(image.unsqueeze(2).expand(-1, -1, DEPTH, -1, -1))
    first, last = clear(*layers)
    assert first <= last
    difference = (got - expected.unsqueeze(2)).abs().amax((0, 1, 3, 4))
    assert expected.abs().amax() > 0.1
    assert difference[first : last + 1].max() < 1e-4
    assert difference[[0, -1]].max() > 1e-3  # there the padding reaches
    assert len(difference) > last


def test_an_inflated_resnext_is_resnext3d(resnext):
    deep = inflate(resnext)
    ours = ResNeXt3D((1, 1, 1, 1), num_classes=10)
    ours.load_state_dict(inflate_state(resnext.state_dict(), ours.state_dict()))
    ours = truncate(ours)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in deep.state_dict().items())
    volume = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deep(volume), ours.eval()(volume), rtol=1e-5, atol=1e-5)
    assert count_macs(deep, volume) == count_macs(ours, volume)


@pytest.mark.parametrize(
    "build",
    [
        torchvision.models.resnet18,
        lambda: torchvision.models.DenseNet(8, (3, 2), 16, num_classes=2),
        lambda: timm.create_model("efficientnet_b0"),  # with fused norms and gates
    ],
    ids=["resnet", "densenet", "efficientnet"],
)
def test_names_levels_and_widths_of_the_points_stay(build):
    flat = truncate(build())
    before = [(p.name, p.level, p.channels, p.stage, p.aliases) for p in list_points(flat)]
    deep = inflate(flat)
    points = list_points(deep, torch.zeros(1, 3, 32, 64, 64))
    assert [(p.name, p.level, p.channels, p.stage, p.aliases) for p in points] == before
    assert set(deep.state_dict()) == set(flat.state_dict())


@pytest.mark.parametrize(
    ("name", "keep_depth", "depth"),
    [
        *[("timm:resnet10t", keep, depth) for keep, depth in ((0, 2), (1, 4), (2, 8), (3, 16), (9, 64))],
        ("resnet18", 2, 8),
        ("tf_efficientnet_lite0", 3, 16),
    ],
)
def test_the_first_reductions_keep_the_depth(name, keep_depth, depth):
    with torch.device("meta"):
        deep = inflate(build_backbone(name), keep_depth)
        assert deep.eval()(torch.empty(1, 3, 64, 64, 64)).shape[2:] == (depth, 2, 2)


class Squeeze(nn.Module):
    """A gate from the mean of each channel, in one of the ways that networks write it."""

    def __init__(self, mean):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.mean = mean

    def forward(self, x):
        return x * self.conv(self.mean(x)).sigmoid()


def seeded(layer):
    """Norms with statistics and scales of their own."""
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(len(tensor)) + (0.5 if "var" in name else 0))
    return layer


LAYERS = {
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
    "same by name": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "reflected": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "oblong": lambda: nn.Conv2d(4, 4, (3, 5), stride=(2, 1), padding=(1, 2)),
    "even": lambda: nn.Conv2d(4, 4, 2, stride=2),
    "SAME": lambda: Conv2dSame(4, 4, 5, stride=2, groups=4),
    "batch norm": lambda: seeded(nn.BatchNorm2d(4)),
    "fused norm": lambda: seeded(BatchNormAct2d(4, act_layer=nn.ReLU6)),
    "fused norm without activation": lambda: seeded(BatchNormAct2d(4, apply_act=False)),
    "norm with dropout": lambda: seeded(BatchNormAct2d(4, drop_layer=nn.Dropout)),
    "instance norm": lambda: seeded(nn.InstanceNorm2d(4, affine=True)),
    "group norm": lambda: seeded(nn.GroupNorm(2, 4)),
    "fused group norm": lambda: seeded(GroupNormAct(4, 2)),
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "average pool": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average pool with a divisor": lambda: nn.AvgPool2d(2, divisor_override=3),
    "SAME max pool": lambda: MaxPool2dSame(3, 2),
    "SAME average pool": lambda: AvgPool2dSame(3, 2),
    "dropout": lambda: nn.Dropout2d(),
    "squeeze by mean": lambda: Squeeze(lambda x: x.mean((2, 3), keepdim=True)),
    "squeeze from behind": lambda: Squeeze(lambda x: torch.mean(x, dim=(-1, -2), keepdim=True)),
    "squeeze by pooling": lambda: Squeeze(nn.AdaptiveAvgPool2d(1)),
}


@pytest.mark.parametrize("keep_depth", [0, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_its_3d_form(name, keep_depth):
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(3, 4, 1), LAYERS[name](), nn.Conv2d(4, 2, 1)).eval()
    image = torch.rand(2, 3, 15, 17)
    deep = inflate(flat, keep_depth, image)
    with torch.no_grad():
        expected, got = flat(image), deep(image.unsqueeze(2).repeat(1, 1, 15, 1, 1))
    assert got.shape[:2] + got.shape[3:] == expected.shape
    torch.testing.assert_close(got[:, :, got.shape[2] // 2], expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_is_repeated_and_divided():
    kernel = torch.arange(8.0).view(2, 1, 2, 2)
    deep = inflate_kernel(kernel, 4)
    assert deep.shape == (2, 1, 4, 2, 2)
    assert torch.equal(deep[:, :, 3], kernel / 4)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (2, 3, 1)])
def test_same_padding_is_timms_on_every_axis(size, kernel, stride, dilation):
    pad = SamePad3d((kernel,) * 3, (stride,) * 3, (dilation,) * 3, value=2.0)
    volume = torch.rand(1, 1, size, size, size + 1)
    got = pad(volume)
    slice_ = pad_same(volume[:, :, 0], [kernel] * 2, [stride] * 2, [dilation] * 2, value=2.0)
    middle = (got == 2.0).flatten(3).all(3).flatten().tolist().index(False)
    assert torch.equal(got[:, :, middle], slice_)
    turned = pad(volume.transpose(2, 3)).transpose(2, 3)
    assert torch.equal(turned, got)


def test_the_source_stays_and_shares_nothing(resnext):
    before = copy.deepcopy(resnext.state_dict())
    deep = inflate(resnext)
    with torch.no_grad():
        for value in (*deep.parameters(), *deep.buffers()):
            value.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in resnext.state_dict().items())
    assert not any(module.training for module in resnext.modules())
    assert isinstance(resnext.conv1, nn.Conv2d)


def test_training_flags_and_gradients_are_kept():
    flat = torchvision.models.resnet18()
    flat.layer1.eval().requires_grad_(False)
    deep = inflate(flat)
    assert not deep.get_submodule("layer1.0.conv1").weight.requires_grad
    assert not deep.get_submodule("layer1.1.bn2").training
    assert deep.get_submodule("layer2.0.bn1").training
    assert deep.get_submodule("layer2.0.conv1").weight.requires_grad


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class Standardised(nn.Conv2d):
    """A convolution that computes something else than its class promises."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.std())


class Scaled(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return self.conv(x) * self.scale


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: timm.create_model("convnext_atto"),
            r"no 3D form of 'stem.1', a LayerNorm2d: .*can be inflated",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Standardised(4, 4, 1)), "no 3D form of '1', a Standardised"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2)), "no 3D form of '1', a PixelShuffle: it makes"),
        (Shuffle, "no 3D form of "),
        (lambda: Scaled(1, 4, 1, 1), "no 3D form of 'scale': a raw tensor"),
        (lambda: Scaled(4, 1, 1), "no 3D form of 'scale': a raw tensor"),
        (
            lambda: monai_nets.resnet10(spatial_dims=3, n_input_channels=3),
            "a 2D network .*, but ResNet takes 3D",
        ),
    ],
)
def test_what_has_no_3d_form_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        inflate(build())


@pytest.mark.parametrize("keep_depth", [-1, 1.0, None])
def test_keep_depth_is_a_number(keep_depth):
    with pytest.raises(ValueError, match="keep_depth must be a whole number"):
        inflate(nn.Conv2d(3, 4, 1), keep_depth)


@pytest.fixture(scope="module")
def classifier():
    return TransferClassifier("tf_efficientnet_lite0_3d", in_channels=1, truncate_at="blocks.3").eval()


def test_a_classifier_on_inflated_imagenet_takes_volumes(classifier, lite0):
    state, flat = classifier.backbone.state_dict(), lite0.state_dict()
    assert torch.equal(state["blocks.1.0.bn2.running_mean"], flat["blocks.1.0.bn2.running_mean"])
    torch.testing.assert_close(state["blocks.2.0.conv_dw.weight"].sum(2), flat["blocks.2.0.conv_dw.weight"])
    report = classifier.weight_info.report
    assert set(report.loaded) == {f"backbone.{key}" for key in state}
    assert "classifier.weight" in report.skipped
    assert classifier.weight_info.licence == "Apache-2.0"
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        logits = classifier(torch.rand(2, 1, 8, 32, 32))
        assert logits.shape == (2, 2)
        got = classifier.backbone(classifier.normalise(image.unsqueeze(2).repeat(1, 1, DEPTH, 1, 1)))
        expected = truncate(lite0, "blocks.3.0")((image.expand(-1, 3, -1, -1) - 0.5) / 0.5)
        deep = truncate(classifier.backbone, "blocks.3.0")(
            classifier.normalise(image.unsqueeze(2).repeat(1, 1, DEPTH, 1, 1))
        )
    assert got.shape == (1, 80, 8, 2, 2)
    torch.testing.assert_close(deep[:, :, 3], expected, rtol=0, atol=1e-4)


def test_its_own_checkpoint_loads_by_name(classifier, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": classifier.state_dict()}, path)
    again = TransferClassifier("tf_efficientnet_lite0_3d", str(path), in_channels=1, truncate_at="blocks.3").eval()
    for key, value in classifier.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[key], value), key
    assert torch.equal(again.mean, classifier.mean)


def test_the_verbs_work_on_it(lite0):
    deep = inflate(truncate(lite0, "blocks.3"))
    volume = torch.rand(2, 3, 8, 32, 32)
    slim = slim_after(deep, "blocks.1")
    assert slim.get_submodule("blocks.3.0.conv_pwl").out_channels == 40
    assert count_params(slim) < count_params(deep)
    frozen = freeze_up_to(slim, "blocks.1", volume).train()
    frozen(volume).square().mean().backward()
    assert all(
        (p.grad is None) == name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1"))
        for name, p in frozen.named_parameters()
    )


def test_a_file_of_neither_form_is_refused(tmp_path):
    state = build_backbone("tf_efficientnet_lite0").state_dict()
    state["blocks.0.0.conv_dw.weight"] = torch.zeros(32, 1, 5, 5)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"conv_dw\.weight \(32, 1, 5, 5\) instead of \(32, 1, 3, 3, 3\)"):
        load_backbone("tf_efficientnet_lite0_3d", str(path))
