import hashlib
import json
import shutil
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest

from ttl_monai.cli import main
from ttl_monai.deploy.fetch import BundleRefused, fetch_bundle
from ttl_monai.deploy.manifest import write_manifest


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def zipped(packed, tmp_path):
    def make():
        return shutil.make_archive(tmp_path / "sent", "zip", tmp_path, packed.name)

    return lambda: tmp_path / make()


def leftovers(tmp_path):
    return {each.name for each in tmp_path.iterdir()} - {"covid_ttl", "sent.zip"}


@pytest.mark.parametrize("as_url", [False, True])
def test_a_packed_bundle_arrives_whole(as_url, zipped, packed, tmp_path):
    source = zipped()
    out = fetch_bundle(source.as_uri() if as_url else str(source), tmp_path / "new/mine", sha256=digest(source).upper())
    assert out == tmp_path / "new/mine"
    files = sorted(each.relative_to(packed) for each in packed.rglob("*") if each.is_file())
    assert sorted(each.relative_to(out) for each in out.rglob("*") if each.is_file()) == files
    assert all((out / each).read_bytes() == (packed / each).read_bytes() for each in files)
    assert leftovers(tmp_path) == {"new"}
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("sha256", "message"),
    [("", "expected --sha256 with the 64 hex digits"), ("0" * 63, "expected --sha256"), ("0" * 64, "hash check of")],
)
def test_without_the_right_hash_nothing_is_unpacked(sha256, message, zipped, tmp_path, monkeypatch):
    monkeypatch.setattr("ttl_monai.deploy.fetch.unpack_bundle", lambda *args: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=message):
        fetch_bundle(str(zipped()), tmp_path / "new", sha256=sha256)
    assert not leftovers(tmp_path)


def test_a_bundle_with_findings_is_not_put_in_place(zipped, edit, packed, tmp_path, capsys):
    edit("configs/train.json", lambda config: config.update(device="$exit()"))
    write_manifest(packed)
    source = zipped()
    with pytest.raises(BundleRefused, match=r"configs/train\.json  device\n.*the expression '\$exit\(\)'"):
        fetch_bundle(str(source), tmp_path / "new", sha256=digest(source))
    assert not leftovers(tmp_path)
    assert main(["fetch", str(source), "--out", str(tmp_path / "new"), "--sha256", digest(source)]) == 2
    assert "(1 findings)" in capsys.readouterr().err


def test_what_exists_is_not_touched(zipped, packed):
    source = zipped()
    with pytest.raises(FileExistsError, match="name a folder that does not"):
        fetch_bundle(str(source), packed, sha256=digest(source))


@pytest.mark.parametrize("source", ["ftp://a.example/x.zip", "data:,x", "missing.zip", "a/b/c", "../x"])
def test_other_sources_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"expected a zip file, an address \(https, http, file\) or NAME or ORG/NAME"):
        fetch_bundle(source, tmp_path / "new", sha256="0" * 64)


@pytest.fixture
def hub(packed, monkeypatch):
    """The Hugging Face hub as MONAI's download sees it, with files of its own in the repository."""
    asked = []

    def snapshot_download(repo_id, revision, local_dir):
        asked.append((repo_id, revision))
        shutil.copytree(packed, local_dir)
        for name in (".gitattributes", "README.md", "evil.py"):
            Path(local_dir, name).write_text("x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_from_the_hub_comes_what_the_manifest_names(hub, packed, tmp_path):
    out = fetch_bundle("org/covid", tmp_path / "new", sha256=digest(packed / "MANIFEST.json"), version="0.1.0")
    assert hub == [("org/covid", "0.1.0")]
    assert {each.name for each in out.iterdir()} == {each.name for each in packed.iterdir()}


def test_a_name_alone_is_of_monai_and_another_manifest_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match=r"expected MANIFEST\.json of covid with sha256 0000"):
        fetch_bundle("covid", tmp_path / "new", sha256="0" * 64, version="1")
    assert hub == [("MONAI/covid", "1")]
    assert not leftovers(tmp_path)


def test_a_file_of_the_hub_that_differs_or_lacks_is_refused(hub, packed, tmp_path):
    sha256 = digest(packed / "MANIFEST.json")
    (packed / "LICENSE").write_text("other")
    (packed / "docs/data_license.txt").unlink()
    with pytest.raises(BundleRefused, match=r"docs/data_license\.txt\n  found   the file is missing(.|\n)*\nLICENSE"):
        fetch_bundle("org/covid", tmp_path / "new", sha256=sha256, version="1")


def test_a_bundle_of_the_hub_without_manifest_is_refused(hub, packed, tmp_path):
    (packed / "MANIFEST.json").unlink()
    with pytest.raises(ValueError, match=r"org/covid has no MANIFEST\.json"):
        fetch_bundle("org/covid", tmp_path / "new", sha256="0" * 64, version="1")


class FakeApi:
    sent: ClassVar[dict] = {}

    def __init__(self, token):
        assert token is None  # the stored one

    def create_repo(self, **options):
        self.sent["repo"] = options

    def upload_folder(self, repo_id, folder_path):
        self.sent["files"] = {
            each.relative_to(folder_path).as_posix() for each in Path(folder_path).rglob("*") if each.is_file()
        }
        return f"https://hub.example/{repo_id}"

    def create_tag(self, **options):
        self.sent["tag"] = options


def test_push_lists_first_and_sends_when_told(packed, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "sent", {})
    before = {each: each.read_bytes() for each in packed.rglob("*") if each.is_file()}
    command = ["push", str(packed), "--repo", "org/covid"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert FakeApi.sent == {}
    assert f"{digest(packed / 'models/model.pt')}  models/model.pt" in out
    assert "would be sent to org/covid; add --yes" in out
    assert f"ttl fetch org/covid --out DIR --sha256 {digest(packed / 'MANIFEST.json')}" in out
    assert main([*command, "--yes"]) == 0
    assert "https://hub.example/org/covid" in capsys.readouterr().out
    names = {each.relative_to(packed).as_posix() for each in before}
    assert FakeApi.sent["files"] == names | {"README.md"}  # MONAI's, for the hub
    assert FakeApi.sent["repo"] == {"repo_id": "org/covid", "private": True, "exist_ok": True}
    version = json.loads((packed / "configs/metadata.json").read_text())["version"]
    assert FakeApi.sent["tag"] == {"repo_id": "org/covid", "tag": version, "exist_ok": True}
    assert before == {each: each.read_bytes() for each in packed.rglob("*") if each.is_file()}


def test_what_is_not_clean_or_not_packed_is_not_sent(packed, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: pytest.fail("sent"))
    (packed / "LICENSE").write_text("other")
    assert main(["push", str(packed), "--repo", "org/covid", "--yes"]) == 2
    assert "nothing was sent (1 findings)" in capsys.readouterr().err
    for name in ("models", "ttl_monai_covid_0_1_0"):
        shutil.rmtree(packed / name)
    (packed / "MANIFEST.json").unlink()
    assert main(["push", str(packed), "--repo", "org/covid", "--yes"]) == 2
    assert "has no MANIFEST.json: send what ttl pack made" in capsys.readouterr().err
    assert main(["push", str(packed), "--repo", "covid"]) == 2
    assert "expected --repo ORG/NAME of Hugging Face, got 'covid'" in capsys.readouterr().err
