"""Truncation points: the published table, names and levels on networks that nobody tuned to, and how they are found."""

import csv
import itertools
import math
from collections import Counter
from functools import cache
from pathlib import Path

import monai.networks.nets as monai_nets
import pytest
import timm
import torch
import torchvision
from torch import nn

from ttl_monai.networks import ResNeXt3D, find_point, list_points, truncate
from ttl_monai.networks.tracing import skeleton

TABLE = list(csv.DictReader(Path(__file__).with_name("truncation_points.csv").open()))
PUBLISHED = {
    "resnet50": torchvision.models.resnet50,
    "resnet34_encoder": torchvision.models.resnet34,
    "densenet121": torchvision.models.densenet121,
    "densenet201": torchvision.models.densenet201,
    "efficientnet_b0": lambda: timm.create_model("efficientnet_b0"),
    "resnext3d101": ResNeXt3D,
}
VOLUMES = {"resnext3d101": torch.zeros(1, 3, 24, 192, 192)}


@cache
def published_points(arch):
    with torch.device("meta"):
        model = PUBLISHED[arch]()
    return list_points(model, VOLUMES.get(arch))


@pytest.mark.parametrize("arch", PUBLISHED)
def test_points_are_those_of_the_paper(arch):
    rows = [row for row in TABLE if row["arch"] == arch]
    points = [point for point in published_points(arch) if point.level != "layer"]
    assert len(points) == len(rows)
    for point, row in zip(points, rows, strict=True):
        if row["idx"] == "0":
            assert "stem" in point.aliases
        else:
            assert point.name == row["module"]
        assert point.level == ("stage" if row["level"] == "coarse" else "block"), point.name
        assert point.channels == int(row["channels"]), point.name
        assert "x".join(map(str, point.spatial_size)) == row["spatial"], point.name
        assert point.stride == int(row["stride"]), point.name


@pytest.mark.parametrize("arch", PUBLISHED)
def test_params_and_macs_are_those_of_the_paper_with_both_heads(arch):
    rows = [row for row in TABLE if row["arch"] == arch]
    points = [point for point in published_points(arch) if point.level != "layer"]
    for point, row in zip(points, rows, strict=True):
        channels, elements = point.channels, point.channels * math.prod(point.spatial_size)
        pool_head, flat_head = 2 * channels + 2, 2 * elements + 2
        got = {
            "params_backbone": point.params,
            "params_pool2": point.params + pool_head,
            "params_flat2": point.params + flat_head,
            "macs_ptflops_pool2": point.macs + elements + pool_head,
            "macs_ptflops_flat2": point.macs + flat_head,
        }
        assert got == {key: int(row[key]) for key in got}, point.name


@pytest.mark.parametrize(("arch", "layers"), [("densenet121", 58), ("densenet201", 98)])
def test_every_dense_layer_is_a_point(arch, layers):
    names = [point.name for point in published_points(arch)]
    assert sum("denselayer" in name for name in names) == layers


