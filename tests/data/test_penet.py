"""PENet's data: an index in which nothing can run, checks, the published split, windows with the right labels."""

import argparse
import copyreg
import json
import os
import pickle
import sys
import types

import h5py
import numpy as np
import pytest
from monai.transforms import LoadImaged

from ttl_monai.cli import datalist as command
from ttl_monai.data import Datalist, RandomWindowDataset, VolumeCache, VolumeError, VolumeReader, WindowDataset
from ttl_monai.data.hdf5 import dataset_length, dataset_sha256, read_hdf5, split_entry
from ttl_monai.data.sources import penet

LENGTH = 40


def make_hu(length=LENGTH, *, seed=0, size=(6, 5)):
    """Another value in each voxel, air and tissue among them."""
    count = length * size[0] * size[1]
    values = np.random.default_rng(seed).permutation(count) * max(1, 1200 // count) - 1000
    return values.reshape(length, *size).astype(np.int16)


def entry(number, idxs=(), *, positive=None, phase="train", kind="central", length=LENGTH, **other):
    positive = bool(idxs) if positive is None else positive
    named = {"study_num": number, "slice_thickness": 1.25, "is_positive": int(positive), "num_slices": length}
    return {**named, "pe_idxs": list(idxs), "phase": phase, "type": kind, **other}


class Raw:
    """Pickled as a call of a function, the way in which pickles run code."""

    def __init__(self, call, *values):
        self.call, self.values = call, values

    def __reduce__(self):
        return self.call, self.values


def pickled(content, *, protocol=3):
    """The bytes of `ct.ct_pe.CTPE` objects with these attributes; Python's protocol 3 is that of PENet's day."""
    module = types.ModuleType("ct.ct_pe")
    module.CTPE = type("CTPE", (), {"__module__": "ct.ct_pe"})

    def ctpe(attributes):
        made = module.CTPE()
        vars(made).update(attributes)
        return made

    objects = [ctpe(each) if isinstance(each, dict) else each for each in content]
    sys.modules.update({"ct": types.ModuleType("ct"), "ct.ct_pe": module})
    try:
        return pickle.dumps(objects, protocol=protocol)
    finally:
        del sys.modules["ct"], sys.modules["ct.ct_pe"]


def write(folder, entries, *, index=None):
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "data.hdf5", "w") as file:
        for number in sorted({each["study_num"] for each in entries if type(each["study_num"]) is int}):
            file.create_dataset(str(number), data=make_hu(seed=number + 2), chunks=True)
    (folder / "series_list.pkl").write_bytes(pickled(entries) if index is None else index)
    return folder


def read(folder, *options):
    parser = argparse.ArgumentParser()
    penet.add_arguments(parser)
    arguments = parser.parse_args([str(folder), *options])
    arguments.dataset_dir = folder
    return penet.read(arguments)


ENTRIES = [
    entry(101, [10, 8, 9, 11, 12, 9]),
    entry(102),
    entry(7, positive=True, phase="val", kind="segmental"),  # nobody marked its slices
    entry(8, phase="val"),
    entry(5, [0, 1, 38, 39], phase="test"),
    entry(6, phase="test"),
    entry(9, positive=True, phase="test", kind="subsegmental"),
]


