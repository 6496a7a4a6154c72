"""The traced graph does what the network does, in both modes, and leaves the network alone."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from ttl_monai.networks.tracing import OUTPUT_OF, default_example, skeleton, trace


def small_densenet(**kwargs):
    return torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=2, **kwargs)


class ModeDependent(nn.Module):
    """A module whose own code asks for the mode, around a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x + torch.rand_like(x) if self.training else x


class PadsByValue(nn.Module):
    """Python control flow on the size of the input, which torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.shape[-1] % 2:
            x = nn.functional.pad(x, (0, 1))
        return self.conv(x)


RANDOM_IN_TRAINING = {
    "functional dropout": lambda: small_densenet(drop_rate=0.5),
    "drop path": lambda: timm.create_model("tf_efficientnet_lite0", drop_path_rate=0.5),
    "stochastic depth": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), torchvision.ops.StochasticDepth(0.5, "row")),
    "dropout of the whole network": lambda: timm.create_model("tf_efficientnet_lite0", drop_rate=0.5),
    "own code": lambda: nn.Sequential(ModeDependent(), nn.Conv2d(4, 2, 1)),
}


@pytest.mark.parametrize("name", RANDOM_IN_TRAINING)
def test_trace_follows_the_mode(name):
    torch.manual_seed(0)
    model = RANDOM_IN_TRAINING[name]()
    x = torch.rand(8, 3, 32, 32)
    traced = trace(model)
    with torch.no_grad():
        model.eval()
        assert torch.equal(traced.eval()(x), model(x))
        traced.train()
        assert not torch.equal(traced(x), traced(x))  # random: dropout was not baked in


@pytest.mark.parametrize("build", [small_densenet, lambda: timm.create_model("tf_efficientnet_lite0")])
def test_training_through_the_trace_equals_training_the_model(build):
    torch.manual_seed(0)
    model = build().train()
    twin = copy.deepcopy(model)
    x = torch.rand(2, 3, 32, 32)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    got = trace(twin)(x)
    assert torch.equal(got, expected)
    got.sum().backward()
    expected.sum().backward()
    for (name, ours), theirs in zip(twin.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(twin.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_trace_leaves_the_model_as_it_was():
    model = timm.create_model("tf_efficientnet_lite0").train()
    model.blocks[0].eval()
    calls = []
    model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    traced = trace(model)
    assert [module.training for module in model.modules()] == flags
    assert not calls
    assert len(model.blocks[1]._forward_hooks) == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not traced.get_submodule("blocks.0.0.bn1").training
    assert traced.get_submodule("blocks.1.0.bn1").training


def test_trace_shares_parameters_under_their_names():
    model = small_densenet()
    traced = trace(model)
    theirs = dict(model.named_parameters())
    assert {name: id(value) for name, value in traced.named_parameters()} == {n: id(v) for n, v in theirs.items()}
    assert trace(traced) is traced


def test_a_module_that_cannot_be_traced_becomes_a_leaf():
    model = nn.Sequential(PadsByValue(), nn.Sequential(nn.ReLU(), PadsByValue(), nn.Conv2d(4, 2, 1)))
    model[1][1].conv = nn.Conv2d(4, 4, 3)
    traced = trace(model)
    leaves = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert leaves == ["0", "1.0", "1.1", "1.2"]
    for size in (16, 17):
        x = torch.rand(1, 3, size, size)
        assert torch.equal(traced(x), model(x))


def test_nodes_know_the_modules_whose_output_they_are():
    model = torchvision.models.resnet18()
    outputs = {path: node.name for node in trace(model).graph.nodes for path in node.meta.get(OUTPUT_OF, ())}
    assert outputs["layer1"] == outputs["layer1.1"]
    assert outputs["layer1.0"] != outputs["layer1"]
    assert all(node.type is None for node in trace(model).graph.nodes)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class Options(nn.Module):
    """Optional arguments that steer the forward, one of them not used."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, mask=None, scale: bool = False, unused=3):
        x = self.conv(x) if mask is None else self.conv(x) * mask
        return x * 2 if scale else x


class Loops(nn.Module):
    def forward(self, x):
        return [x + i for i in range(x.shape[0])]


BAD_NETWORKS = [
    (lambda: torchvision.models.googlenet(init_weights=False), "same in training and in evaluation mode"),
    (TwoInputs, "one input, but TwoInputs uses 2"),
    (Loops, "torch.fx can trace, but the forward of Loops is not"),
]


@pytest.mark.parametrize(("build", "message"), BAD_NETWORKS)
def test_trace_names_what_it_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        trace(build())


def test_optional_arguments_keep_their_defaults():
    model = Options()
    x = torch.rand(1, 3, 8, 8)
    traced = trace(model)
    assert torch.equal(traced(x), model(x))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]


def test_skeleton_has_shapes_and_no_weights():
    model = torchvision.models.resnet18()
    bare = skeleton(model)
    assert all(tensor.is_meta for tensor in (*bare.parameters(), *bare.buffers()))
    assert bare(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)
    assert not any(tensor.is_meta for tensor in model.parameters())


@pytest.mark.parametrize(
    ("model", "shape"),
    [(nn.Conv2d(5, 2, 3), (1, 5, 224, 224)), (nn.Sequential(nn.Conv3d(2, 2, 3)), (1, 2, 64, 64, 64))],
)
def test_default_example_fits_the_first_convolution(model, shape):
    assert default_example(model).shape == shape


def test_default_example_needs_a_convolution():
    with pytest.raises(ValueError, match="2D or 3D convolutions, but Linear has none"):
        default_example(nn.Linear(2, 2))
