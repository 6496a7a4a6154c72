"""Segmentation from end to end: strategies, scores on the files' own pixels, and masks that lie on their images."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image

from tests.data.conftest import write_segmentation, write_series
from ttl_monai.analysis import mean_intervals
from ttl_monai.cli import main
from ttl_monai.data import CachedDataset, XrayReader
from ttl_monai.data.dicom_series import read_series
from ttl_monai.data.masks import read_mask
from ttl_monai.data.spacing import pixel_spacing
from ttl_monai.engines.compare_runs import compare_runs
from ttl_monai.engines.search.prepare import prepare_images

from .conftest import refused

QUIET = dict.fromkeys(
    ("spatial_size", "max_epochs", "learning_rate", "network_def#weights", "datalist", "cache_dir"), ...
)


@pytest.fixture
def bundle():
    return "unet_ttl"


@pytest.fixture
def predict(make_workflow, trained, tmp_path):
    """Predict a folder; gives the folder of the results."""

    def run(folder, **overrides):
        settings = {"file_names": True, "batch_size": 3, "output_dir": str(tmp_path / "out")}
        make_workflow(
            "inference.json",
            workflow_type="infer",
            dataset_dir=str(folder),
            run_dir=str(trained),
            **QUIET | settings | overrides,
        ).run()
        return tmp_path / "out"

    return run


@pytest.mark.parametrize(
    ("strategy", "knob"),
    [
        ("htl", {"freeze_up_to": "all"}),
        ("lwft", {"freeze_up_to": "blocks.1"}),
        ("tf", {"slim_after": "blocks.3"}),
        ("ttl", {"truncate_at": "blocks.3"}),
    ],
)
def test_every_strategy_trains(make_workflow, tmp_path, strategy, knob):
    workflow = make_workflow("train.json", f"strategy_{strategy}.json")
    assert workflow.check_properties() == []
    start = {k: v.clone() for k, v in workflow.parser.get_parsed_content("network_def").state_dict().items()}
    workflow.run()
    model = json.loads((tmp_path / "run/model.json").read_text())
    assert {**model["network_def"], **knob} == model["network_def"]
    assert model["class_names"] == ["background", "lung"]
    assert 0 <= model["validation"]["val_jaccard"] <= model["validation"]["val_dice"] <= 1
    assert model["validation"]["val_dice_left_out"] == 0
    state = torch.load(tmp_path / "run/model.pt", weights_only=True)
    moved = {name.split(".")[0] for name in state if not torch.equal(state[name], start[name])}
    assert moved == {"decoder", "head"} | ({"encoder"} if strategy != "htl" else set())
    assert (tmp_path / "run/curves.png").stat().st_size > 1000


def test_a_training_learns_the_lungs(make_workflow, tmp_path):
    make_workflow(
        "train.json",
        "strategy_ttl.json",
        **{
            "spatial_size": 64,
            "batch_size": 3,
            "max_epochs": 6,
            "learning_rate": 5e-3,
            "loss#_target_": "DiceFocalLoss",
        },
    ).run()
    history = json.loads((tmp_path / "run/run.json").read_text())["history"]
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]
    assert max(row["val_dice"] for row in history) > 0.7


def test_evaluation_scores_the_pixels_of_the_files(make_workflow, predict, trained, datalist, tmp_path):
    """The table's scores are those of the masks that a prediction of the same files writes."""
    workflow = make_workflow(
        "train.json", "evaluate.json", output_dir=..., run_dir=str(trained), **{"network_def#weights": ...}
    )
    workflow.run()
    metrics = json.loads((trained / "test/metrics.json").read_text())
    rows = list(csv.DictReader((trained / "test/masks.csv").open()))
    items = json.loads(datalist.read_text())["test"]
    assert metrics["n"] == len(rows) == len(items) > 0
    assert metrics["test_dice"] == pytest.approx(np.mean([float(row["dice_lung"]) for row in rows]), abs=1e-5)
    scores = {name: [[float(row[f"{name}_lung"])] for row in rows] for name in ("dice", "jaccard")}
    expected = mean_intervals(scores, [row["patient"] for row in rows]).intervals
    for name, interval in expected.items():
        assert metrics[f"test_{name}_interval"] == pytest.approx(interval, abs=1e-5)
    distances = [float(row["hausdorff95_lung"]) for row in rows if row["hausdorff95_lung"]]
    assert len(rows) - len(distances) == metrics["test_hausdorff95_left_out"]
    assert metrics["test_hausdorff95"] == (pytest.approx(np.mean(distances), abs=1e-5) if distances else None)
    assert {row["hausdorff95_mm_lung"] for row in rows} == {""}, "PNG has no millimetres"
    assert (metrics["test_hausdorff95_mm"], metrics["test_hausdorff95_mm_left_out"]) == (None, len(rows))
    (tmp_path / "in").mkdir()
    for item in items:
        shutil.copy(datalist.parent / item["image"], tmp_path / "in")
    predict(tmp_path / "in", output_dir=str(tmp_path / "out/images"))
    for row, item in zip(rows, items, strict=True):
        image = datalist.parent / item["image"]
        drawn = read_mask(datalist.parent / item["label"], image)
        found = np.asarray(nib.load(tmp_path / f"out/{item['image']}_mask.nii.gz").dataobj)[..., 0].T
        assert found.shape == drawn.shape
        dice = compute_dice(*(torch.from_numpy(each > 0)[None, None].float() for each in (found, drawn)))
        assert float(row["dice_lung"]) == pytest.approx(float(dice), abs=1e-5)
        assert [int(row["drawn_lung"]), int(row["found_lung"])] == [drawn.sum(), found.sum()]
        assert row["image"] == item["image"]
    pictures = list((trained / "test/masks").rglob("*.png"))
    assert 0 < len(pictures) <= 8
    assert min(Image.open(path).width for path in pictures) > 700


