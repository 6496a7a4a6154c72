from collections import Counter

import pytest

from ttl_monai.data.build import build_datalists, to_json
from ttl_monai.data.datalist import Datalist
from ttl_monai.data.records import Record, Table
from ttl_monai.data.seal import seal


def make_datalist(folder, task="binary", patients=40, images=2):
    """A datalist of empty files; every second patient is positive."""
    names = ["negative", "positive"] if task != "multi-class" else ["a", "b", "c"]
    records = []
    for number in range(patients):
        for k in range(images):
            name = f"{number}_{k}.png"
            (folder / name).write_bytes(f"{number} {k}".encode())
            kinds = {"binary": number % 2, "multi-class": number % 3, "multi-label": (float(number % 2), 1.0 - k)}
            records.append(Record(len(records), name, kinds[task], f"P{number}"))
    (content,) = build_datalists(
        Table(task, names, records),
        folder,
        header={"name": "made", "source": "", "licence": "", "made_by": "tests"},
        site_key=None,
        repeats=1,
    )
    path = folder / "made.json"
    path.write_text(to_json(content))
    return Datalist.load(path, folder)


def reload(content, folder):
    path = folder / "sealed.json"
    path.write_text(to_json(content))
    return Datalist.load(path, folder)


def images(datalist, *sections):
    return {entry["image"] for section in sections for entry in datalist.entries[section]}


@pytest.mark.parametrize("task", ["binary", "multi-class", "multi-label"])
def test_the_test_section_is_gone_and_the_rest_is_as_it_was(tmp_path, task):
    original = make_datalist(tmp_path, task)
    sealed = reload(seal(original), tmp_path)
    assert not sealed.entries["test"]
    assert not images(original, "test") & images(sealed, "training", "validation")
    assert images(sealed, "training") == images(original, "training")
    assert images(sealed, "validation") == images(original, "validation")
    assert sealed.sha256 != original.sha256
    assert sealed.origin_sha256 == original.sha256 == original.origin_sha256


def test_a_repeat_redraws_training_and_validation_by_patient(tmp_path):
    original = make_datalist(tmp_path)
    repeats = [reload(seal(original, repeat=k, seed=5), tmp_path) for k in (1, 2)]
    for sealed in repeats:
        assert images(sealed, "training", "validation") == images(original, "training", "validation")
        assert images(sealed, "training") != images(original, "training")
        assert abs(len(sealed.entries["training"]) - len(original.entries["training"])) <= 2
    assert images(repeats[0], "training") != images(repeats[1], "training")
    again = seal(original, repeat=1, seed=5)
    assert again["training"] == repeats[0].entries["training"]


@pytest.mark.parametrize("task", ["binary", "multi-class", "multi-label"])
@pytest.mark.parametrize("number", [2, 12, 24])
def test_fewer_patients_are_exactly_so_many_and_stratified(tmp_path, task, number):
    original = make_datalist(tmp_path, task)
    sealed = reload(seal(original, train_patients=number), tmp_path)
    assert len({entry["patient"] for entry in sealed.entries["training"]}) == number
    assert images(sealed, "training") <= images(original, "training")
    assert images(sealed, "validation") == images(original, "validation")
    if task == "binary":
        counts = Counter(entry["label"] for entry in sealed.entries["training"])
        assert abs(counts[0] - counts[1]) <= 4


def test_other_seeds_keep_other_patients(tmp_path):
    original = make_datalist(tmp_path)
    kept = [{e["patient"] for e in seal(original, train_patients=8, seed=k)["training"]} for k in (0, 1)]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_too_few_or_too_many_patients_are_refused(tmp_path, number):
    with pytest.raises(ValueError, match=rf"train_patients must be from 2 to the .* of the datalist, got {number}"):
        seal(make_datalist(tmp_path), train_patients=number)


def test_a_list_without_validation_is_refused(tmp_path):
    original = make_datalist(tmp_path)
    original.entries["validation"].clear()
    with pytest.raises(ValueError, match=r"needs training and validation images; the datalist 'made' has .* and 0"):
        seal(original)
