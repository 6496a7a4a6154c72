"""TransferClassifier: its knobs, its input contract, and that it survives copying, saving, compiling and exporting."""

import copy
import io

import monai.networks.nets as monai_nets
import numpy as np
import onnxruntime
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torchvision.models import resnet18

from ttl_monai.networks import ResNeXt3D, TransferClassifier, count_params, truncate


@pytest.fixture(scope="module")
def lite():
    """Cut, with a frozen part, on packaged weights."""
    network = TransferClassifier(
        "tf_efficientnet_lite0", in_channels=1, truncate_at="blocks.2", freeze_up_to="blocks.0"
    )
    return network.eval()


@pytest.fixture(scope="module")
def resnet():
    return TransferClassifier("resnet18", weights="none", num_classes=3).eval()


@pytest.fixture(scope="module")
def lite3d():
    """The same weights inflated, for volumes."""
    return TransferClassifier(
        "tf_efficientnet_lite0_3d", in_channels=1, truncate_at="blocks.2", freeze_up_to="blocks.0"
    ).eval()


@pytest.fixture(scope="module")
def resnext3d():
    return TransferClassifier(ResNeXt3D((1, 1, 1, 1)), weights="none", in_channels=1, truncate_at="layer2").eval()


def images(network, count):
    """Small images or volumes for a network."""
    return torch.rand(count, network.in_channels, *((32, 32) if network.mean.ndim == 4 else (8, 32, 32)))


def test_classifier_is_backbone_and_pooled_linear_head(resnet):
    image = torch.rand(2, 3, 64, 64)
    whole = resnet18().eval()
    whole.load_state_dict(resnet.backbone.state_dict(), strict=False)
    whole.fc = resnet.head[-1]
    normalised = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    with torch.no_grad():
        torch.testing.assert_close(resnet(image), whole(normalised), rtol=0, atol=1e-6)


def test_a_grey_channel_equals_three_equal_ones(lite):
    image = torch.rand(2, 1, 64, 64)
    colour = TransferClassifier("tf_efficientnet_lite0", truncate_at="blocks.2").eval()
    colour.load_state_dict(lite.state_dict())
    assert count_params(colour) == count_params(lite)
    with torch.no_grad():
        assert torch.equal(colour(image.repeat(1, 3, 1, 1)), lite(image))
        assert torch.equal(colour(image), lite(image))


@pytest.mark.parametrize(
    ("backbone", "head", "knobs", "expected"),
    [
        # PAPER.md section 2: parameters with a two-class head
        pytest.param("resnet50", "pool", {}, 23_512_130, marks=pytest.mark.slow),
        ("resnet50", "pool", {"truncate_at": "layer3.5"}, 8_545_346),
        pytest.param("resnet50", "flatten", {"truncate_at": "layer3"}, 8_944_706, marks=pytest.mark.slow),
        ("densenet121", "flatten", {"truncate_at": "transition2"}, 1_529_986),
        ("efficientnet_b0", "flatten", {"truncate_at": "blocks.4"}, 895_714),
        ("efficientnet_b0", "pool", {}, 4_007_548 + 2 * 1280 + 2),  # with conv_head
        ("resnext3d101", "pool", {"truncate_at": "layer3.22"}, 31_208_898),
    ],
)
def test_parameter_counts_are_the_papers(backbone, head, knobs, expected):
    assert count_params(TransferClassifier(backbone, weights="none", head=head, **knobs)) == expected


def test_flatten_head_is_sized_for_the_images():
    network = TransferClassifier("resnet18", weights="none", truncate_at="layer2", head="flatten", image_size=(64, 32))
    assert network.head[-1].in_features == 128 * 8 * 4
    assert network(torch.rand(2, 3, 64, 32)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"built for images of \(64, 32\), got \(64, 64\); pass image_size"):
        network(torch.rand(2, 3, 64, 64))


