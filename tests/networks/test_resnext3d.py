"""ResNeXt3D: the published names and sizes, torchvision's network in 2D, and the checkpoints that it takes."""

import numpy as np
import pytest
import timm
import torch
from monai.networks.nets import ResNet
from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as FlatResNet
from torch import nn
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from ttl_monai.networks import ResNeXt3D, TransferClassifier, backbones, count_params, list_points, slim_after
from ttl_monai.networks.layers3d import inflate_state
from ttl_monai.networks.pretrained import describe_weights, load_backbone
from ttl_monai.networks.resnext3d import ResNeXtBottleneck

ONE_A_STAGE = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def tiny():
    """One block a stage, with norm statistics that are no longer the initial ones."""
    torch.manual_seed(0)
    network = ResNeXt3D(ONE_A_STAGE)
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 8, 32, 32))
    return network.eval()


@pytest.fixture
def by_name(monkeypatch):
    """`tiny3d` and `tiny3d_master` as names of backbones."""
    monkeypatch.setitem(backbones.REGISTRY, "tiny3d", lambda: ResNeXt3D(ONE_A_STAGE))
    monkeypatch.setitem(backbones.REGISTRY, "tiny3d_master", lambda: ResNeXt3D(ONE_A_STAGE, stem_channels=128))


def published_keys(layers):
    """Names in resnext-101-kinetics.pth, as PAPER.md section 8 has them."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = {"conv1.weight", *(f"bn1.{name}" for name in norm), "fc.weight", "fc.bias"}
    for stage, blocks in enumerate(layers, start=1):
        for block in range(blocks):
            path = f"layer{stage}.{block}"
            keys |= {f"{path}.conv{i}.weight" for i in (1, 2, 3)}
            keys |= {f"{path}.bn{i}.{name}" for i in (1, 2, 3) for name in norm}
        keys |= {f"layer{stage}.0.downsample.0.weight", *(f"layer{stage}.0.downsample.1.{name}" for name in norm)}
    return keys


def test_resnext3d101_has_the_published_names_and_parameters():
    with torch.device("meta"):
        network = ResNeXt3D()
    assert set(network.state_dict()) == published_keys((3, 4, 23, 3))
    assert count_params(network) == 48_340_816  # with the 400 classes of Kinetics


@pytest.mark.parametrize(("stem_channels", "expected"), [(64, 64), (128, 128)])
def test_the_definition_is_that_of_cvpr_2018(stem_channels, expected):
    with torch.device("meta"):
        network = ResNeXt3D(ONE_A_STAGE, stem_channels=stem_channels)
    stem = network.conv1
    assert (stem.out_channels, stem.kernel_size, stem.stride, stem.padding) == (
        expected,
        (7, 7, 7),
        (1, 2, 2),
        (3, 3, 3),
    )
    assert (network.maxpool.kernel_size, network.maxpool.stride, network.maxpool.padding) == (3, 2, 1)
    for stage, width in enumerate((128, 256, 512, 1024), start=1):
        block = getattr(network, f"layer{stage}")[0]
        stride = (1, 1, 1) if stage == 1 else (2, 2, 2)
        assert (block.conv1.kernel_size, block.conv3.kernel_size) == ((1, 1, 1), (1, 1, 1))
        assert (block.conv2.in_channels, block.conv2.out_channels, block.conv2.groups) == (width, width, 32)
        assert (block.conv2.kernel_size, block.conv2.stride) == ((3, 3, 3), stride)
        assert block.conv3.out_channels == 2 * width
        assert (block.downsample[0].kernel_size, block.downsample[0].stride) == ((1, 1, 1), stride)
        assert all(layer.bias is None for layer in block.modules() if isinstance(layer, nn.Conv3d))


def test_in_2d_it_is_torchvisions_resnext():
    torch.manual_seed(0)
    oracle = TorchvisionResNet(TorchvisionBottleneck, [1, 2, 1, 1], 10, groups=32, width_per_group=4)
    network = ResNeXt3D((1, 2, 1, 1), spatial_dims=2, num_classes=10)
    network.load_state_dict(oracle.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), oracle.eval()(x))


@pytest.mark.parametrize(("in_channels", "size"), [(3, (8, 32, 32)), (1, (5, 33, 40))])
def test_any_size_and_number_of_channels(in_channels, size):
    network = ResNeXt3D(ONE_A_STAGE, in_channels=in_channels, num_classes=5).eval()
    with torch.no_grad():
        assert network(torch.rand(2, in_channels, *size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": (3, 4)}, r"four numbers of blocks, each at least 1, got \(3, 4\)"),
        ({"layers": (3, 4, 0, 0)}, r"each at least 1, got \(3, 4, 0, 0\)"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"stem_channels": 32}, "stem_channels must be 64 .* or 128 .*, got 32"),
    ],
)
def test_other_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNeXt3D(**arguments)


def test_slimming_gives_the_shapes_of_a_network_built_slim(tiny):
    oracle = ResNet(
        ResNeXtBottleneck, [1, 1, 1, 1], [64, 64, 128, 256], conv1_t_stride=(1, 2, 2), bias_downsample=False
    )
    slim = slim_after(tiny, "layer1").state_dict()
    assert {key: value.shape for key, value in slim.items()} == {
        key: value.shape for key, value in oracle.state_dict().items() if not key.startswith("fc.")
    }
    assert torch.equal(slim["layer1.0.conv2.weight"], tiny.layer1[0].conv2.weight)


# How files of 3D-ResNets-PyTorch hold a state dict -> mean and std, for images in [0, 1], that belong to them.
CVPR2018 = ((114.7748, 107.7354, 99.4750), (1, 1, 1), 255)
MASTER = ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737), 1)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1)


def cvpr2018(state):
    state = {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {"epoch": 170, "arch": "resnext-101", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def master(state):
    rest = {"optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}}
    return {"epoch": 200, "arch": "resnext-101", "state_dict": dict(state), **rest}


def rgb(values):
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1, 1)


@pytest.mark.parametrize(
    ("layout", "expected", "zipped"),
    [
        (cvpr2018, CVPR2018, False),  # the published file is of the time before zip files
        (lambda state: {"state_dict": cvpr2018(state)["state_dict"]}, CVPR2018, True),
        (master, MASTER, True),
        (dict, None, True),
    ],
)
def test_a_checkpoint_of_kinetics_brings_backbone_and_input_scale(tiny, by_name, tmp_path, layout, expected, zipped):
    path = tmp_path / "resnext.pth"
    torch.save(layout(tiny.state_dict()), path, _use_new_zipfile_serialization=zipped)
    network = TransferClassifier("tiny3d", weights=str(path), in_channels=1, truncate_at="layer2").eval()
    for key, value in network.backbone.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, tiny.state_dict()[key]), key
    report = network.weight_info.report
    assert {"fc.weight", "fc.bias", "layer3.0.conv1.weight"} <= set(report.skipped)
    assert len(report.reinitialised) == 2  # the new head
    mean, std, scale = expected or ((0,) * 3, (1,) * 3, 1)
    image = torch.rand(1, 1, 8, 32, 32)
    seen = (image.expand(-1, 3, -1, -1, -1) * scale - rgb(mean)) / rgb(std)
    torch.testing.assert_close(network.normalise(image), seen, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        features = tiny.layer2(tiny.layer1(tiny.maxpool(tiny.act(tiny.bn1(tiny.conv1(seen))))))
        torch.testing.assert_close(network(image), network.head(features), rtol=1e-4, atol=1e-4)


def test_the_wide_stem_of_the_master_branch_has_a_backbone_of_its_own(by_name, tmp_path):
    path = tmp_path / "master.pth"
    source = ResNeXt3D(ONE_A_STAGE, stem_channels=128)
    torch.save(master(source.state_dict()), path)
    backbone, _ = load_backbone("tiny3d_master", str(path))
    assert torch.equal(backbone.state_dict()["conv1.weight"], source.conv1.weight)
    told = r"conv1\.weight \(128, 3, 7, 7, 7\) instead of \(64, 3, 7, 7, 7\).* fits the backbone 'tiny3d_master'$"
    with pytest.raises(ValueError, match=told):
        load_backbone("tiny3d", str(path))
    with torch.device("meta"):
        assert backbones.build_backbone("resnext3d101_master").conv1.out_channels == 128


def test_weights_that_fit_no_backbone_name_none(by_name, tiny, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({key: value for key, value in tiny.state_dict().items() if key != "layer2.0.bn1.weight"}, path)
    with pytest.raises(ValueError, match=r"1 keys missing \(layer2\.0\.bn1\.weight\).*truncate_at$"):
        load_backbone("tiny3d", str(path))


def test_medicalnet_has_the_same_layout_but_not_that_input_scale(tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.REGISTRY, "tiny3d", lambda: ResNeXt3D(ONE_A_STAGE, in_channels=1))
    path = tmp_path / "medicalnet.pth"
    torch.save(cvpr2018(ResNeXt3D(ONE_A_STAGE, in_channels=1).state_dict()), path)
    assert load_backbone("tiny3d", str(path))[1].mean == (0.0,)


@pytest.mark.parametrize("metric", [0.84, np.float64(0.84)], ids=["float", "numpy"])  # weights_only refuses the second
@pytest.mark.parametrize("kind", ["penet", "xnet"])
def test_a_checkpoint_of_penet_is_refused_by_name(by_name, tmp_path, metric, kind):
    path = tmp_path / "best.pth.tar"
    state = {f"module.encoders.0.{kind}_blocks.1.conv1.weight": torch.ones(1)}
    torch.save({"ckpt_info": {"epoch": 1, "val_loss": metric}, "model_name": "PENet", "model_state": state}, path)
    with pytest.raises(ValueError, match=r"best.pth.tar is a checkpoint of PENet.*'resnext3d101'"):
        load_backbone("tiny3d", str(path))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("kinetics", "'kinetics' is neither a known name nor a file"),
        ("resnext-101-kinetics.pth", "is no file. Remedies"),
    ],
)
def test_a_misspelt_weight_is_one_clear_error(by_name, weights, message):
    with pytest.raises(ValueError, match=message):
        TransferClassifier("tiny3d", weights=weights)


def test_2d_weights_are_inflated_into_it(by_name, tmp_path, caplog):
    torch.manual_seed(0)
    flat = FlatResNet(Bottleneck, ONE_A_STAGE, cardinality=32, base_width=4)
    path = tmp_path / "flat.pth"
    torch.save(flat.state_dict(), path)
    with caplog.at_level("INFO", logger="ttl_monai.networks"):
        backbone, info = load_backbone("tiny3d", str(path))
    assert info.report.skipped == ("fc.weight", "fc.bias")
    assert len(info.report.loaded) == len(backbone.state_dict())
    got = backbone.state_dict()
    assert torch.equal(got["bn1.running_var"], flat.bn1.running_var)
    torch.testing.assert_close(got["conv1.weight"].sum(2), flat.conv1.weight.detach())
    torch.testing.assert_close(got["layer3.0.conv2.weight"][:, :, 1] * 3, flat.layer3[0].conv2.weight.detach())
    assert "tiny3d: 17 kernels of" in caplog.text


def test_imagenets_resnext101_fits_tensor_by_tensor():
    info = describe_weights("resnext3d101")
    assert info.filename == "resnext101_32x4d.gluon_in1k.safetensors"
    assert (info.mean, info.std) == IMAGENET[:2]
    assert info.licence == "apache-2.0"
    with torch.device("meta"):
        flat, deep = timm.create_model("resnext101_32x4d").state_dict(), ResNeXt3D(num_classes=1000).state_dict()
    inflated = inflate_state(flat, deep)
    assert {key: value.shape for key, value in inflated.items()} == {key: value.shape for key, value in deep.items()}
    assert len(inflated) == 626


def test_points_of_resnext3d50_are_its_blocks():
    with torch.device("meta"):
        points = list_points(backbones.build_backbone("resnext3d50"), torch.zeros(1, 3, 8, 32, 32))
    assert [p.name for p in points if p.level == "stage"] == ["layer1.2", "layer2.3", "layer3.5", "layer4.2"]
    assert points[-1].spatial_size == (1, 1, 1)
