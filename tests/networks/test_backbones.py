"""Names of backbones: which source builds them, and what a wrong name says."""

import pytest
import torch
from torch import nn

from ttl_monai.networks import backbones
from ttl_monai.networks.backbones import build_backbone, list_backbones, register_backbone, resolve_backbone


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", ("torchvision", "resnet50")),
        ("densenet121", ("torchvision", "densenet121")),
        ("vgg16_bn", ("torchvision", "vgg16_bn")),
        ("resnet10t", ("timm", "resnet10t")),  # not one of torchvision's
        ("resnext50_32x4d", ("timm", "resnext50_32x4d")),
        ("efficientnet_b0", ("timm", "efficientnet_b0")),
        ("densenet264", ("monai", "densenet264")),
        ("r3d_18", ("torchvision", "r3d_18")),
        ("timm:resnet50", ("timm", "resnet50")),
        ("timm:resnet50.a1_in1k", ("timm", "resnet50.a1_in1k")),
        ("torchvision:efficientnet_b0", ("torchvision", "efficientnet_b0")),
        ("monai:resnet18", ("monai", "resnet18")),
        ("monai:seresnext50", ("monai", "seresnext50")),
        ("resnext3d101", ("ttl", "resnext3d101")),
        ("tf_efficientnet_lite0_3d", ("inflated", "tf_efficientnet_lite0")),
        ("timm:resnet18_3d", ("inflated", "timm:resnet18")),
    ],
)
def test_resolve_backbone_follows_the_order_and_the_prefix(name, expected):
    assert resolve_backbone(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "near names:.*resnet50"),
        ("timm:efficentnet_b0", "near names: .*efficientnet_b0"),
        ("monai:efficientnet_b0", "no backbone 'monai:efficientnet_b0' in monai"),
        ("timm:resnet50.a1_in2k", r"near names: .*resnet50\.a1_in1k"),
        ("keras:resnet50", "prefix 'keras'; expected one of ttl, torchvision, timm, monai"),
        ("", "no backbone ''"),
        ("resnext3d102", "near names: .*resnext3d101"),
        ("resnet51_3d", "no backbone 'resnet51' .*near names: .*resnet50"),
        ("_3d", "no backbone ''"),
    ],
)
def test_resolve_backbone_refuses_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        resolve_backbone(name)


@pytest.mark.parametrize(
    ("name", "module", "shape"),
    [
        ("resnet18", "torchvision.models.resnet", (1, 3, 32, 32)),
        ("timm:resnet18", "timm.models.resnet", (1, 3, 32, 32)),
        ("monai:resnet18", "monai.networks.nets.resnet", (1, 3, 32, 32, 32)),
        ("monai:densenet121", "monai.networks.nets.densenet", (1, 3, 32, 32, 32)),
        ("monai:seresnet50", "monai.networks.nets.senet", (1, 3, 32, 32, 32)),
        ("tf_efficientnet_lite0", "timm.models.efficientnet", (1, 3, 32, 32)),
    ],
)
def test_build_backbone_returns_the_network_of_that_source(name, module, shape):
    network = build_backbone(name).eval()
    assert type(network).__module__ == module
    with torch.no_grad():
        assert network(torch.zeros(shape)).shape == (1, 1000)


def test_a_2d_backbone_is_built_in_3d_by_its_name():
    network = build_backbone("timm:resnet10t_3d").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 512, 1, 1, 1)
    with pytest.raises(ValueError, match="expected a 2D network to inflate, but ResNet takes 3D images"):
        build_backbone("monai:resnet18_3d")


def test_a_registered_backbone_comes_before_all_others(monkeypatch):
    monkeypatch.setattr(backbones, "REGISTRY", {})

    @register_backbone("resnet18")
    class Ours(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 4, 3)

    assert list_backbones("ttl") == ["resnet18"]
    assert isinstance(build_backbone("resnet18"), Ours)
    assert not isinstance(build_backbone("torchvision:resnet18"), Ours)
    with pytest.raises(ValueError, match="'resnet18' is registered already"):
        register_backbone("resnet18")(Ours)