# (builder, in_channels, spatial size, stages, number of blocks without the stem, last point): networks the code has no
# table for. A flat network (MobileNetV3, GoogLeNet) has blocks without stages, VGG has neither.
OTHERS = {
    "regnet": (
        lambda: torchvision.models.regnet_y_400mf(),
        (3, 64, 64),
        [f"trunk_output.block{i}" for i in range(1, 5)],
        16,
        "trunk_output.block4.block4-5",
    ),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(), (3, 64, 64), [], 11, "features.12"),
    "convnext": (
        lambda: timm.create_model("convnext_atto"),
        (3, 64, 64),
        [f"stages.{i}.blocks" for i in range(4)],
        12,
        "stages.3.blocks.1",
    ),
    "efficientnet of torchvision": (
        lambda: torchvision.models.efficientnet_b0(),
        (3, 64, 64),
        [f"features.{i}" for i in range(1, 8)],
        16,
        "features.8",
    ),
    "shufflenet": (
        lambda: torchvision.models.shufflenet_v2_x0_5(),
        (3, 64, 64),
        ["stage2", "stage3", "stage4"],
        16,
        "conv5",
    ),
    "googlenet": (
        lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
        (3, 64, 64),
        [],
        9,
        "inception5b",
    ),
    "vgg": (lambda: torchvision.models.vgg11_bn(), (3, 64, 64), [], 0, "features.28"),
    "video": (
        lambda: torchvision.models.video.r2plus1d_18(),
        (3, 8, 32, 32),
        ["layer1", "layer2", "layer3", "layer4"],
        8,
        "layer4.1",
    ),
    "monai resnet": (
        lambda: monai_nets.resnet18(spatial_dims=3, n_input_channels=1),
        (1, 32, 32, 32),
        ["layer1", "layer2", "layer3", "layer4"],
        8,
        "layer4.1",
    ),
    "monai seresnet": (
        lambda: monai_nets.SEResNet50(spatial_dims=3, in_channels=1),
        (1, 32, 32, 32),
        ["layer1", "layer2", "layer3", "layer4"],
        16,
        "layer4.2",
    ),
    "monai densenet": (
        lambda: monai_nets.DenseNet(3, 1, 2, block_config=(2, 3, 2)),
        (1, 32, 32, 32),
        ["features.denseblock1", "features.denseblock2", "features.denseblock3"],
        7,
        "class_layers.relu",
    ),
    "monai efficientnet": (
        lambda: monai_nets.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1),
        (1, 32, 32, 32),
        [f"_blocks.{i}" for i in range(7)],
        16,
        "_bn1",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_stages_and_blocks_of_networks_nobody_tuned_to(name):
    build, shape, stages, blocks, last = OTHERS[name]
    points = list_points(build(), torch.zeros(1, *shape))
    assert [point.stage for point in points if point.level == "stage"] == stages
    ends = [point for point in points if point.level != "layer" and "stem" not in (point.name, *point.aliases)]
    transitions = sum("transition" in point.name or "norm" in point.name for point in ends)
    assert len(ends) - transitions == blocks
    assert points[-1].name == last
    assert len({point.name for point in points}) == len(points)
    for before, after in itertools.pairwise(points):
        assert before.params <= after.params
        assert before.macs <= after.macs
    assert [point.stride for point in ends] == sorted(point.stride for point in ends)


@pytest.mark.parametrize(
    ("arch", "name", "expected"),
    [
        ("resnet50", "layer3.5", "layer3.5"),
        ("resnet50", "layer3", "layer3.5"),
        ("resnet50", "stem", "maxpool"),
        ("resnet50", "bn1", "bn1"),  # of the stem: the norms inside blocks are no points
        ("densenet121", "transition2", "features.transition2"),
        ("densenet121", "denseblock2", "features.denseblock2.denselayer12"),
        ("densenet121", "denseblock2.denselayer3", "features.denseblock2.denselayer3"),
        ("densenet121", "norm5", "features.norm5"),
        ("densenet121", "stem", "features.pool0"),
        ("efficientnet_b0", "blocks.4", "blocks.4.2"),
        ("efficientnet_b0", "stem", "bn1"),
        ("efficientnet_b0", "blocks", "blocks.6.0"),
        ("resnext3d101", "layer3", "layer3.22"),
        ("resnext3d101", "stem", "maxpool"),
    ],
)
def test_find_point_accepts(arch, name, expected):
    assert find_point(published_points(arch), name).name == expected


