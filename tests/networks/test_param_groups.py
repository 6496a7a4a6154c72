"""Parameter groups: rates by part and depth, and frozen parameters left out."""

import pytest
import torch
from torch import nn

from ttl_monai.networks import TransferClassifier, param_groups


def build(**knobs):
    return TransferClassifier("resnet18", weights="none", **knobs)


def names_of(network, group):
    wanted = {id(parameter) for parameter in group["params"]}
    return [name for name, parameter in network.named_parameters() if id(parameter) in wanted]


def test_without_options_all_learn_at_one_rate_and_nothing_is_left_out():
    network = build()
    head, backbone = param_groups(network, 1e-4)
    assert (head["name"], head["lr"], backbone["name"], backbone["lr"]) == ("head", 1e-4, "backbone", 1e-4)
    assert names_of(network, head) == ["head.2.weight", "head.2.bias"]
    assert head["params"] == list(network.head.parameters())
    assert len(backbone["params"]) == len(list(network.backbone.parameters()))


def test_the_backbone_can_learn_at_a_tenth():
    rates = {group["name"]: group["lr"] for group in param_groups(build(), 1e-3, backbone_lr_scale=0.1)}
    assert rates == {"head": 1e-3, "backbone": pytest.approx(1e-4)}


def test_frozen_parameters_are_in_no_group():
    network = build(freeze_up_to="layer3")
    backbone = param_groups(network, 1e-3)[1]
    assert {name.split(".")[1] for name in names_of(network, backbone)} == {"layer4"}
    assert [group["name"] for group in param_groups(build(freeze_up_to="all"), 1e-3)] == ["head"]


def test_layer_decay_goes_by_block_from_the_top():
    network = build()
    groups = param_groups(network, 1.0, backbone_lr_scale=0.5, layer_decay=0.8)
    rates = {name: group["lr"] for group in groups for name in names_of(network, group)}
    assert len(rates) == len(list(network.named_parameters()))
    assert rates["head.2.weight"] == 1.0
    blocks = [f"layer{stage}.{block}" for stage in (4, 3, 2, 1) for block in (1, 0)]
    for depth, block in enumerate(blocks, start=1):
        of_block = {rate for name, rate in rates.items() if name.startswith(f"backbone.{block}.")}
        assert of_block == {0.5 * 0.8**depth}, block
    assert rates["backbone.conv1.weight"] == pytest.approx(0.5 * 0.8**9)
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)


def test_layers_above_the_blocks_go_with_the_top_block():
    network = TransferClassifier("tf_efficientnet_lite0", weights="none")
    groups = param_groups(network, 1.0, layer_decay=0.5)
    assert len(groups) == 1 + 16 + 1  # head, blocks, stem
    top = names_of(network, groups[1])
    assert "backbone.conv_head.weight" in top
    assert "backbone.blocks.6.0.conv_pwl.weight" in top
    assert set(names_of(network, groups[-1])) == {
        f"backbone.{key}" for key in ("conv_stem.weight", "bn1.weight", "bn1.bias")
    }


def test_a_wrapped_network_has_the_same_groups():
    network = build(truncate_at="layer1")
    wrapped = param_groups(nn.DataParallel(network), 1e-3)
    assert [group["name"] for group in wrapped] == ["head", "backbone"]
    assert torch.optim.Adam(wrapped).param_groups[1]["params"] == list(network.backbone.parameters())


@pytest.mark.parametrize(
    ("network", "options", "error", "message"),
    [
        (nn.Linear(2, 2), {}, TypeError, "expected a network with .backbone and .head, got Linear"),
        (None, {"backbone_lr_scale": -1}, ValueError, "expected .*backbone_lr_scale >= 0.* got 0.001, -1 and 1.0"),
        (None, {"layer_decay": 0}, ValueError, "0 < layer_decay <= 1"),
        (None, {"layer_decay": 1.5}, ValueError, "0 < layer_decay <= 1"),
    ],
)
def test_wrong_arguments_are_refused(network, options, error, message):
    with pytest.raises(error, match=message):
        param_groups(network or build(truncate_at="layer1"), 1e-3, **options)


def test_nothing_trainable_is_an_error():
    network = build(truncate_at="layer1", freeze_up_to="all")
    network.head.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of TransferClassifier requires a gradient"):
        param_groups(network, 1e-3)
