"""Masks: the values that are stored, in the image's view, and clear refusals of all that does not fit."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from ttl_monai.data import LoadPaird, XrayReader, make_phantom
from ttl_monai.data.masks import check_geometry, read_mask, to_classes

from .conftest import write_segmentation

MASK = (np.add.outer(np.arange(24), np.arange(32)) // 9 % 3).astype(np.uint8)  # 0, 1, 2; rows != columns, no symmetry
GREY = (np.add.outer(np.arange(24) * 5, np.arange(32) * 3) % 256).astype(np.uint8)


def with_palette(mask):
    picture = Image.fromarray(mask)
    picture.putpalette([9, 9, 9, 250, 0, 0, 0, 250, 0])
    return picture


def save(folder, name, content, affine=None):
    """Write a mask or image of (rows, columns) in the format of its name."""
    path = folder / name
    if name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(content, np.eye(4) if affine is None else affine), path)
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", MASK),
        ("grey.tif", MASK),
        ("grey.bmp", MASK),
        ("wide.png", MASK.astype(np.uint16) * 300),
        ("palette.png", with_palette(MASK)),
        ("three_equal.png", np.stack([MASK] * 3, -1)),
        ("opaque.png", np.stack([MASK] * 3 + [np.full_like(MASK, 255)], -1)),
        ("bits.png", Image.fromarray(MASK > 0)),
        ("float.tif", MASK.astype(np.float32)),
    ],
)
def test_pictures_keep_their_values(tmp_path, name, content):
    expected = MASK.astype(int) * 300 if name == "wide.png" else MASK > 0 if name == "bits.png" else MASK
    values = read_mask(save(tmp_path, name, content), tmp_path / "image.png")
    assert values.dtype.kind in "iub"
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ARS", "PLI"])
def test_a_nifti_mask_is_turned_as_its_image_is(tmp_path, codes):
    """The same view of both, whatever the file's orientation: a pixel that is bright in the image is in the mask."""
    affine = np.linalg.inv(nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (24, 32, 1)))
    bright = (GREY > 200).astype(np.uint8)
    image = save(tmp_path, "image.nii.gz", (GREY * (bright > 0))[..., None], affine)
    mask = save(tmp_path, "mask.nii.gz", bright[..., None], affine)
    reader = XrayReader()
    shown, _ = reader.get_data(reader.read(image))
    assert np.array_equal(read_mask(mask, image) > 0, shown > 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("colours.png", np.stack([MASK, MASK, 2 - MASK], -1), "the mask has colours; expected one number a pixel"),
        ("lossy.jpg", MASK, "a JPEG file changes the values that it stores"),
        ("half.tif", MASK / np.float32(2), "values that are no whole numbers; export it without interpolation"),
        ("volume.nii", np.zeros((4, 5, 6), np.uint8), r"expected a 2D image, got a volume of shape \(4, 5, 6\)"),
    ],
)
def test_what_is_no_mask_is_refused_with_both_names(tmp_path, name, content, message):
    path = save(tmp_path, name, content)
    with pytest.raises(ValueError, match=rf"image .*image.png and mask .*{name}: .*{message}"):
        read_mask(path, tmp_path / "image.png")


def test_damaged_and_missing_masks_are_refused(tmp_path):
    (tmp_path / "cut.png").write_bytes(save(tmp_path, "whole.png", MASK).read_bytes()[:40])
    with pytest.raises(ValueError, match=r"mask .*cut.png: the mask cannot be read"):
        read_mask(tmp_path / "cut.png", "image.png")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="a mask must be PNG, TIFF, BMP, NIfTI or a DICOM segmentation"):
        read_mask(tmp_path / "notes.txt", "image.png")
    with pytest.raises(FileNotFoundError):
        read_mask(tmp_path / "absent.png", "image.png")


# ---- classes


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([[0, 1], [2, 0]], {}, [[[0, 1], [2, 0]]]),
        ([[0, 255], [255, 128]], {"mask_values": [0, 128, 255]}, [[[0, 2], [2, 1]]]),
        ([[0, 3], [7, 4]], {"mask_values": [0, [3, 4], 7]}, [[[0, 1], [2, 1]]]),
        ([[0, 1], [3, 6]], {"bits": [0, 1, 2]}, [[[0, 1], [1, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 1]]]),
        ([[0, 1], [3, 8]], {"bits": [[0, 1], 3, 5]}, [[[0, 1], [1, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]]),
    ],
)
def test_values_become_classes(values, options, expected):
    classes = to_classes(np.array(values), 3, **options)
    assert classes.dtype == np.uint8
    assert classes.tolist() == expected


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0, 1, 3], {}, "it: the mask has the values 3, which are no class: expected 0, 1, 2; declare"),
        ([0, 255], {}, "the values 255, which are no class"),
        ([-1, 0], {}, "the values -1, which"),
        ([0, 128, 255], {"mask_values": [0, 255, 7]}, "the values 128, which are no class: expected 0, 255, 7"),
        ([0], {"mask_values": [0, 255]}, "for each of the 3 classes, got mask_values="),
        ([0], {"bits": [0, 1]}, "for each of the 3 classes"),
        ([0], {"bits": [0, 1, 2], "mask_values": [0, 1, 2]}, "expected mask_values or bits"),
    ],
)
def test_undeclared_values_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        to_classes(np.array(values), 3, where="it", **options)


