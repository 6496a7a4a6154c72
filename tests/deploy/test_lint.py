import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from ttl_monai.cli import main
from ttl_monai.deploy.allowed import collect_allowed, load_allowed
from ttl_monai.deploy.findings import findings_table
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.manifest import FILE_LIMIT, MADE_BY_USE, write_manifest

REPO = Path(__file__).resolve().parents[2]
TRAIN = "configs/train.json"
EVIL = "$__import__('os').system('true')"


def texts(bundle):
    return [f"{each.file} {each.place}: {each.found}" for each in lint_bundle(bundle)]


@pytest.mark.parametrize("name", ["covid_ttl", "ctpa_ttl", "unet_ttl"])
def test_our_bundles_pass(name, tmp_path):
    # Part by part: what runs leave in the folder is not committed and not part of the bundle.
    for part in ("configs", "docs"):
        shutil.copytree(REPO / "bundles" / name / part, tmp_path / name / part)
    for part in ("LICENSE", "large_files.yml"):
        shutil.copyfile(REPO / "bundles" / name / part, tmp_path / name / part)
    assert texts(tmp_path / name) == []


def test_the_allow_list_is_what_our_bundles_say():
    assert asdict(collect_allowed(REPO / "bundles")) == asdict(load_allowed()), (
        "look at the difference; where it is meant: python -m ttl_monai.deploy.allowed bundles"
    )


def test_lint_needs_neither_torch_nor_monai():
    # What checks a bundle before anything is executed is quick, and has little in it that could execute.
    code = "import sys, ttl_monai.cli.lint; print({'torch', 'monai'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert run.stdout.strip() == "set()"


