"""TransferUNet: the paper's counts at every cut, its skip connections, its knobs, and its other forms."""

import copy
from functools import cache

import monai.networks.nets as monai_nets
import numpy as np
import onnxruntime
import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from torch import nn

from ttl_monai.networks import (
    PointFeatures,
    TransferClassifier,
    TransferUNet,
    count_macs,
    count_params,
    list_points,
    param_groups,
    truncate,
)
from ttl_monai.networks.backbones import build_backbone

# PAPER.md section 2: the ResNet34 U-Net of one class at 224 x 224, parameters and MACs of its convolutions.
PAPER = {
    "layer1.0": (136_849, 1.2813),
    "layer1.1": (210_833, 1.5125),
    "layer1.2": (284_817, 1.7437),
    "layer2.0": (662_673, 2.3860),
    "layer2.1": (958_097, 2.6172),
    "layer2.2": (1_253_521, 2.8484),
    "layer2.3": (1_548_945, 3.0796),
    "layer3.0": (3_058_321, 3.7219),
    "layer3.1": (4_238_993, 3.9531),
    "layer3.2": (5_419_665, 4.1843),
    "layer3.3": (6_600_337, 4.4155),
    "layer3.4": (7_781_009, 4.6467),
    "layer3.5": (8_961_681, 4.8779),
    "layer4.0": (14_995_089, 5.5202),
    "layer4.1": (19_715_729, 5.7514),
    "layer4.2": (24_436_369, 5.9826),
    None: (24_436_369, 5.9826),
}

# Encoder -> cut -> the point that each stage of the decoder gets.
SKIPS = {
    "resnet34": {
        None: {"stride16": "layer3.5", "stride8": "layer2.3", "stride4": "layer1.2", "stride2": "relu"},
        "layer3": {"stride8": "layer2.3", "stride4": "layer1.2", "stride2": "relu"},
        "layer2.1": {"stride4": "layer1.2", "stride2": "relu"},
        "stem": {"stride2": "relu"},
        "relu": {},
    },
    "tf_efficientnet_lite0": {
        None: {"stride16": "blocks.4.2", "stride8": "blocks.2.1", "stride4": "blocks.1.1", "stride2": "blocks.0.0"},
        "blocks.4.0": {"stride8": "blocks.2.1", "stride4": "blocks.1.1", "stride2": "blocks.0.0"},
        "blocks.2.0": {"stride4": "blocks.1.1", "stride2": "blocks.0.0"},
    },
    "densenet121": {
        None: {
            "stride16": "features.denseblock3.denselayer24",
            "stride8": "features.denseblock2.denselayer12",
            "stride4": "features.denseblock1.denselayer6",
            "stride2": "features.relu0",
        },
        "transition2": {
            "stride8": "features.denseblock2.denselayer12",
            "stride4": "features.denseblock1.denselayer6",
            "stride2": "features.relu0",
        },
        "denseblock2.denselayer3": {"stride4": "features.denseblock1.denselayer6", "stride2": "features.relu0"},
    },
}


