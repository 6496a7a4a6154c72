import stat
import zipfile

import pytest

from ttl_monai.deploy import unpack
from ttl_monai.deploy.unpack import unpack_bundle


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def member(name, *, mode=0, compression=zipfile.ZIP_STORED):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = compression
    return info


def test_files_come_out_as_they_went_in(tmp_path):
    source = archive(tmp_path / "a.zip", [("b/", ""), ("b/c/d.txt", "text"), ("b/e", b"\0" * 1000)])
    (tmp_path / "out").mkdir()
    assert unpack_bundle(source, tmp_path / "out") == tmp_path / "out/b"
    assert (tmp_path / "out/b/c/d.txt").read_text() == "text"
    assert (tmp_path / "out/b/e").read_bytes() == b"\0" * 1000


HOSTILE = {
    "absolute": ([("/etc/x", "")], "'/etc/x' is a path"),
    "way out": ([("b/../../x", "")], "is a path"),
    "backslash": ([("b\\..\\x", "")], "is a path"),
    "drive": ([("C:/x", "")], "is a path"),
    "hidden": ([("b/.git/hooks", "")], "is a path"),
    "no folder": ([("train.json", "")], "is a path"),
    "link": ([(member("b/x", mode=stat.S_IFLNK | 0o777), "/etc/passwd")], "'b/x' is a link or special file"),
    "device": ([(member("b/x", mode=stat.S_IFCHR), "")], "is a link or special file"),
    "linked folder": ([(member("b/x/", mode=stat.S_IFLNK), "")], "is a link or special file"),
    "other case": ([("b/x", ""), ("b/X", "")], "'b/X' is a second file of this name"),
    "compression": ([(member("b/x", compression=zipfile.ZIP_LZMA), "")], "is compression 14"),
    "bomb": ([(member("b/x", compression=zipfile.ZIP_DEFLATED), b"\0" * 2**22)], "bytes that inflate to 4,194,304"),
    "two folders": ([("a/x", ""), ("b/x", "")], "all files in one folder, the bundle, found 2"),
    "empty": ([], "1 to 20 files, found 0"),
    "many": ([(f"b/{number}", "") for number in range(20)], "1 to 20 files, found 21"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "COUNT_LIMIT", 20)
    members, message = HOSTILE[name]
    source = archive(tmp_path / "a.zip", [("b/first", "x"), *members] if members else [])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=message):
        unpack_bundle(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_encrypted_and_overlapping_members_are_refused(tmp_path):
    source = archive(tmp_path / "a.zip", [("b/x", "1"), ("b/x", "2")])
    with pytest.raises(ValueError, match="a second file of this name"):
        unpack_bundle(source, tmp_path)
    data = bytearray(archive(source, [("b/x", "1")]).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the central directory
    source.write_bytes(data)
    with pytest.raises(ValueError, match="an encrypted file"):
        unpack_bundle(source, tmp_path)
    # A quine of sizes: many entries that share one stretch of compressed data.
    names = [f"b/{number}" for number in range(9)]
    data = bytearray(archive(source, [(name, b"x" * 1000 if name == "b/0" else b"") for name in names]).read_bytes())
    at = data.index(b"PK\x01\x02")
    for _ in names:
        data[at + 20 : at + 28] = (1000).to_bytes(4, "little") * 2  # both sizes
        at = data.find(b"PK\x01\x02", at + 4)
    source.write_bytes(data)
    with pytest.raises(ValueError, match="its members overlap"):
        unpack_bundle(source, tmp_path)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-10], lambda data: data.replace(b"text", b"tixt"), lambda data: b""]
)
def test_broken_archive_is_told(spoil, tmp_path):
    source = archive(tmp_path / "a.zip", [("b/x", "text")])
    source.write_bytes(spoil(source.read_bytes()))
    with pytest.raises(ValueError, match="found a broken one"):
        unpack_bundle(source, tmp_path)
