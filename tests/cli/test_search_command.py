import pytest

from ttl_monai.cli import build_parser, main
from ttl_monai.cli.search import command_line
from ttl_monai.settings import read_setting


def parse(*words):
    return build_parser(["search"]).parse_args(["search", *words])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_epochs=4", ("max_epochs", 4)),
        ("learning_rate=5e-4", ("learning_rate", 5e-4)),
        ("cuts#ttl=blocks.3", ("cuts#ttl", "blocks.3")),
        ("cache_features=True", ("cache_features", True)),
        ("cache_dir=None", ("cache_dir", None)),
        ("loss_kind=a=b", ("loss_kind", "a=b")),
        ("points=[blocks.1, layer2]", ("points", ["blocks.1", "layer2"])),
        ("points=[]", ("points", [])),
        ("points=[a b]", ("points", "[a b]")),
    ],
)
def test_settings_are_read_as_literals_where_they_are(text, expected):
    assert read_setting(text) == expected


@pytest.mark.parametrize("text", ["max_epochs", "=4"])
def test_a_setting_without_name_or_value_is_refused(text, capsys):
    assert main(["search", "--bundle", "nowhere", "--set", text]) == 2
    assert "--set takes ID=VALUE" in capsys.readouterr().err


def test_the_command_of_the_record_names_no_folder_of_this_machine(tmp_path):
    arguments = parse(
        *(
            "--bundle",
            str(tmp_path / "covid_ttl"),
            "--set",
            "cache_dir=/cache",
            "--method",
            "probe",
            "--dataset_dir",
            str(tmp_path / "cxr"),
        ),
        *("--datalist", str(tmp_path / "a b.json"), "c.json", "--set", "max_epochs=4", "--seed", "1"),
        *("--train_patients", "100", "--workers", "2", "--out", str(tmp_path), "--evaluate"),
    )
    assert command_line(arguments) == (
        "ttl search --method probe --bundle bundles/covid_ttl --dataset_dir DATA/cxr --datalist 'a b.json' c.json "
        "--set max_epochs=4 --train_patients 100 --seed 1 --evaluate"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bundle", "nowhere"], "nowhere is no bundle: expected a folder with configs/train.json"),
        (["--bundle", "bundles/covid_ttl", "--dataset_dir", "x"], "pass both dataset_dir and datalist, or neither"),
        (["--bundle", "bundles/covid_ttl", "--workers", "-1"], "workers must be 0 or more, got -1"),
        (["--bundle", "bundles/covid_ttl", "--set", "dataset_dir=/data"], "leave 'dataset_dir' to the search: --data"),
        (["--bundle", "bundles/covid_ttl", "--set", "seed=1"], "settings must leave 'seed' to the search: --seed"),
        (["--bundle", "bundles/covid_ttl", "--method", "probe", "--null", "permute"], "svcca takes null"),
        (
            ["--bundle", "bundles/covid_ttl", "--method", "svcca", "--variance", "5"],
            r"variance must be a share in (0, 1]",
        ),
        (
            ["--bundle", "bundles/covid_ttl", "--method", "svcca", "--threshold", "65"],
            "threshold must lie between 0 and 1, got 65",
        ),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert main(["search", *words]) == 2
    assert message in capsys.readouterr().err