def test_index_gives_labels_slices_and_the_published_split(tmp_path, caplog):
    table = read(write(tmp_path / "set", ENTRIES))
    assert (table.task, table.class_names) == ("binary", ["negative", "positive"])
    assert [tuple(record) for record in table.records] == [
        (1, "data.hdf5#101", 1, "101"),
        (2, "data.hdf5#102", 0, "102"),
        (3, "data.hdf5#7", 1, "7"),
        (4, "data.hdf5#8", 0, "8"),
        (5, "data.hdf5#5", 1, "5"),
        (6, "data.hdf5#6", 0, "6"),
    ]
    slices = {"101": [8, 9, 10, 11, 12], "102": [], "8": [], "5": [0, 1, 38, 39], "6": []}
    assert table.slices == {f"data.hdf5#{number}": numbers for number, numbers in slices.items()}
    assert [table.sections[r.image] for r in table.records] == ["training"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert "1 positive series have no marked slices: only their series labels count" in caplog.text
    assert "1 positive series are left out, as their type is not in --pe-types: 1 subsegmental" in caplog.text
    assert "ASSUMPTION: each of the 6 series is a patient of its own" in caplog.text


def test_options_keep_other_types_and_drop_the_split(tmp_path, caplog):
    folder = write(tmp_path, ENTRIES)
    table = read(folder, "--pe-types", "subsegmental", "lobar", "--resplit")
    assert [record.patient for record in table.records] == ["102", "8", "6", "9"]
    assert table.sections == {}
    assert "no positive series of type lobar; there are central, segmental, subsegmental" in caplog.text


def test_series_without_phases_are_split_by_us(tmp_path):
    assert read(write(tmp_path, [entry(n, phase=None) for n in (1, 2)])).sections == {}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_plain_objects_are_read(tmp_path, protocol):
    table = read(write(tmp_path, ENTRIES, index=pickled(ENTRIES, protocol=protocol)))
    assert len(table.records) == 6


def global_call(module, name, argument):
    """Protocol 0 and 4 text for calling `module.name(argument)`, for names that Python's own pickler will not write."""
    parts = [f"\x8c{chr(len(text))}{text}" for text in (module, name)]
    return ("\x80\x04" + "".join(parts) + f"\x93\x8c{chr(len(argument))}{argument}\x85R.").encode("latin-1")


def evil_pickles(target):
    """Pickles that would make the file `target`, or build what they should not, each with what must be named."""
    touch = f"touch {target}"
    code = f"open({str(target)!r}, 'w')"
    return {
        "system": (pickled([Raw(os.system, touch)]), r"asks for posix\.system"),
        "system of os": (f"cos\nsystem\n(S{touch!r}\ntR.".encode(), r"asks for os\.system"),
        "instance": (f"(S{touch!r}\nios\nsystem\n.".encode(), r"asks for os\.system"),
        "eval": (pickled([Raw(eval, code)]), r"asks for builtins\.eval"),
        "exec": (pickled([Raw(exec, code)]), r"asks for builtins\.exec"),
        "getattr": (pickled([Raw(getattr, "a", "upper")]), r"asks for builtins\.getattr"),
        "in an attribute": (pickled([entry(1, type=Raw(os.system, touch))]), r"asks for posix\.system"),
        "through the class": (global_call("ct.ct_pe", "CTPE.__init__", touch), r"asks for ct\.ct_pe\.CTPE\.__init__"),
        "another of ours": (global_call("ttl_monai.data.sources.penet", "open", str(target)), "penet.open"),
        "NumPy array": (pickled([entry(1, pe_idxs=np.arange(3))]), r"asks for numpy\._?core"),
        "NumPy number": (pickled([entry(np.int64(1))]), r"asks for numpy\._?core"),
        "old objects": (pickled(ENTRIES, protocol=0), r"asks for copy_?reg\._reconstructor"),
    }


@pytest.mark.parametrize("kind", evil_pickles("x"))
def test_pickles_that_ask_for_more_are_refused_by_name_and_run_nothing(tmp_path, kind):
    target = tmp_path / "made"
    content, named = evil_pickles(target)[kind]
    write(tmp_path / "set", ENTRIES, index=content)
    with pytest.raises(
        ValueError, match=r"series_list\.pkl is refused, and nothing of it was run: it " + ".*"
    ) as caught:
        read(tmp_path / "set")
    assert caught.match(named)
    assert not target.exists()
    if kind in ("system", "eval", "exec", "system of os", "instance"):  # the pickles are real: plain loading runs them
        pickle.loads(content)
        assert target.exists()


def test_registered_extensions_are_refused_too(tmp_path):
    copyreg.add_extension("posix", "system", 240)
    try:
        index = pickled([Raw(os.system, f"touch {tmp_path / 'made'}")])
        assert b"system" not in index
        with pytest.raises(ValueError, match=r"asks for posix\.system"):
            read(write(tmp_path, ENTRIES, index=index))
    finally:
        copyreg.remove_extension("posix", "system", 240)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", r"series_list\.pkl is no pickle, or damaged \(EOFError\)"),
        (b"not a pickle", "is no pickle, or damaged"),
        (pickled(ENTRIES)[:-20], "is no pickle, or damaged"),
        (b"Pid\n.", r"is no pickle, or damaged \(UnpicklingError\)"),
        (pickle.dumps({"a": 1}), r"refused: expected a list of ct\.ct_pe\.CTPE"),
        (pickle.dumps([{"study_num": 1}]), r"refused: expected a list of ct\.ct_pe\.CTPE"),
        (pickled([entry(1), entry(2, age=51)]), "1 entries do not have the attributes is_positive, .* others: row 2"),
        (pickled([{"study_num": 1}]), "1 entries do not have the attributes"),
    ],
)
def test_other_indexes_are_refused(tmp_path, index, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, ENTRIES, index=index))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([entry("1")], "1 entries have no study number: row 3"),
        ([entry(1, positive=True, is_positive=2)], "neither 0 nor 1: row 3"),
        ([entry(1, is_positive="1")], "neither 0 nor 1: row 3"),
        ([entry(1, phase="training")], "have a phase that is none of train, val, test: row 3"),
        ([entry(1, kind=None)], "have a 'type' that is no text: row 3"),
        ([entry(1, slice_thickness=2.5)], r"a slice thickness other than 1\.25 mm.*: row 3"),
        ([entry(1, [-1, 2])], "have 'pe_idxs' that are no list of numbers from 0: row 3"),
        ([entry(1, [3.0])], "have 'pe_idxs' that are no list of numbers from 0: row 3"),
        ([entry(1, [3], positive=False)], "are negative and have slices with an embolus: row 3"),
        ([entry(1, [39, 40])], r"mark slices beyond the last one in data\.hdf5: row 3"),
        (
            [entry(1, phase="test"), entry(1)],
            "2 entries have the study number of another, perhaps in another .* rows 3, 4",
        ),
        ([entry(1, phase=None)], "says no phase for some series: row 3; split all of them anew with --resplit"),
    ],
)
def test_entries_that_do_not_fit_are_refused_by_row(tmp_path, wrong, message):
    good = [entry(100), entry(200, phase="val")]
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, good + wrong))


