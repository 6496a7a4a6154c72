"""Grad-CAM of made networks whose evidence lies at known places."""

import copy

import pytest
import torch
from monai.visualize import GradCAMpp
from torch import nn

from ttl_monai.networks import SALIENCY_METHODS, TransferClassifier, evidence, fit_map, grad_cam
from ttl_monai.networks.saliency import _Tapped


class BrightAndDark(nn.Module):
    """Two channels: how bright and how dark a voxel is; averaged over blocks of 2."""

    def __init__(self, spatial_dims):
        super().__init__()
        conv, pool = ((nn.Conv2d, nn.AvgPool2d), (nn.Conv3d, nn.AvgPool3d))[spatial_dims - 2]
        self.conv = conv(1, 2, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = pool(2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[(slice(None), 0, *[1] * spatial_dims)] = torch.tensor([1.0, -1.0])
            self.conv.bias.copy_(torch.tensor([-0.6, 0.4]))

    def forward(self, image):
        return self.pool(self.relu(self.conv(image)))


@pytest.fixture(params=[2, 3])
def case(request):
    """A network to which bright voxels mean class 1 and dark ones class 0, and an image with one blob of each."""
    network = TransferClassifier(BrightAndDark(request.param), weights="none", in_channels=1, num_classes=2)
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    image = torch.full((2, 1, *[16] * request.param), 0.5)
    for row, (bright, dark) in enumerate([(4, 10), (8, 2)]):
        image[(row, 0, *[slice(bright, bright + 2)] * request.param)] = 1
        image[(row, 0, *[slice(dark, dark + 2)] * request.param)] = 0
    return network, image


class Channels(nn.Module):
    """Feature maps that are the channels of the image, so that every map has a closed form."""

    def __init__(self, spatial_dims=2):
        super().__init__()
        self.conv = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2](3, 3, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).view(3, 3, *[1] * spatial_dims))

    def forward(self, image):
        return self.conv(image)


def linear_case(weight, head="pool"):
    """A classifier that is linear in the image, and two images of 16 x 16 pixels."""
    network = TransferClassifier(
        Channels(), weights="none", in_channels=3, num_classes=len(weight), head=head, image_size=16
    ).eval()
    with torch.no_grad():
        if head == "pool":
            network.head[-1].weight.copy_(torch.tensor(weight))
        else:
            network.head[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    return network, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def place(found):
    return torch.stack(torch.unravel_index(found.argmax(), found.shape)).tolist()


def test_the_highest_place_is_that_of_the_evidence(case):
    network, image = case
    found = grad_cam(network, image)
    assert found.shape == image[:, 0].shape
    assert found.amax() == 1
    for each, start in zip(found, (4, 8), strict=True):
        assert all(at in (start, start + 1) for at in place(each)), "the bright blob, not the dark one"
    blobs = [(slice(dark, dark + 2),) * (image.ndim - 2) for dark in (10, 2)]
    assert all(each[blob].max() == 0 for each, blob in zip(found, blobs, strict=True))


def test_evidence_in_the_other_logit_counts_too(case):
    """Brightness that only lowers the first logit raises the second class as much."""
    network, image = case
    expected = grad_cam(network, image)
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))
    assert torch.allclose(grad_cam(network, image), expected)


def test_no_evidence_is_a_map_of_zeros(case):
    network, image = case
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert (grad_cam(network, image) == 0).all()


@pytest.mark.parametrize("frozen", [None, "all"])
def test_a_cut_or_frozen_network_is_left_as_it_was(frozen):
    network = TransferClassifier(
        "resnext3d14", weights="none", in_channels=1, truncate_at="layer2", freeze_up_to=frozen
    ).train()
    nn.init.ones_(network.head[-1].weight[1])  # so that the map, which follows a ReLU, speaks for the class
    nn.init.zeros_(network.head[-1].weight[0])
    network.head[-1].weight.grad = torch.ones_like(network.head[-1].weight)
    before, flags = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    found = grad_cam(network, torch.rand(1, 1, 8, 32, 32))
    assert found.shape == (1, 8, 32, 32)
    assert 0 < found.amax() <= 1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == flags
    assert [name for name, each in network.named_parameters() if each.grad is not None] == ["head.2.weight"]
    assert (network.head[-1].weight.grad == 1).all()
    assert not any(each._forward_hooks or each._backward_hooks for each in network.modules())


WEIGHTS = [[0.1, 0.0, -0.5], [0.4, -0.3, 0.2]]
DIFFERENCE = [0.3, -0.3, 0.7]  # of the second class over the first