@pytest.fixture
def overlapping(tmp_path):
    """Noise with a bright block; its left part is bit 0, its right part bit 1, and bit 3 overlaps both."""
    sections, number = {}, 0
    for name, count in (("training", 6), ("validation", 3), ("test", 3)):
        sections[name] = []
        for _ in range(count):
            rng = np.random.default_rng(number)
            top, left = rng.integers(2, 14, 2)
            pixels, mask = rng.integers(0, 100, (40, 48), dtype=np.uint8), np.zeros((40, 48), np.uint8)
            mask[top : top + 20, left : left + 10] |= 1
            mask[top : top + 20, left + 10 : left + 20] |= 2
            pixels[mask > 0] += 100
            mask[top + 5 : top + 15, left + 5 : left + 25] |= 8
            pixels[mask >= 8] += 50
            for kind, content in (("image", pixels), ("mask", mask)):
                Image.fromarray(content).save(tmp_path / f"{kind}{number}.png")
            entry = {"image": f"image{number}.png", "label": f"mask{number}.png", "patient": str(number)}
            sections[name].append(entry)
            number += 1
    header = {"name": "o", "task": "segmentation", "class_names": ["block", "bar/2"], "seed": 0, "repeat": 0}
    header |= {"source": "made", "licence": "CC0", "public_ids": True, "made_by": "tests"}
    (tmp_path / "list.json").write_text(json.dumps({**header, **sections}))
    return tmp_path / "list.json"