@pytest.mark.parametrize("shape", [None, (3, 4), (0, 4, 4)])
def test_volumes_that_lack_are_refused_by_row(tmp_path, shape):
    folder = write(tmp_path, [entry(1), entry(2)])
    with h5py.File(folder / "data.hdf5", "a") as file:
        del file["2"]
        if shape:
            file["2"] = np.zeros(shape, np.int16)
    with pytest.raises(ValueError, match=r"1 entries have no volume \(slices, rows, columns\) in data.hdf5: row 2"):
        read(folder)


def test_other_lengths_than_the_index_says_are_counted(tmp_path, caplog):
    read(write(tmp_path, [entry(1), entry(2, length=39)]))
    assert "1 series have another length in data.hdf5 than in series_list.pkl, and keep it" in caplog.text


def test_folders_without_the_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no data\.hdf5 and no series_list\.pkl in"):
        read(tmp_path)


# ---- the command and the windows


def ttl(*words):
    parser = argparse.ArgumentParser(prog="ttl")
    command.add_parser(parser.add_subparsers(dest="verb", required=True))
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.run(arguments)


@pytest.fixture
def listed(tmp_path):
    folder = write(tmp_path / "penet", ENTRIES)
    ttl("datalist", "penet", folder, "--site-key", tmp_path / "key", "--output-dir", tmp_path)
    return Datalist.load(tmp_path / "penet_split0.json", folder)


def cache_of(folder=None):
    return VolumeCache([LoadImaged("image", reader=VolumeReader(modality="CT"), ensure_channel_first=True)], folder)


