import json
import re
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import made_volume, write_segmentation, write_series
from ttl_monai.cli import main
from ttl_monai.data import LoadPaird
from ttl_monai.deploy.check import check_bundle, preflight
from ttl_monai.deploy.check.images import look_at_images
from ttl_monai.deploy.check.problems import Findings, Problem


def setting(**values):
    """Spoil a setting; `__` stands for `#`."""
    return lambda tiny: tiny.settings.update({name.replace("__", "#"): value for name, value in values.items()})


def entry(section, row, **values):
    return lambda tiny: tiny.data[section][row].update(values)


def header(**values):
    return lambda tiny: tiny.data.update(values)


def image(name, pixels, **options):
    return lambda tiny: tiny.write(name, pixels(tiny) if callable(pixels) else pixels, **options)


def content(name, data):
    return lambda tiny: (tiny.folder / name).write_bytes(data)


def other_file(row, name, pixels):
    """A training image in another file."""

    def spoil(tiny):
        tiny.write(name, pixels)
        tiny.data["training"][row]["image"] = name

    return spoil


def copy(source, target):
    return lambda tiny: shutil.copy(tiny.folder / source, tiny.folder / target)


def both(*spoils):
    return lambda tiny: [spoil(tiny) for spoil in spoils]


def given(**options):
    return lambda tiny: tiny.given.update(options)


def overlay(name, text=None):
    def spoil(tiny):
        path = tiny.folder.parent / name
        if text is not None:
            path.write_text(text)
        tiny.overlays.append(str(path) if text is not None else name)

    return spoil


def config(name, change):
    def spoil(tiny):
        path = tiny.own_bundle() / name
        path.write_text(change(path.read_text()))

    return spoil


def without_version(text):
    values = json.loads(text)
    return json.dumps({name: value for name, value in values.items() if name != "version"})


def cut_short(tiny):
    path = tiny.folder / "1.png"
    path.write_bytes(path.read_bytes()[:100])


def two_pages(tiny):
    pages = [Image.fromarray(np.full((16, 16), value, np.uint8)) for value in (1, 2)]
    pages[0].save(tiny.folder / "1.tif", save_all=True, append_images=pages[1:])
    tiny.data["training"][1]["image"] = "1.tif"


def as_masks(tiny):
    for rows in (tiny.data[section] for section in ("training", "validation", "test")):
        for row in rows:
            row["label"] = row["image"]
    tiny.data["task"] = "segmentation"


def positives_as_bmp(tiny):
    for rows in (tiny.data[section] for section in ("training", "validation", "test")):
        for row in (each for each in rows if each["label"]):
            Image.open(tiny.folder / row["image"]).save(tiny.folder / row["image"].replace("png", "bmp"))
            row["image"] = row["image"].replace("png", "bmp")


def run_file(name):
    def spoil(tiny):
        folder = Path(tiny.settings["output_dir"])
        folder.mkdir()
        (folder / name).write_text("{}")

    return spoil


def empty_masks(tiny):
    for number in range(4):
        tiny.write(f"m{number}.png", np.zeros((16, 16), np.uint8))


def shifted_mask(tiny):
    tiny.write("0.nii", np.arange(256, dtype=np.int16).reshape(16, 16, 1))
    tiny.write("m0.nii", np.eye(16, dtype=np.uint8)[..., None], affine=np.diag([1.0, 1, 2, 1]))
    tiny.data["training"][0].update(image="0.nii", label="m0.nii")


def volume_in_2d(tiny):
    tiny.write("0.nii", np.zeros((16, 16, 5), np.int16))
    tiny.write("m0.nii", np.zeros((16, 16, 5), np.uint8))
    tiny.data["training"][0].update(image="0.nii", label="m0.nii")


