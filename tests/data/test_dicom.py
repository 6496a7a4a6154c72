"""The DICOM reader: polarity, LUTs, windows, bit depths, compressions, and damaged files."""

import logging
import shutil
import traceback
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    MPEG2MPML,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from ttl_monai.data.dicom import read_dicom, scale_to_unit

RAMP = np.linspace(0, 4095, 24 * 32).round().astype(np.uint16).reshape(24, 32)  # 12 bits, rows != columns
CANARY = "CANARYNAME^JANE"


def write_dicom(path, stored, *, syntax=ExplicitVRLittleEndian, **tags):
    """Write one grey or RGB image; the tags override the defaults."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    dataset.Modality, dataset.PatientName, dataset.PatientID = "DX", CANARY, "CANARYID7"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    bits = stored.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut_item(first, values, bits):
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(values), first, bits])
    item.add_new("LUTData", "US", [int(v) for v in values])
    return item


# ---- the order of display: rescale or LUT, VOI, polarity


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept", "signed"), [(1, 0, False), (2.5, -1024, False), (1, 0, True)])
def test_window_equals_pydicom_scaled_by_its_output_range(tmp_path, function, slope, intercept, signed):
    stored = RAMP.astype(np.int16) - 2048 if signed else RAMP
    tags = {"WindowCenter": 700, "WindowWidth": 1500, "VOILUTFunction": function, "BitsStored": 12, "HighBit": 11}
    path = write_dicom(tmp_path / "x.dcm", stored, RescaleSlope=slope, RescaleIntercept=intercept, **tags)
    dataset = pydicom.dcmread(path)
    low, high = (-2048, 2047) if signed else (0, 4095)
    low, high = low * slope + intercept, high * slope + intercept
    expected = (apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset) - low) / (high - low)
    image = read_dicom(path)
    assert image.dtype == np.float32
    assert image.shape == (24, 32)
    assert image.std() > 0.05
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_negative_slope_turns_the_image_over_once(tmp_path):
    path = write_dicom(
        tmp_path / "x.dcm", RAMP, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096
    )
    np.testing.assert_allclose(read_dicom(path), 1 - RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("multi", [[2048, 100], [2048.0]])
def test_first_of_several_windows_counts(tmp_path, multi):
    widths = [4096, 10][: len(multi)]
    path = write_dicom(tmp_path / "x.dcm", RAMP, WindowCenter=multi, WindowWidth=widths)
    np.testing.assert_allclose(read_dicom(path), RAMP / 4095, atol=1e-6)


def test_without_a_window_the_image_is_scaled_by_its_own_range(tmp_path):
    stored = RAMP[6:, :]
    path = write_dicom(tmp_path / "x.dcm", stored, WindowCenter=None, WindowWidth=None)
    expected = (stored - float(stored.min())) / float(stored.max() - stored.min())
    np.testing.assert_allclose(read_dicom(path), expected, atol=1e-6)


def test_impossible_window_is_announced_and_not_used(tmp_path, caplog):
    path = write_dicom(tmp_path / "x.dcm", RAMP, WindowCenter=100, WindowWidth=0)
    with caplog.at_level(logging.WARNING):
        image = read_dicom(path)
    np.testing.assert_allclose(image, RAMP / 4095, atol=1e-6)
    assert "window is narrower" in caplog.text


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_voi_lut_is_scaled_by_its_bits(tmp_path, bits):
    table = (np.linspace(0, 1, 4096) ** 2 * (2**bits - 1)).round()
    item = lut_item(0, table, bits)
    path = write_dicom(tmp_path / "x.dcm", RAMP, VOILUTSequence=[item], WindowCenter=1, WindowWidth=1)
    np.testing.assert_allclose(read_dicom(path), table[RAMP] / (2**bits - 1), atol=1e-6)
    if bits > 8:  # pydicom's indices wrap at 8 bits
        dataset = pydicom.dcmread(path)
        np.testing.assert_allclose(
            read_dicom(path), apply_voi_lut(dataset.pixel_array, dataset) / (2**bits - 1), atol=1e-6
        )


def test_lut_as_bytes_and_outside_its_entries(tmp_path):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 1000, 16])
    item.add_new("LUTData", "OW", (np.arange(256) * 257).astype("<u2").tobytes())
    path = write_dicom(tmp_path / "x.dcm", RAMP, VOILUTSequence=[item])
    np.testing.assert_allclose(read_dicom(path), np.clip((RAMP - 1000.0) / 255, 0, 1), atol=1e-6)


def test_modality_lut_comes_before_the_window(tmp_path):
    item = lut_item(0, 4095 - np.arange(4096), 12)
    item.ModalityLUTType = "OD"
    path = write_dicom(tmp_path / "x.dcm", RAMP, ModalityLUTSequence=[item], WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(read_dicom(path), 1 - RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 900}])
def test_monochrome1_with_inverted_values_equals_monochrome2(tmp_path, window):
    mirrored = {"WindowCenter": 4095 - 1500 + 1, "WindowWidth": 900} if window else {}
    two = read_dicom(write_dicom(tmp_path / "2.dcm", RAMP, **window))
    one = read_dicom(
        write_dicom(tmp_path / "1.dcm", (4095 - RAMP), PhotometricInterpretation="MONOCHROME1", **mirrored)
    )
    assert two[0, 0] == 0
    assert two[-1, -1] == 1
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_relabelled_file_is_the_negative(shared_data):
    folder = shared_data / "dicom_single"
    negative = read_dicom(folder / "Fake_MONOHR1.dcm")
    positive = read_dicom(next(f for f in folder.glob("*.dcm") if "Fake" not in f.name))
    assert positive.std() > 0.1
    np.testing.assert_allclose(negative, 1 - positive, atol=1e-6)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_polarity_and_orientation_equal_itk(tmp_path, interpretation):
    itk = pytest.importorskip("itk")
    path = write_dicom(tmp_path / "x.dcm", RAMP, PhotometricInterpretation=interpretation, BitsStored=12, HighBit=11)
    expected = itk.array_from_image(itk.imread(str(path))).squeeze().astype(np.float64)
    np.testing.assert_allclose(read_dicom(path), scale_to_unit(expected), atol=1e-6)


def test_padding_does_not_stretch_the_range(tmp_path):
    stored = RAMP.astype(np.int32).astype(np.int16) // 2 + 100
    stored[:4] = -2000
    path = write_dicom(tmp_path / "x.dcm", stored, PixelPaddingValue=-2000)
    image = read_dicom(path)
    assert (image[:4] == 0).all()
    np.testing.assert_allclose(image[4:], scale_to_unit(stored[4:]), atol=1e-6)


# ---- how pixels are stored


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bit_depth_sign_and_byte_order(tmp_path, dtype, syntax):
    limits = np.iinfo(dtype)
    stored = np.linspace(limits.min, limits.max, 24 * 32).astype(dtype).reshape(24, 32)
    path = write_dicom(tmp_path / "x.dcm", stored, syntax=syntax)
    expected = (stored.astype(np.float64) - limits.min) / (float(limits.max) - limits.min)
    np.testing.assert_allclose(read_dicom(path), expected, atol=1e-6)


def test_bits_beyond_those_stored_are_ignored(tmp_path):
    overlay = RAMP | np.where(np.indices(RAMP.shape).sum(0) % 2, 0x8000, 0).astype(np.uint16)  # old overlays live there
    path = write_dicom(tmp_path / "x.dcm", overlay, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(read_dicom(path), RAMP / 4095, atol=1e-6)


TWINS = [
    # compressed file, uncompressed twin of pydicom's, largest difference in [0, 1]
    ("MR_small_RLE.dcm", "MR_small.dcm", 0),
    ("MR_small_jp2klossless.dcm", "MR_small.dcm", 0),
    ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", 0),
    ("MR_small_bigendian.dcm", "MR_small.dcm", 0),
    ("MR_small_implicit.dcm", "MR_small.dcm", 0),
    ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm", 0),  # the second is JPEG lossless, first-order
    ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_rle.dcm", 0.02),  # JPEG baseline, RGB
    ("SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_rle.dcm", 0.02),  # JPEG baseline, YBR
    ("SC_rgb_gdcm_KY.dcm", "SC_rgb_rle.dcm", 0.02),  # JPEG 2000 lossy
    ("SC_rgb_jls_lossy_line.dcm", "SC_rgb_rle.dcm", 0.02),  # JPEG-LS near lossless
    ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm", 0.02),
]


@pytest.mark.parametrize(("compressed", "twin", "tolerance"), TWINS)
def test_transfer_syntaxes_decode_to_the_same_image(compressed, twin, tolerance):
    image, expected = read_dicom(get_testdata_file(compressed)), read_dicom(get_testdata_file(twin))
    assert image.std() > 0.05
    assert np.abs(image - expected).mean() <= tolerance


def test_12_bit_jpeg_equals_itk():
    image = read_dicom(get_testdata_file("JPGExtended.dcm"))
    assert image.shape == (1024, 256)
    assert image.max() == 1
    itk = pytest.importorskip("itk")
    expected = itk.array_from_image(itk.imread(get_testdata_file("JPGExtended.dcm"))).squeeze()
    np.testing.assert_allclose(image, scale_to_unit(expected), atol=1e-6)


def test_palette_colours_are_looked_up():
    dataset = pydicom.dcmread(get_testdata_file("examples_palette.dcm"))
    expected = apply_color_lut(dataset.pixel_array, dataset)
    image = read_dicom(get_testdata_file("examples_palette.dcm"))
    assert image.shape == (*expected.shape[:2], 3)
    np.testing.assert_allclose(image, scale_to_unit(expected), atol=1e-6)


def test_rgb_keeps_its_channels_last(tmp_path):
    stored = np.random.default_rng(0).integers(0, 200, (24, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(read_dicom(write_dicom(tmp_path / "x.dcm", stored)), stored / 255, atol=1e-6)


# ---- files that cannot be one picture


def _text(path):
    path.write_bytes(b"not an image" * 100)


def _cut(path):
    write_dicom(path, RAMP)
    path.write_bytes(path.read_bytes()[:-500])


def _frames(path):
    shutil.copy(get_testdata_file("SC_rgb_rle_2frame.dcm"), path)


def _no_pixels(path):
    shutil.copy(get_testdata_file("reportsi.dcm"), path)


def _no_syntax(path):
    shutil.copy(get_testdata_file("meta_missing_tsyntax.dcm"), path)


def _cut_compressed(path):
    dataset = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm"))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    dataset["PixelData"].VR = "OB"
    dataset.PatientName, dataset.PatientID = CANARY, "CANARYID7"
    dataset.save_as(path)


def _cut_file(path):
    content = Path(get_testdata_file("MR_small_RLE.dcm")).read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


def _no_decoder(path):
    write_dicom(path, RAMP)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.PixelData = encapsulate([b"12345678"])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)


def _nan(path):
    write_dicom(path, RAMP)
    dataset = pydicom.dcmread(path)
    dataset.FloatPixelData = np.where(RAMP > 4000, np.nan, RAMP).astype("<f4").tobytes()
    del dataset.PixelData
    dataset.BitsAllocated = 32
    dataset.save_as(path)


BROKEN = [
    (_text, "not a DICOM file"),
    (_cut, r"pixel data is cut short, 1536 bytes expected, 1036 found"),
    (_cut_compressed, r"cannot be decoded: JPEG 2000 Image Compression \(Lossless Only\)"),
    (_cut_file, "no pixel data .* cut short"),
    (_no_pixels, "no pixel data"),
    (_no_syntax, "no transfer syntax"),
    (_frames, "expected one frame, got 2"),
    (_no_decoder, "MPEG2 .* is a compression that cannot be read"),
    (_nan, "NaN or infinite"),
]


@pytest.mark.parametrize(("make", "reason"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_broken_file_is_named_with_the_reason_and_no_tag(tmp_path, make, reason):
    path = tmp_path / "broken.dcm"
    make(path)
    with pytest.raises(ValueError, match=reason) as raised:
        read_dicom(path)
    assert str(path) in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value))
    assert "CANARY" not in shown


def test_missing_decoder_is_named_with_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "x.dcm"
    shutil.copy(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"), path)

    class Absent:
        is_available = False
        missing_dependencies = ("gdcm - requires gdcm>=3.0.10",)

    monkeypatch.setattr("ttl_monai.data.dicom_file.get_decoder", lambda uid: Absent())
    with pytest.raises(ValueError, match=r"no decoder is installed for JPEG-LS Lossless.*gdcm - requires"):
        read_dicom(path)


def test_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_dicom(tmp_path / "none.dcm")


# ---- the range of one's own


def test_scale_to_unit():
    pixels = np.array([[0, 10], [20, 40]], dtype=np.int16)
    np.testing.assert_allclose(scale_to_unit(pixels), [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(scale_to_unit(pixels, padding=pixels == 0), [[0, 0], [1 / 3, 1]], atol=1e-7)
    assert (scale_to_unit(np.full((2, 2), 7)) == 0).all()
    assert (scale_to_unit(pixels, padding=np.ones((2, 2), bool)) == scale_to_unit(pixels)).all()
