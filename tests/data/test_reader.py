"""One shape, orientation and scale, whatever the file format."""

import logging
import shutil
import struct
import traceback
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Resized
from PIL import Image
from pydicom.data import get_testdata_file

from ttl_monai.data import XrayReader

GREY = (np.add.outer(np.arange(24) * 5, np.arange(32) * 3) % 256).astype(np.uint8)  # rows != columns, no symmetry
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def read(path, channels=1):
    reader = XrayReader(channels=channels)
    return reader.get_data(reader.read(path))[0]


def luma(rgb):
    return rgb.astype(np.float64) @ [0.299, 0.587, 0.114] / 255


def own_range(pixels):
    pixels = pixels.astype(np.float64)
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


def with_alpha(pixels):
    return np.concatenate([pixels.reshape(24, 32, -1), np.full((24, 32, 1), 255, np.uint8)], axis=-1)


DEEP = GREY.astype(np.uint16) * 200 + 3000
PALETTE = Image.fromarray(RGB).quantize(64)
SAME = [
    # name, picture, expected grey in [0, 1], tolerance
    ("grey.png", Image.fromarray(GREY), GREY / 255, 1e-6),
    ("grey.tif", Image.fromarray(GREY), GREY / 255, 1e-6),
    ("grey.bmp", Image.fromarray(GREY), GREY / 255, 1e-6),
    ("grey.jpg", Image.fromarray(GREY), GREY / 255, 0.04),
    ("UPPER.PNG", Image.fromarray(GREY), GREY / 255, 1e-6),
    ("rgb.png", Image.fromarray(RGB), luma(RGB), 1e-6),
    ("rgb.tiff", Image.fromarray(RGB), luma(RGB), 1e-6),
    ("rgba.png", Image.fromarray(with_alpha(RGB)), luma(RGB), 1e-6),
    ("la.png", Image.fromarray(with_alpha(GREY)), GREY / 255, 1e-6),
    ("palette.png", PALETTE, luma(np.asarray(PALETTE.convert("RGB"))), 1e-6),
    ("bits.png", Image.fromarray(GREY > 100), (GREY > 100).astype(float), 1e-6),
    ("bits.tif", Image.fromarray(GREY > 100), (GREY > 100).astype(float), 1e-6),
    ("deep.png", Image.fromarray(DEEP), own_range(DEEP), 1e-6),
    ("deep.tif", Image.fromarray(DEEP), own_range(DEEP), 1e-6),
    ("int32.tif", Image.fromarray(DEEP.astype(np.int32) - 9000), own_range(DEEP), 1e-6),
    ("float.tif", Image.fromarray(DEEP.astype(np.float32)), own_range(DEEP), 1e-6),
]


@pytest.mark.parametrize(("name", "picture", "expected", "tolerance"), SAME, ids=[case[0] for case in SAME])
def test_pillow_formats(tmp_path, name, picture, expected, tolerance):
    picture.save(tmp_path / name)
    image = read(tmp_path / name)
    assert image.dtype == np.float32
    assert image.shape == (24, 32)
    assert image.min() >= 0
    assert image.max() <= 1
    assert np.abs(image - expected).mean() <= tolerance


def test_cmyk_equals_pillows_conversion(tmp_path):
    for name in ("cmyk.jpg", "cmyk.tif"):
        Image.fromarray(RGB).convert("CMYK").save(tmp_path / name)
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB").convert("L")) / 255
        np.testing.assert_allclose(read(tmp_path / name), expected, atol=1.5 / 255)


def test_16_bit_tiff_with_white_as_zero_is_turned_over(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "x.tif", tiffinfo={262: 0})
    assert Image.open(tmp_path / "x.tif").tag_v2[262] == 0
    np.testing.assert_allclose(read(tmp_path / "x.tif"), 1 - own_range(DEEP), atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_carried_out(tmp_path, orientation):
    stored = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    # EXIF: where the stored first row and first column lie in the upright picture
    upright = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1],
        5: GREY.T, 6: np.rot90(GREY, -1), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY),
    }[orientation]  # fmt: skip
    np.testing.assert_allclose(read(tmp_path / "x.png"), upright / 255, atol=1e-6)