def test_the_list_keeps_the_published_split_once(listed, tmp_path):
    assert [file.name for file in tmp_path.glob("*.json")] == ["penet_split0.json"]
    assert (listed.header["split"], listed.seed, listed.header["made_by"]) == (
        "published",
        None,
        "ttl datalist penet DATASET_DIR --source 'PENet, Huang et al., npj Digital Medicine 3:61, 2020'",
    )
    images = {section: [each["image"] for each in entries] for section, entries in listed.entries.items()}
    assert images["validation"] == ["data.hdf5#7", "data.hdf5#8"]
    first = listed.entries["training"][0]
    assert first["sha256"] == dataset_sha256(listed.dataset_dir / "data.hdf5#101")
    assert "slices" not in listed.entries["validation"][0]


@pytest.mark.parametrize("option", [("--seed", "3"), ("--repeats", "5"), ("--fractions", "0.5", "0.3", "0.2")])
def test_options_of_a_new_split_need_resplit(tmp_path, option):
    folder = write(tmp_path / "penet", [entry(n, [3, 4, 5, 6] if n % 2 else []) for n in range(16)])
    words = ("datalist", "penet", folder, "--public-ids", "--no-hash", "--output-dir", tmp_path / "out", *option)
    with pytest.raises(ValueError, match=f"published split, which {option[0]} cannot change; add --resplit"):
        ttl(*words)
    assert not (tmp_path / "out").exists()
    ttl(*words, "--resplit")
    assert len(list((tmp_path / "out").iterdir())) == (5 if "--repeats" in option else 3)


def test_windows_are_those_of_the_file_with_the_labels_of_the_index(listed):
    cache = cache_of()
    windows = WindowDataset(listed.section("test"), cache, size=16, min_slices=2)
    data = make_hu(seed=5 + 2)
    assert [(each["start"], each["label"], each["window_label"]) for each in windows][:3] == [
        (0, 1, 1),
        (16, 1, 0),
        (32, 1, 1),
    ]
    np.testing.assert_array_equal(windows[1]["image"][0], data[16:32])
    affine = cache.open(windows.data[0]).affine
    assert [(affine @ [0, 0, k, 1])[2] for k in (0, 15)] == [0.0, 15 * 1.25]
    unmarked = WindowDataset(listed.section("validation"), cache, size=16)
    assert {each["label"] for each in unmarked} == {0, 1}


def test_training_windows_hold_the_marked_slices(listed):
    drawn = RandomWindowDataset(listed.section("training"), cache_of(), size=8, positive_fraction=1.0)
    drawn.set_random_state(0)
    data = make_hu(seed=101 + 2)
    for _ in range(10):
        item = drawn[0]
        start = item["start"]
        assert item["label"] == 1
        assert len(set(range(start, start + 8)) & {8, 9, 10, 11, 12}) >= 4
        np.testing.assert_array_equal(item["image"][0], data[start : start + 8])


def test_a_changed_file_is_read_anew(listed, tmp_path):
    cache, item = cache_of(tmp_path / "cache"), listed.section("training")[0]
    before = np.array(cache.open(item).array)
    with h5py.File(listed.dataset_dir / "data.hdf5", "a") as file:
        file["101"][...] = before[::-1]
    os.utime(listed.dataset_dir / "data.hdf5", ns=(1, 1))
    np.testing.assert_array_equal(cache.open(item).array, before[::-1])


def test_series_that_repeat_another_are_refused(tmp_path):
    folder = write(tmp_path / "penet", ENTRIES)
    with h5py.File(folder / "data.hdf5", "a") as file:
        file["6"][...] = file["102"][()]
    with pytest.raises(ValueError, match="identical in content but stand under two patients: rows 2, 6"):
        ttl("datalist", "penet", folder, "--public-ids", "--output-dir", tmp_path)


