"""`ttl datalist` from end to end: the files it writes, what it prints, and that it writes all or nothing."""

import argparse
import csv
import hashlib
import hmac
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ttl_monai.cli import datalist as command
from ttl_monai.data.datalist import Datalist


def ttl(*words):
    parser = argparse.ArgumentParser(prog="ttl")
    command.add_parser(parser.add_subparsers(dest="verb", required=True))
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.run(arguments)


@pytest.fixture
def source(tmp_path):
    """120 images of 60 patients with a table, and the options that read it."""
    folder = tmp_path / "xrays"
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", "finding"])
        for i in range(120):
            (folder / "images" / f"{i}.png").write_bytes(b"pixels of %d" % i)
            writer.writerow([f"{i}.png", f"SECRET-{i // 2}", int(i % 6 < 2)])
    return folder


def options(source, output, *more):
    columns = ("--image", "image", "--image-dir", "images", "--patient", "patient", "--label", "finding")
    key = () if "--public-ids" in more else ("--site-key", source.parent / "key")
    return ("datalist", "csv", source / "labels.csv", *columns, "--output-dir", output, *key, *more)


def test_three_splits_that_load(source, tmp_path, capsys):
    assert ttl(*options(source, tmp_path / "out", "--class-names", "clear", "finding", "--licence", "CC0")) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["xrays_split0.json", "xrays_split1.json", "xrays_split2.json"]
    tests = []
    for repeat, file in enumerate(files):
        datalist = Datalist.load(file, source)
        assert (datalist.task, datalist.class_names, datalist.public_ids) == ("binary", ["clear", "finding"], False)
        assert (datalist.header["repeat"], datalist.seed, datalist.licence) == (repeat, 0, "CC0")
        sizes = [len(datalist.section(section)) for section in ("training", "validation", "test")]
        assert sizes == pytest.approx([76.8, 19.2, 24], abs=2.1)
        tests.append({item["image"] for item in datalist.section("test")})
    assert tests[0] != tests[1] != tests[2] != tests[0]
    printed = capsys.readouterr().out
    assert str(files[2]) in printed
    assert ["finding", *map(str, (datalist.header["counts"][s]["finding"] for s in datalist.entries))] in [
        line.split() for line in printed.splitlines()
    ]


def test_lists_carry_keys_and_not_patients(source, tmp_path, capsys):
    ttl(*options(source, tmp_path / "out"))
    text = (tmp_path / "out" / "xrays_split0.json").read_text()
    assert "SECRET" not in text + str(capsys.readouterr())
    assert str(tmp_path) not in text
    key = bytes.fromhex((tmp_path / "key").read_text())
    entry = json.loads(text)["training"][0]
    patient = f"SECRET-{int(entry['image'].split('/')[1].split('.')[0]) // 2}"
    assert entry["patient"] == hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()
    assert entry["sha256"] == hashlib.sha256((source / entry["image"]).read_bytes()).hexdigest()
    ids = [
        item["image_id"] for item in Datalist.load(tmp_path / "out" / "xrays_split0.json", source).section("training")
    ]
    assert len(set(ids)) == len(ids)
    assert {len(image_id) for image_id in ids} == {16}