NOISE = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
WITH_NAN = np.where(np.eye(16) > 0, np.nan, 0.5).astype(np.float32)
ALL = "covid_ttl"
# id: bundle, how the tiny data or its config are spoilt, the line that is printed
BAD = {
    # config
    "misspelt setting": (
        *(ALL, setting(max_epohcs=3)),
        "problem 'max_epohcs' is no setting here [max_epohcs] -> did you mean 'max_epochs'?",
    ),
    "misspelt argument": (
        *(ALL, setting(network_def__truncat_at="blocks.3")),
        "problem 'network_def#truncat_at' is no setting here [network_def#truncat_at] -> did you mean "
        "'network_def#truncate_at'?",
    ),
    "misspelt section": (
        *(ALL, setting(netwrok_def__head="pool")),
        "problem 'netwrok_def#head' is no setting here [netwrok_def#head] -> did you mean 'network_def#head'?",
    ),
    "setting of another entry": (
        ALL,
        setting(run_dir="x"),
        "problem 'run_dir' is no setting here [run_dir] -> it belongs to evaluate.json",
    ),
    "reference to nowhere": (
        *(ALL, setting(learning_rate="@learning_rte")),
        "problem the reference '@learning_rte' leads nowhere [learning_rate] -> did you mean '@learning_rate'?",
    ),
    "no such class": (
        *(ALL, setting(optimizer___target_="torch.optim.Adamm")),
        "problem there is no 'torch.optim.Adamm' to be built [optimizer#_target_] -> correct its name, or "
        "install its package",
    ),
    "no such overlay": (
        *(ALL, overlay("nowhere.json")),
        "problem there is no overlay 'nowhere.json', neither in covid_ttl/configs nor as a file of that path "
        "[--overlay] -> pass a file, or a name in the bundle's configs",
    ),
    "overlay is no JSON": (
        ALL,
        overlay("mine.json", "{,}"),
        "problem no JSON: Expecting property name enclosed in double quotes [configs/mine.json line 1] -> "
        "mend the file",
    ),
    "overlay with a misspelt key": (
        *(ALL, overlay("mine.json", '{"train#prepare_bach": null}')),
        "problem 'train#prepare_bach' is no setting here [train#prepare_bach] -> did you mean 'train#prepare_batch'?",
    ),
    "train.json is no JSON": (
        ALL,
        config("train.json", lambda text: "{" + text),
        "problem no JSON: Expecting property name enclosed in double quotes [configs/train.json line 1] -> "
        "mend the file",
    ),
    "metadata without version": (
        *(ALL, config("metadata.json", without_version)),
        "problem 'version' is a required property [metadata.json] -> see meta_schema_20240725.json",
    ),
    "version without changelog": (
        *(ALL, config("metadata.json", lambda text: text.replace('"version": "0.1.0"', '"version": "9.9.9"'))),
        "problem the changelog has no line on version '9.9.9' [metadata.json changelog] -> add what changed",
    ),
    # datalist
    "datalist alone": (
        ALL,
        given(dataset_dir=None),
        "problem --datalist was given without --dataset_dir: pass both (`ttl datalist --help` makes a "
        "datalist), or neither to train on made images. [--dataset_dir, --datalist]",
    ),
    "no such datalist": (
        *(ALL, given(datalist="/nowhere/list.json")),
        "problem No such file or directory: the datalist [--datalist] -> make one with `ttl datalist`",
    ),
    "no such folder": (
        ALL,
        given(dataset_dir="/nowhere"),
        "problem there is no such folder [--dataset_dir] -> name the images' folder",
    ),
    "unknown task": (
        ALL,
        header(task="guess"),
        "problem 'task' must be one of binary, multi-class, multi-label, segmentation, got 'guess' "
        "[--datalist] -> make one with `ttl datalist`",
    ),
    "task of another bundle": (
        *(ALL, as_masks),
        "problem the task of the datalist is 'segmentation', but the bundle trains classification "
        "[--datalist] -> take the bundle or the datalist of the same task",
    ),
    "label out of range": (
        *(ALL, entry("training", 2, label=2)),
        "problem 1 entries have an unknown label, expected 0 to 1 [training[2]] -> correct these rows",
    ),
    "no patient": (
        ALL,
        entry("test", 1, patient=" "),
        "problem 1 entries have an empty patient [test[1]] -> correct these rows",
    ),
    "path out of the folder": (
        ALL,
        entry("test", 1, image="../x.png"),
        "problem 1 entries have a path that is not relative to the data set's folder, plain, with forward "
        "slashes [test[1]] -> correct these rows",
    ),
    "no id to show": (
        ALL,
        header(public_ids=False),
        'problem 8 entries have no "id" to show in outputs [training[0], training[1], training[2], '
        'training[3], validation[0] and 3 more] -> use `ttl datalist`, or "public_ids": true if the names '
        "are public",
    ),
    "patient in two sections": (
        *(ALL, entry("test", 0, patient="p1")),
        "problem 1 patients are in two sections [training[1] and test[0]] -> split by patient anew",
    ),
    "image twice": (
        *(ALL, entry("training", 2, image="0.png")),
        "problem 1 images stand in the list twice [training[0] and training[2]] -> take out the second",
    ),
    "edited counts": (
        *(ALL, header(counts={"training": {"no": 9, "yes": 2}})),
        "problem the header counts {'no': 9, 'yes': 2} in training, the list has {'no': 2, 'yes': 2} -> the "
        "file was edited: make it anew with `ttl datalist`",
    ),
    "class that is not trained": (
        *(ALL, both(entry("training", 1, label=0), entry("training", 3, label=0))),
        "problem no image of yes: it cannot be learnt [training] -> leave the class out, or split anew with "
        "more of its patients",
    ),
    "class that is not validated": (
        *(ALL, entry("validation", 1, label=0)),
        "warning no image of yes: no metric of it [validation] -> split anew",
    ),
    "empty section": (
        ALL,
        header(validation=[]),
        "problem the section is empty [validation] -> split with other --fractions (`ttl datalist`)",
    ),
    "missing file": (
        ALL,
        entry("test", 1, image="x.png"),
        "problem 1 of 8 files are missing [test[1] (image)] -> is it the right --dataset_dir? Else copy them "
        "there, or take out these rows",
    ),
    # images
    "empty file": (
        ALL,
        content("1.png", b""),
        "problem 1 of 8 cannot be used: the file is empty (0 bytes) [training[1] 1.png] -> mend the files, "
        "or take their rows out of the datalist",
    ),
    "damaged file": (
        ALL,
        cut_short,
        "problem 1 of 8 cannot be used: damaged, or not the image that its extension says (image file is "
        "truncated) [training[1] 1.png] -> mend the files, or take their rows out of the datalist",
    ),
    "not the format of its name": (
        ALL,
        content("1.png", b"<html>"),
        "problem 1 of 8 cannot be used: damaged, or not the image that its extension says (cannot identify "
        "image file 'the image') [training[1] 1.png] -> mend the files, or take their rows out of the "
        "datalist",
    ),
    "unknown format": (
        *(ALL, both(content("1.txt", b"text"), entry("training", 1, image="1.txt"))),
        "problem 1 of 8 cannot be used: unsupported format, expected one of .png .jpg .jpeg .tif .tiff .bmp "
        ".nii .nii.gz .dcm .dicom .ima or a DICOM file without extension [training[1] 1.txt] -> mend the "
        "files, or take their rows out of the datalist",
    ),
    "several pages": (
        ALL,
        two_pages,
        "problem 1 of 8 cannot be used: expected one image, got 2 frames or pages [training[1] 1.tif] -> "
        "mend the files, or take their rows out of the datalist",
    ),
    "NaN": (
        ALL,
        other_file(1, "1.tif", WITH_NAN),
        "problem 1 of 8 cannot be used: NaN or infinite pixels [training[1] 1.tif] -> mend the files, or "
        "take their rows out of the datalist",
    ),
    "volume for an image": (
        *(ALL, other_file(1, "1.nii", np.zeros((16, 16, 5), np.int16))),
        "problem 1 of 8 cannot be used: expected a 2D image, got a volume of shape (16, 16, 5) [training[1] "
        "1.nii] -> mend the files, or take their rows out of the datalist",
    ),
    "constant": (
        ALL,
        image("1.png", np.full((16, 16), 9, np.uint8)),
        "warning 1 of 8 constant: all pixels are equal, nothing is to be seen [training[1] 1.png] -> mend "
        "the files, or take their rows out of the datalist",
    ),
    "colour": (
        ALL,
        image("1.png", NOISE),
        "warning 1 of 8 in colour, which in_channels=1 turns into grey [training[1] 1.png] -> --in_channels "
        "3 keeps the colours (the overlay data_pathology.json, for tissue)",
    ),
    "too small": (
        ALL,
        setting(spatial_size=32),
        "warning 8 of 8 smaller than the 32 pixels that they are enlarged to [training[0] 0.png, training[1] "
        "1.png, training[2] 2.png, training[3] 3.png, validation[0] 4.png and 3 more] -> choose a smaller "
        "--spatial_size",
    ),
    "format tells the class": (
        ALL,
        positives_as_bmp,
        "warning the format of the files tells the class (BMP L, PNG L) -> a network may learn the source "
        "instead of the disease",
    ),
    "same image in two sections": (
        *(ALL, copy("1.png", "7.png")),
        "problem 1 groups of identical images lie in two sections [training[1] 1.png and test[1] 7.png] -> "
        "split by patient anew",
    ),
    "same image of two patients": (
        *(ALL, copy("1.png", "3.png")),
        "problem 1 groups of identical images stand under two patients [training[1] 1.png and training[3] "
        "3.png] -> find out which patient is right, and take out the others",
    ),
    "same image, two labels": (
        *(ALL, both(copy("1.png", "2.png"), entry("training", 2, patient="p1"))),
        "problem 1 groups of identical images have different labels [training[1] 1.png and training[2] "
        "2.png] -> find out which label is right, and take out the others",
    ),
    "same image of one patient": (
        *(ALL, both(copy("1.png", "3.png"), entry("training", 3, patient="p1"))),
        "warning 1 groups of identical images of one patient [training[1] 1.png and training[3] 3.png] -> "
        "take out all but one",
    ),
    "changed file": (
        *(ALL, entry("training", 0, sha256="0" * 64)),
        "problem 1 images are not those that the list was made of (their sha256 differs) [training[0] 0.png] "
        "-> restore the files, or make the datalist anew",
    ),
    # masks
    "value that is no class": (
        *("unet_ttl", image("m1.png", 7 * np.eye(16, dtype=np.uint8))),
        "problem 1 of 8 cannot be used: the mask has the values 7, which are no class: expected 0, 1; "
        "declare what each value means by mask_values (or bits, for structures that overlap) [training[1] "
        "1.png] -> mend the files, or take their rows out of the datalist",
    ),
    "mask of another shape": (
        *("unet_ttl", image("m1.png", np.eye(12, dtype=np.uint8))),
        "problem 1 of 8 cannot be used: the image has the shape (16, 16), the mask (12, 12); expected one "
        "mask pixel for each of the image [training[1] 1.png] -> mend the files, or take their rows out of "
        "the datalist",
    ),
    "mask elsewhere": (
        "unet_ttl",
        shifted_mask,
        "problem 1 of 8 cannot be used: the affines differ by up to 1, so the mask lies elsewhere or is "
        "turned; resample it onto the image, or give it the image's affine if only the header is wrong "
        "[training[0] 0.nii] -> mend the files, or take their rows out of the datalist",
    ),
    "JPEG mask": (
        *("unet_ttl", both(image("m1.jpg", np.eye(16, dtype=np.uint8)), entry("training", 1, label="m1.jpg"))),
        "problem 1 of 8 cannot be used: a JPEG file changes the values that it stores; expected the mask as "
        "PNG or TIFF [training[1] 1.png] -> mend the files, or take their rows out of the datalist",
    ),
    "empty masks": (
        "unet_ttl",
        empty_masks,
        "problem 4 of 4 masks are empty [training[0] 0.png, training[1] 1.png, training[2] 2.png, "
        "training[3] 3.png] -> are they the right files? See --mask_values",
    ),
    "volume without axis": (
        "unet_ttl",
        volume_in_2d,
        "problem 1 of 8 cannot be used: expected a 2D image, got a volume; say by --axis (axial, coronal or "
        "sagittal) how volumes are cut into slices [training[0] 0.nii] -> mend the files, or take their rows "
        "out of the datalist",
    ),
    # volumes
    "no HU": (
        *("ctpa_ttl", image("1.nii", np.arange(1536, dtype=np.int16).reshape(16, 16, 6))),
        "problem 1 of 8 cannot be used: HU range: no air: expected a minimum of -500 HU or less, found 0 to "
        "1535; rescale the image to HU, or pass check_hu_range=False for other values [training[1] 1.nii] -> "
        "mend the files, or take their rows out of the datalist",
    ),
    "slices that are not there": (
        *("ctpa_ttl", entry("training", 1, slices=[2, 9])),
        "problem 1 of 8 cannot be used: 'slices' names 9, but the volume has 6 slices: they count from 0 at "
        "the feet [training[1] 1.nii] -> mend the files, or take their rows out of the datalist",
    ),
    "short volume": (
        "ctpa_ttl",
        setting(spatial_size=[8, 16, 16]),
        "warning 8 of 8 shorter than a window of 8 slices, so that it is filled up with air [training[0] "
        "0.nii, training[1] 1.nii, training[2] 2.nii, training[3] 3.nii, validation[0] 4.nii and 3 more] -> "
        "choose a smaller spatial_size",
    ),
    # output folder
    "file in the way": (
        *("covid_ttl", lambda tiny: Path(tiny.settings["output_dir"]).write_text("")),
        "problem a file is in the way of the run's folder [output_dir] -> name another",
    ),
    "earlier run": (
        ALL,
        run_file("run.json"),
        "warning an earlier run lies in the run's folder: it will be moved aside [output_dir] -> name "
        "another --output_dir, or --resume auto",
    ),
    "goes on": (
        ALL,
        both(run_file("last.pt"), setting(resume="auto")),
        "warning the training goes on from last.pt of an earlier one [resume] -> --resume never starts anew",
    ),
    "no such checkpoint": (
        ALL,
        setting(resume="x.pt"),
        "problem resume must be 'never', 'auto' or an existing checkpoint file, got 'x.pt'. [resume] -> "
        "correct --resume",
    ),
}


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(preflight, "check_weights", lambda *_: None)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_place_and_remedy(name, make_tiny, no_network):
    bundle, spoil, line = BAD[name]
    tiny = make_tiny(bundle)
    spoil(tiny)
    found = tiny.check()
    lines = found.lines()
    assert line in [each.strip() for each in lines], "\n".join(lines)
    bad = [each for problems in found.found.values() for each in problems if each.severity != "note"]
    assert len(bad) <= 2, "one cause should not be told again and again:\n" + "\n".join(lines)
    assert str(tiny.folder.parent) not in "\n".join(lines)