@pytest.mark.parametrize(
    ("arch", "name", "message"),
    [
        ("resnet50", "layer5", r"got 'layer5'; nearest: .*layer4.*; stages: layer1.2, layer2.3, layer3.5, layer4.2"),
        ("resnet50", "layer3.6", "nearest: layer3"),
        ("resnet50", "3", "got '3'"),
        ("resnet50", "fc", "got 'fc'"),
        ("resnet50", "layer1.0.conv1", "got 'layer1.0.conv1'"),  # the shortcut is alive beside it
        ("densenet121", "denselayer3", "one truncation point, got 'denselayer3', which is .*denseblock1.denselayer3.*"),
        ("resnet50", "", "got ''"),
    ],
)
def test_find_point_names_the_nearest(arch, name, message):
    with pytest.raises(ValueError, match=message):
        find_point(published_points(arch), name)


@pytest.mark.parametrize("name", [3, -1, None])
def test_find_point_refuses_a_position(name):
    with pytest.raises(TypeError, match="expected the name of a truncation point"):
        find_point(published_points("resnet50"), name)


class Branches(nn.Module):
    """Two branches that one concatenation joins, with another use of the first branch above it, or an addition."""

    def __init__(self, joins):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.grow = nn.Conv2d(2, 2, 3, padding=1)
        self.mix = nn.Conv2d(2 if joins == "sum" else 4, 2, 1)
        self.joins = joins

    def forward(self, x):
        x = self.stem(x)
        y = self.grow(x)
        if self.joins == "sum":
            return self.mix(x + y)
        if self.joins == "spatial":
            return self.mix(torch.cat([torch.cat([x, x], 1), torch.cat([y, y], 1)], 2))
        y = self.mix(torch.cat([x, y], 1))
        return y + x if self.joins == "dense" else y


@pytest.mark.parametrize(
    ("joins", "expected"),
    [
        ("channels", [("stem", 2), ("grow", 4), ("mix", 2)]),
        ("dense", [("stem", 2), ("grow", 4)]),  # the operand that lives on can be split off the concatenation
        ("sum", [("stem", 2), ("mix", 2)]),
        ("spatial", [("stem", 2), ("mix", 2)]),
    ],
)
def test_several_live_tensors_are_a_point_only_as_one_concatenation_of_channels(joins, expected):
    points = list_points(Branches(joins), torch.zeros(1, 1, 8, 8))
    assert [(point.name, point.channels) for point in points] == expected


class Reuses(nn.Module):
    """One activation for the whole network: its name would mean two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.ReLU()

    def forward(self, x):
        return self.act(self.second(self.act(self.first(x)))) * 2


def test_a_module_called_twice_names_no_point():
    points = list_points(Reuses(), torch.zeros(1, 1, 8, 8))
    assert [point.name for point in points] == ["first", "second"]


def test_channels_and_sizes_follow_the_example_input():
    model = torchvision.models.resnet18()
    point = find_point(list_points(model, torch.zeros(1, 3, 96, 64)), "layer3")
    assert (point.channels, point.stride, point.spatial_size) == (256, 16, (6, 4))
    assert find_point(list_points(model), "layer3").spatial_size == (14, 14)


def test_points_of_a_truncated_network_are_those_up_to_the_cut():
    model = torchvision.models.DenseNet(growth_rate=4, block_config=(3, 2), num_init_features=8, num_classes=2)
    x = torch.zeros(1, 3, 32, 32)
    points = list_points(model, x)
    for last in (p for p in points if p.level != "layer"):
        again = list_points(truncate(model, last.name, x), x)
        position = points.index(last) + 1
        assert [(p.name, p.params, p.macs) for p in again] == [(p.name, p.params, p.macs) for p in points[:position]]


def test_list_points_computes_nothing_and_leaves_the_model_alone():
    model = torchvision.models.resnet18().train()
    model.layer1.eval()
    calls = []
    model.conv1.register_forward_hook(lambda *_: calls.append(1))
    flags = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list_points(model)
    assert not calls
    assert flags == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert Counter(len(module._forward_hooks) for module in model.modules())[1] == 1
    assert len(list_points(skeleton(model))) == 12


def test_list_points_refuses_a_network_without_convolutions():
    with pytest.raises(ValueError, match="2D or 3D convolutions"):
        list_points(nn.Linear(3, 2))