# ---- the reader


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("a/data.hdf5#12", ("a/data.hdf5", "12")),
        ("data.h5#x y", ("data.h5", "x y")),
        ("data.hdf5", None),
        ("data.hdf5#", None),
        ("data.hdf5#a/b", None),
        ("scan#1.nii.gz", None),
    ],
)
def test_split_entry(path, entry):
    found = split_entry(path)
    assert (found and (str(found[0]), found[1])) == entry


def write_dataset(folder, data):
    with h5py.File(folder / "data.hdf5", "w") as file:
        file["1"] = data
    return folder / "data.hdf5#1"


@pytest.mark.parametrize("length", [1, LENGTH])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_reader_gives_hu_axes_and_says_what_it_assumes(tmp_path, dtype, length):
    data = make_hu(length)
    volume = read_hdf5(write_dataset(tmp_path, data.astype(dtype)))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, data.transpose(2, 1, 0))
    np.testing.assert_array_equal(volume.affine, np.diag([-1, -1, 1.25, 1]))
    assert (volume.report.axcodes, volume.report.spacing_mm, volume.report.slices) == ("LPS", (1, 1, 1.25), length)
    (warned,) = [check for check in volume.report.checks if check.outcome == "warned"]
    assert "the file states none; assumed: slices 1.25 mm apart, the first at the feet, pixels of 1 mm" in warned.detail


def test_reader_of_volumes_takes_an_entry(tmp_path):
    data = make_hu()
    reader = VolumeReader(modality="CT", axcodes="RAI")
    path = write_dataset(tmp_path, data)
    assert reader.verify_suffix(str(path))
    array, meta = reader.get_data(reader.read(path))
    np.testing.assert_array_equal(array, data.transpose(2, 1, 0)[::-1, ::-1, ::-1])
    assert json.loads(meta["volume_report"])["source"] == "HDF5"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            np.zeros((3, 4), np.int16),
            r"dimensions: expected numbers \(slices, rows, columns\), got int16 of shape \(3, 4\)",
        ),
        (np.zeros((3, 4, 0), np.int16), "dimensions: expected numbers"),
        (np.zeros((3, 4, 4), bool), "dimensions: expected numbers .* got bool"),
        (np.full((3, 4, 4), np.nan, np.float32), "values: NaN or infinite voxels"),
        (make_hu().astype(np.int32) + 1024, "HU range: no air"),
    ],
)
def test_reader_refuses(tmp_path, data, message):
    with pytest.raises(VolumeError, match=message):
        read_hdf5(write_dataset(tmp_path, data))


def test_reader_says_what_is_missing_or_damaged(tmp_path):
    path = write_dataset(tmp_path, make_hu())
    with pytest.raises(FileNotFoundError, match=r"data\.hdf5 has no data set '2'"):
        read_hdf5(tmp_path / "data.hdf5#2")
    with pytest.raises(FileNotFoundError):
        read_hdf5(tmp_path / "other.hdf5#1")
    (tmp_path / "data.hdf5").write_bytes(b"nothing of the kind")
    with pytest.raises(VolumeError, match=r"file: damaged, or not HDF5 \(OSError\)"):
        read_hdf5(path)


def test_links_out_of_the_file_are_not_followed(tmp_path):
    write_dataset(tmp_path, make_hu())
    with h5py.File(tmp_path / "links.hdf5", "w") as file:
        file["out"] = h5py.ExternalLink("data.hdf5", "1")
        file["group/1"] = make_hu()
    for key in ("out", "group"):
        assert dataset_length(tmp_path / f"links.hdf5#{key}") is None
        with pytest.raises(FileNotFoundError, match=f"has no data set '{key}'"):
            read_hdf5(tmp_path / f"links.hdf5#{key}")


def test_hash_tells_type_shape_and_values_apart(tmp_path):
    data = make_hu(70)
    digests = set()
    for number, each in enumerate((data, data.astype(np.int32), data.reshape(35, 12, 5), data + 1, data)):
        (tmp_path / str(number)).mkdir()
        digests.add(dataset_sha256(write_dataset(tmp_path / str(number), each)))
    assert len(digests) == 4
