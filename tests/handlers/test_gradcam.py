"""Grad-CAM of a series lies on the scan, whatever the axes of its file, and shows a made network's evidence."""

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import LoadImaged, Resized
from torch import nn

from ttl_monai.data import SeriesDataset, VolumeCache, VolumeReader
from ttl_monai.data.transforms import CenterSquareCropd
from ttl_monai.handlers import GradCamPictures, GradCamWriter, gradcam
from ttl_monai.networks import TransferClassifier

SPOT = (70.0, -12.0, 40.0)  # mm, RAS


class Bright(nn.Module):
    """What is brighter than 0.5 (400 HU), by blocks of 2 x 2 x 2."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 1)
        nn.init.constant_(self.conv.weight, 1)
        nn.init.constant_(self.conv.bias, -0.5)
        self.relu, self.pool = nn.ReLU(), nn.AvgPool3d(2)

    def forward(self, image):
        return self.pool(self.relu(self.conv(image)))


@pytest.fixture
def network():
    network = TransferClassifier(Bright(), weights="none", in_channels=1, num_classes=2).eval()
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.tensor([[0.0], [1.0]]))
    return network


@pytest.fixture(params=["LPS", "RAS", "SAL"])
def series(request, tmp_path):
    """The file of a scan of 1 x 1.5 x 2.5 mm with a bright spot, and the series made of it: cropped and resized."""
    affine = np.diag([1.0, 1.5, 2.5, 1.0])
    affine[:3, 3] = 30, -50, 10
    i, j, k = np.meshgrid(*(np.arange(n) for n in (64, 48, 30)), indexing="ij")
    places = np.stack([30 + i, -50 + 1.5 * j, 10 + 2.5 * k])
    distance = np.linalg.norm(places - np.array(SPOT)[:, None, None, None], axis=0)
    scan = nib.Nifti1Image(np.where(distance < 7, 900, -1000).astype(np.int16), affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(request.param))
    nib.save(scan.as_reoriented(turn), tmp_path / "scan.nii.gz")
    load = LoadImaged("image", reader=VolumeReader(), ensure_channel_first=True)
    cache = VolumeCache([load, CenterSquareCropd("image"), Resized("image", (40, 40, -1), mode="area")])
    return SeriesDataset([{"image": str(tmp_path / "scan.nii.gz"), "image_id": "a"}], cache, size=8, spatial_size=32)


@pytest.fixture
def drawn(monkeypatch):
    """What pictures were asked for, undrawn: `plot_heat` has tests of its own."""
    calls = []
    monkeypatch.setattr(gradcam, "plot_heat", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def write(network, series, folder, start=8):
    writer = GradCamWriter(network=network, output_dir=folder, size=8, class_name="positive")
    volume = series.cache.open(series.data[0])
    return writer.write("series_000", series[0], {"start": start, "score": 0.7}, volume)


def test_the_volume_lies_on_the_scan_and_is_highest_at_the_spot(network, series, drawn, tmp_path):
    names = write(network, series, tmp_path)
    found = nib.load(tmp_path / names["volume"])
    array, meta = VolumeReader().get_data((series.data[0]["image"],))
    assert found.shape == array.shape == (64, 48, 30)
    np.testing.assert_allclose(found.affine, meta["affine"], atol=1e-4)
    assert found.header.get_zooms() == pytest.approx((1, 1.5, 2.5))
    assert found.header.get_xyzt_units()[0] == "mm"
    values = np.asarray(found.dataobj)
    assert values.dtype == np.uint8
    assert 90 <= values.max() <= 100
    middle = np.argwhere(values >= 0.9 * values.max()).mean(axis=0)
    np.testing.assert_allclose(found.affine @ [*middle, 1], [*SPOT, 1], atol=3)
    bright = np.asarray(nib.as_closest_canonical(nib.load(series.data[0]["image"])).dataobj) > 0
    over = np.asarray(nib.as_closest_canonical(found).dataobj)
    assert over[bright].mean() > 50 * max(over[~bright].mean(), 0.1)
    assert {int(k) for k in np.argwhere(values)[:, 2]} <= set(range(8, 16)), "slices of the window alone"


def test_the_picture_has_the_highest_slices_with_their_places(network, series, drawn, tmp_path):
    names = write(network, series, tmp_path)
    (((images, heat, titles, path), options),) = drawn
    assert path == tmp_path / names["picture"]
    assert images.shape == heat.shape == (6, 32, 32)
    assert heat.max() == 1
    assert (images[heat > 0.9] > 0.5).all(), "the spot is bright in the CT, too"
    numbers = [int(title.split()[1].strip(",")) for title in titles]
    assert numbers == sorted(numbers)
    assert 12 in numbers  # 10 + 2.5 * 12 = 40 mm
    assert titles[numbers.index(12)] == "slice 12, 40.0 mm"
    assert "score 0.700: Grad-CAM for 'positive'" in options["title"]
    assert options["aspect"] == pytest.approx(1.5)


def test_nothing_bright_is_a_map_of_zeros_and_says_so(network, series, drawn, tmp_path):
    names = write(network, series, tmp_path, start=24)  # six slices and air
    assert not np.asarray(nib.load(tmp_path / names["volume"]).dataobj).any()
    assert "nothing speaks for 'positive'" in drawn[0][1]["title"]
    assert len(drawn[0][0][2]) == 6


def test_a_volume_without_a_report_is_refused(network, series, tmp_path):
    volume = series.cache.open(series.data[0])._replace(report=None)
    writer = GradCamWriter(network=network, output_dir=tmp_path, size=8, class_name="positive")
    with pytest.raises(ValueError, match="from the reader's report"):
        writer.write("x", series[0], {"start": 0, "score": 0.5}, volume)


def test_a_map_of_one_place_says_that_it_says_nothing(network, series, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(gradcam, "grad_cam", lambda network, image: torch.ones(image[:, 0].shape))
    write(network, series, tmp_path)
    assert "the same everywhere: the last feature map has one place" in drawn[0][1]["title"]


@pytest.mark.parametrize(
    ("task", "classes", "pred", "target", "words"),
    [
        ("binary", 2, [0.9, 0.1], 1, "0.100: Grad-CAM for 'b'"),
        ("multi-class", 3, [0.2, 0.1, 0.7], 2, "0.700: Grad-CAM for 'c'"),
        ("multi-label", 3, [0.8, 0.1, 0.7], 0, "0.800: Grad-CAM for 'a'"),
    ],
)
def test_each_image_of_an_inference_gets_a_picture(task, classes, pred, target, words, drawn, monkeypatch, tmp_path):
    asked = []

    def found(network, image, **options):
        asked.append(options)
        return image[:, 0]

    monkeypatch.setattr(gradcam, "grad_cam", found)
    network = nn.Linear(1, classes)  # its device alone is asked for
    engine = Engine(lambda engine, batch: [{"pred": torch.tensor(pred)} for _ in batch])
    GradCamPictures(network=network, output_dir=tmp_path, task=task, class_names=["a", "b", "c"][:classes]).attach(
        engine
    )
    images = [torch.rand(1, 8, 8) for _ in range(3)]
    batches = [[{"image": images[k], "image_id": f"id{k}"} for k in part] for part in ((0, 1), (2,))]
    engine.run(batches, max_epochs=1)
    assert [each["target"] for each in asked] == [target] * 3
    assert {each["multi_label"] for each in asked} == {task == "multi-label"}
    assert [args[3].name for args, _ in drawn] == [f"image_{k:03}_gradcam.png" for k in range(3)]
    assert [args[2] for args, _ in drawn] == [["id0"], ["id1"], ["id2"]]
    assert all(options["title"] == words for _, options in drawn)
    assert np.array_equal(drawn[2][0][0], images[2].numpy())
