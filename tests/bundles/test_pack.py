"""Packed bundles: what the zoo asks, on all three, and their life on a machine without this package."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import safetensors.torch
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ttl_monai.cli import main
from ttl_monai.deploy.fetch import fetch_bundle
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.pack import pack_run
from ttl_monai.deploy.pack.code import find_modules
from ttl_monai.engines import build_network

from .conftest import BUNDLES, TINY_DATA
from .zoo import check_min, describe

NAMES = sorted(TINY_DATA)
SCHEMA = BUNDLES / "schema" / "meta_schema_20240725.json"
ZOO = Path(__file__).with_name("zoo.py")


@pytest.fixture
def run(pack_once, tmp_path):
    """A finished run of covid_ttl: a copy for this test alone."""
    return Path(shutil.copytree(pack_once("covid_ttl")[0], tmp_path / "run"))


@pytest.fixture
def packed(pack_once, tmp_path):
    """A packed bundle of it: a copy for this test alone."""
    return Path(shutil.copytree(pack_once("covid_ttl")[1].folder, tmp_path / "covid_ttl"))


def isolated(*arguments, python=sys.executable, cwd):
    """The checks of zoo.py in a process that cannot import this package."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-I", "-W", "ignore", str(ZOO), str(SCHEMA), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def expected_output(run, metadata):
    """The first values of what `zoo.describe` gives, by the network of the run in this process."""
    image = metadata["network_data_format"]["inputs"]["image"]
    noise = torch.rand(2, image["num_channels"], *image["spatial_shape"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return build_network(run)(noise).flatten()[:8]


def test_two_packed_bundles_live_in_one_process(pack_once, request):
    modules = []
    for name in ("covid_ttl", "ctpa_ttl"):
        run, done = pack_once(name)
        result = describe(done.folder, str(request.getfixturevalue(TINY_DATA[name]).parent))
        metadata = json.loads((done.folder / "configs/metadata.json").read_text())
        torch.testing.assert_close(torch.tensor(result["output"]), expected_output(run, metadata), atol=1e-5, rtol=0)
        assert Path(sys.modules[done.package].__file__).parent == done.folder / done.package
        modules.append(result["module"])
    assert modules == [f"{pack_once(name)[1].package}.networks.classifier" for name in ("covid_ttl", "ctpa_ttl")]
    assert len(set(modules)) == 2


@pytest.mark.slow
def test_all_bundles_pass_the_zoo_and_live_in_one_process_without_this_package(pack_once, request, tmp_path):
    arguments, runs = [], []
    for name in NAMES:
        run, done = pack_once(name)
        runs.append(run)
        folder, listed = shutil.copytree(done.folder, tmp_path / "B" / name), request.getfixturevalue(TINY_DATA[name])
        arguments += [folder, listed.parent, listed]
    (tmp_path / "third").mkdir()
    results = isolated(*arguments, cwd=tmp_path / "third")
    assert not list((tmp_path / "third").iterdir())
    for name, run, result, folder in zip(NAMES, runs, results, arguments[::3], strict=True):
        metadata = json.loads((folder / "configs/metadata.json").read_text())
        torch.testing.assert_close(torch.tensor(result["output"]), expected_output(run, metadata), atol=1e-5, rtol=0)
        assert result["module"].startswith(f"ttl_monai_{name}_1_2_3_")
        assert not list(folder.rglob("*.pyc")), "no MANIFEST names them"
        # It went on from the packed weights, and evaluated the packed network.
        record = json.loads((folder / "eval/ttl/run.json").read_text())
        assert record["weights"]["source"] == "model.pt"
        assert record["weights"]["reinitialised"] == 0
        evaluated = json.loads((folder / "eval/test/metrics.json").read_text())
        assert evaluated["model_sha256"] == json.loads((run / "model.json").read_text())["sha256"]
    assert len({result["module"] for result in results}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_packed_bundles_pass_what_the_zoo_asks_of_files(name, pack_once):
    check_min(pack_once(name)[1].folder, SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_source_bundles_pass_what_the_zoo_asks_of_their_files(name):
    check_min(BUNDLES / name, SCHEMA, packed=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_bundle_has_no_findings_and_what_it_needs(name, pack_once):
    run, done = pack_once(name)
    assert lint_bundle(done.folder) == []
    spec, metadata = (
        json.loads((done.folder / path).read_text()) for path in ("models/model.json", "configs/metadata.json")
    )
    trained = torch.load(run / "model.pt", weights_only=True)
    tensors = safetensors.torch.load_file(done.folder / "models/model.safetensors")
    assert all(torch.equal(tensors[key], trained[key]) for key in trained)
    assert tensors.keys() == trained.keys()
    assert metadata["changelog"]["1.2.3"].startswith("TTL of ")
    image, pred = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
    size = spec["spatial_size"]
    assert image["image"]["spatial_shape"] == (size if isinstance(size, list) else [size, size])
    assert list(pred["pred"]["channel_def"].values()) == spec["class_names"]
    assert {"pytorch-ignite", "timm", "fire"} <= set(metadata["required_packages_version"])
    assert metadata["eval_metrics"]


@pytest.mark.parametrize("name", NAMES)
def test_no_place_of_the_author_is_in_a_packed_bundle(name, pack_once, request):
    run, done = pack_once(name)
    data = request.getfixturevalue(TINY_DATA[name]).parent
    places = [BUNDLES.parent, Path(torch.__file__).parents[1], run, data, done.folder]
    for path in filter(Path.is_file, done.folder.rglob("*")):
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += map(archive.read, archive.namelist())
        for content in contents:
            assert not [place for place in places if str(place).encode() in content], path.name


def test_only_the_code_that_configs_need_is_carried(pack_once):
    _, done = pack_once("covid_ttl")
    code = {
        path.relative_to(done.folder / done.package).parts[0] for path in (done.folder / done.package).rglob("*.py")
    }
    assert code == {"__init__.py", "analysis", "data", "engines", "files.py", "handlers", "networks", "reports"}
    assert not [
        name for name in find_modules() if name.startswith(("ttl_monai.engines.search", "ttl_monai.reports.page"))
    ]


def test_the_figures_of_the_card_are_those_of_the_run(pack_once):
    run, done = pack_once("covid_ttl")
    metrics, record = (json.loads((run / name).read_text()) for name in ("test/metrics.json", "run.json"))
    card = (done.folder / "docs/README.md").read_text()
    low, high = metrics["test_auroc_interval"]
    assert f"| test_auroc | {metrics['test_auroc']:.4f} | {low:.4f} to {high:.4f} |" in card
    assert f"| parameters | {record['params']:,} |" in card
    assert "cut after blocks.1" in card
    headings = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    template = ["Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance", "System Configuration"]
    assert headings[:8] == [*template, "Limitations"]
    pictures = {path.name for path in (done.folder / "docs").glob("*.png")}
    assert pictures == {"curves.png", "roc_pr.png"}
    assert all(f"({name})" in card for name in pictures)
    metadata = json.loads((done.folder / "configs/metadata.json").read_text())
    assert metadata["eval_metrics"]["test_auroc"] == round(metrics["test_auroc"], 4)
    assert "was not evaluated" in (pack_once("unet_ttl")[1].folder / "docs/README.md").read_text()


@pytest.mark.parametrize("file", ["models/model.ts", "configs/train.json", "docs/README.md", "code"])
def test_a_deleted_byte_is_found(file, packed):
    path = packed / file if file != "code" else next(packed.glob("ttl_monai_*/engines/runs.py"))
    path.write_bytes(path.read_bytes()[:-1])
    assert path.relative_to(packed).as_posix() in {each.file for each in lint_bundle(packed)}


def test_the_zip_file_is_fetched_and_the_same_bundle(pack_once, tmp_path):
    _, done = pack_once("covid_ttl")
    digest = hashlib.sha256(done.archive.read_bytes()).hexdigest()
    out = fetch_bundle(done.archive.as_uri(), tmp_path / "fetched", sha256=digest)
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(done.folder): path.read_bytes() for path in done.folder.rglob("*") if path.is_file()
    }


def edit(name, **changes):
    """Change entries of a JSON file of a run; `...` removes one."""

    def change(run):
        content = json.loads((run / name).read_text()) | changes
        (run / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def remove(name):
    return lambda run: (run / name).unlink()


SPOILT = {
    "no run": (lambda run: shutil.rmtree(run), r"expected the folder of a training, found no run\.json"),
    "running": (
        edit("run.json", status="running"),
        r"expected a finished run in .*, found one that is 'running'.*--resume",
    ),
    "no model": (remove("model.json"), r"expected a run with a best model .*, found no model\.json"),
    "no weights": (remove("model.pt"), r"expected model\.pt in .*, found none"),
    "other weights": (lambda run: shutil.copyfile(run / "last.pt", run / "model.pt"), "its SHA-256 differs"),
    "older model.json": (
        edit("model.json", make_demo=..., pooling=...),
        r"older version: model\.json lacks make_demo, pool",
    ),
    "older run.json": (edit("run.json", weights=...), r"older version: run\.json lacks weights.*Train it anew"),
    "broken run.json": (lambda run: (run / "run.json").write_text("{"), r"run\.json is no JSON file"),
    "a list": (lambda run: (run / "run.json").write_text("[]"), "expected a JSON object in .*found a list"),
    "of another model": (edit("test/metrics.json", model_sha256="0"), "is of another model .*: evaluate the run again"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_run_that_cannot_be_packed_leaves_nothing(spoil, message, run, tmp_path):
    spoil(run)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        pack_run(run, tmp_path / "new" / "mine", bundle=BUNDLES / "covid_ttl")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bundle": None}, "lies in no bundle: say by --bundle DIR"),
        (
            {"bundle": BUNDLES / "unet_ttl"},
            r"its network is ttl_monai\.networks\.TransferClassifier, that of the bundle",
        ),
        ({"bundle": BUNDLES}, r"found no configs/train\.json"),
        ({"version": "1.2"}, "expected --version as three numbers, such as 0.1.0, got '1.2'"),
        ({"url": "http://x.org"}, "expected --url with an address of https, got 'http://x.org'"),
        ({"exports": ("trt",)}, "expected exports of torchscript, onnx, got trt"),
        ({"out": "a b"}, "expected --out with a name of ASCII letters"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options_leave_nothing(options, message, run, tmp_path):
    settings = {"bundle": BUNDLES / "covid_ttl", "exports": (), **options}
    with pytest.raises(ValueError, match=message):
        pack_run(run, tmp_path / settings.pop("out", "mine"), **settings)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("there", ["folder", "zip"])
def test_nothing_is_overwritten(there, run, tmp_path):
    path = tmp_path / ("mine" if there == "folder" else "mine.zip")
    if there == "folder":
        path.mkdir()
        path /= "notes.txt"
    path.write_text("keep")
    with pytest.raises(FileExistsError, match="exists"):
        pack_run(run, tmp_path / "mine", bundle=BUNDLES / "covid_ttl")
    assert path.read_text() == "keep"


def test_what_is_not_on_the_allow_list_is_not_packed(run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    record["config"]["lr_scheduler"] = {"_target_": "os.system", "command": "true"}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"(?s)lr_scheduler#_target_\n.*'os\.system'.*nothing was written"):
        pack_run(run, tmp_path / "mine", bundle=BUNDLES / "covid_ttl", exports=())
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_the_command_prints_what_it_wrote(run, tmp_path, capsys):
    arguments = ["pack", run, "--bundle", BUNDLES / "covid_ttl", "--out", tmp_path / "mine", "--changelog", "First"]
    assert main([str(each) for each in arguments]) == 0
    printed = capsys.readouterr().out
    for name in ("models/model.onnx", "models/model.ts", "models/model.safetensors", "MANIFEST.json", "no findings"):
        assert name in printed
    assert hashlib.sha256((tmp_path / "mine.zip").read_bytes()).hexdigest() in printed
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "mine/models/model.onnx")
    metadata = json.loads((tmp_path / "mine/configs/metadata.json").read_text())
    assert metadata["changelog"][metadata["version"]] == "First"
    noise = torch.rand(5, *session.get_inputs()[0].shape[1:])
    with torch.no_grad():
        expected = build_network(run)(noise)
    found = torch.from_numpy(session.run(None, {"image": noise.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def link_packages(names, site):
    """Link the distributions that are installed here, and what they require, into another site-packages."""
    waiting, seen = [Requirement(name) for name in names], set()
    while waiting:
        wanted = waiting.pop()
        for extra in {"", *wanted.extras}:
            if (key := (canonicalize_name(wanted.name), extra)) in seen:
                continue
            seen.add(key)
            installed = distribution(wanted.name)
            for top in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
                if not top.endswith(".pth") and not (site / top).exists():  # a folder may be of several: nvidia
                    (site / top).symlink_to(installed.locate_file(top))
            needs = map(Requirement, installed.requires or ())
            waiting += [each for each in needs if not each.marker or each.marker.evaluate({"extra": extra})]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_of_monai_with_nothing_but_what_the_metadata_names(name, pack_once, request, tmp_path):
    venv, here, listed = tmp_path / "venv", Path(json.__file__).parent, request.getfixturevalue(TINY_DATA[name])
    packed = Path(shutil.copytree(pack_once(name)[1].folder, tmp_path / name))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    metadata = json.loads((packed / "configs/metadata.json").read_text())
    names = ["monai", "torch", "numpy", *metadata["required_packages_version"]]
    link_packages(names, venv / "lib" / here.parent.name / "site-packages")
    python = venv / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    for other in ("ttl_monai", "pytest"):  # the second stands for what only developers have
        nothing = subprocess.run([python, "-c", f"import {other}"], cwd=tmp_path, env=environment, capture_output=True)
        assert f"No module named '{other}'".encode() in nothing.stderr
    third, data = tmp_path / "third", ["--dataset_dir", listed.parent]
    third.mkdir()
    train, evaluate = (str(packed / "configs" / f"{each}.json") for each in ("train", "evaluate"))
    for cwd, config, settings, written in (
        (packed, "configs/inference.json", [], "*"),
        (third, train, ["--datalist", listed, "--max_epochs", "1"], "run.json"),
        (third, str([train, evaluate]), ["--datalist", listed], "metrics.json"),
    ):
        output = tmp_path / "out" / f"{Path(config).stem}-{cwd.name}"
        command = [python, "-m", "monai.bundle", "run", "--config_file", config, *data, *settings]
        command += ["--output_dir", output]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert any(path.is_file() for path in output.rglob(written))
    assert not list(third.iterdir())
