"""Datalist.load: what it gives, and what it refuses."""

import hashlib
import json

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from ttl_monai.data.datalist import Datalist


def made(task="binary", names=("a", "b"), labels=None, **header):
    """A list of four training images and two of each other section, one image a patient."""
    labels = labels or [0, 1, 1, 1, 0, 1, 0, 1]
    entries = [{"image": f"images/{i}.png", "label": label, "patient": f"p{i}"} for i, label in enumerate(labels)]
    sections = {"training": entries[:4], "validation": entries[4:6], "test": entries[6:]}
    return {
        "name": "made",
        "task": task,
        "class_names": list(names),
        "public_ids": True,
        "seed": 3,
        **header,
        **sections,
    }


@pytest.fixture
def load(tmp_path):
    def _load(data, check_files=False):
        (tmp_path / "list.json").write_text(json.dumps(data))
        return Datalist.load(tmp_path / "list.json", tmp_path / "data", check_files=check_files)

    return _load


def test_section_gives_absolute_images_and_indices(load, tmp_path):
    datalist = load(made(source="made here", licence="CC0"))
    assert (datalist.name, datalist.task, datalist.class_names, datalist.seed) == ("made", "binary", ["a", "b"], 3)
    assert (datalist.source, datalist.licence, datalist.public_ids) == ("made here", "CC0", True)
    assert datalist.sha256 == hashlib.sha256((tmp_path / "list.json").read_bytes()).hexdigest()
    assert datalist.section("validation")[1] == {
        "image": str(tmp_path / "data" / "images" / "5.png"),
        "label": 1,
        "patient": "p5",
        "image_id": "images/5.png",
    }
    assert [len(datalist.section(section)) for section in ("training", "validation", "test")] == [4, 2, 2]


def test_multi_label_has_nan_for_unknown(load):
    labels = [[0, 1], [None, 1], [1, 0], [0, None], [0, 1], [1, 0], [0, 1], [1, 1]]
    label = load(made("multi-label", labels=labels)).section("training")[1]["label"]
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, [np.nan, 1])


def test_segmentation_gives_the_path_of_the_mask(load, tmp_path):
    data = made("segmentation", ("background", "lung"), labels=[f"masks/{i}.png" for i in range(8)])
    assert load(data).section("test")[0]["label"] == str(tmp_path / "data" / "masks" / "6.png")


def test_private_list_shows_its_ids_instead_of_file_names(load):
    data = made()
    data["public_ids"] = False
    for section in ("training", "validation", "test"):
        for index, entry in enumerate(data[section]):
            entry["id"] = f"{section}{index}"
    assert [entry["image_id"] for entry in load(data).section("test")] == ["test0", "test1"]
    del data["test"][1]["id"]
    with pytest.raises(ValueError, match=r'1 entries have no "id" to show in outputs.*: test\[1\]'):
        load(data)


def test_section_refuses_unknown_and_empty(load):
    data = made()
    data["validation"] = []
    datalist = load(data)
    with pytest.raises(ValueError, match="one of training, validation, test, got 'val'"):
        datalist.section("val")
    with pytest.raises(
        ValueError, match=r"'validation' of datalist 'made' is empty \(4 training, 0 validation, 2 test\)"
    ):
        datalist.section("validation")


def change(path, value):
    """A function that sets one place of a list, such as ("test", 0, "label")."""

    def apply(data):
        for key in path[:-1]:
            data = data[key]
        if value is KeyError:
            del data[path[-1]]
        else:
            data[path[-1]] = value

    return apply