def test_a_given_3d_module_is_used_as_it_is():
    source = monai_nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=5).eval()
    before = copy.deepcopy(source.state_dict())
    network = TransferClassifier(source, weights="none", in_channels=1, truncate_at="layer1", freeze_up_to="all").eval()
    volume = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.backbone(volume), truncate(source, "layer1")(volume))
        assert network(volume).shape == (1, 2)
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())
    assert all(parameter.requires_grad for parameter in source.parameters())
    assert network.weight_info.report.reinitialised == ("head.2.weight", "head.2.bias")


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"in_channels": 2}, ValueError, "in_channels must be 1 or the backbone's 3, got 2"),
        ({"num_classes": 0}, ValueError, "num_classes must be a whole number of at least 1, got 0"),
        ({"head": "mlp"}, ValueError, "head must be 'pool' or 'flatten', got 'mlp'"),
        ({"image_size": (32, 32, 32), "head": "flatten"}, ValueError, "image_size must be one number or 2 of them"),
        ({"truncate_at": "layer5"}, ValueError, "layer4"),
        (
            {"truncate_at": "layer2", "freeze_up_to": "layer3"},
            ValueError,
            "freeze_up_to='layer3' .* truncate_at='layer2'",
        ),
        ({"truncate_at": "layer2", "slim_after": "layer3"}, ValueError, "slim_after='layer3' .* truncate_at='layer2'"),
        ({"truncate_at": "layer2", "slim_after": "layer2"}, ValueError, "end of the backbone: nothing is left to slim"),
        ({"slim_after": "layer2", "freeze_up_to": "layer3"}, ValueError, "would freeze layers with random weights"),
        ({"slim_after": "layer2", "freeze_up_to": "all"}, ValueError, "would freeze layers with random weights"),
        ({"slim_after": "layer2", "slim_factor": 0}, ValueError, "slim_factor must be a whole number .*, got 0"),
        ({"slim_after": "layer2", "slim_factor": 1.5}, ValueError, "slim_factor must be a whole number .*, got 1.5"),
        ({"backbone": 18}, TypeError, "name or a torch.nn.Module, got int"),
        (
            {"backbone": nn.Conv2d(3, 4, 3), "weights": "imagenet"},
            ValueError,
            "expected weights='none', got 'imagenet'",
        ),
    ],
)
def test_impossible_knobs_are_refused(knobs, error, message):
    with pytest.raises(error, match=message):
        TransferClassifier(**({"backbone": "resnet18", "weights": "none"} | knobs))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 1, 8, 8), 255.0), r"expected images in \[0, 1\], got values in \[255, 255\]"),
        (torch.full((1, 1, 8, 8), -0.5), r"expected images in \[0, 1\]"),
        (torch.full((1, 1, 8, 8), torch.nan), "got values in .nan, nan."),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "expected float images in .0, 1., got torch.uint8"),
        (torch.zeros(1, 3, 8, 8), r"expected images of shape \(B, 1, H, W\), got \(1, 3, 8, 8\)"),
        (torch.zeros(1, 8, 8), r"expected images of shape \(B, 1, H, W\), got \(1, 8, 8\)"),
    ],
)
def test_a_wrong_input_does_not_pass_in_silence(lite, image, message):
    with pytest.raises(ValueError, match=message):
        lite(image)


def test_an_overshoot_of_interpolation_and_metatensors_pass(lite):
    assert lite(MetaTensor(torch.full((1, 1, 32, 32), 1.0005))).shape == (1, 2)


def test_a_checkpoint_brings_its_own_normalisation(lite):
    other = TransferClassifier("tf_efficientnet_lite0", weights="none", truncate_at="blocks.2", freeze_up_to="blocks.0")
    other.mean.fill_(0.0)
    buffer = io.BytesIO()
    torch.save(lite.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(other.eval()(image), lite(image))


@pytest.mark.parametrize("network", ["lite", "resnet", "lite3d", "resnext3d"])
@pytest.mark.parametrize("form", ["deepcopy", "script", "trace", "export"])
def test_other_forms_compute_the_same(network, form, request):
    network = request.getfixturevalue(network)
    image = images(network, 2)
    make = {
        "deepcopy": lambda: copy.deepcopy(network),
        "script": lambda: torch.jit.script(network),
        "trace": lambda: torch.jit.trace(network, image),
        "export": lambda: torch.export.export(network, (image,)).module(),
    }
    with torch.no_grad():
        torch.testing.assert_close(make[form]()(image), network(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "dynamo"),
    [
        ("lite", False),
        pytest.param("lite", True, marks=pytest.mark.slow),
        ("resnet", True),
        ("resnet", False),
        ("lite3d", False),
        pytest.param("lite3d", True, marks=pytest.mark.slow),
        ("resnext3d", True),
        ("resnext3d", False),
    ],
)
def test_onnx_computes_the_same_for_any_batch(network, dynamo, request, tmp_path):
    network = request.getfixturevalue(network)
    image = images(network, 2)
    path = str(tmp_path / "model.onnx")
    batch = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"image": {0: "batch"}}}
    )
    torch.onnx.export(network, (image,), path, input_names=["image"], dynamo=dynamo, verbose=False, **batch)
    more = images(network, 3)
    (result,) = onnxruntime.InferenceSession(path).run(None, {"image": more.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(result, network(more).numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("knobs", "features"),
    [
        ({"freeze_up_to": "layer1"}, (2, 64, 8, 8)),
        ({"freeze_up_to": "all"}, (2, 512)),
        ({"freeze_up_to": "layer2", "truncate_at": "layer2"}, (2, 128)),
        ({"freeze_up_to": "all", "head": "flatten", "image_size": 32}, (2, 512)),
    ],
)
def test_split_frozen_cuts_where_training_begins(knobs, features):
    network = TransferClassifier("resnet18", weights="none", **knobs)
    front, rest = network.train().split_frozen()
    image = torch.rand(2, 3, 32, 32)
    cached = front(image)
    assert cached.shape == features
    assert not cached.requires_grad
    assert all(not parameter.requires_grad for parameter in front.parameters())
    trainable = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in rest.parameters()} == trainable
    network.eval()
    with torch.no_grad():
        assert torch.equal(rest.eval()(front.eval()(image)), network(image))
    with pytest.raises(ValueError, match="expected images in"):
        front(image * 255)


def test_split_frozen_needs_a_frozen_part(resnet):
    with pytest.raises(ValueError, match="nothing is frozen: expected a network built with freeze_up_to"):
        resnet.split_frozen()