@cache
def source(encoder):
    """The backbone that the U-Nets start from, without its classifier; with norm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    if encoder == "resnet3d":
        backbone = truncate(monai_nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=2))
    else:
        backbone = truncate(build_backbone(encoder))
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return backbone.eval()


def build(encoder="resnet18", **knobs):
    torch.manual_seed(1)
    return TransferUNet(source(encoder), weights="none", **knobs)


def every_cut(encoder):
    return [point.name for point in list_points(source(encoder)) if point.level != "layer"]


# In `make test` some of the blocks, in `make test-all` every one.
QUICK = ("layer1.0", "layer1.2", "layer2.3", "layer3.1", "layer3.5", None)


@pytest.mark.parametrize("cut", [pytest.param(cut, marks=() if cut in QUICK else pytest.mark.slow) for cut in PAPER])
def test_counts_are_the_papers_at_every_cut(cut):
    network = build("resnet34", truncate_at=cut).to("meta")
    image = torch.zeros(1, 3, 224, 224, device="meta")
    macs = count_macs(network, image, convention="plain")
    assert (count_params(network), round(macs / 1e9, 4)) == PAPER[cut]


@pytest.mark.parametrize(("encoder", "cut"), [(encoder, cut) for encoder in SKIPS for cut in SKIPS[encoder]])
def test_decoder_gets_the_encoders_maps(encoder, cut):
    network = build(encoder, truncate_at=cut).eval()
    assert network.skips == SKIPS[encoder][cut]
    assert list(network.decoder.blocks) == [*network.skips, "stride1"]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        *maps, deepest = network.encoder(image)
        assert torch.equal(deepest, truncate(source(encoder), cut)(image))
        for found, point in zip(maps, reversed(network.skips.values()), strict=True):
            assert found.std() > 0
            assert torch.equal(found, truncate(source(encoder), point)(image)), point


def check_parts(encoder, cuts):
    whole = build(encoder).state_dict()
    original = source(encoder).state_dict()
    for cut in cuts:
        network = build(encoder, truncate_at=cut)
        coarsest = f"decoder.blocks.{next(iter(network.decoder.blocks))}.conv1.conv.weight"
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        assert shapes.keys() <= whole.keys()
        assert {key for key, shape in shapes.items() if whole[key].shape != shape} <= {coarsest}
        kept = truncate(source(encoder), cut).state_dict()
        encoder_state = network.encoder.state_dict()
        assert encoder_state.keys() == kept.keys()
        assert all(torch.equal(value, original[key]) for key, value in encoder_state.items())


@pytest.mark.parametrize(
    ("encoder", "cuts"),
    [
        ("resnet34", ("stem", "layer3.1")),
        ("tf_efficientnet_lite0", ("blocks.1.0", "blocks.4")),
        ("densenet121", ("transition1", "denseblock2.denselayer2")),
    ],
)
def test_a_cut_network_is_a_part_of_the_whole_one(encoder, cuts):
    check_parts(encoder, cuts)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", SKIPS)
def test_every_cut_network_is_a_part_of_the_whole_one(encoder):
    check_parts(encoder, every_cut(encoder))


def test_cuts_of_a_resnet_need_no_new_shapes():
    whole = build("resnet34").state_dict()
    cut = build("resnet34", truncate_at="layer2.1").state_dict()
    assert all(whole[key].shape == value.shape for key, value in cut.items())


def test_the_encoder_as_a_chain_is_the_classifiers_backbone():
    network, classifier = (
        make(source("resnet18"), weights="none", truncate_at="layer3.0").eval()
        for make in (TransferUNet, TransferClassifier)
    )
    assert list_points(network.backbone) == list_points(classifier.backbone)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.backbone(image), classifier.backbone(image))
        features, expected = (PointFeatures(each, ["layer1", None])(image) for each in (network, classifier))
    assert all(torch.equal(features[point], expected[point]) for point in ("layer1", None))
    own = {id(parameter) for parameter in network.encoder.parameters()}
    assert {id(parameter) for parameter in network.backbone.parameters()} == own
    groups = {group["name"]: {id(each) for each in group["params"]} for group in param_groups(network, 1e-3, 0.1, 0.9)}
    rest = {id(each) for part in (network.decoder, network.head) for each in part.parameters()}
    assert groups.pop("head") == rest
    assert set.union(*groups.values()) == own


@pytest.mark.parametrize("encoder", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vgg11_bn"])
def test_images_of_any_size_pass(encoder):
    network = build(encoder, out_channels=3).eval()
    for size in ((75, 53), (64, 64), (33, 160)):
        with torch.no_grad():
            assert network(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_a_stem_of_stride_4_gets_the_stages_between():
    network = build("convnext_atto", truncate_at="stages.1")
    assert list(network.skips) == ["stride4"]
    assert list(network.decoder.blocks) == ["stride4", "stride2", "stride1"]


def test_upsampling_repeats_pixels_also_at_odd_sizes():
    block = build(truncate_at="relu").decoder.blocks["stride1"]
    block.conv1 = block.conv2 = nn.Identity()
    for size in (8, 9, 75, 224, 1001):
        small = torch.rand(1, 2, (size + 1) // 2, 4)
        expected = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :size]
        assert torch.equal(block(small, torch.zeros(1, 1, size, 8)), expected), size


def test_a_grey_channel_equals_three_equal_ones():
    network = TransferUNet("tf_efficientnet_lite0", truncate_at="blocks.1", in_channels=1).eval()
    colour = TransferUNet("tf_efficientnet_lite0", truncate_at="blocks.1").eval()
    colour.load_state_dict(network.state_dict())
    assert torch.equal(network.mean, torch.full((1, 3, 1, 1), 0.5))
    image = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        assert torch.equal(colour(image.repeat(1, 3, 1, 1)), network(image))
        assert torch.equal(network(MetaTensor(image)).as_subclass(torch.Tensor), network(image))
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, H, W\), got \(2, 3, 48, 48\)"):
        network(torch.rand(2, 3, 48, 48))
    with pytest.raises(ValueError, match=r"expected images in \[0, 1\], got values in \[255, 255\]"):
        network(torch.full((1, 1, 32, 32), 255.0))


def test_report_tells_pretrained_from_new_layers():
    network = TransferUNet("tf_efficientnet_lite0", truncate_at="blocks.2.0", slim_after="blocks.1")
    report = network.weight_info.report
    assert set(report.loaded) | set(report.reinitialised) == network.state_dict().keys() - {"mean", "std"}
    assert not set(report.loaded) & set(report.reinitialised)
    assert all(
        key.startswith(("encoder.conv_stem", "encoder.bn1", "encoder.blocks.0", "encoder.blocks.1"))
        for key in report.loaded
    )
    assert "encoder.blocks.2.0.conv_pw.weight" in report.reinitialised
    assert "decoder.blocks.stride1.conv1.conv.weight" in report.reinitialised


# ---- knobs


def train_one_step(network):
    """A step of plain gradient descent, so that whatever has a gradient moves."""
    images = torch.rand(2, network.in_channels, *(32 if network.spatial_dims == 2 else 16,) * network.spatial_dims)
    optimizer = torch.optim.SGD(param_groups(network.train(), lr=0.1))
    before = copy.deepcopy(network.state_dict())
    network(images).square().mean().backward()
    optimizer.step()
    return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("encoder", ["resnet18", "resnet3d"])
@pytest.mark.parametrize(
    ("knobs", "frozen"),
    [
        ({}, ()),
        ({"truncate_at": "layer2"}, ()),
        ({"freeze_up_to": "layer1"}, ("encoder.conv1", "encoder.bn1", "encoder.layer1")),
        ({"freeze_up_to": "all"}, ("encoder.",)),
        ({"slim_after": "layer2"}, ()),
        ({"truncate_at": "layer3", "slim_after": "layer2", "freeze_up_to": "stem"}, ("encoder.conv1", "encoder.bn1")),
    ],
    ids=["FTL", "TTL", "LWFT", "frozen encoder", "TF", "all three"],
)
def test_strategy_has_its_effect(encoder, knobs, frozen):
    in_channels = 1 if encoder == "resnet3d" else 3
    network = build(encoder, in_channels=in_channels, **knobs)
    moved = train_one_step(network)
    expected = {key for key in network.state_dict() if key not in ("mean", "std") and not key.startswith(frozen or "-")}
    assert {key for key in expected if key.startswith(("decoder.", "head."))} <= moved
    assert moved <= expected
    assert {key for key in expected if "running_mean" in key} <= moved
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable == expected & {name for name, _ in network.named_parameters()}


def test_slimmed_encoder_has_narrow_skips_and_the_decoder_its_own_widths():
    network = build(slim_after="layer1")
    assert network.encoder.layer2._modules["1"].conv2.out_channels == 64
    assert network.decoder.blocks["stride8"].conv1.conv.in_channels == 256 + 64
    assert [block.conv2.conv.out_channels for block in network.decoder.blocks.values()] == [256, 128, 64, 32, 16]
    assert torch.equal(
        network.encoder.layer1._modules["1"].conv2.weight, source("resnet18").layer1._modules["1"].conv2.weight
    )


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"out_channels": 0}, ValueError, "out_channels must be a whole number of at least 1, got 0"),
        ({"in_channels": 2}, ValueError, "in_channels must be 1 or the backbone's 3, got 2"),
        ({"truncate_at": "layer5"}, ValueError, "layer4"),
        (
            {"truncate_at": "layer2", "freeze_up_to": "layer3"},
            ValueError,
            "freeze_up_to='layer3' .* truncate_at='layer2'",
        ),
        ({"slim_after": "layer2", "freeze_up_to": "all"}, ValueError, "would freeze layers with random weights"),
        (
            {"decoder_channels": (64, 32)},
            ValueError,
            r"a width for each of the 5 resolutions stride16, stride8, stride4, stride2, stride1, got \(64, 32\)",
        ),
        ({"encoder": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())}, ValueError, "nothing to decode"),
        ({"encoder": 18}, TypeError, "name or a torch.nn.Module, got int"),
    ],
)
def test_impossible_knobs_are_refused(knobs, error, message):
    with pytest.raises(error, match=message):
        TransferUNet(**({"encoder": source("resnet18"), "weights": "none"} | knobs))


@pytest.mark.parametrize(
    ("out_channels", "loss"),
    [
        (1, DiceCELoss(sigmoid=True)),
        (3, DiceCELoss(softmax=True, to_onehot_y=True)),
        (2, DiceCELoss(sigmoid=True)),
    ],
    ids=["one structure", "classes", "structures that overlap"],
)
def test_it_learns_masks(out_channels, loss):
    torch.manual_seed(0)
    network = build(truncate_at="layer1", out_channels=out_channels).train()
    images = torch.rand(4, 3, 32, 32)
    masks = (images[:, :1] > 0.5).long() + (images[:, :1] > 0.8).long()  # (B, 1, H, W): 0, 1, 2
    masks = {1: masks > 0, 2: torch.cat([masks > 0, masks > 1], 1), 3: masks}[out_channels]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        value = loss(network(images), masks if out_channels == 3 else masks.float())
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


# ---- 3D


def test_a_3d_module_gives_a_3d_unet():
    network = build("resnet3d", in_channels=1, out_channels=2, truncate_at="layer3").eval()
    assert network.spatial_dims == 3
    # MONAI's stem keeps the resolution, so that the image's resolution has a map of the encoder, too.
    assert network.skips == {"stride4": "layer2.0", "stride2": "layer1.0", "stride1": "act"}
    with torch.no_grad():
        assert network(torch.rand(1, 1, 24, 17, 20)).shape == (1, 2, 24, 17, 20)
    assert all(not isinstance(module, nn.Conv2d) for module in network.modules())


def test_axes_may_have_strides_of_their_own():
    stem = nn.Sequential(nn.Conv3d(1, 4, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(4), nn.ReLU())
    encoder = nn.Sequential(stem, nn.Conv3d(4, 6, 3, stride=2, padding=1), nn.ReLU())
    network = TransferUNet(encoder, weights="none", in_channels=1).eval()
    assert list(network.decoder.blocks) == ["stride1x2x2", "stride1"]
    with torch.no_grad():
        assert network(torch.rand(1, 1, 9, 20, 22)).shape == (1, 1, 9, 20, 22)


# ---- other forms


def check_form(network, form):
    image = torch.rand(2, network.in_channels, *(32 if network.spatial_dims == 2 else 16,) * network.spatial_dims)
    make = {
        "deepcopy": lambda: copy.deepcopy(network),
        "script": lambda: torch.jit.script(network),
        "trace": lambda: torch.jit.trace(network, image, check_trace=False),
        "export": lambda: torch.export.export(network, (image,)).module(),
    }
    with torch.no_grad():
        made, expected = make[form](), network(image)
        torch.testing.assert_close(made(image), expected, rtol=0, atol=1e-5)
        if form in ("script", "trace"):
            other = torch.rand(
                1, network.in_channels, *(40 if network.spatial_dims == 2 else 24,) * network.spatial_dims
            )
            torch.testing.assert_close(made(other), network(other), rtol=0, atol=1e-5)


def check_onnx(network, path, dynamo):
    image = torch.rand(2, network.in_channels, *(32 if network.spatial_dims == 2 else 16,) * network.spatial_dims)
    batch = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"image": {0: "batch"}}}
    )
    torch.onnx.export(network, (image,), path, input_names=["image"], dynamo=dynamo, verbose=False, **batch)
    more = torch.rand(3, *image.shape[1:])
    (result,) = onnxruntime.InferenceSession(path).run(None, {"image": more.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(result, network(more).numpy(), rtol=0, atol=1e-4)


@cache
def built_for(encoder, cut):
    return build(encoder, truncate_at=cut, in_channels=1, freeze_up_to="stem" if encoder == "resnet18" else None).eval()


@pytest.mark.parametrize(
    ("encoder", "cut", "form"),
    [
        *(("resnet18", "layer1.0", form) for form in ("deepcopy", "script", "trace", "export")),
        *(("tf_efficientnet_lite0", "blocks.2.0", form) for form in ("script", "export")),
        ("densenet121", "transition1", "script"),
        *(("convnext_atto", "stages.1", form) for form in ("script", "trace", "export")),
        *(("resnet3d", "layer2", form) for form in ("script", "export")),
    ],
)
def test_other_forms_compute_the_same(encoder, cut, form):
    check_form(built_for(encoder, cut), form)


@pytest.mark.parametrize(
    ("encoder", "cut", "dynamo"),
    [
        ("resnet18", "layer1.0", True),
        ("resnet18", "layer1.0", False),
        ("densenet121", "transition1", False),
        ("resnet3d", "layer2", False),
    ],
)
def test_onnx_computes_the_same_for_any_batch(encoder, cut, dynamo, tmp_path):
    check_onnx(built_for(encoder, cut), str(tmp_path / "model.onnx"), dynamo)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "cut"),
    [
        *(("resnet34", cut) for cut in PAPER),
        *(("tf_efficientnet_lite0", f"blocks.{at}") for at in ("0.0", "1.0", "1.1", "2.0", "2.1", "3.2", "4.2", "6.0")),
        *(("densenet121", cut) for cut in ("transition1", "transition2", "transition3", "norm5")),
        *(("convnext_atto", cut) for cut in ("stages.0", "stages.3")),
        *(("resnet3d", cut) for cut in ("layer1", "layer2", "layer3", "layer4")),
    ],
)
def test_every_form_of_every_cut(encoder, cut, tmp_path):
    network = build(encoder, truncate_at=cut, in_channels=1).eval()
    for form in ("script", "trace", "export"):
        check_form(network, form)
    for dynamo in (False, True):
        check_onnx(network, str(tmp_path / f"{dynamo}.onnx"), dynamo)


def test_export_can_leave_batch_and_size_open():
    network = build(truncate_at="layer2").eval()
    dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(network, (torch.rand(2, 3, 64, 48),), dynamic_shapes=(dims,))
    image = torch.rand(1, 3, 80, 56)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), network(image), rtol=0, atol=1e-5)
