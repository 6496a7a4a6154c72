"""Maps of made networks on made masks: the one that sees the lesion is told from the one that does not."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ttl_monai.data import Datalist, make_masked_phantom
from ttl_monai.engines.experiments import maps
from ttl_monai.engines.experiments.maps import EQUAL, OWN, MaskedImages, masked_items, randomised_similarity, score_maps
from ttl_monai.networks import TransferClassifier

STRUCTURES = {"lesion": [1], "frame": [0], "absent": [5]}


class Bright(nn.Module):
    """What is brighter than half, as means over blocks of `block` pixels."""

    def __init__(self, block):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AvgPool2d(block)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([-0.5, 0.5]))

    def forward(self, image):
        return self.pool(self.relu(self.conv(image)))


def classifier(*, block, sees_bright):
    network = TransferClassifier(Bright(block), weights="none", in_channels=1).eval()
    with torch.no_grad():
        seen = [1.0, 0.0] if sees_bright else [0.0, 1.0]
        network.head[-1].weight.copy_(torch.tensor([[0.0, 0.0], seen]))
    return network


@pytest.fixture
def data(tmp_path):
    """Four dark images of 40 x 48 pixels, each with one bright square, which is bit 1; bit 0 is the upper half."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    entries = []
    for number in range(4):
        pixels, mask = np.full((40, 48), 50, np.uint8), np.zeros((40, 48), np.uint8)
        mask[:20] = 1
        square = slice(8 * number, 8 * number + 8), slice(12, 20)
        pixels[square], mask[square] = 250, mask[square] + 2
        names = [f"{what}/{number}.png" for what in ("images", "masks")]
        for name, values in zip(names, (pixels, mask), strict=True):
            Image.fromarray(values).save(tmp_path / name)
        entries.append({"image": names[0], "label": names[1], "patient": f"p{number // 2}"})
    header = {"name": "squares", "task": "segmentation", "class_names": ["lesion"], "public_ids": True}
    path = tmp_path / "list.json"
    path.write_text(json.dumps({**header, "training": entries[:2], "validation": [], "test": entries[2:]}))
    return Datalist.load(path, tmp_path)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs of one preprocessing, which crops to 40 pixels and resizes to 20."""
    size = {"_target_": "Resized", "keys": "image", "spatial_size": [20, 20], "mode": "area"}
    transforms = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True, "reader": "ttl_monai.data.XrayReader"},
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
        {"_target_": "ttl_monai.data.CenterSquareCropd", "keys": "image"},
        size,
    ]
    specs = {name: {"preprocessing": {"_target_": "Compose", "transforms": transforms}} for name in ("a", "b")}
    specs["other"] = {"preprocessing": {"_target_": "Compose", "transforms": transforms[:3]}}
    monkeypatch.setattr(maps, "load_spec", specs.__getitem__)
    monkeypatch.setattr("ttl_monai.engines.runs.load_spec", specs.__getitem__)
    return ["a", "b"]


@pytest.fixture
def images(runs, data):
    return MaskedImages(runs, data, STRUCTURES)


def test_image_and_mask_lie_on_each_other_after_crop_and_resize(images):
    assert len(images) == 4
    for number in range(4):
        image, masks = images[number]
        assert image.shape == (1, 20, 20)
        assert masks.shape == (3, 20, 20)
        expected = np.zeros((20, 20), bool)
        expected[4 * number : 4 * number + 4, 4:8] = True  # 48 columns lose 4 on each side
        assert np.array_equal(masks[0], expected)
        assert np.array_equal(image[0].numpy() > 0.5, expected)
        assert np.array_equal(masks[1], np.arange(20)[:, None].repeat(20, 1) < 10)
        assert not masks[2].any()


def test_the_network_that_sees_the_lesion_scores_high_and_the_one_that_does_not_low(images):
    networks = {"sees": classifier(block=2, sees_bright=True), "blind": classifier(block=2, sees_bright=False)}
    scores = score_maps(networks, images, methods=["gradcam", "gradcam++"], batch_size=3)
    assert len(scores.rows) == 4 * 2 * 2 * 2
    for row in scores.select("sees", "gradcam"):
        assert row["lesion_share"] > 0.6
        assert row["lesion_pointing"] == 1
        assert row["lesion_auroc"] > 0.95
        assert row["lesion_area"] == pytest.approx(16 / 400)
        assert row["half_area"] < 0.06
    blind = scores.select("blind", "gradcam")
    assert max(row["lesion_share"] for row in blind) < row["lesion_area"]
    assert min(row["half_area"] for row in blind) > 0.4
    assert all(row["lesion_pointing"] == 1 for row in scores.select("sees", "gradcam++"))
    assert all(math.isnan(row["absent_share"]) and math.isnan(row["absent_area"]) for row in scores.rows)
    assert [row["image"] for row in blind] == [f"images/{number}.png" for number in range(4)]
    assert [row["patient"] for row in blind] == ["p0", "p0", "p1", "p1"]
    assert all(value > 0 for value in scores.seconds.values())


def test_a_finer_map_has_no_advantage_at_equal_size(images):
    networks = {"fine": classifier(block=2, sees_bright=True), "coarse": classifier(block=10, sees_bright=True)}
    scores = score_maps(networks, images, methods=["gradcam"])

    def shares(name, size):
        return [row["lesion_share"] for row in scores.select(name, "gradcam", size)]

    assert shares("coarse", EQUAL) == shares("coarse", OWN)
    assert min(shares("fine", OWN)) > 2 * max(shares("coarse", OWN))
    assert shares("fine", EQUAL) == pytest.approx(shares("coarse", EQUAL), abs=1e-5)


def test_maps_of_drawn_weights_are_compared_step_by_step(images):
    batch = torch.stack([images[number][0] for number in range(4)])
    network = classifier(block=2, sees_bright=True)
    steps = randomised_similarity(network, batch, methods=["gradcam", "gradcam++"])
    assert [(step["method"], step["drawn"]) for step in steps] == [
        (method, drawn) for drawn in ("head", "whole") for method in ("gradcam", "gradcam++")
    ]
    assert all(step["rank_correlation"] is None or -1 <= step["rank_correlation"] <= 1 for step in steps)
    assert steps == randomised_similarity(network, batch, methods=["gradcam", "gradcam++"])


def test_a_number_of_images_is_drawn_by_the_seed(data):
    chosen = [[item["image_id"] for item in masked_items(data, images=2, seed=seed)] for seed in range(8)]
    assert all(len(each) == 2 and each == sorted(each) for each in chosen)
    assert len({tuple(each) for each in chosen}) > 1
    assert len(masked_items(data, images=9)) == 4


def test_what_cannot_be_compared_is_refused(runs, data):
    with pytest.raises(ValueError, match="differ in their preprocessing"):
        MaskedImages([*runs, "other"], data, STRUCTURES)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        masked_items(data, images=0)
    object.__setattr__(data, "task", "binary")
    with pytest.raises(ValueError, match="expected a datalist of segmentation, got one of binary"):
        masked_items(data)


def test_the_masked_phantom_says_where_its_texture_is(tmp_path):
    first, again = (make_masked_phantom(tmp_path / name, patients=3, size=(96, 112)) for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()
    found = Datalist.load(first, first.parent)
    items = masked_items(found)
    assert len({item["patient"] for item in items}) == 3
    for item in items:
        bits = np.asarray(Image.open(item["label"]))
        assert bits.shape == np.asarray(Image.open(item["image"])).shape
        assert set(np.unique(bits)) == {0, 1, 3}, "the finding lies in the lungs"
