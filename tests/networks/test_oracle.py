"""Every truncated network gives what the whole network gives at that point, bit for bit.

Two oracles that know nothing of our graph: torchvision's feature extraction (its own trace and names), and forward
hooks on the whole network. Where a point is a concatenation (dense layers of torchvision), its operands are hooked.
"""

import re

import monai.networks.nets as monai_nets
import pytest
import timm
import torch
import torchvision
from timm.models import create_feature_extractor
from torchvision.models.shufflenetv2 import channel_shuffle

from ttl_monai.networks import ResNeXt3D, list_points, split_at, truncate
from ttl_monai.networks.tracing import trace

# name -> builder, (C, *spatial), and every how manieth point the quick test takes
NETWORKS = {
    "resnet18": (torchvision.models.resnet18, (3, 64, 64), 1),
    "resnet50": (torchvision.models.resnet50, (3, 64, 64), 5),
    "densenet121": (torchvision.models.densenet121, (3, 64, 64), 19),
    "densenet201": (torchvision.models.densenet201, (3, 64, 64), 50),
    "efficientnet_b0": (lambda: timm.create_model("efficientnet_b0"), (3, 64, 64), 13),
    "efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), (3, 75, 75), 13),
    "regnet": (torchvision.models.regnet_y_400mf, (3, 64, 64), 5),
    "mobilenet_v3": (torchvision.models.mobilenet_v3_small, (3, 64, 64), 11),
    "mobilenet_v4": (lambda: timm.create_model("mobilenetv4_conv_small"), (3, 64, 64), 17),
    "convnext": (lambda: timm.create_model("convnext_atto"), (3, 64, 64), 6),
    "convnext of torchvision": (torchvision.models.convnext_tiny, (3, 64, 64), 9),
    "shufflenet": (torchvision.models.shufflenet_v2_x0_5, (3, 64, 64), 7),
    "squeezenet": (torchvision.models.squeezenet1_1, (3, 64, 64), 9),
    "vgg": (torchvision.models.vgg11_bn, (3, 64, 64), 9),
    "video": (torchvision.models.video.r3d_18, (3, 8, 32, 32), 4),
    "monai resnet": (lambda: monai_nets.resnet18(spatial_dims=3, n_input_channels=1), (1, 32, 32, 32), 4),
    "monai densenet": (lambda: monai_nets.DenseNet121(3, 1, 2), (1, 32, 32, 32), 25),
    "monai seresnet": (lambda: monai_nets.SEResNet50(spatial_dims=3, in_channels=1), (1, 32, 32, 32), 7),
    "resnext3d": (lambda: ResNeXt3D((1, 1, 2, 1)), (3, 8, 32, 32), 3),
}


def record_outputs(model, x):
    """What each module returned last, as it was at that moment (later layers may work in place)."""
    outputs = {}
    handles = [
        module.register_forward_hook(lambda _, __, y, path=path: outputs.update({path: torch.as_tensor(y).clone()}))
        for path, module in model.named_modules()
        if not isinstance(module, torch.nn.ModuleDict) or hasattr(module, "denselayer1")
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return outputs


def expected_output(point, outputs):
    """The hooked output of the point's module; for a dense layer that returns only what it adds, all of the block."""
    own = outputs[point.name]
    if own.shape[1] == point.channels:
        return own
    block, layer = re.fullmatch(r"(.*)\.denselayer(\d+)", point.name).groups()
    added = [outputs[f"{block}.denselayer{i + 1}"] for i in range(int(layer))]
    first = outputs[block][:, : point.channels - sum(y.shape[1] for y in added)]  # the block passes its input on
    return torch.cat([first, *added], 1)


def check_network(name, quick):
    build, shape, step = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(2, *shape)
    outputs = record_outputs(model, x)
    points = list_points(model, x)
    traced = trace(model)  # once, for all points
    for point in points[:: step if quick else 1]:
        with torch.no_grad():
            got = truncate(traced, point.name, x)(x)
        assert got.shape[1:] == (point.channels, *point.spatial_size), point.name
        if name == "shufflenet" and point.name.endswith("branch2"):  # the other operand is no module's output
            got, expected = channel_shuffle(got, 2), outputs[point.name.removesuffix(".branch2")]
        else:
            expected = expected_output(point, outputs)
        assert torch.equal(got, expected), point.name


@pytest.mark.parametrize("name", NETWORKS)
def test_truncated_output_equals_the_hooked_output(name):
    check_network(name, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_truncated_output_equals_the_hooked_output_at_every_point(name):
    check_network(name, quick=False)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("resnet18", ["maxpool", "layer1", "layer2.0", "layer4"]),
        ("regnet", ["stem", "trunk_output.block1", "trunk_output.block3.block3-2"]),
        ("efficientnet_lite0", ["blocks.0", "blocks.2.0", "blocks.6"]),
        ("convnext", ["stem", "stages.1", "stages.2.blocks.1"]),
        ("video", ["stem", "layer2", "layer4.0"]),
    ],
)
def test_truncated_output_equals_torchvisions_feature_extraction(name, names):
    build, shape, *_ = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(2, *shape)
    with torch.no_grad():
        expected = create_feature_extractor(model, names)(x)
        for point in names:
            assert torch.equal(truncate(model, point, x)(x), expected[point]), point


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", "layer4"),
        ("efficientnet_b0", "bn2"),  # conv_head stays
        ("mobilenet_v3", "features"),
        ("vgg", "features"),
        ("monai densenet", "class_layers.relu"),
    ],
)
def test_truncating_at_nothing_removes_pooling_and_classifier_only(name, last):
    build, shape, *_ = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(2, *shape)
    with torch.no_grad():
        assert torch.equal(truncate(model, None, x)(x), record_outputs(model, x)[last])


def test_densenet_keeps_its_last_activation():
    torch.manual_seed(0)
    model = torchvision.models.densenet121().eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(truncate(model, None, x)(x), model.features(x).relu())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_lite0", "convnext"])
def test_front_and_rest_give_what_the_whole_gives(name):
    build, shape, step = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(2, *shape)
    traced = trace(model)
    with torch.no_grad():
        expected = model(x)
        for point in list_points(model, x)[:: 2 * step]:
            front, rest = split_at(traced, point.name, x)
            features = front(x)
            kept = features.clone()
            assert torch.equal(rest(features), expected), point.name
            assert torch.equal(features, kept), point.name