# What is put into train.json at an id, and where the finding must be.
HOSTILE = {
    "expression": ({"x": EVIL}, "x"),
    "expression for an allowed id": ({"device": EVIL}, "device"),
    "expression in a description": ({"demo": {"_desc_": EVIL}}, "demo#_desc_"),
    "allowed expression with one more call": ({"device": "$torch.device('cpu') or exit()"}, "device"),
    "nested in lists": ({"run": [[{"a": [[EVIL]]}]]}, "run#0#0#a#0#0"),
    "escaped dollar": ('{"device": "\\u0024exit()"}', "device"),
    "blank before": ({"device": " $exit()"}, "device"),
    "full-width dollar": ({"device": "\uff04exit()"}, "device"),
    "hidden character": ({"device": "\u200b$exit()"}, "device"),
    "text that turns around": ({"device": "a\u202eb"}, "device"),
    "terminal escape": ({"device": "\x1b[2J"}, "device"),
    "other module under our alias": ({"imports": ["$import evil as engines"]}, "imports#0"),
    "target": ({"network_def": {"_target_": "os.system", "command": "true"}}, "network_def#_target_"),
    "target in a list": ({"train": {"handlers": [{"_target_": "subprocess.run"}]}}, "train#handlers#0#_target_"),
    "target by expression": ({"loss": {"_target_": "$@a"}}, "loss#_target_"),
    "target that is no string": ({"loss": {"_target_": {"_target_": "Compose"}}}, "loss#_target_"),
    "target by an overlay's id": ({"train#trainer#_target_": "os.system"}, "train#trainer#_target_"),
    "target by an id with ::": ({"loss::_target_": "os.system"}, "loss::_target_"),
    "target by a merging id": ({"+loss#_target_": "os.system"}, "+loss#_target_"),
    "full-width key": ({"loss": {"\uff3ftarget_": "Compose"}}, "loss#\uff3ftarget_"),
    "relative target": ({"loss": {"_target_": "ttl_monai.networks.ClassificationLoss.x"}}, "loss#_target_"),
    "debugger": ({"loss": {"_target_": "ttl_monai.networks.MaskLoss", "_mode_": "debug"}}, "loss#_mode_"),
    # MONAI's LoadImage calls whatever `reader` names, with the arguments that it does not know itself.
    "reader": ({"demo": {"_target_": "LoadImaged", "keys": "image", "reader": "subprocess.run"}}, "demo#reader"),
    "reader by an overlay": ({"train#preprocessing#transforms#0#reader": "subprocess.run"}, "#transforms#0#reader"),
    "argument": ({"demo": {"_target_": "LoadImaged", "keys": "image", "shell": True}}, "demo#shell"),
    "macro of another file": ({"loss": "%/tmp/other.json#loss"}, "loss"),
    "overlay of what no overlay changes": ({"train#trainer": None}, "train#trainer"),
    "unknown key": ({"surprise": 1}, "surprise"),
    "id within an id": ({"demo": {"a#b": 1}}, "demo#a#b"),
    "absolute path": ({"dataset_dir": "/data/patients"}, "dataset_dir"),
    "home": ({"dataset_dir": "~/patients"}, "dataset_dir"),
    "drive": ({"dataset_dir": "C:\\patients"}, "dataset_dir"),
    "address": ({"storage": "postgresql://host/db"}, "storage"),
    "way out": ({"output_dir": "eval/../../x"}, "output_dir"),
    "deep": ("[" * 100_000, ""),
    "rather deep": ({"demo": json.loads("[" * 60 + "]" * 60)}, "demo#0#0"),
    "key twice": ('{"run": ["$@evaluator.run()"], "run": []}', ""),
    "byte order mark": ("\ufeff{}", ""),
    "UTF-16": ("{}".encode("utf-16"), ""),
    "no JSON": ("{", ""),
    "a list": ("[]", ""),
    "a number that takes an hour": ("1" * 100_000, ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_config_is_found_where_it_is(name, bundle, edit):
    content, place = HOSTILE[name]
    edit(TRAIN, content if isinstance(content, (str, bytes)) else lambda config: config.update(content))
    findings = [each for each in lint_bundle(bundle) if each.file == TRAIN]
    assert [each for each in findings if place in each.place], findings
    assert all(each.found and each.allowed and each.remedy for each in findings)
    assert findings_table(findings).replace("\n", "").isprintable()


def test_an_overlay_cannot_replace_an_allowed_id(bundle):
    (bundle / "configs/strategy_new.json").write_text(
        json.dumps({"network": EVIL, "network_def#truncate_at": "layer1"})
    )
    [finding] = lint_bundle(bundle)
    assert (finding.file, finding.place) == ("configs/strategy_new.json", "network")


def test_an_honest_slip_is_told_the_nearest(bundle, edit):
    edit(TRAIN, lambda config: config.update(device="$torch.device('cuda:1' if torch.cuda.is_available() else 'cpu')"))
    [finding] = lint_bundle(bundle)
    assert "the nearest is \"$torch.device('cuda:0' if" in finding.allowed


def test_settings_may_change(bundle, edit):
    edit(TRAIN, lambda config: config.update(num_workers=3, dataset_dir="data/mine", strategy="$5 a day"[1:]))
    edit("configs/strategy_ttl.json", lambda config: config.update({"network_def#truncate_at": "blocks.2.1"}))
    assert texts(bundle) == []


LARGE = "large_files:\n- {{path: {path}, url: '{url}', hash_type: {kind}, hash_val: '{digest}'}}\n"
YAML = {
    "alias": "a: &a [x]\nb: *a\n",
    "tag": "a: !!python/object/apply:os.system ['true']\n",
    "twice": "large_files: []\nlarge_files: []\n",
    "no list": "large_files: 3\n",
    "no hash": "large_files:\n- path: models/model.pt\n  url: https://a.example/model.pt\n",
    "way out": LARGE.format(path="../m.pt", url="https://a", kind="sha256", digest="0" * 64),
    "file address": LARGE.format(path="models/m.pt", url="file:///m", kind="sha256", digest="0" * 64),
    "md5": LARGE.format(path="models/m.pt", url="https://a", kind="md5", digest="0" * 32),
}


@pytest.mark.parametrize("name", YAML)
def test_hostile_yaml_is_found(name, bundle, edit):
    edit("large_files.yml", YAML[name])
    assert [each for each in lint_bundle(bundle) if each.file == "large_files.yml"]


def test_a_config_in_yaml_is_held_to_the_same(bundle):
    (bundle / "configs/overlay.yaml").write_text(yaml.safe_dump({"strategy": "X", "device": EVIL}))
    [finding] = lint_bundle(bundle)
    assert finding.place == "device"


def test_expressions_in_metadata_and_records_are_found(bundle, edit):
    edit("configs/metadata.json", lambda content: content.update(description=EVIL, mine=1))
    (bundle / "docs/results.json").write_text(json.dumps({"a": [EVIL]}))
    assert [each.split(":")[0] for each in texts(bundle)] == [
        "configs/metadata.json mine",
        "configs/metadata.json description",
        "docs/results.json a#0",
    ]


def test_logging_conf_is_ours(bundle, edit):
    text = (bundle / "configs/logging.conf").read_text()
    edit("configs/logging.conf", text.replace("args=(sys.stdout,)", "args=(__import__('os').system('true'),)"))
    [finding] = lint_bundle(bundle)
    assert finding.file == "configs/logging.conf"
    edit("configs/logging.conf", text.replace("\n", "\r\n"))
    assert texts(bundle) == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "run.sh",
            "configs/setup.py",
            "docs/weights.pkl",
            "docs/index.html",
            "configs/other.conf",
            "scripts/train.py",
        ),
        *(".hidden", "docs/a b.md", "docs/\u202etxt.md", "Configs/train.json", "license"),
    ],
)
def test_file_that_a_bundle_does_not_hold_is_found(name, bundle):
    path = bundle / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    assert [each for each in texts(bundle) if each.startswith(name.split("/")[0]) or name in each]