@pytest.mark.parametrize("bundle", ["covid_ttl", "unet_ttl", "ctpa_ttl"])
def test_sound_data_pass_and_a_batch_goes_through(bundle, make_tiny, tmp_path):
    tiny = make_tiny(bundle)
    if bundle != "ctpa_ttl":
        tiny.settings["network_def#truncate_at"] = "blocks.1"
    found = tiny.check(batch=True)
    assert found.exit_code(strict=True) == 0, "\n".join(found.lines())
    assert {check for check, problems in found.found.items() if problems} >= {"datalist", "images", "weights", "batch"}
    assert re.search(r"4 images of 1x(4x)?16x16 forward and backward, loss \d", "\n".join(found.lines()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "list.json"]  # nothing was written


def test_a_loss_that_is_not_finite_and_a_batch_that_is_too_large(make_tiny):
    tiny = make_tiny()
    tiny.settings |= {"loss#class_weights": [float("nan"), 1.0], "batch_size": 9, "network_def#truncate_at": "blocks.0"}
    lines = "\n".join(tiny.check(batch=True).lines())
    assert "problem the loss of the first batch is nan [loss]" in lines
    assert "warning batch_size is 9, but the training section gives 4 images [batch_size]" in lines


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"network_def#weights": "x.pt"}, r"weights='x.pt' is no file. Remedies: put the file there"),
        (
            {"network_def#truncate_at": "block.3"},
            r"expected the name of a truncation point, got 'block.3'; nearest: blocks.3, .* \[network_def\]",
        ),
        ({"network_def#backbone": "resnet51"}, r"resnet51.*\[network_def\]"),
    ],
)
def test_weights_and_cuts_that_are_none(settings, line, make_tiny):
    tiny = make_tiny()
    tiny.settings |= settings
    lines = tiny.check().lines()
    assert [each for each in lines if re.search(line, each)], "\n".join(lines)