def test_three_channels(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read(tmp_path / "rgb.png", channels=3), RGB / 255, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / "grey.png", channels=3), np.stack([GREY / 255] * 3, -1), atol=1e-6)


# ---- NIfTI: as a radiologist views it


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        # the world axes (RAS+) of the file's first and second axis; a frontal, axial or lateral picture
        ((-1, -3), (32, 24)),  # towards left, towards inferior: stored as seen, transposed
        ((1, 3), (32, 24)),  # RAS+: both are turned
        ((-3, -1), (24, 32)),  # rows first
        ((-1, -2), (32, 24)),  # axial, as ITK writes a PNG
        ((-2, -3), (32, 24)),  # lateral: anterior at the left
    ],
)
@pytest.mark.parametrize("flat", [True, False])
def test_nifti_is_turned_by_its_affine(tmp_path, axes, shape, flat):
    view = GREY  # (24 rows, 32 columns): to the right = patient's left (or back), down = inferior (or back)
    across, down = max(axes, key=lambda a: -abs(a)), min(axes, key=lambda a: -abs(a))
    pixels = view.T if axes[0] == across else view
    pixels = pixels[:: 1 if axes[0] < 0 else -1, :: 1 if axes[1] < 0 else -1]
    assert pixels.shape == shape
    assert abs(across) < abs(down)
    affine = np.zeros((4, 4))
    third = 6 - abs(axes[0]) - abs(axes[1])
    for column, axis in enumerate((*axes, third)):
        affine[abs(axis) - 1, column] = np.sign(axis)
    affine[3, 3] = 1
    nib.save(nib.Nifti1Image(pixels if flat else pixels[..., None], affine), tmp_path / "x.nii.gz")
    np.testing.assert_allclose(read(tmp_path / "x.nii.gz"), view / 255, atol=1e-6)


def test_nifti_written_by_itk_is_seen_as_the_png(tmp_path):
    itk = pytest.importorskip("itk")
    Image.fromarray(GREY).save(tmp_path / "x.png")
    itk.imwrite(itk.imread(str(tmp_path / "x.png")), str(tmp_path / "x.nii.gz"))
    np.testing.assert_allclose(read(tmp_path / "x.nii.gz"), read(tmp_path / "x.png"), atol=1e-6)


def test_nifti_scale_factors_are_applied(tmp_path):
    file = nib.Nifti1Image(GREY.T.astype(np.int16), np.diag([-1, -1, 1, 1]))
    file.header.set_slope_inter(0.5, -100)
    nib.save(file, tmp_path / "x.nii")
    np.testing.assert_allclose(read(tmp_path / "x.nii"), own_range(GREY), atol=1e-6)


# ---- through MONAI


def test_a_mixed_folder_collates(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(DEEP).save(tmp_path / "b.tif")
    nib.save(nib.Nifti1Image(GREY, np.eye(4)), tmp_path / "c.nii")
    shutil.copy(get_testdata_file("CT_small.dcm"), tmp_path / "1.2.840.113619")  # as archives name DICOM files
    load = Compose([
        LoadImaged("image", image_only=True, reader="ttl_monai.data.XrayReader"),
        EnsureChannelFirstd("image"),
        Resized("image", (16, 16)),
    ])  # fmt: skip
    batch = list_data_collate([load({"image": str(path)}) for path in sorted(tmp_path.iterdir())])["image"]
    assert batch.shape == (4, 1, 16, 16)
    assert batch.dtype == torch.float32
    assert 0 <= batch.min() < batch.max() <= 1


@pytest.mark.parametrize(("channels", "shape"), [(1, (1, 24, 32)), (3, (3, 24, 32))])
def test_channel_axis_is_found(tmp_path, channels, shape):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image = LoadImage(image_only=True, reader=XrayReader(channels=channels), ensure_channel_first=True)(
        tmp_path / "a.png"
    )
    assert tuple(image.shape) == shape


def test_metadata_is_what_monai_needs_and_no_more():
    image = LoadImage(image_only=True, reader=XrayReader())(get_testdata_file("CT_small.dcm"))
    assert set(image.meta) <= {"spatial_shape", "original_channel_dim", "filename_or_obj", "affine", "space"}


def test_verify_suffix(tmp_path):
    shutil.copy(get_testdata_file("CT_small.dcm"), tmp_path / "IM0001")
    (tmp_path / "note.txt").write_text("x")
    reader = XrayReader()
    assert reader.verify_suffix(["a.PNG", "b.nii.gz", "c.dcm", tmp_path / "IM0001"])
    assert not reader.verify_suffix(tmp_path / "note.txt")


# ---- broken files


def _volume(path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)


def _nan_nifti(path):
    nib.save(nib.Nifti1Image(np.where(GREY > 200, np.nan, GREY).astype(np.float32), np.eye(4)), path)


def _colour_nifti(path):
    rgb = np.zeros((4, 5, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)


def _cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def _cut_nifti(path):
    nib.save(nib.Nifti1Image(GREY, np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:600])


def _bad_crc(path):
    Image.fromarray(GREY).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT") + 20
    content[at : at + 8] = struct.pack("8B", *range(8))
    path.write_bytes(content)


def _pages(path):
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)] * 2)


