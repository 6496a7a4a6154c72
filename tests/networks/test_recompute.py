"""Blocks computed again in the backward pass: the same training step, fewer kept activations."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from ttl_monai.networks import ResNeXt3D, TransferClassifier

# name -> backbone with what must come out the same: norms, random numbers, in-place activations, 3D
NETWORKS = {
    "resnet": (torchvision.models.resnet18, (4, 3, 32, 32)),
    "dropout": (
        lambda: torchvision.models.DenseNet(8, (2, 2, 2), 16, num_classes=2, drop_rate=0.3),
        (4, 3, 64, 64),
    ),
    "resnext3d": (lambda: ResNeXt3D((1, 1, 1, 1)), (2, 3, 8, 32, 32)),
}


def pair(name, **knobs):
    """The same classifier with and without recomputation, and images."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    plain = TransferClassifier(build(), weights="none", **knobs).train()
    recomputing = TransferClassifier(build(), weights="none", use_checkpoint=True, **knobs).train()
    recomputing.load_state_dict(plain.state_dict())
    return plain, recomputing, torch.rand(shape)


def step(network, image):
    """Forward and backward; the bytes that autograd keeps beside the blocks, and the logits."""
    kept = []

    def pack(tensor):
        kept.append(tensor.nbytes)
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(image)
    logits.square().sum().backward()
    return sum(kept), logits.detach()


@pytest.mark.parametrize(
    ("name", "knobs"), [*((name, {}) for name in NETWORKS), ("resnext3d", {"freeze_up_to": "layer1"})]
)
def test_a_step_is_the_same_and_keeps_less(name, knobs):
    plain, recomputing, image = pair(name, **knobs)
    kept, expected = step(plain, image)
    kept_now, logits = step(recomputing, image)
    assert torch.equal(logits, expected)
    assert kept_now < kept / 2  # what enters each block, and the head
    for (key, theirs), ours in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (theirs.grad is None) == (ours.grad is None), key
        assert theirs.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7), key
    for key, value in plain.state_dict().items():  # the norm statistics have moved once
        assert torch.equal(recomputing.state_dict()[key], value), key


def test_layers_run_twice_in_training_only_also_in_a_copy():
    _, network, image = pair("resnet")
    network = copy.deepcopy(network)
    calls = []
    network.backbone.get_submodule("layer2.0.conv1").register_forward_hook(lambda *_: calls.append(1))
    network(image).sum().backward()
    assert len(calls) == 2
    network.eval()(image).sum().backward()
    assert len(calls) == 3


def test_a_replaced_layer_is_the_one_that_runs():
    # as torch.nn.SyncBatchNorm.convert_sync_batchnorm does
    _, network, image = pair("resnet")
    network.backbone.set_submodule("layer1.0.bn1", nn.Identity())
    expected = copy.deepcopy(network)
    expected.use_checkpoint = False
    assert torch.equal(network(image), expected(image))


def test_it_scripts_and_exports_as_without():
    _, network, image = pair("resnet")
    network.eval()
    with torch.no_grad():
        for form in (torch.jit.script(network), torch.export.export(network, (image,)).module()):
            torch.testing.assert_close(form(image), network(image), rtol=0, atol=1e-6)


def test_a_backbone_without_blocks_is_refused():
    with pytest.raises(ValueError, match="use_checkpoint needs a backbone with blocks"):
        TransferClassifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), weights="none", use_checkpoint=True)
