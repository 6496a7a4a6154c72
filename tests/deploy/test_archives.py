import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ttl_monai.deploy.archives import check_model_file
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.manifest import write_manifest


class Evil:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def found(path):
    return [each.found for each in check_model_file(path, path.name)]


def save(content, path, **options):
    torch.save(content, path, **options)
    return path


def rewritten(path, change):
    """The archive with its members passed through `change(list of (name, data))`."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members):
            archive.writestr(name, data)
    return path


DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def test_tensors_of_every_kind_pass(tmp_path):
    state = {name: torch.zeros(2, dtype=getattr(torch, name)) for name in DTYPES}
    nested = {"state": state, "epoch": 3, "rest": [1.5, None, "a", (True,)]}
    nested["parameter"] = torch.nn.Parameter(torch.zeros(2))
    path = save(nested, tmp_path / "model.pt")
    assert found(path) == []
    # The same verdict as torch's own disassembler.
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []


def test_safetensors_pass_and_broken_ones_do_not(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(3)}, path)
    assert found(path) == []
    path.write_bytes(path.read_bytes()[:-1])
    assert "no safetensors file" in found(path)[0]


def test_a_global_that_runs_is_found_without_running(tmp_path):
    path = save({"a": Evil()}, tmp_path / "model.pt")
    assert found(path) == ["GLOBAL '__builtin__ eval'"]
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == ["builtins.eval"]


def test_a_whole_module_is_found(tmp_path):
    assert "GLOBAL 'torch.nn.modules.linear Linear'" in found(save(torch.nn.Linear(1, 1), tmp_path / "model.pt"))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_hide_nothing(tmp_path, protocol):
    path = rewritten(
        save({}, tmp_path / "model.pt"),
        lambda members: [(n, pickle.dumps(Evil(), protocol) if n.endswith(".pkl") else d) for n, d in members],
    )
    assert found(path)


HOSTILE = {
    "legacy pickle": (lambda path: path.write_bytes(pickle.dumps({}, 2)), "no zip archive"),
    "legacy torch": (lambda path: save({}, path, _use_new_zipfile_serialization=False), "no zip archive"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "a broken zip archive"),
    "chained": (lambda path: path.write_bytes(path.read_bytes() * 2), "two ways"),
    "script": (lambda path: rewritten(path, lambda m: [*m, ("model/code/x.py", b"")]), "the member 'model/code/x.py'"),
    "way out": (lambda path: rewritten(path, lambda m: [*m, ("model/../x", b"")]), "the member 'model/../x'"),
    "zip within": (
        lambda path: rewritten(path, lambda m: [*m, ("model/more.zip", b"PK")]),
        "the member 'model/more.zip'",
    ),
    "two folders": (lambda path: rewritten(path, lambda m: [*m, ("other/version", b"3")]), "several folders"),
    "broken pickle": (
        lambda path: rewritten(path, lambda m: [(n, d[:-9] if n.endswith("pkl") else d) for n, d in m]),
        "a broken pickle",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_found(name, tmp_path):
    spoil, expected = HOSTILE[name]
    path = save({"a": torch.zeros(3)}, tmp_path / "model.pt")
    spoil(path)
    assert expected in found(path)[0]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice_is_found(tmp_path):
    evil = pickle.dumps(Evil(), 2)
    path = rewritten(save({}, tmp_path / "model.pt"), lambda members: [*members, ("model/data.pkl", evil)])
    assert any("two ways" in each for each in found(path))


def test_a_comment_that_may_hide_an_archive_is_found(tmp_path):
    path = save({}, tmp_path / "model.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK"
    assert any("two ways" in each for each in found(path))


@pytest.mark.parametrize("data", [pickle.dumps({}, 2), pickle.dumps([1], 4), pickle.dumps("a", 5), b"PK\x03\x04"])
def test_pickles_and_archives_under_another_name_are_found(data, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    assert found(path) == ["an archive or a pickle"]


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x).relu()


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "model.ts"
    torch.jit.save(torch.jit.script(Small()), path, _extra_files={"inference.json": b'{"device": "cpu"}'})
    return path


def test_torchscript_passes_with_its_configs(script, packed):
    (packed / "models/model.ts").write_bytes(script.read_bytes())
    write_manifest(packed)
    assert lint_bundle(packed) == []


def test_expression_in_the_config_of_torchscript_is_found(script, packed):
    path = packed / "models/model.ts"
    path.write_bytes(script.read_bytes())
    rewritten(path, lambda members: [(n, d.replace(b'"cpu"', b'"$exit()"')) for n, d in members])
    write_manifest(packed)
    [finding] = lint_bundle(packed)
    assert finding.file.startswith("models/model.ts/")
    assert finding.file.endswith("extra/inference.json")
    assert finding.place == "device"


class Writer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "canary.bin")
        return x


class Mapper(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("canary.bin", True, 4).fill_(1)


@pytest.mark.parametrize(("module", "calls"), [(Writer, "torch.'save'"), (Mapper, "torch.'from_file'")])
def test_torchscript_that_touches_files_is_found_without_running(module, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(module()), "model.ts")
    assert calls in found(tmp_path / "model.ts")
    assert not (tmp_path / "canary.bin").exists()


def test_a_class_of_a_library_in_torchscript_is_found(script, tmp_path):
    data = b"\x80\x02c__torch__.torch.classes.io\nFile\n."
    path = tmp_path / "model.ts"
    path.write_bytes(script.read_bytes())
    rewritten(path, lambda members: [(n, data if n.endswith("data.pkl") else d) for n, d in members])
    assert found(path) == ["GLOBAL '__torch__.torch.classes.io File'"]


def test_torchscript_under_the_name_of_weights_is_found(script, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(script.read_bytes())
    assert any("/code/__torch__" in each for each in found(path))


def test_exported_program_is_refused(packed):
    (packed / "models/model.pt2").write_bytes(b"PK")
    write_manifest(packed)
    [finding] = lint_bundle(packed)
    assert finding.found == "the file 'model.pt2'"