def _text(path):
    path.write_text("hello")


def _nan_tiff(path):
    Image.fromarray(np.where(GREY > 200, np.inf, GREY).astype(np.float32)).save(path)


def _gif_as_png(path):
    Image.fromarray(GREY).save(path, format="GIF")


BROKEN = [
    ("zero.png", Path.touch, r"the file is empty \(0 bytes\)"),
    ("zero.dcm", Path.touch, r"the file is empty \(0 bytes\)"),
    ("text.png", _text, "damaged, or not the image that its extension says"),
    ("text.nii.gz", _text, "damaged, or not the image that its extension says"),
    ("text.dcm", _text, "not a DICOM file"),
    ("text.txt", _text, "unsupported format, expected one of .png"),
    ("noextension", _text, "unsupported format"),
    ("gif.png", _gif_as_png, "damaged, or not the image"),
    ("cut.png", _cut, "damaged"),
    ("cut.jpg", _cut, "damaged"),
    ("cut.tif", _cut, "damaged"),
    ("cut.nii", _cut_nifti, "damaged"),
    ("crc.png", _bad_crc, "damaged"),
    ("pages.tif", _pages, "expected one image, got 3 frames or pages"),
    ("volume.nii", _volume, r"expected a 2D image, got a volume of shape \(4, 5, 6\)"),
    ("nan.nii", _nan_nifti, "NaN or infinite pixels"),
    ("colour.nii", _colour_nifti, "expected grey pixels"),
    ("inf.tif", _nan_tiff, "NaN or infinite pixels"),
    ("folder", Path.mkdir, "expected one image file, got a folder"),
]


@pytest.mark.parametrize(("name", "make", "reason"), BROKEN, ids=[case[0] for case in BROKEN])
def test_broken_file_is_named_with_the_reason(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=reason) as raised:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


def test_broken_file_is_not_given_to_another_reader(tmp_path):
    # MONAI goes on to its other readers when `read` fails; a DICOM file would change its polarity
    path = tmp_path / "x.dcm"
    shutil.copy(get_testdata_file("SC_rgb_rle_2frame.dcm"), path)
    load = Compose([LoadImaged("image", image_only=True, reader="ttl_monai.data.XrayReader")])
    with pytest.raises(RuntimeError) as raised:
        load({"image": path})
    assert "expected one frame, got 2" in "".join(traceback.format_exception(raised.value))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.png")


def test_several_files_for_one_image(tmp_path):
    with pytest.raises(ValueError, match=r"expected one file for an image, got 2: .*a\.png"):
        XrayReader().get_data(XrayReader().read([tmp_path / "a.png", tmp_path / "b.png"]))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.nii"])
def test_constant_image_is_announced(tmp_path, caplog, name):
    flat = np.full((24, 32), 7, np.uint16)
    if name == "x.nii":
        nib.save(nib.Nifti1Image(flat, np.eye(4)), tmp_path / name)
    else:
        Image.fromarray(flat).save(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        image = read(tmp_path / name)
    assert (image == 0).all()
    assert "all pixels are equal" in caplog.text


def test_channels_are_checked():
    with pytest.raises(ValueError, match=r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"):
        XrayReader(channels=2)
