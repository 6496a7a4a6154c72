import sys

import pytest
from monai.bundle import ConfigParser

from ttl_monai.deploy.allowed import load_allowed
from ttl_monai.deploy.config_check import check_config
from ttl_monai.deploy.packed import ADDED, CODE_PATH, ROOMS, code_item, to_packed, to_source

PACKAGE = "ttl_monai_covid_0_1_0_12345678"


@pytest.mark.parametrize(
    ("source", "packed"),
    [
        ("$engines.load_spec(@trained)", "$@code#engines.load_spec(@trained)"),
        ("$[networks.f(x) for x in handlers.g()]", "$[@code#networks.f(x) for x in @code#handlers.g()]"),
        ("$monai.handlers.from_engine(['pred'])", "$monai.handlers.from_engine(['pred'])"),
        ("$@train#handlers.x", "$@train#handlers.x"),
        ("engines.x", "engines.x"),
        ("ttl_monai.validation", f"{PACKAGE}.validation"),
        ("drawn by ttl_monai.data", "drawn by ttl_monai.data"),
        (["ttl_monai.data.X", 1, None], [f"{PACKAGE}.data.X", 1, None]),
        (
            {"_target_": "ttl_monai.data.X", "a": 1},
            {"_target_": f"{PACKAGE}.data.X", "_requires_": "@code#path", "a": 1},
        ),
        # A transform of MONAI that looks up a reader of ours, a handler that has a logger of ours.
        (
            {"_target_": "LoadImaged", "reader": "ttl_monai.data.X"},
            {"_target_": "LoadImaged", "_requires_": "@code#path", "reader": f"{PACKAGE}.data.X"},
        ),
        ({"_target_": "LoadImaged", "keys": "image"}, {"_target_": "LoadImaged", "keys": "image"}),
    ],
)
def test_configs_are_translated(source, packed):
    assert to_packed(source, PACKAGE) == packed
    if isinstance(source, str):
        assert to_source(packed, [PACKAGE]) == source


def test_code_that_was_used_leaves_no_compiled_files(tmp_path, monkeypatch):
    """`ttl lint` would find them, and `ttl predict` refuse the bundle at the second time."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    package = tmp_path / "ttl_monai_once"
    package.mkdir()
    (package / "__init__.py").write_text("def room(name):\n    return name\n")
    parser = ConfigParser({"imports": ["$import sys"], "bundle_root": str(tmp_path), "code": code_item(package.name)})
    parser.get_parsed_content("imports")
    assert parser.get_parsed_content("code#networks") == "networks"
    assert [path.name for path in package.iterdir()] == ["__init__.py"]


def test_a_record_requires_nothing():
    assert to_packed({"_target_": "ttl_monai.data.X"}, PACKAGE, in_config=False) == {"_target_": f"{PACKAGE}.data.X"}


def findings(content, packages=frozenset({PACKAGE})):
    return [each.found for each in check_config(content, "configs/train.json", load_allowed(), packages=packages)]


def test_what_packing_adds_is_allowed():
    assert findings({"code": code_item(PACKAGE)}) == []
    for content in ADDED.values():
        assert findings(to_packed({**content, "code": code_item(PACKAGE)}, PACKAGE)) == []


@pytest.mark.parametrize(
    ("content", "packages"),
    [
        ({"code": {**code_item(PACKAGE), "path": "$sys.path.insert(0, '/tmp')"}}, {PACKAGE}),
        ({"code": {**code_item(PACKAGE), "path": "$sys.path.append('evil')"}}, {PACKAGE}),
        ({"code": {**code_item(PACKAGE), "path": f"{CODE_PATH} or exit()"}}, {PACKAGE}),
        ({"code": code_item("os")}, {PACKAGE}),
        ({"code": code_item("ttl_monai_other_0_1_0")}, {PACKAGE}),
        ({"code": code_item(PACKAGE)}, set()),
        ({"data": "$@code#engines.find_workflow()"}, {PACKAGE}),
        ({"data": "$@evil#engines.prepare_workflow()"}, {PACKAGE}),
        ({"data": "$@code#engines.prepare_workflow()"}, set()),
    ],
)
def test_only_the_one_expression_and_the_bundle_s_own_code_are_allowed(content, packages):
    assert findings(content, frozenset(packages))


def test_each_room_is_what_source_configs_import():
    assert {f"$import ttl_monai.{name} as {name}" for name in ROOMS} <= set(load_allowed().expressions)
