"""Square crop, batch augmentation and the preparation of a batch."""

import math

import pytest
import torch
import torchvision.transforms.functional as tvf
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.transforms import CenterSpatialCrop

from ttl_monai.data import BatchAugment, CenterSquareCropd, PrepareBatch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def picture(*shape):
    """Smooth noise without any symmetry, in [0, 1]."""
    coarse = torch.rand(shape[0], shape[1], 7, 9)
    return torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False)


# ---- CenterSquareCropd


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 20, 30), (1, 20, 20)),
        ((3, 31, 20), (3, 20, 20)),
        ((1, 20, 20), (1, 20, 20)),
        ((1, 20, 30, 7), (1, 20, 20, 7)),  # the third axis is not in the plane
        ((1, 6, 30, 2), (1, 6, 6, 2)),
    ],
)
def test_center_square_crop(shape, expected):
    image = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    item = CenterSquareCropd("image")({"image": image, "label": 3})
    assert tuple(item["image"].shape) == expected
    assert item["label"] == 3
    rows, columns = (full - side for full, side in zip(shape[1:3], expected[1:3], strict=True))
    middle = image[:, rows // 2 : rows // 2 + expected[1], columns // 2 : columns // 2 + expected[2]]
    torch.testing.assert_close(torch.as_tensor(item["image"]), middle)


def test_center_square_crop_takes_metatensors_and_several_keys():
    item = {"image": MetaTensor(torch.rand(1, 4, 6)), "mask": torch.rand(1, 6, 4)}
    result = CenterSquareCropd(("image", "mask"))(item)
    assert result["image"].shape == result["mask"].shape == (1, 4, 4)
    torch.testing.assert_close(
        torch.as_tensor(result["image"]), torch.as_tensor(CenterSpatialCrop((4, 4))(item["image"]))
    )
    assert item["image"].shape == (1, 4, 6)  # the item given is left as it was


def test_center_square_crop_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"'image' must be \(C, H, W\) or \(C, H, W, D\), got shape \(4, 4\)"):
        CenterSquareCropd("image")({"image": torch.rand(4, 4)})
    with pytest.raises(KeyError, match="mask"):
        CenterSquareCropd("mask")({"image": torch.rand(1, 4, 4)})
    assert CenterSquareCropd("mask", allow_missing_keys=True)({"label": 1}) == {"label": 1}


# ---- BatchAugment


def fixed(augment, monkeypatch, top, left, degrees, mirrored):
    """Put given numbers in place of the random ones."""
    count = len(top)
    values = [torch.tensor(v, dtype=torch.float32) for v in (top, left, [math.radians(d) for d in degrees])]
    monkeypatch.setattr(augment, "_draw", lambda n: (*values, torch.tensor(mirrored)) if n == count else None)
    return augment