def test_geometry_must_be_the_same():
    affine = np.diag([1.0, 1, 2, 1])
    check_geometry((4, 5, 6), (4, 5, 6), "pair", affine, affine + 1e-5)
    check_geometry((4, 5), [4, 5], "pair", affine, None)
    with pytest.raises(ValueError, match=r"pair: the image has the shape \(4, 5\), the mask \(5, 4\)"):
        check_geometry((4, 5), (5, 4), "pair")
    for other in (np.diag([1.0, 1, 2.5, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match=r"pair: the affines differ by up to .*resample it onto the image"):
            check_geometry((4, 5, 6), (4, 5, 6), "pair", affine, other)


# ---- transforms


def test_load_pair_from_json(tmp_path):
    item = {
        "image": str(save(tmp_path, "a.png", GREY)),
        "label": str(save(tmp_path, "m.png", MASK * 100)),
        "patient": "p",
    }
    config = {"_target_": "ttl_monai.data.LoadPaird", "num_classes": 3, "mask_values": [0, 100, 200], "channels": 3}
    loaded = ConfigParser({"load": config}).get_parsed_content("load")(item)
    assert loaded["image"].shape == (3, 24, 32)
    np.testing.assert_allclose(loaded["image"][0], GREY / 255, atol=1e-6)
    assert loaded["label"].dtype == torch.uint8
    assert np.array_equal(loaded["label"][0], MASK)
    assert loaded["patient"] == "p"
    assert isinstance(item["label"], str)


def test_load_pair_without_a_mask(tmp_path):
    item = {"image": save(tmp_path, "a.png", GREY)}
    assert LoadPaird(num_classes=3, allow_missing_keys=True)(item)["image"].shape == (1, 24, 32)
    with pytest.raises(KeyError, match="label"):
        LoadPaird(num_classes=3)(item)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.T, r"image .*a.png and mask .*m.png: the image has the shape \(24, 32\), the mask \(32, 24\)"),
        (MASK + 1, r"image .*a.png and mask .*m.png: the mask has the values 3, which are no class"),
    ],
)
def test_load_pair_names_the_pair_that_does_not_fit(tmp_path, mask, message):
    item = {"image": save(tmp_path, "a.png", GREY), "label": save(tmp_path, "m.png", np.ascontiguousarray(mask))}
    with pytest.raises(ValueError, match=message):
        LoadPaird(num_classes=3)(item)


def test_load_pair_compares_affines(tmp_path):
    image = save(tmp_path, "a.nii", GREY[..., None])
    mask = save(tmp_path, "m.nii", MASK[..., None], np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 5)
    with pytest.raises(ValueError, match=r"a.nii and mask .*m.nii: the affines differ by up to 5"):
        LoadPaird(num_classes=3)({"image": image, "label": mask})


def test_bad_arguments_are_refused_before_any_file_is_read():
    with pytest.raises(ValueError, match="keys must be those of the image and of the mask"):
        LoadPaird("image", num_classes=2)
    with pytest.raises(ValueError, match="for each of the 2 classes"):
        LoadPaird(num_classes=2, mask_values=[0, 1, 2])


# ---- DICOM segmentations


@pytest.fixture(scope="module")
def x_ray(tmp_path_factory):
    """A made DICOM x-ray and the mask of its lungs as a SEG with two segments."""
    folder = tmp_path_factory.mktemp("seg")
    make_phantom(folder, seed=1, patients=3, masks=True)
    image = sorted((folder / "images").glob("*.dcm"))[0]
    lungs = np.asarray(Image.open(folder / "masks" / f"{image.stem}.png"))
    values = lungs * (1 + (np.arange(lungs.shape[1]) > lungs.shape[1] // 2)).astype(np.uint8)  # 1 right, 2 left
    write_segmentation(folder / "lungs.dcm", [image], values[None])
    return image, folder / "lungs.dcm", values


def test_a_dicom_segmentation_gives_its_segments(x_ray):
    image, mask, values = x_ray
    assert np.array_equal(read_mask(mask, image), values)
    loaded = LoadPaird(num_classes=2, mask_values=[0, [1, 2]])({"image": image, "label": mask})
    assert np.array_equal(loaded["label"][0], values > 0)
    loaded = LoadPaird(num_classes=2, bits=[1, 0])({"image": image, "label": mask})
    assert np.array_equal(loaded["label"], [values == 2, values == 1])


def test_a_segmentation_of_another_image_is_refused(x_ray):
    image, mask, _ = x_ray
    other = sorted((image.parent).glob("*.dcm"))[1]
    with pytest.raises(ValueError, match=r"lungs.dcm: the segmentation does not refer to this image"):
        read_mask(mask, other)
    with pytest.raises(ValueError, match="refers to a DICOM image, but the image is none"):
        read_mask(mask, image.with_name("image.png"))
    with pytest.raises(ValueError, match="a mask in DICOM must be a segmentation object"):
        read_mask(other, image)