def test_structures_that_overlap_from_training_to_files(make_workflow, overlapping, tmp_path):
    data = {"dataset_dir": str(overlapping.parent), "datalist": str(overlapping)}
    with refused("the values .*, which are no class"):
        make_workflow("train.json", **data).run()
    own = {"mask_bits": [[0, 1], 3], "max_epochs": 12, "batch_size": 3, "learning_rate": 1e-2}
    own |= {"strategy": "TTL", "network_def#truncate_at": "blocks.1"}
    make_workflow("train.json", **data, **own).run()
    history = json.loads((tmp_path / "run/run.json").read_text())["history"]
    assert min(max(row[f"val_dice_{name}"] for row in history) for name in ("block", "bar/2")) > 0.7

    run = {"output_dir": ..., "run_dir": str(tmp_path / "run"), "network_def#weights": ...}
    make_workflow("train.json", "evaluate.json", **data, **run).run()
    metrics = json.loads((tmp_path / "run/test/metrics.json").read_text())
    rows = list(csv.DictReader((tmp_path / "run/test/masks.csv").open()))
    assert metrics["test_dice"] == pytest.approx((metrics["test_dice_block"] + metrics["test_dice_bar/2"]) / 2)

    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "image9.png", tmp_path / "in")
    infer = {**QUIET, "file_names": True, "output_dir": str(tmp_path / "out"), "run_dir": str(tmp_path / "run")}
    make_workflow("inference.json", workflow_type="infer", dataset_dir=str(tmp_path / "in"), **infer).run()
    files = {"block": "image9.png_mask_block.nii.gz", "bar/2": "image9.png_mask_bar%2F2.nii.gz"}
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == set(files.values())
    found = {name: np.asarray(nib.load(tmp_path / "out" / file).dataobj)[..., 0].T for name, file in files.items()}
    assert (found["block"] & found["bar/2"]).any(), "they overlap"
    drawn = np.asarray(Image.open(tmp_path / "mask9.png"))
    volumes = json.loads((tmp_path / "out/volumes.json").read_text())["image9.png"]
    for name, mask in (("block", drawn & 3), ("bar/2", drawn & 8)):
        pair = [torch.from_numpy(each > 0)[None, None].float() for each in (found[name], mask)]
        assert float(rows[0][f"dice_{name}"]) == pytest.approx(float(compute_dice(*pair)), abs=1e-5)
        assert int(rows[0][f"found_{name}"]) == volumes[name]["voxels"] == found[name].sum()


def test_an_image_without_the_structure_is_counted(make_workflow, trained, datalist, tmp_path):
    content = json.loads(datalist.read_text())
    content["test"], content["validation"] = content["validation"], content["test"]
    entry, other = content["test"]
    shape = read_mask(datalist.parent / entry["label"], datalist.parent / entry["image"]).shape
    Image.fromarray(np.zeros(shape, np.uint8)).save(datalist.parent / "masks/empty.png")
    entry["label"] = "masks/empty.png"
    for each in (entry, content):
        each.pop("label_sha256", None)
    own = tmp_path / "own.json"
    own.write_text(json.dumps(content))
    make_workflow(
        "train.json",
        "evaluate.json",
        output_dir=...,
        run_dir=str(trained),
        datalist=str(own),
        **{"network_def#weights": ...},
    ).run()
    metrics = json.loads((trained / "test/metrics.json").read_text())
    assert metrics["test_dice_left_out"] == 1
    row, drawn = csv.DictReader((trained / "test/masks.csv").open())
    assert (row["dice_lung"], row["hausdorff95_lung"], row["drawn_lung"]) == ("", "", "0")
    # The other image has millimetres, as DICOM states them.
    apart = pixel_spacing(datalist.parent / other["image"])
    assert apart[0] == apart[1] != 1
    distance = float(drawn["hausdorff95_lung"]) * apart[0]
    assert float(drawn["hausdorff95_mm_lung"]) == pytest.approx(distance, rel=1e-4)
    assert metrics["test_hausdorff95_mm"] == pytest.approx(distance, rel=1e-4)
    assert metrics["test_hausdorff95_mm_left_out"] == 1
    assert metrics["same_datalist_as_training"] is False