def test_a_folder_that_runs_leave_is_one_finding(bundle):
    (bundle / "eval/ftl").mkdir(parents=True)
    for name in ("run.json", "model.pt", "last.pt"):
        (bundle / "eval/ftl" / name).write_text("x")
    assert texts(bundle) == ["eval : the folder 'eval'"]


@pytest.mark.parametrize("target", ["/etc/passwd", "train.json", "missing"])
def test_links_are_found_and_not_followed(target, bundle):
    (bundle / "configs/link.json").symlink_to(target)
    (bundle / "more").symlink_to("/")
    assert sorted(texts(bundle)) == ["configs/link.json : a link", "more : a link"]


def test_pipe_is_found_and_not_opened(bundle):
    os.mkfifo(bundle / "docs/pipe.json")
    assert texts(bundle) == ["docs/pipe.json : a special file"]


def test_huge_files_are_found_and_not_read(bundle):
    for name, size in (("docs/huge.json", 2**24 + 1), ("docs/more.png", FILE_LIMIT + 1)):
        with (bundle / name).open("wb") as file:
            file.truncate(size)  # sparse
    assert [each.split(":")[0] for each in texts(bundle)] == ["docs/more.png ", "docs/huge.json "]


def test_findings_of_one_file_are_bounded(bundle, edit):
    edit(TRAIN, json.dumps({"run": [EVIL] * 200}))
    assert len(lint_bundle(bundle)) == 100


def test_packed_bundle_passes(packed):
    assert texts(packed) == []


def test_the_bundles_own_copy_of_our_code_may_be_named(packed, edit):
    text = (packed / TRAIN).read_text().replace("ttl_monai.", "ttl_monai_covid_0_1_0.")
    edit(TRAIN, text)
    write_manifest(packed)
    assert texts(packed) == []
    edit(TRAIN, text.replace("ttl_monai_covid_0_1_0.", "ttl_monai_other."))
    write_manifest(packed)
    assert "import ttl_monai_other.engines" in "".join(texts(packed))


def _cut(packed):
    data = (packed / "models/model.pt").read_bytes()
    (packed / "models/model.pt").write_bytes(data[:-1])