def test_a_full_disk(make_tiny, no_network, monkeypatch):
    usage = namedtuple("usage", "total used free")(1, 1, 10)
    monkeypatch.setattr("ttl_monai.deploy.check.dry_run.shutil.disk_usage", lambda _: usage)
    lines = "\n".join(make_tiny().check().lines())
    assert re.search(r"problem 0 MiB are free, but a training needs more: cache_dir about .* -> make room", lines)


def test_all_problems_come_at_once(make_tiny, no_network):
    tiny = make_tiny()
    for name in ("misspelt setting", "patient in two sections", "label out of range", "empty file", "earlier run"):
        BAD[name][1](tiny)
    lines = "\n".join(tiny.check().lines())
    for name in ("misspelt setting", "patient in two sections", "label out of range", "earlier run"):
        assert BAD[name][2] in lines
    assert re.search(r"1 of 7 cannot be used: the file is empty", lines)


def test_names_are_shown_only_where_they_are_public(make_tiny, no_network):
    tiny = make_tiny()
    secret = "DOE_JANE.png"
    (tiny.folder / secret).write_bytes(b"")
    tiny.data["public_ids"] = False
    for number, row in enumerate(tiny.data["training"] + tiny.data["validation"] + tiny.data["test"]):
        row |= {"id": f"id{number}", "patient": f"canary-{number}"}
    tiny.data["training"][0]["image"] = secret
    text = json.dumps(tiny.check().to_json())
    assert "training[0] id0" in text
    assert "DOE" not in text
    assert "canary" not in text
    assert "training[0] DOE_JANE.png" in json.dumps(tiny.check(file_names=True).to_json())