def write_volume(path, codes, seed=0):
    """Noise with another size along each axis, in a storage order, with unequal spacing."""
    picture = np.random.default_rng(seed).integers(0, 900, (40, 30, 5)).astype(np.int16)  # rows, columns, slices
    picture[10:30, 5:20, 1:4] += 900
    stored = apply_orientation(picture, ornt_transform(axcodes2ornt("PLS"), axcodes2ornt(codes)))
    affine = np.diag([0.8, 0.9, 2.5, 1.0]) @ np.linalg.inv(inv_ornt_aff(axcodes2ornt(codes), stored.shape))
    affine[:3, 3] += (-20, 7, 31)
    image = nib.Nifti1Image(stored, affine)
    image.header["descrip"] = b"SURNAME^NAME"
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return picture


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_the_mask_of_a_volume_lies_on_it(predict, tmp_path, axis):
    (tmp_path / "in").mkdir()
    orders = ("RAS", "SLP")
    for codes in orders:
        write_volume(tmp_path / f"in/{codes}.nii.gz", codes)
    out = predict(tmp_path / "in", axis=axis)
    volumes = json.loads((out / "volumes.json").read_text())
    views = []
    for codes in orders:
        image, mask = (
            nib.load(path) for path in (tmp_path / f"in/{codes}.nii.gz", out / f"{codes}.nii.gz_mask.nii.gz")
        )
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.shape == image.shape
        assert mask.header.get_zooms() == image.header.get_zooms()
        assert mask.header.get_xyzt_units()[0] == "mm"
        assert b"SURNAME" not in mask.header.binaryblock
        values = np.asarray(mask.dataobj)
        assert values.dtype == np.uint8
        found = volumes[f"{codes}.nii.gz"]["lung"]
        assert found["voxels"] == (values == 1).sum()
        assert found["ml"] == pytest.approx(found["voxels"] * 0.8 * 0.9 * 2.5 / 1000, abs=1e-3)
        views.append(nib.as_closest_canonical(mask).get_fdata())
        assert (out / f"{codes}.nii.gz_mask.png").stat().st_size > 1000
    assert 0 < views[0].mean() < 1, "a mask of one value would fit any orientation"
    np.testing.assert_array_equal(*views)  # the same patient, stored in two orders


def test_a_dicom_series_has_one_mask_that_lies_on_it(predict, tmp_path):
    """The same mask as that of the volume stored as NIfTI, in the place that the headers of the slices state."""
    rng = np.random.default_rng(3)
    picture = rng.integers(-1000, -600, (6, 40, 30)).astype(np.int16)  # slices, rows, columns
    picture[1:4, 10:30, 5:20] += 900
    write_series(tmp_path / "in/scan", picture, gap=2.5, spacing=(0.9, 0.8))
    volume = read_series(tmp_path / "in/scan", axcodes=None)
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine)), tmp_path / "in/v.nii.gz")
    out = predict(tmp_path / "in", axis="sagittal")
    mask = nib.load(out / "scan_mask.nii.gz")
    assert mask.shape == volume.array.shape == (30, 40, 6)
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(mask.affine[:3, 3], [30, 20, 100], atol=1e-4)  # LPS (-30, -20, 100)
    assert mask.header.get_xyzt_units()[0] == "mm"
    values = np.asarray(mask.dataobj)
    assert 0 < values.mean() < 1
    other = nib.load(out / "v.nii.gz_mask.nii.gz")
    np.testing.assert_array_equal(nib.as_closest_canonical(mask).get_fdata(), other.get_fdata())
    volumes = json.loads((out / "volumes.json").read_text())
    assert volumes["scan"] == volumes["v.nii.gz"]
    assert volumes["scan"]["lung"]["ml"] == pytest.approx(values.sum() * 0.9 * 0.8 * 2.5 / 1000, abs=1e-3)
    assert (out / "scan_mask.png").stat().st_size > 1000


def test_the_mask_of_a_slice_is_that_of_the_slice_alone(predict, tmp_path):
    """A slice, exported as a picture scaled as the volume is, has the mask that the volume has there."""
    (tmp_path / "in").mkdir()
    picture = write_volume(tmp_path / "in/v.nii.gz", "LPS").astype(float)
    unit = (picture - picture.min()) / (picture.max() - picture.min())
    Image.fromarray(np.round(unit[..., 2] * 255).astype(np.uint8)).save(tmp_path / "in/s.png")
    out = predict(tmp_path / "in")
    volume = nib.as_closest_canonical(nib.load(out / "v.nii.gz_mask.nii.gz")).get_fdata()  # RAS
    alone = np.asarray(nib.load(out / "s.png_mask.nii.gz").dataobj)[..., 0]  # columns, rows
    assert 0 < alone.mean() < 1
    assert (volume[::-1, ::-1, 2] == alone).mean() > 0.98  # 8 bits round the values
    assert json.loads((out / "volumes.json").read_text())["s.png"]["lung"]["area_cm2"] is None


