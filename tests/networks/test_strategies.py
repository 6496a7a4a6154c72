"""Every backbone with every strategy builds, takes a training step, and has the effect that it claims."""

import copy
from functools import cache

import monai.networks.nets as monai_nets
import pytest
import torch
from torch import nn

from ttl_monai.networks import TransferClassifier, count_params, param_groups, truncate
from ttl_monai.networks.backbones import build_backbone


def resnet3d():
    torch.manual_seed(0)
    return monai_nets.resnet10(spatial_dims=3, n_input_channels=3, num_classes=2)


# Backbone -> the points of LWFT, TF and TTL, as the `cuts` of the bundles.
CUTS = {
    "resnet18": ("layer1", "layer2", "layer3"),
    "resnet34": ("layer2.1", "layer3", "layer3.2"),
    "resnet50": ("stem", "layer3", "layer3.5"),
    "densenet121": ("transition1", "transition2", "transition2"),
    "efficientnet_b0": ("blocks.1", "blocks.3", "blocks.4"),
    "tf_efficientnet_lite0": ("blocks.1", "blocks.2", "blocks.3"),
    "resnext50_32x4d": ("layer1.2", "layer2", "layer3"),
    "resnet3d": ("layer1", "layer2", "layer3"),
}
STRATEGIES = ("FTL", "HTL", "LWFT", "TF", "TTL", "truncated and frozen")


@cache
def source(backbone):
    """The backbone that the strategies start from, without its classifier."""
    return truncate(resnet3d() if backbone == "resnet3d" else build_backbone(backbone))


@cache
def keys_up_to(backbone, point):
    return frozenset(truncate(source(backbone), point).state_dict())


def knobs_of(backbone, strategy):
    lwft, tf, ttl = CUTS[backbone]
    return {
        "FTL": {},
        "HTL": {"freeze_up_to": "all"},
        "LWFT": {"freeze_up_to": lwft},
        "TF": {"slim_after": tf},
        "TTL": {"truncate_at": ttl},
        "truncated and frozen": {"truncate_at": ttl, "freeze_up_to": "all"},
    }[strategy]


def train_one_step(network):
    """A step of plain gradient descent, so that whatever has a gradient moves."""
    spatial = network.mean.ndim - 2
    images = torch.rand(2, 3, *(32,) * spatial)
    optimizer = torch.optim.SGD(param_groups(network.train(), lr=0.1))
    nn.functional.cross_entropy(network(images), torch.tensor([0, 1])).backward()
    optimizer.step()


# In `make test` three backbones go through all strategies, the others through one; `make test-all` has every pair.
QUICK = {
    (backbone, strategy) for backbone in ("resnet18", "tf_efficientnet_lite0", "resnet3d") for strategy in STRATEGIES
}
QUICK |= {("densenet121", "TF"), ("resnet50", "TTL"), ("resnext50_32x4d", "TF")}
QUICK |= {("resnet34", "HTL"), ("efficientnet_b0", "LWFT")}
PAIRS = [
    pytest.param(backbone, strategy, marks=[] if (backbone, strategy) in QUICK else pytest.mark.slow)
    for backbone in CUTS
    for strategy in STRATEGIES
]


@pytest.mark.parametrize(("backbone", "strategy"), PAIRS)
def test_strategy_has_its_effect(backbone, strategy):
    knobs = knobs_of(backbone, strategy)
    network = TransferClassifier(source(backbone), weights="none", **knobs)
    before = copy.deepcopy(network.state_dict())
    train_one_step(network)
    after = network.state_dict()
    moved = {key.removeprefix("backbone.") for key in after if not torch.equal(after[key], before[key])}
    original = source(backbone).state_dict()
    kept = {key for key, value in original.items() if key in network.backbone.state_dict()}

    assert {"head.2.weight", "head.2.bias"} <= moved
    frozen = set()
    if "freeze_up_to" in knobs:
        frozen = kept if knobs["freeze_up_to"] == "all" else keys_up_to(backbone, knobs["freeze_up_to"])
    assert not frozen & moved  # neither weights nor norm statistics
    trainable = {name: p for name, p in network.backbone.named_parameters() if p.requires_grad}
    assert set(trainable) == {name for name, _ in network.backbone.named_parameters()} - frozen
    assert all(parameter.grad is not None for parameter in trainable.values())
    assert {key for key in kept if key.endswith("running_mean")} - frozen <= moved
    assert any(key in moved for key in trainable) == bool(trainable)

    if strategy == "TF":
        pretrained = keys_up_to(backbone, knobs["slim_after"])
        assert all(torch.equal(before[f"backbone.{key}"], original[key]) for key in pretrained)
        assert count_params(network.backbone) < count_params(source(backbone))
        assert kept == set(original)
    else:
        assert all(torch.equal(before[f"backbone.{key}"], original[key]) for key in kept)
    if strategy in ("TTL", "truncated and frozen"):
        assert kept == keys_up_to(backbone, knobs["truncate_at"]) < set(original)
    if strategy == "FTL":
        assert kept == set(original)