BAD = [
    (change(("test",), KeyError), "the list 'test' is missing"),
    (change(("task",), "regression"), "'task' must be one of binary, .* got 'regression'"),
    (change(("name",), KeyError), "'name' must be a string"),
    (change(("class_names",), ["a", "a"]), "'class_names' must be a list of different strings"),
    (change(("class_names",), ["a", "b", "c"]), "3 names, which does not fit the task 'binary'"),
    (change(("test", 0, "label"), 2), r"1 entries have an unknown label, expected 0 to 1: test\[0\]"),
    (change(("test", 0, "label"), -1), "unknown label"),
    (change(("test", 0, "label"), True), "unknown label"),
    (change(("test", 0, "label"), None), "unknown label"),
    (change(("training", 3, "patient"), " "), r"empty patient: training\[3\]"),
    (change(("training", 3, "patient"), KeyError), "lack image, label or patient"),
    (change(("training", 0, "image"), "/etc/passwd"), r"not relative to the data set's folder.*: training\[0\]"),
    (change(("training", 0, "image"), "../other/1.png"), "not relative to the data set's folder"),
    (change(("training", 0, "image"), "images\\1.png"), "with forward slashes"),
    (
        change(("training", 0, "image"), "images/1.png"),
        r"1 images stand in the list twice: training\[0\] and training\[1\]",
    ),
    (change(("test", 1, "patient"), "p2"), r"1 patients are in two sections: training\[2\] and test\[1\]"),
    (change(("counts",), {"test": {"a": 5, "b": 1}}), "the header counts .* the file was edited"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_load_refuses(load, spoil, message):
    data = made()
    load(data)
    spoil(data)
    with pytest.raises(ValueError, match=message):
        load(data)


def test_load_refuses_the_same_content_in_two_sections(load):
    data = made()
    data["training"][0]["sha256"] = data["test"][0]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match=r"1 images are, by content, in two sections: training\[0\] and test\[0\]"):
        load(data)


@pytest.mark.parametrize("label", [[0], [0, 2], [0, 0.5], 1, [0, "1"]])
def test_load_refuses_bad_multi_labels(load, label):
    data = made("multi-label", labels=[[0, 1]] * 8)
    data["test"][1]["label"] = label
    with pytest.raises(ValueError, match="expected a list of 2 values 0, 1 or null"):
        load(data)


def test_load_lists_all_that_is_wrong_without_patients(load):
    data = made()
    data["training"][0]["patient"] = data["test"][0]["patient"] = "SECRET-1"
    data["training"][1]["patient"] = data["validation"][0]["patient"] = "SECRET-2"
    data["training"][3]["image"] = data["training"][2]["image"]
    with pytest.raises(ValueError, match="2 patients are in two sections") as caught:
        load(data)
    assert "stand in the list twice" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_load_refuses_what_is_no_list(tmp_path):
    path = tmp_path / "list.json"
    for text, message in (("{", "is no JSON file"), ("[]", "expected a JSON object, got list")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Datalist.load(path, tmp_path)


def test_missing_files_are_counted(load, tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for index in range(8):
        (tmp_path / "data" / "images" / f"{index}.png").touch()
    load(made(), check_files=True)
    (tmp_path / "data" / "images" / "6.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 8 files .* are missing in .*: test\[0\] \(image\); check dataset_dir"):
        load(made(), check_files=True)


def test_class_weights_are_scikit_learns_balanced(load):
    labels = [0, 1, 1, 2, 0, 1, 0, 1]
    weights = load(made("multi-class", ("a", "b", "c"), labels)).class_weights()
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels[:4]))


def test_multi_label_weights_make_positives_weigh_as_much_as_negatives(load):
    labels = [[0, 1], [None, 1], [1, 0], [0, None], [0, 1], [1, 0], [0, 1], [1, 1]]
    weights = load(made("multi-label", labels=labels)).class_weights()
    assert weights == [2.0, 0.5]
    known = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])
    for weight, targets in zip(weights, known, strict=True):
        logits = torch.zeros(3, requires_grad=True)
        torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))(logits, targets).backward()
        assert logits.grad.sum() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (made(labels=[1, 1, 1, 1, 0, 0, 0, 0]), "a lack positive or negative images in the training section"),
        (made("multi-label", labels=[[0, 1]] * 8), "a, b lack positive or negative"),
        (made("segmentation", labels=[f"{i}.png" for i in range(8)]), "the datalist's task is segmentation"),
    ],
)
def test_class_weights_refuse(load, data, message):
    with pytest.raises(ValueError, match=message):
        load(data).class_weights()