@pytest.mark.parametrize(("full", "size"), [((40, 40), (24, 24)), ((40, 56), (20, 32)), ((30, 30), (30, 30))], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_geometry_equals_torchvision(monkeypatch, full, size, mirrored):
    images = picture(3, 2, *full)
    top, left = [0, (full[0] - size[0]) // 2, full[0] - size[0]], [full[1] - size[1], 0, (full[1] - size[1]) // 3]
    degrees = [10.0, -7.0, 60.0]
    augment = fixed(BatchAugment(size, crop_from=full), monkeypatch, top, left, degrees, [mirrored] * 3)
    result = augment(images)
    assert result.shape == (3, 2, *size)
    inside = augment(torch.ones(3, 1, *full)) > 0.9999  # torchvision darkens what touches the border once more
    for n in range(3):
        center = [left[n] + size[1] / 2, top[n] + size[0] / 2]
        turned = tvf.rotate(images[n], degrees[n], tvf.InterpolationMode.BILINEAR, center=center, fill=0.0)
        expected = tvf.crop(turned, top[n], left[n], *size)
        expected = tvf.hflip(expected) if mirrored else expected
        whole = inside[n].expand_as(expected)
        assert whole.float().mean() > 0.6
        torch.testing.assert_close(result[n][whole], expected[whole], atol=2e-4, rtol=0)


def test_rotation_shows_what_lies_around_the_window(monkeypatch):
    images = torch.ones(1, 1, 40, 40)
    augment = fixed(BatchAugment(20, crop_from=40), monkeypatch, [10], [10], [45.0], [False])
    torch.testing.assert_close(augment(images), torch.ones(1, 1, 20, 20))  # no black corners


def test_beyond_the_image_is_black(monkeypatch):
    augment = fixed(BatchAugment(40, crop_from=40), monkeypatch, [0], [0], [45.0], [False])
    result = augment(torch.ones(1, 1, 40, 40))[0, 0]
    assert result[0, 0] == result[-1, -1] == 0
    assert result[20, 20] == 1


def test_without_crop_and_rotation_the_image_is_unchanged():
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(BatchAugment(32, crop_from=32, rotate_degrees=0)(images), images, atol=1e-6, rtol=0)


def test_crop_without_rotation_copies_pixels_from_every_place():
    images = torch.arange(36.0).reshape(1, 1, 6, 6).expand(400, 1, 6, 6)
    result = BatchAugment(4, crop_from=6, rotate_degrees=0)(images)
    corners = result[:, 0, 0, 0].long().tolist()
    assert set(corners) == {6 * y + x for y in range(3) for x in range(3)}
    for n in range(10):
        y, x = divmod(corners[n], 6)
        assert torch.equal(result[n, 0], images[0, 0, y : y + 4, x : x + 4])


def test_small_angles_tend_to_the_crop():
    images = picture(8, 1, 32, 32)
    torch.manual_seed(5)
    turned = BatchAugment(24, crop_from=32, rotate_degrees=1e-4)(images)
    torch.manual_seed(5)
    torch.testing.assert_close(BatchAugment(24, crop_from=32, rotate_degrees=0)(images), turned, atol=1e-4, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotate_degrees", [0, 1e-4])
def test_quarter_turns_give_all_eight_pictures_equally_often(flip, rotate_degrees):
    images = picture(1, 2, 12, 12).expand(1600, 2, 12, 12)
    augment = BatchAugment(12, crop_from=12, rotate_degrees=rotate_degrees, flip=flip, quarter_turns=True)
    result = augment(images)
    sides = [images[0], images[0].flip(-1)] if flip else [images[0]]
    pictures = torch.stack([side.rot90(k, (1, 2)) for side in sides for k in range(4)])
    inner = (..., slice(1, -1), slice(1, -1))  # resampled, the rim is darkened by what lies beyond it
    near = (result[inner][:, None] - pictures[inner]).abs().amax(dim=(2, 3, 4)) < 1e-3
    assert (near.sum(dim=1) == 1).all()
    assert near.sum(dim=0).float().div(1600).sub(1 / len(pictures)).abs().max() < 0.04


def test_quarter_turns_are_the_same_resampled_or_copied():
    images, masks = picture(16, 3, 32, 32), torch.randint(0, 3, (16, 1, 32, 32))
    results = []
    for rotate_degrees in (0, 1e-5):
        torch.manual_seed(3)
        augment = BatchAugment(24, crop_from=32, rotate_degrees=rotate_degrees, flip=True, quarter_turns=True)
        results.append(augment.augment_pairs(images, masks))
    torch.testing.assert_close(*(image for image, _ in results), atol=1e-4, rtol=0)
    assert torch.equal(*(mask for _, mask in results))


def test_quarter_turns_change_nothing_else_that_is_drawn():
    drawn = []
    for turning in (False, True):
        torch.manual_seed(3)
        drawn.append(BatchAugment(24, crop_from=32, flip=True, quarter_turns=turning)._draw(50))
    (top, left, angle, mirrored), (*same, turned, also) = drawn
    assert torch.equal(torch.stack(same), torch.stack([top, left]))
    assert torch.equal(mirrored, also)
    quarters = (turned - angle) / (math.pi / 2)
    torch.testing.assert_close(quarters, quarters.round(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"quarter_turns need a square spatial_size, got \(20, 24\)"):
        BatchAugment((20, 24), crop_from=32, quarter_turns=True)


def test_largest_random_number_stays_inside(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, 1 - 2.0**-24))
    top, left, angle, _ = BatchAugment(224, crop_from=256)._draw(2)
    assert top.max() == left.max() == 32
    assert angle.max().rad2deg() <= 10


def test_angles_fill_their_range():
    _, _, angle, mirrored = BatchAugment(24, crop_from=32, rotate_degrees=10)._draw(4000)
    degrees = angle.rad2deg()
    assert -10 <= degrees.min() < -9.9
    assert 9.9 < degrees.max() <= 10
    assert abs(degrees.mean()) < 0.4
    assert not mirrored.any()


@pytest.mark.parametrize("rotate_degrees", [0, 10])
def test_flip_mirrors_about_half(rotate_degrees):
    images = torch.linspace(0, 1, 16).expand(400, 1, 16, 16)  # brighter to the right
    result = BatchAugment(16, crop_from=16, rotate_degrees=rotate_degrees, flip=True)(images)[:, 0, 8]
    assert 0.4 < (result[:, 3] > result[:, 12]).float().mean() < 0.6
    plain = BatchAugment(16, crop_from=16, rotate_degrees=rotate_degrees)(images)[:, 0, 8]
    assert (plain[:, 3] < plain[:, 12]).all()


def test_images_differ_and_repeat_with_the_seed():
    images = picture(1, 1, 40, 40).expand(6, 1, 40, 40)
    augment = BatchAugment(24, crop_from=40)
    torch.manual_seed(3)
    first = augment(images)
    second = augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images), first)
    assert not torch.equal(second, first)
    assert len({float(image.sum()) for image in first}) == 6


def test_random_numbers_used_do_not_depend_on_the_settings():
    after = []
    for augment in (BatchAugment(8, crop_from=16), BatchAugment(16, crop_from=16, rotate_degrees=0, flip=True)):
        torch.manual_seed(1)
        augment(torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
        after.append(torch.rand(1).item())
    assert after[0] == after[1]


def test_values_stay_in_range_and_the_input_is_left_alone():
    images = (torch.rand(16, 1, 64, 64) > 0.5).float()
    before = images.clone()
    result = BatchAugment(56, crop_from=64, rotate_degrees=30)(images)
    assert torch.equal(images, before)
    assert result.min() >= 0
    assert result.max() <= 1 + 1e-6
    assert result.is_contiguous()


def test_metatensor_in_tensor_out():
    result = BatchAugment(8, crop_from=16)(MetaTensor(torch.rand(2, 1, 16, 16)))
    assert type(result) is torch.Tensor


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"spatial_size": 224, "crop_from": 200}, r"between 1 and crop_from \(200, 200\), got \(224, 224\)"),
        ({"spatial_size": 0}, "got \\(0, 0\\)"),
        ({"spatial_size": (128, 300)}, "got \\(128, 300\\)"),
        ({"spatial_size": 128, "rotate_degrees": -1}, "rotate_degrees must be between 0 and 180, got -1"),
    ],
)
def test_bad_arguments(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        BatchAugment(**arguments)


@pytest.mark.parametrize("shape", [(2, 1, 20, 20), (1, 16, 16), (2, 1, 16, 16, 16)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, C, 16, 16\) as crop_from says, got"):
        BatchAugment(8, crop_from=16)(torch.rand(shape))


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match=r"floating type, got torch\.uint8"):
        BatchAugment(8, crop_from=16)(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


# ---- PrepareBatch


def test_prepare_batch_moves_and_augments():
    batch = {"image": torch.rand(4, 1, 16, 16), "label": torch.arange(4), "patient": ["a", "b", "c", "d"]}
    image, label = PrepareBatch()(batch, "cpu", True)
    assert torch.equal(image, batch["image"])
    assert torch.equal(label, batch["label"])
    image, label = PrepareBatch(augment=BatchAugment(8, crop_from=16))(batch, torch.device("cpu"))
    assert image.shape == (4, 1, 8, 8)
    assert torch.equal(label, batch["label"])
    image, _ = PrepareBatch()(batch, "cpu", dtype=torch.float64)
    assert image.dtype == torch.float64


def test_prepare_batch_without_a_label():
    image, label = PrepareBatch()({"image": torch.rand(2, 1, 4, 4), "patient": ["a", "b"]})
    assert image.shape == (2, 1, 4, 4)
    assert label is None


@pytest.mark.parametrize("rotate_degrees", [0, 40])
def test_a_mask_moves_with_its_image(rotate_degrees):
    images = picture(6, 1, 32, 40)
    masks = torch.cat([(images > 0.4) * 3, images > 0.7], 1).to(torch.uint8)
    augment = BatchAugment((20, 24), crop_from=(32, 40), rotate_degrees=rotate_degrees, flip=True)
    torch.manual_seed(3)
    alone = augment(images)
    torch.manual_seed(3)
    moved, moved_masks = PrepareBatch(augment=augment)({"image": images, "label": masks})
    assert torch.equal(moved, alone)
    assert moved_masks.shape == (6, 2, 20, 24)
    assert moved_masks.dtype == torch.uint8
    assert set(moved_masks.unique().tolist()) <= {0, 1, 3}
    inside = moved > 0.02  # beyond the image both are 0
    wrong = ((moved > 0.4) != (moved_masks[:, :1] > 0)) & inside
    assert wrong.float().mean() < (0.06 if rotate_degrees else 1e-9)  # at edges the nearest pixel may differ
    assert PrepareBatch()({"image": images, "label": masks})[1].shape == (6, 2, 32, 40)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"masks must be .* of the images \(2, 1, 16, 16\), got \(2, 1, 8, 8\)"):
        BatchAugment(8, crop_from=16).augment_pairs(torch.rand(2, 1, 16, 16), torch.zeros(2, 1, 8, 8))


def test_training_engine_takes_it():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    data = [{"image": torch.rand(2, 1, 16, 16), "label": torch.tensor([0, 1])}]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        prepare_batch=PrepareBatch(augment=BatchAugment(8, crop_from=16)),
    )
    trainer.run()
    assert seen == [(2, 1, 8, 8)]
    assert math.isfinite(float(trainer.state.output[0]["loss"]))