def test_quick_says_how_many_it_looks_at(make_tiny, no_network, monkeypatch):
    monkeypatch.setattr("ttl_monai.deploy.check.images.SAMPLE", 2)
    assert "a sample: 6 of 8 images were read" in "\n".join(make_tiny().check(quick=True).lines())


def test_the_verb_prints_and_exits(make_tiny, no_network, capsys):
    tiny = make_tiny()
    tiny.check()  # writes the list
    words = ["check", str(tiny.bundle), "--dataset_dir", str(tiny.folder), "--datalist", str(tiny.given["datalist"])]
    words += [text for id_, value in tiny.settings.items() for text in ("--set", f"{id_}={value}")] + ["--no-batch"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("\nnothing found\n")
    tiny.write("1.png", NOISE)
    assert main(words) == 0
    assert main([*words, "--strict"]) == 1
    assert "1 warning in all" in capsys.readouterr().out
    assert main([*words, "--json", "--set", "max_epohcs=1"]) == 2
    shown = json.loads(capsys.readouterr().out)
    assert (shown["exit_code"], shown["counts"]["problem"], shown["counts"]["warning"]) == (2, 1, 1)
    assert shown["found"]["config"][0]["where"] == ["max_epohcs"]
    assert shown["skipped"]["batch"] == "it was not asked for"


def test_segmentations_of_series_are_read_as_wholes(tmp_path):
    """A sound one, one of another series, and one whose one value counts as background."""
    mask = np.zeros(made_volume().shape, np.uint8)
    mask[2:4, 5:9, 3:12] = 1
    for name in "ab":
        write_segmentation(tmp_path / f"{name}.dcm", write_series(tmp_path / name), mask)
    entries = [("training", k, {"image": i, "label": f"{m}.dcm"}) for k, (i, m) in enumerate(["aa", "ab", "bb"])]
    data = SimpleNamespace(dataset_dir=tmp_path, public_ids=True)
    one, strange, _ = look_at_images(entries, data, LoadPaird(num_classes=2), axis="axial", workers=1)
    assert (one.errors, one.size, one.count, one.facts) == ((), (16, 20, 8), 8, set())
    assert re.fullmatch("the segmentation refers to 2 images that are not among the 8 slices .*", strange.errors[0])
    load = LoadPaird(num_classes=2, mask_values=[[0, 1], 2])
    *_, empty = look_at_images(entries, data, load, axis="axial", workers=1)
    assert empty.facts == {"empty mask"}


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no bundle: expected a folder with configs/train\.json"):
        check_bundle(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see /secret/place/file.pt: broken", "see .../file.pt: broken"),
        ("https://example.org/a/b.pth", "https://example.org/a/b.pth"),
        ("in /data/set/x.png", "in DATA/x.png"),
        ("3/4 of them", "3/4 of them"),
    ],
)
def test_places_of_the_machine_are_hidden(text, shown):
    assert Findings(names={"/data/set": "DATA"}).hide(text) == shown


def test_a_line_names_the_first_places_and_counts_the_others():
    problem = Problem("problem", "bad", tuple(f"training[{row}]" for row in range(7)), "mend")
    assert str(problem).endswith("training[4] and 2 more] -> mend")
