"""Truncated, frozen and split networks: weights, freezing, and every way in which a network is stored or shipped."""

import copy
import io

import monai.networks.nets as monai_nets
import onnxruntime
import pytest
import timm
import torch
import torchvision
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ttl_monai.networks import count_params, find_point, freeze_up_to, inflate, list_points, split_at, truncate


def small_densenet(drop_rate=0.0):
    return torchvision.models.DenseNet(8, (3, 3, 2), 16, num_classes=2, drop_rate=drop_rate)


def small_lite():
    """A network as EfficientNet-lite with SAME padding and fused norms, in three stages."""
    stages = decode_arch_def([["ds_r1_k3_s1_e1_c8"], ["ir_r2_k5_s2_e4_c12"], ["ir_r2_k3_s2_e4_c16"]])
    return EfficientNet(stages, num_features=32, stem_size=8, pad_type="same", act_layer=nn.ReLU6, num_classes=2)


# name -> builder, input shape, where to truncate, where to freeze
NETWORKS = {
    "resnet": (torchvision.models.resnet18, (2, 3, 48, 48), "layer2.0", "layer1"),
    "densenet": (small_densenet, (2, 3, 48, 48), "denseblock2.denselayer2", "transition1"),
    "lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), (2, 3, 49, 49), "blocks.2", "blocks.1.0"),
    "monai 3d": (lambda: monai_nets.resnet10(spatial_dims=3, n_input_channels=1), (2, 1, 24, 24, 24), "layer2", "stem"),
    "inflated": (lambda: inflate(small_lite()), (2, 3, 8, 33, 33), "blocks.1.1", "blocks.1.0"),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    build, shape, cut, frozen = NETWORKS[request.param]
    torch.manual_seed(0)
    model, x = build(), torch.rand(shape)
    with torch.no_grad():
        model(x)  # so that the norm statistics are no longer the initial ones
    return model, x, cut, frozen


def test_truncate_keeps_weights_and_buffers_under_their_names_and_drops_the_rest(case):
    model, x, cut, _ = case
    truncated = truncate(model, cut, x)
    theirs = model.state_dict()
    ours = truncated.state_dict()
    assert set(ours) < set(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert count_params(truncated) == find_point(list_points(model, x), cut).params < count_params(model)
    assert any(name.endswith("running_mean") for name in ours)


def test_truncate_leaves_the_model_as_it_was_and_shares_nothing(case):
    model, x, cut, _ = case
    model.eval()
    next(model.children()).train()
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    truncated = truncate(model, cut, x)
    assert [module.training for module in model.modules()] == flags
    assert dict(truncated.named_modules())[next(name for name, _ in model.named_children())].training
    truncated.train()(x).sum().backward()
    with torch.no_grad():
        for parameter in truncated.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_truncated_network_trains_as_the_whole_one_would(case):
    model, x, cut, _ = case
    truncated = truncate(model, cut, x).train()
    before = copy.deepcopy(truncated.state_dict())
    truncated(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in truncated.parameters())
    moved = [name for name, tensor in truncated.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved
    assert all("running" in name or "num_batches" in name for name in moved)


def through_state_dict(network, x):
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            tensor.zero_()
    copied.load_state_dict(torch.load(buffer, weights_only=True))
    return copied


def through_pickle(network, x):
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_script(network, x):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


WAYS = {
    "state_dict": through_state_dict,
    "deepcopy": lambda network, x: copy.deepcopy(network),
    "pickle": through_pickle,
    "script": through_script,
    "trace": torch.jit.trace,
    "export": lambda network, x: torch.export.export(network, (x,)).module(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_truncated_and_frozen_network_survives(case, way):
    model, x, cut, frozen = case
    network = freeze_up_to(truncate(model, cut, x), frozen, x).eval()
    with torch.no_grad():
        assert torch.equal(WAYS[way](network, x)(x), network(x))


def test_a_truncated_and_frozen_network_exports_to_onnx(case, tmp_path):
    model, x, cut, frozen = case
    network = freeze_up_to(truncate(model, cut, x), frozen, x).eval()
    torch.onnx.export(network, (x,), tmp_path / "network.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), network(x), rtol=1e-4, atol=1e-4)


def test_a_truncated_and_frozen_network_runs_in_ddp(case, tmp_path):
    model, x, cut, frozen = case
    network = freeze_up_to(truncate(model, cut, x), frozen, x)
    twin = copy.deepcopy(network).train()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(network).train()
        parallel(x).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    twin(x).square().mean().backward()
    for (name, ours), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.allclose(ours.grad, theirs.grad), name


def step(network, x):
    """One step of training with everything that asks for gradients."""
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(x).square().mean().backward()
    optimizer.step()


def frozen_names(model, x, point):
    return set(truncate(model, point, x).state_dict())


@pytest.mark.parametrize("prepare", ["plain", "truncated", "copied after freezing", "truncated after freezing"])
def test_nothing_frozen_moves_in_training(case, prepare):
    model, x, cut, point = case
    frozen = frozen_names(model, x, point)
    network = truncate(model, cut, x) if prepare == "truncated" else model
    assert freeze_up_to(network, point, x) is network
    if prepare == "copied after freezing":
        network = copy.deepcopy(network)
    elif prepare == "truncated after freezing":
        network = truncate(network, cut, x)
    before = copy.deepcopy(network.state_dict())
    step(network, x)
    after = network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not moved & frozen
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == frozen & set(
        dict(network.named_parameters())
    )
    assert any("running" in name for name in moved)
    assert any("weight" in name for name in moved)


def test_train_cannot_undo_freezing_at_any_level(case):
    model, x, _, point = case
    freeze_up_to(model, point, x)
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d))
    for module in list(model.modules()):
        module.train()
    assert not first.training
    assert model.training
    model.eval()
    assert not any(module.training for module in model.modules())


def test_freezing_all_leaves_nothing_to_train(case):
    model, x, cut, _ = case
    network = freeze_up_to(truncate(model, cut, x), "all")
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network.train()(x), network.eval()(x))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("build", "point"),
    [
        (lambda: small_densenet(drop_rate=0.5), "denseblock1.denselayer2"),  # dropout as a function
        (lambda: truncate(small_densenet(drop_rate=0.5)), "denseblock1.denselayer2"),
        (lambda: timm.create_model("tf_efficientnet_lite0", drop_path_rate=0.9), "blocks.2"),
    ],
)
def test_the_frozen_part_is_deterministic_in_training(build, point):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    network = freeze_up_to(build(), point, x).train()
    front = truncate(network, point, x).train()
    whole = truncate(network, None, x).train()
    with torch.no_grad():
        assert torch.equal(front(x), front(x))
        assert not torch.equal(whole(x), whole(x))


def test_features_of_the_frozen_part_train_the_rest_as_the_whole_network_does(case):
    model, x, cut, point = case
    network = freeze_up_to(truncate(model, cut, x), point, x).train()
    twin = copy.deepcopy(network)
    front, rest = split_at(network, point, x)
    with torch.no_grad():
        features = front(x)
    rest(features).square().mean().backward()
    twin(x).square().mean().backward()
    for (name, ours), theirs in zip(network.named_parameters(), twin.named_parameters(), strict=True):
        assert ours.requires_grad == (ours.grad is not None), name
        assert ours.grad is None or torch.equal(ours.grad, theirs[1].grad), name
    for (name, ours), theirs in zip(network.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_split_shares_its_parameters_and_leaves_none_out(case):
    model, x, cut, point = case
    network = truncate(model, cut, x)
    front, rest = split_at(network, point, x)
    whole = {name: id(parameter) for name, parameter in network.named_parameters()}
    parts = [{name: id(parameter) for name, parameter in part.named_parameters()} for part in (front, rest)]
    assert parts[0] | parts[1] == whole
    assert not parts[0].keys() & parts[1].keys()


class ReadsTheInputAgain(nn.Module):
    """Its size is read at the start and used at the end, so that the rest needs more than the feature map."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, stride=2), nn.Conv2d(2, 1, 3)

    def forward(self, x):
        size = x.shape[2:]
        return nn.functional.interpolate(self.second(self.first(x)), size)


def test_split_refuses_what_reads_the_input_again():
    with pytest.raises(ValueError, match="also reads the input of the network"):
        split_at(ReadsTheInputAgain(), "first", torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("verb", [truncate, freeze_up_to, split_at])
@pytest.mark.parametrize(
    ("point", "error", "message"),
    [("layer5", ValueError, "got 'layer5'; nearest: .*layer4"), (3, TypeError, "got 3"), ("2", ValueError, "got '2'")],
)
def test_a_bad_point_is_refused_and_changes_nothing(verb, point, error, message):
    model = torchvision.models.resnet18()
    with pytest.raises(error, match=message):
        verb(model, point, torch.zeros(1, 3, 32, 32))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_network_without_points_is_refused():
    pooled_at_once = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 2, 1))
    with pytest.raises(ValueError, match="has none: no single feature map"):
        truncate(pooled_at_once, None, torch.zeros(1, 1, 8, 8))
