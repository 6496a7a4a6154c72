import hashlib
import json

import pytest

from ttl_monai.deploy.manifest import (
    MANIFEST,
    is_plain_path,
    list_files,
    read_manifest,
    verify_manifest,
    write_manifest,
)


def test_manifest_names_every_file_with_its_hash_sorted(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c.txt").write_bytes(b"c" * 3_000_000)  # more than one piece
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "Z.txt").write_bytes(b"z")
    path = write_manifest(tmp_path)
    expected = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("Z.txt", "a.txt", "b/c.txt")
    }
    assert json.loads(path.read_text()) == {"sha256": expected}
    assert list(read_manifest(tmp_path)) == ["Z.txt", "a.txt", "b/c.txt"]
    before = path.read_bytes()
    assert write_manifest(tmp_path).read_bytes() == before  # it does not name itself


def test_a_folder_with_links_gets_no_manifest(tmp_path):
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(ValueError, match="expected files and folders, found a link at link; put the file itself there"):
        write_manifest(tmp_path)
    assert not (tmp_path / "MANIFEST.json").exists()


def test_names_that_differ_by_case_alone_are_found(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "A.txt").touch()
    files, findings = list_files(tmp_path)
    assert (files, [each.file for each in findings]) == (["A.txt"], ["a.txt"])


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": {"../a": "%s"}}' % ("0" * 64), '{"sha256": {"a": "0"}}'])
def test_bad_manifest_is_refused(content, tmp_path):
    (tmp_path / "MANIFEST.json").write_text(content)
    with pytest.raises(ValueError, match=r"MANIFEST\.json: expected"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        *(("a", True), ("configs/train.json", True), ("a_b/c-d+e.tar.gz", True), ("__init__.py", True)),
        *(("", False), ("/a", False), ("a/", False), ("a//b", False), ("..", False), ("a/../b", False), (".a", False)),
        *(("C:a", False), ("a\\b", False), ("a b", False), ("ä", False), ("a\n", False), ("a\0", False), ("~", False)),
    ],
)
def test_plain_paths(path, plain):
    assert is_plain_path(path) is plain


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("extra.txt", "remove it"),
        ("eval/predictions.csv", "a result: move it elsewhere, and pass --output_dir and --cache_dir from now on"),
    ],
)
def test_a_file_that_was_not_packed_is_found(name, remedy, tmp_path):
    (tmp_path / "a.txt").touch()
    write_manifest(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (found,) = verify_manifest(tmp_path, [file for file in list_files(tmp_path)[0] if file != MANIFEST])
    assert (found.file, found.found, found.remedy) == (name, "a file that MANIFEST.json does not name", remedy)
