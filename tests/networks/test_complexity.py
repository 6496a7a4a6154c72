"""Parameters, MACs and latency against the published table, ptflops and sums by hand."""

import csv
import math
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from monai.networks.nets import resnet18
from ptflops import get_model_complexity_info
from ptflops.pytorch_ops import bn_flops_counter_hook
from timm.layers import BatchNormAct2d
from torch import nn

from ttl_monai.networks import ResNeXt3D, count_macs, count_params, measure_latencies, measure_latency, truncate
from ttl_monai.networks.tracing import trace

TABLE = list(csv.DictReader(Path(__file__).with_name("truncation_points.csv").open()))
ARCHS = {
    "resnet50": torchvision.models.resnet50,
    "resnet34_encoder": torchvision.models.resnet34,
    "densenet121": torchvision.models.densenet121,
    "densenet201": torchvision.models.densenet201,
    "efficientnet_b0": lambda: timm.create_model("efficientnet_b0"),
    "resnext3d101": ResNeXt3D,
}
PAPER_TABLE_3 = {("resnet50", "layer3.5"), ("densenet121", "features.transition2"), ("efficientnet_b0", "blocks.4.2")}
PAPER_CT = [row for row in TABLE if row["arch"] == "resnext3d101" and row["module"] in ("layer3.22", "layer4.2")]


def check_rows(arch, rows):
    volumes = arch == "resnext3d101"
    x = torch.empty(1, 3, *((24, 192, 192) if volumes else (224, 224)), device="meta")
    pool = nn.AdaptiveAvgPool3d if volumes else nn.AdaptiveAvgPool2d
    with torch.device("meta"):
        model = trace(ARCHS[arch]())
        for row in rows:
            channels = int(row["channels"])
            elements = channels * math.prod(map(int, row["spatial"].split("x")))
            backbone = truncate(model, "stem" if row["idx"] == "0" else row["module"])
            pooled = nn.Sequential(backbone, pool(1), nn.Flatten(), nn.Linear(channels, 2))
            flat = nn.Sequential(backbone, nn.Flatten(), nn.Linear(elements, 2))
            got = {
                "params_backbone": count_params(backbone),
                "params_pool2": count_params(pooled),
                "params_flat2": count_params(flat),
                "macs_conv": count_macs(backbone, x, convention="plain"),
                "macs_ptflops_pool2": count_macs(pooled, x),
                "macs_ptflops_flat2": count_macs(flat, x),
            }
            assert got == {key: int(row[key]) for key in got}, row["module"]


@pytest.mark.parametrize("arch", sorted({arch for arch, _ in PAPER_TABLE_3}))
def test_the_papers_table_3(arch):
    check_rows(arch, [row for row in TABLE if (row["arch"], row["module"]) in PAPER_TABLE_3 and row["arch"] == arch])


def test_the_papers_3d_network_whole_and_cut():
    check_rows("resnext3d101", PAPER_CT)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_every_row_of_the_published_table(arch):
    check_rows(arch, [row for row in TABLE if row["arch"] == arch])


# ptflops leaves out the activation inside a fused norm, which is no difference for SiLU.
@pytest.mark.parametrize(
    ("build", "point", "shape"),
    [
        (lambda: timm.create_model("efficientnet_b0"), "blocks.2", (3, 64, 64)),
        (lambda: resnet18(spatial_dims=3, n_input_channels=1), "layer2", (1, 32, 32, 32)),
    ],
)
def test_macs_agree_with_ptflops(build, point, shape):
    model = truncate(build(), point, torch.zeros(1, *shape))
    macs, params = get_model_complexity_info(
        model,
        shape,
        as_strings=False,
        print_per_layer_stat=False,
        backend="pytorch",
        backend_specific_config={"count_functional": False},
        custom_modules_hooks={BatchNormAct2d: bn_flops_counter_hook},
    )
    assert count_macs(model, torch.zeros(1, *shape)) == macs
    assert count_params(model) == params


# (network, input shape, MACs in the paper's convention, plain MACs), by hand
BY_HAND = [
    (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 8, 8), 8 * 8 * 4 * 27 + 8 * 8 * 4, 8 * 8 * 4 * 27),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (1, 4, 8, 8), 8 * 8 * 4 * 9, 8 * 8 * 4 * 9),
    (nn.Conv3d(2, 4, 3, stride=2, padding=1, bias=False), (1, 2, 8, 8, 8), 4**3 * 4 * 54, 4**3 * 4 * 54),
    (nn.ConvTranspose2d(2, 3, 2, stride=2), (1, 2, 4, 4), 16 * 2 * 12 + 3 * 64, 16 * 2 * 12),
    (nn.Linear(5, 7), (2, 5), 2 * 42, 2 * 35),
    (nn.BatchNorm2d(4), (1, 4, 8, 8), 2 * 256, 0),
    (nn.BatchNorm3d(4), (1, 4, 2, 2, 2), 2 * 32, 0),
    (nn.GroupNorm(2, 4), (1, 4, 8, 8), 2 * 256, 0),
    (nn.InstanceNorm2d(4), (1, 4, 8, 8), 2 * 256, 0),
    (BatchNormAct2d(4), (1, 4, 8, 8), 3 * 256, 0),
    (BatchNormAct2d(4, act_layer=nn.SiLU), (1, 4, 8, 8), 2 * 256, 0),
    (nn.Sequential(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.PReLU()), (1, 4, 8, 8), 5 * 256, 0),
    (nn.Sequential(nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Hardswish()), (1, 4, 8, 8), 0, 0),
    (nn.MaxPool2d(2), (1, 4, 8, 8), 256, 0),
    (nn.AdaptiveAvgPool3d(1), (1, 4, 2, 2, 2), 32, 0),
]


@pytest.mark.parametrize(("model", "shape", "paper", "plain"), BY_HAND, ids=[str(row[0])[:40] for row in BY_HAND])
def test_macs_by_hand(model, shape, paper, plain):
    assert count_macs(model, torch.rand(shape)) == paper
    assert count_macs(model, torch.rand(shape), convention="plain") == plain


def test_shared_parameters_are_counted_once():
    layer = nn.Linear(3, 3)
    assert count_params(nn.Sequential(layer, layer)) == 12


def test_counting_leaves_the_model_as_it_was_also_after_an_error():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    model[2].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, torch.rand(1, 1, 8, 8))
    measure_latency(model, torch.rand(1, 1, 8, 8), repeats=2)
    with pytest.raises(RuntimeError, match="channels"):
        count_macs(model, torch.rand(1, 5, 8, 8))
    assert [module.training for module in model] == [True, True, False]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_count_macs_refuses_an_unknown_convention():
    with pytest.raises(ValueError, match="'paper' or 'plain', got 'flops'"):
        count_macs(nn.ReLU(), torch.rand(1), convention="flops")


def test_latency_grows_with_the_work():
    small, large = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 64, 7), nn.Conv2d(64, 64, 7))
    x = torch.rand(1, 3, 96, 96)
    assert 0 < measure_latency(small, x, repeats=5) < measure_latency(large, x, repeats=5)


def test_latencies_are_measured_in_turn():
    order = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, image):
            order.append(self.name)
            time.sleep(0.01 if self.name == "slow" else 0.001)
            return image

    fast, slow = measure_latencies([(Named(name), torch.rand(1)) for name in ("fast", "slow")], repeats=3)
    assert order == ["fast", "slow"] * 5, "two rounds of warm-up, then three that count"
    assert fast < slow


def test_latency_needs_a_repeat():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        measure_latency(nn.ReLU(), torch.rand(1), repeats=0)