def test_the_mask_of_a_flat_nifti_lies_on_it(predict, tmp_path):
    (tmp_path / "in").mkdir()
    orders = ("LIP", "RSA", "PIL", "LPS")
    for codes in orders:
        stored = np.random.default_rng(1).integers(0, 900, (30, 40, 1)).astype(np.int16)
        stored[5:20, 10:30] += 900
        affine = np.diag([0.8, 0.9, 1.0, 1.0]) @ np.linalg.inv(inv_ornt_aff(axcodes2ornt(codes), stored.shape))
        nib.save(nib.Nifti1Image(stored, affine), tmp_path / f"in/{codes}.nii")
    out = predict(tmp_path / "in")
    for codes in orders:
        path = tmp_path / f"in/{codes}.nii"
        image, mask = nib.load(path), nib.load(out / f"{codes}.nii_mask.nii.gz")
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.shape == image.shape
        # Read as a mask is, it lies in the view in which the network saw the image.
        view, _ = XrayReader().get_data((path,))
        assert read_mask(out / f"{codes}.nii_mask.nii.gz", path).shape == view.shape


@pytest.fixture
def volumes(tmp_path):
    """Settings of a data set of three volumes, each with foreground in three of its five slices."""
    sections = {}
    for number, name in enumerate(("training", "validation", "test")):
        picture = write_volume(tmp_path / f"{name}.nii.gz", "RAS", seed=number)
        mask = np.zeros(picture.shape, np.uint8)
        mask[10:30, 5:20, 1:4] = 4
        stored = apply_orientation(mask, ornt_transform(axcodes2ornt("PLS"), axcodes2ornt("RAS")))
        affine = nib.load(tmp_path / f"{name}.nii.gz").affine
        nib.save(nib.Nifti1Image(stored, affine), tmp_path / f"{name}_mask.nii.gz")
        sections[name] = [{"image": f"{name}.nii.gz", "label": f"{name}_mask.nii.gz", "patient": name}]
    header = {"name": "v", "task": "segmentation", "class_names": ["background", "block"], "seed": 0, "repeat": 0}
    header |= {"source": "made", "licence": "CC0", "public_ids": True, "made_by": "tests"}
    (tmp_path / "list.json").write_text(json.dumps({**header, **sections}))
    return {"dataset_dir": str(tmp_path), "datalist": str(tmp_path / "list.json"), "mask_values": [0, 4]}


def test_volumes_are_trained_on_slice_by_slice(make_workflow, volumes, tmp_path):
    with refused("expected a 2D image, got a volume; say by --axis"):
        make_workflow("train.json", **volumes).run()
    workflow = make_workflow(
        "train.json", axis="axial", **volumes, **{"strategy": "TTL", "network_def#truncate_at": "blocks.1"}
    )
    assert len(workflow.parser.get_parsed_content("train#dataset")) == 3  # those with foreground
    assert len(workflow.parser.get_parsed_content("validate#dataset")) == 5
    workflow.run()
    spec = json.loads((tmp_path / "run/model.json").read_text())
    assert spec["axis"] == "axial"
    assert spec["validation"]["val_dice_left_out"] == 2
    place = {name: volumes[name] for name in ("dataset_dir", "datalist")}
    document = compare_runs("initial", tmp_path / "run", points=["blocks.0"], matrix=False, **place)
    assert document["data"]["images"] == 6, "slices with foreground of the training and of the validation volume"


def test_a_value_of_the_background_keeps_no_slice_in_training(make_workflow, volumes):
    """The mask of the training has a 9 where no block is, in a slice of its own."""
    path = Path(volumes["dataset_dir"]) / "training_mask.nii.gz"
    mask = nib.load(path)
    values = np.array(mask.dataobj)
    values[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(values, mask.affine), path)
    for table, slices in (([[0, 9], 4], 3), ([0, [4, 9]], 4)):
        workflow = make_workflow("train.json", axis="axial", **volumes | {"mask_values": table})
        assert len(workflow.parser.get_parsed_content("train#dataset")) == slices
    workflow = make_workflow("train.json", axis="axial", foreground_only=False, **volumes | {"mask_values": table})
    assert len(workflow.parser.get_parsed_content("train#dataset")) == 5