def test_public_lists_carry_the_published_ids_and_need_no_key(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    ttl(*options(source, tmp_path / "out", "--public-ids"))
    datalist = Datalist.load(tmp_path / "out" / "xrays_split0.json", source)
    assert datalist.public_ids
    item = datalist.section("test")[0]
    assert item["patient"].startswith("SECRET-")
    assert item["image_id"].startswith("images/")
    assert not (tmp_path / "config").exists()


def test_made_by_makes_the_same_bytes_elsewhere(source, tmp_path):
    ttl(
        *options(
            source, tmp_path / "out", "--public-ids", "--seed", "7", "--source", "a clinic's set", "--repeats", "2"
        )
    )
    first = (tmp_path / "out" / "xrays_split1.json").read_bytes()
    made_by = json.loads(first)["made_by"]
    assert str(tmp_path) not in made_by
    moved = source.rename(tmp_path / "moved")
    words = shlex.split(made_by.replace("DATASET_DIR", str(moved)))
    ttl(*words[1:], "--name", "xrays", "--output-dir", tmp_path / "again")
    again = (tmp_path / "again" / "xrays_split1.json").read_bytes()
    assert json.loads(again)["test"] == json.loads(first)["test"]
    ttl(*words[1:], "--output-dir", tmp_path / "again")
    # Only the name differs, which comes from the folder when it is not given.
    assert (tmp_path / "again" / "moved_split1.json").read_bytes() == first.replace(
        b'"name": "xrays"', b'"name": "moved"'
    )


def spoil_file(source):
    (source / "images" / "7.png").unlink()


def spoil_copy(source):
    (source / "images" / "7.png").write_bytes(b"pixels of 90")


def spoil_label(source):
    text = (source / "labels.csv").read_text()
    (source / "labels.csv").write_text(text.replace("SECRET-3,1", "SECRET-3,", 1))


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (spoil_file, (), "1 images are missing in the data set's folder: row 9"),
        (spoil_copy, (), "2 images are identical in content but stand under two patients: rows 9, 92"),
        (spoil_label, (), r"1 labels are unknown .*: row \d+"),
        (None, ("--fractions", "0.5", "0.5", "0.5"), r"three shares that sum to 1, such as .* got \(0.5, 0.5, 0.5\)"),
        (None, ("--fractions", "1.2", "-0.2", "0"), "three shares that sum to 1"),
        (None, ("--name", "../evil"), "expected no slashes, got '../evil'"),
        (None, ("--repeats", "0"), "repeats must be at least 1, got 0"),
        (None, ("--fractions", "0", "0", "1"), "60 patients do not give 3 different splits"),
    ],
)
def test_nothing_is_written_when_anything_is_wrong(source, tmp_path, spoil, more, message):
    if spoil:
        spoil(source)
    with pytest.raises(ValueError, match=message) as caught:
        ttl(*options(source, tmp_path / "out", *more))
    assert "SECRET" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_hash_reads_no_file(source, tmp_path):
    spoil_copy(source)
    ttl(*options(source, tmp_path / "out", "--no-hash"))
    datalist = Datalist.load(tmp_path / "out" / "xrays_split0.json", source)
    assert all("sha256" not in entry for entry in datalist.entries["training"])


