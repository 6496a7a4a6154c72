"""The committed lists: they agree with their README, leak nothing, and their commands make the same bytes."""

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest

from ttl_monai.cli import datalist as command
from ttl_monai.data.datalist import SECTIONS, Datalist

DATALISTS = Path(__file__).resolve().parents[2] / "datalists"
README = (DATALISTS / "README.md").read_text(encoding="utf-8")
FILES = sorted(DATALISTS.glob("*.json"))
NAMES = sorted({file.name.split("_split")[0] for file in FILES})


def load(file):
    return Datalist.load(file, "DATA", check_files=False)


def stated_commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("ttl ")]


def test_each_set_has_three_splits_and_a_row_in_the_readme():
    assert [file.name for file in FILES] == [f"{name}_split{k}.json" for name in NAMES for k in range(3)]
    assert re.findall(r"^\| `(\w+)_split", README, flags=re.MULTILINE) == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_list_agrees_with_the_readme(file):
    datalist = load(file)
    row = next(line for line in README.splitlines() if line.startswith(f"| `{datalist.name}_split"))
    _, task, images, patients, classes, seed, licence = (cell.strip() for cell in row.strip("|").split("|"))
    entries = [entry for section in SECTIONS for entry in datalist.entries[section]]
    totals = [sum(entry["label"] == index for entry in entries) for index in range(len(datalist.class_names))]
    named = zip(datalist.class_names, totals, strict=True)
    expected = [f"{name} {total}" for name, total in named] if task == "binary" else datalist.class_names
    assert (task, int(images), classes.split(", ")) == (datalist.task, len(entries), expected)
    assert int(patients) == len({entry["patient"] for entry in entries})
    assert (int(seed), licence) == (datalist.seed, datalist.licence)
    assert datalist.source


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_patient_and_no_content_is_in_two_sections(file):
    data = json.loads(file.read_text(encoding="utf-8"))
    for key in ("patient", "sha256", "image"):
        found = [{entry[key] for entry in data[section]} for section in SECTIONS]
        assert sum(map(len, found)) == len(set.union(*found)) > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_header_counts_and_fractions_are_right(file):
    data = json.loads(file.read_text(encoding="utf-8"))
    total = sum(len(data[section]) for section in SECTIONS)
    for section, fraction in zip(SECTIONS, (0.64, 0.16, 0.2), strict=True):
        entries = data[section]
        assert data["num_images"][section] == len(entries) == pytest.approx(fraction * total, abs=2)
        assert data["num_patients"][section] == len({entry["patient"] for entry in entries})
        labels = [entry["label"] for entry in entries]
        if data["task"] == "binary":
            assert set(labels) == {0, 1}
            assert data["counts"][section] == {name: labels.count(i) for i, name in enumerate(data["class_names"])}
    assert (data["public_ids"], data["repeat"]) == (True, int(file.stem[-1]))
    assert all(re.fullmatch("[0-9a-f]{64}", entry["sha256"]) for section in SECTIONS for entry in data[section])


@pytest.mark.parametrize("name", NAMES)
def test_the_three_splits_hold_the_same_images_and_differ(name):
    lists = [load(DATALISTS / f"{name}_split{k}.json") for k in range(3)]
    images = [{entry["image"] for section in SECTIONS for entry in one.entries[section]} for one in lists]
    tests = [{entry["patient"] for entry in one.entries["test"]} for one in lists]
    assert images[0] == images[1] == images[2]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Drawn anew, two test sections of a fifth share a fifth of their patients, in a small set give or take some.
        assert len(tests[one] & tests[other]) / len(tests[one]) == pytest.approx(0.2, abs=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_stated_command_makes_the_same_bytes(name, shared_data, tmp_path):
    words = next(words for words in stated_commands() if name in words)
    assert words[-2:] == ["--output-dir", "datalists"]
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="verb"))
    arguments = parser.parse_args([word.replace("DATA/", f"{shared_data}/") for word in words[1:-1]] + [str(tmp_path)])
    arguments.run(arguments)
    for k in range(3):
        made, committed = (folder / f"{name}_split{k}.json" for folder in (tmp_path, DATALISTS))
        assert made.read_bytes() == committed.read_bytes()
        Datalist.load(committed, shared_data / name)


def test_every_command_of_the_readme_is_understood():
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="verb"))
    commands = stated_commands()
    assert len(commands) == 10
    kinds = [parser.parse_args(words[1:]).kind for words in commands]
    public = ["bimcv", "chexpert", "ham10000", "medmnist", "midog", "penet", "rsna_pe"]
    assert sorted(set(kinds)) == sorted([*public, "csv"])
