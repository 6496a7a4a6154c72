"""TransferUNet cut at every point of its encoders: no layer without a use, the 3D network of the CT task, ONNX."""

from functools import cache

import pytest
import torch

from tests.networks.test_segmenter import build, check_form, check_onnx, source
from ttl_monai.networks import TransferUNet, count_params, list_points, truncate
from ttl_monai.networks.resnext3d import ResNeXt3D

ENCODERS = ("resnet34", "tf_efficientnet_lite0", "densenet121")


def check_use(network, *size):
    """Every parameter has a gradient, so that the output depends on it."""
    network.train()(torch.rand(2, network.in_channels, *size)).sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not unused


def check_cut(encoder, cut):
    # A narrow decoder: its widths say nothing of which layers there are.
    check_use(build(encoder, truncate_at=cut, decoder_channels=(8,) * 5), 64, 64)


# In `make test` some ends of stages, in `make test-all` every point.
@pytest.mark.parametrize(
    ("encoder", "cut"),
    [
        *(("resnet34", cut) for cut in ("stem", "layer1", "layer3")),
        *(("tf_efficientnet_lite0", cut) for cut in ("blocks.0", "blocks.3")),
        ("densenet121", "transition1"),
    ],
)
def test_nothing_is_unused(encoder, cut):
    check_cut(encoder, cut)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_nothing_is_unused_at_any_point(encoder):
    for point in list_points(source(encoder)):
        check_cut(encoder, point.name)


# In a stage, at its end, and deep; tests/networks/test_segmenter.py has every form of further cuts.
ONNX = {
    "resnet34": ("layer2.1", "layer1", "layer3.4"),
    "tf_efficientnet_lite0": ("blocks.2.0", "blocks.1", "blocks.4.1"),
    "densenet121": ("denseblock2.denselayer3", "transition1", "denseblock3.denselayer6"),
}


@pytest.mark.parametrize(
    ("encoder", "cut"),
    [
        pytest.param(encoder, cut, marks=pytest.mark.slow if number else ())
        for encoder, cuts in ONNX.items()
        for number, cut in enumerate(cuts)
    ],
)
def test_onnx_computes_the_same(encoder, cut, tmp_path):
    check_onnx(build(encoder, truncate_at=cut, in_channels=1).eval(), str(tmp_path / "model.onnx"), dynamo=False)


# ---- the 3D network of the paper's CT task

# Point -> stride and channels of the deepest map, and the points whose maps the decoder gets.
RESNEXT = {
    "layer1": ((2, 4, 4), 256, {"stride1x2x2": "act"}),
    "layer2": ((4, 8, 8), 512, {"stride2x4x4": "layer1.0", "stride1x2x2": "act"}),
    "layer3": ((8, 16, 16), 1024, {"stride4x8x8": "layer2.0", "stride2x4x4": "layer1.0", "stride1x2x2": "act"}),
    None: (
        (16, 32, 32),
        2048,
        {"stride8x16x16": "layer3.0", "stride4x8x8": "layer2.0", "stride2x4x4": "layer1.0", "stride1x2x2": "act"},
    ),
}


@cache
def resnext(cut):
    torch.manual_seed(0)
    body = truncate(ResNeXt3D((1, 1, 1, 1), in_channels=1))
    return TransferUNet(
        body, weights="none", in_channels=1, out_channels=2, truncate_at=cut, decoder_channels=(32, 16, 16, 8, 8)
    ).eval()


@pytest.mark.parametrize("cut", RESNEXT)
def test_resnext3d_is_a_unet_at_every_stage_end(cut):
    stride, channels, skips = RESNEXT[cut]
    network = resnext(cut)
    assert network.spatial_dims == 3
    assert network.skips == skips
    assert list(network.decoder.blocks) == [*skips, "stride1"]
    size = (16, 64, 32)
    with torch.no_grad():
        deepest = network.encoder(torch.rand(1, 1, *size))[-1]
        assert deepest.shape == (1, channels, *(side // step for side, step in zip(size, stride, strict=True)))
        assert network(torch.rand(1, 1, 9, 33, 40)).shape == (1, 2, 9, 33, 40)
    check_use(network, 16, 32, 32)
    network.zero_grad()
    network.eval()


def test_each_cut_of_resnext3d_has_fewer_parameters():
    counts = [count_params(resnext(cut)) for cut in RESNEXT]
    assert counts == sorted(set(counts))
    assert counts[0] < counts[-1] / 20


@pytest.mark.parametrize("cut", ["layer1", "layer2", pytest.param("layer3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["script", "export"])
def test_other_forms_of_resnext3d_compute_the_same(cut, form):
    check_form(resnext(cut), form)