def test_lists_that_would_change_are_kept(source, tmp_path):
    out = tmp_path / "out"
    ttl(*options(source, out))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    ttl(*options(source, out))
    (out / "xrays_split0.json").unlink()
    with pytest.raises(ValueError, match=r"xrays_split1.json, xrays_split2.json in .* would change; use --overwrite"):
        ttl(*options(source, out, "--seed", "1"))
    assert sorted(file.name for file in out.iterdir()) == ["xrays_split1.json", "xrays_split2.json"]
    ttl(*options(source, out, "--seed", "1", "--overwrite"))
    after = {file.name: file.read_bytes() for file in out.iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_a_failed_write_leaves_nothing(source, tmp_path, monkeypatch):
    calls = []

    def full_disk(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("ttl_monai.data.build.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ttl(*options(source, tmp_path / "out", "--public-ids"))
    assert list((tmp_path / "out").iterdir()) == []


def test_folder_source(tmp_path, capsys):
    for i in range(60):
        path = tmp_path / "set" / ("cat" if i % 3 else "dog") / f"p{i // 6}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % i)
    words = ("folder", tmp_path / "set", "--patient-regex", r"(p\d+)_", "--public-ids", "--repeats", "1")
    assert ttl("datalist", *words, "--output-dir", tmp_path) == 0
    datalist = Datalist.load(tmp_path / "set_split0.json", tmp_path / "set")
    assert datalist.class_names == ["cat", "dog"]
    assert sum(datalist.header["num_patients"].values()) == 10
    assert datalist.header["made_by"] == (
        "ttl datalist folder DATASET_DIR --patient-regex '(p\\d+)_' --repeats 1 --public-ids"
    )


def test_segmentation_sources_make_datalists_split_by_patient(tmp_path, monkeypatch):
    """Eight patients with two images each; the decathlon's file says name, licence and source."""
    monkeypatch.chdir(tmp_path)
    for i in range(16):
        for what in ("imagesTr", "labelsTr"):
            (tmp_path / "set" / what).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / what / f"p{i // 2}_{i}.nii").write_bytes(f"{what} {i}".encode())
    cases = [
        {key: f"./{what}/p{i // 2}_{i}.nii" for key, what in (("image", "imagesTr"), ("label", "labelsTr"))}
        for i in range(16)
    ]
    about = {"name": "Task", "licence": "CC0", "reference": "nobody", "labels": {"0": "background", "1": "liver"}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({**about, "training": cases}))
    common = ("--patient-regex", r"(p\d+)_", "--repeats", "1", "--public-ids")
    ttl("datalist", "msd", "set", *common, "--output-dir", "a")
    ttl(
        "datalist",
        "masks",
        "set",
        "--images",
        "imagesTr",
        "--masks",
        "labelsTr",
        "--class-names",
        "background",
        "liver",
        *common,
        "--name",
        "Task",
        "--output-dir",
        "b",
    )
    first, second = (Datalist.load(tmp_path / folder / "Task_split0.json", tmp_path / "set") for folder in "ab")
    assert first.entries == second.entries
    assert (first.task, first.class_names) == ("segmentation", ["background", "liver"])
    assert (first.licence, first.source) == ("CC0", "nobody")
    assert all("label_sha256" in entry for entry in first.entries["training"])
    item = first.section("test")[0]
    assert Path(item["label"]).read_bytes().startswith(b"labelsTr")


@pytest.mark.parametrize("words", [["datalist"], *(["datalist", kind] for kind in command.SOURCES)])
def test_help_reads_well(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        ttl(*words, "--help")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "by patient" in printed if len(words) == 1 else "example: ttl datalist" in " ".join(printed.split())


BIG = """
import argparse, pathlib, sys, time
from ttl_monai.cli import datalist
parser = argparse.ArgumentParser()
datalist.add_parser(parser.add_subparsers(dest="verb"))
arguments = parser.parse_args(sys.argv[1:])
arguments.run(arguments)
# Not getrusage, whose peak begins with that of the process that started this one.
peak = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(time.process_time(), peak.split()[1])
"""


@pytest.mark.slow
def test_chexpert_sized_input_in_a_minute_and_a_gibibyte(tmp_path):
    """220,000 rows of 14 labels, each file really looked for: 220 links to one folder of 1,000 empty files."""
    (tmp_path / "real").mkdir()
    for i in range(1000):
        (tmp_path / "real" / f"{i}.jpg").touch()
    for part in range(220):
        (tmp_path / f"part{part}").symlink_to(tmp_path / "real", target_is_directory=True)
    labels = [f"label {i}" for i in range(14)]
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Path", "Patient", *labels])
        for i in range(220_000):
            cells = [("1.0", "0.0", "-1.0", "")[(i // 3 * (k + 3) + i % 7 * k) % 4] for k in range(14)]
            writer.writerow([f"part{i // 1000}/{i % 1000}.jpg", f"patient{i * 10 // 34}", *cells])
    words = ["datalist", "csv", "train.csv", "--image", "Path", "--patient", "Patient", "--label", *labels]
    words += ["--uncertain", "positive", "--no-hash", "--site-key", "key", "--output-dir", "out"]
    done = subprocess.run([sys.executable, "-c", BIG, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds, kibibytes = map(float, done.stdout.splitlines()[-1].split())
    assert len(list((tmp_path / "out").iterdir())) == 3
    # Time of the processor, imports included: the clock on the wall depends on what else runs.
    assert seconds < 60
    assert kibibytes < 1024 * 1024