def test_series_with_dicom_segmentations_from_datalist_to_scores(make_workflow, tmp_path):
    """Three patients with a block in three of their six slices."""
    rng = np.random.default_rng(4)
    mask = np.zeros((6, 40, 30), np.uint8)
    mask[1:4, 10:30, 5:20] = 1
    for name in "abc":
        picture = rng.integers(-1000, -600, mask.shape).astype(np.int16) + np.int16(900) * mask
        paths = write_series(tmp_path / f"set/images/{name}", picture, series_uid=f"1.2.{ord(name)}", PatientID=name)
        write_segmentation(tmp_path / f"set/masks/{name}.dcm", paths, mask)
    lists = ["--output-dir", str(tmp_path / "lists"), "--name", "s", "--repeats", "1", "--public-ids"]
    main(["datalist", "masks", str(tmp_path / "set"), "--fractions", "0.34", "0.33", "0.33", *lists])
    data = {"dataset_dir": str(tmp_path / "set"), "datalist": str(tmp_path / "lists/s_split0.json"), "axis": "axial"}
    workflow = make_workflow("train.json", **data, **{"network_def#truncate_at": "blocks.1"})
    assert len(workflow.parser.get_parsed_content("train#dataset")) == 3
    workflow.run()
    own = {"output_dir": ..., "run_dir": str(tmp_path / "run"), "network_def#weights": ...}
    make_workflow("train.json", "evaluate.json", **data | {"axis": ...}, **own).run()
    rows = list(csv.DictReader((tmp_path / "run/test/masks.csv").open()))
    assert [int(row["drawn_foreground"]) for row in rows] == [0, 300, 300, 300, 0, 0]
    assert 0 <= json.loads((tmp_path / "run/test/metrics.json").read_text())["test_volume_dice"] <= 1


def test_the_slices_of_a_search_are_prepared_before_it(make_workflow, volumes, tmp_path, monkeypatch):
    computed = []
    original = CachedDataset._tensors
    monkeypatch.setattr(CachedDataset, "_tensors", lambda self, item: computed.append(item) or original(self, item))

    def opened(repeat, *, output_dir):
        return make_workflow("train.json", axis="axial", **volumes)

    prepare_images(SimpleNamespace(repeats=2, folder=tmp_path, open_workflow=opened), ("train",), workers=0)
    assert [(Path(item["image_file"]).name, item["slice"]) for item in computed] == [
        *(("training.nii.gz", number) for number in (1, 2, 3)),
        *(("validation.nii.gz", number) for number in range(5)),
    ]
    for part in ("train", "validate"):
        assert all("label" in item for item in opened(0, output_dir=None).parser.get_parsed_content(f"{part}#dataset"))
    assert len(computed) == 8


def test_a_mask_of_other_size_is_named(make_workflow, datalist, tmp_path):
    content = json.loads(datalist.read_text())
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(datalist.parent / "masks/small.png")
    content["training"][0] |= {"label": "masks/small.png"}
    content["training"][0].pop("label_sha256", None)
    (tmp_path / "own.json").write_text(json.dumps(content))
    with refused(r"small.png: the image has the shape .*, the mask \(8, 8\)"):
        make_workflow("train.json", datalist=str(tmp_path / "own.json")).run()


def test_features_are_compared_while_and_after_it_trains(make_workflow, datalist, tmp_path):
    own = {"svcca#images": 3, "svcca#points": ["blocks.0", "blocks.1"], "network_def#truncate_at": "blocks.1"}
    make_workflow("train.json", "svcca.json", **own).run()
    rows = list(csv.DictReader((tmp_path / "run/svcca.csv").open()))
    assert [row["point"] for row in rows] == ["blocks.0.0", "blocks.1.1"]  # the last blocks of the stages
    assert all(0 < float(row["mean"]) < 1 for row in rows)
    run = tmp_path / "run"
    same = compare_runs(run, run, points=["blocks.1"], images=3, dataset_dir=datalist.parent, datalist=datalist)
    assert same["points"][0]["mean"] == pytest.approx(1, abs=1e-4)