def test_grad_cam_of_a_linear_network_is_its_weighted_channels():
    network, image = linear_case(WEIGHTS)
    expected = torch.einsum("bchw,c->bhw", image, torch.tensor(DIFFERENCE)).clamp(min=0) / 16**2
    assert torch.allclose(evidence(network, image), expected, atol=1e-7)
    assert torch.allclose(grad_cam(network, image), expected / expected.amax((1, 2), keepdim=True), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_grad_cam_plus_plus_of_a_linear_network_has_a_closed_form(scale):
    """Gradients g are the same at all places: each channel weighs n g / (2 + g sum A), with n places."""
    network, image = linear_case((scale * torch.tensor(WEIGHTS)).tolist())
    gradient = scale * torch.tensor(DIFFERENCE).clamp(min=0) / 16**2
    weights = 16**2 * gradient / (2 + gradient * image.sum((2, 3)))  # (B, C)
    expected = torch.einsum("bchw,bc->bhw", image, weights)
    assert torch.allclose(evidence(network, image, method="gradcam++"), expected, rtol=1e-4)


def test_grad_cam_plus_plus_agrees_with_monai_where_that_one_is_right():
    """One image, gradients far above MONAI's 1e-7 and the same at all places."""
    network, image = linear_case([[0.0, 0.0, 0.0], [300.0, 100.0, 200.0]])
    image = image[:1] / 500  # so that exp(score) is finite
    theirs = GradCAMpp(_Tapped(network, 1, False), "features").compute_map(image, class_idx=0)[:, 0]
    ours = evidence(network, image, method="gradcam++")
    assert torch.allclose(ours / ours.amax(), (theirs / theirs.amax()).detach(), rtol=1e-4)


@pytest.mark.parametrize("method", SALIENCY_METHODS)
@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_the_map_of_an_image_does_not_depend_on_its_batch(method, head):
    network, image = linear_case(WEIGHTS, head)
    both = evidence(network, image, method=method)
    for k in range(2):
        assert torch.allclose(both[k : k + 1], evidence(network, image[k : k + 1], method=method), rtol=1e-3)


@pytest.mark.parametrize("case", [2], indirect=True)
def test_occlusion_finds_a_bright_square_and_replaces_boxes_by_their_mean(case):
    network, image = case
    found = fit_map(evidence(network, image, method="occlusion"), image.shape[2:])
    assert found.shape == image[:, 0].shape
    for each, start in zip(found, (4, 8), strict=True):
        assert all(at in (start, start + 1) for at in place(each)), "the bright blob, not the dark one"
        assert each[12:, 12:].max() == 0, "a box of one brightness stays as it is"
    plain, pictures = linear_case(WEIGHTS)
    assert evidence(plain, pictures, method="occlusion").max() == 0, "means alone decide, and they stay"


@pytest.mark.parametrize(("multi_label", "expected"), [(True, [0.2, 0.1, 0.0]), (False, [0.2, 0.1, -1.0])])
def test_any_class_of_several_can_be_shown(multi_label, expected):
    """The third logit has no weights: what is left of the log-odds is what speaks for the other two."""
    network, image = linear_case([[0.0, 0.0, 1.0], [0.2, 0.1, 0.0], [-9.0, -9.0, -9.0]])
    with torch.no_grad():
        network.head[-1].bias.copy_(torch.tensor([0.0, 0.0, -50.0]))  # a class that is out of the question
    found = evidence(network, image, target=1, multi_label=multi_label)
    wanted = torch.einsum("bchw,c->bhw", image, torch.tensor(expected)).clamp(min=0) / 16**2
    assert torch.allclose(found, wanted, atol=1e-7)


def test_maps_of_two_sizes_are_equal_after_means_over_the_same_areas():
    coarse = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(fit_map(fine, (32, 32), grid=(4, 4)), fit_map(coarse, (32, 32)))
    assert not torch.allclose(fit_map(fine, (32, 32)), fit_map(coarse, (32, 32)), atol=0.1)
    assert (fit_map(torch.zeros(1, 4, 4), (8, 8)) == 0).all()


@pytest.mark.parametrize("method", SALIENCY_METHODS)
def test_an_error_leaves_the_network_as_it_was(method):
    network, image = linear_case(WEIGHTS)
    network.train()
    network.backbone.conv.weight.requires_grad_(False)
    flags = [module.training for module in network.modules()]
    with pytest.raises(ValueError, match=r"expected images in \[0, 1\]"):
        evidence(network, image + 2, method=method)
    assert [module.training for module in network.modules()] == flags
    assert [each.requires_grad for each in network.parameters()] == [False, True, True]
    assert not any(each._forward_hooks or each._backward_hooks for each in network.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("classes", "options", "match"),
    [
        (3, {}, "the second of two classes is shown, but the network has 3"),
        (2, {"target": 2}, "target must be from 0 to 1, got 2"),
        (2, {"method": "lime"}, "method must be one of gradcam, .*got 'lime'"),
    ],
)
def test_what_cannot_be_shown_is_refused(classes, options, match):
    network, image = linear_case([[0.0, 0.0, 0.0]] * classes)
    with pytest.raises(ValueError, match=match):
        evidence(network, image, **options)