def _flip(packed):
    path = packed / "ttl_monai_covid_0_1_0/__init__.py"
    path.write_text(path.read_text().replace("Our", "our"))


PACKED = {
    "deleted byte": (_cut, "models/model.pt : sha256"),
    "changed code": (_flip, "ttl_monai_covid_0_1_0/__init__.py : sha256"),
    "extra file": (
        lambda at: (at / "docs/more.md").write_text("x"),
        "docs/more.md : a file that MANIFEST.json does not",
    ),
    "extra code": (lambda at: (at / "ttl_monai_covid_0_1_0/x.py").write_text(""), "x.py : a file that MANIFEST.json"),
    "missing file": (lambda at: (at / "LICENSE").unlink(), "LICENSE : the file is missing"),
    "no MANIFEST": (lambda at: (at / "MANIFEST.json").unlink(), "MANIFEST.json : no MANIFEST"),
    "broken MANIFEST": (lambda at: (at / "MANIFEST.json").write_text("{}"), "MANIFEST.json : MANIFEST.json: expected"),
    "compiled code": (lambda at: (at / "ttl_monai_covid_0_1_0/x.pyc").write_text(""), "x.pyc : the file 'x.pyc'"),
}


@pytest.mark.parametrize("name", PACKED)
def test_every_change_of_a_packed_bundle_is_found(name, packed):
    spoil, expected = PACKED[name]
    spoil(packed)
    assert [each for each in texts(packed) if expected in each], texts(packed)


@pytest.mark.parametrize("name", ["models/model.txt", "bundle.sha256"])
def test_models_or_a_hash_without_a_manifest_are_found(name, bundle):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("x")
    assert texts(bundle) == ["MANIFEST.json : no MANIFEST"]


def test_large_files_may_be_there_but_only_with_their_hash(packed, edit):
    entry = {"path": "models/large.txt", "url": "https://a.example/x", "hash_type": "sha256"}
    entry["hash_val"] = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    edit("large_files.yml", yaml.safe_dump({"large_files": [entry]}))
    write_manifest(packed)
    assert texts(packed) == []
    (packed / "models/large.txt").write_text("x")
    assert texts(packed) == []
    (packed / "models/large.txt").write_text("y")
    assert texts(packed)[0].startswith("models/large.txt : sha256 ")


@pytest.mark.parametrize(
    ("folder", "remedy"),
    [*((each, "what runs have left: move it elsewhere, or lint a") for each in MADE_BY_USE), ("x", "remove")],
)
def test_results_of_runs_are_told_as_such(folder, remedy, bundle, capsys):
    (bundle / folder / "ttl").mkdir(parents=True)
    for name in ("run.json", "model.pt"):
        (bundle / folder / "ttl" / name).write_text("{}")
    [finding] = lint_bundle(bundle)
    assert (finding.file, finding.found) == (folder, f"the folder '{folder}'")
    assert finding.remedy.startswith(remedy)
    assert main(["lint", str(bundle)]) == 1
    assert f"1 finding: run nothing of {bundle} before that is cleared" in capsys.readouterr().out


def test_command_tells_by_its_status(packed, edit, capsys):
    assert main(["lint", str(packed)]) == 0
    assert "ttl_monai_covid_0_1_0 is code of whoever packed it" in capsys.readouterr().out
    edit(TRAIN, lambda config: config.update(device=EVIL))
    assert main(["lint", str(packed)]) == 1
    out = capsys.readouterr().out
    assert 'configs/train.json  device\n  found   the expression "$__import__' in out
    assert "2 findings: run nothing of" in out  # the expression and the hash
    assert main(["lint", "--json", str(packed)]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"file", "place", "found", "allowed", "remedy"} == set(findings[0])
    assert main(["lint", str(packed / "nothing")]) == 2
    assert "expected the folder of a bundle" in capsys.readouterr().err


def test_another_folder_is_no_bundle(tmp_path):
    assert texts(tmp_path) == [f"{tmp_path.name} : no LICENSE and configs/metadata.json"]
