import json
import shlex

import pytest

from ttl_monai.cli import build_parser, main
from ttl_monai.cli.experiment import EXPERIMENTS, available, command_line, read_overrides


def parse(*words):
    return build_parser(["experiment"]).parse_args(["experiment", *words])


def test_help_has_a_line_for_each_experiment(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert {"strategies", "architectures", "pooling", "transition", "interdomain", "segmentation"} <= available().keys()
    assert all(f"  {name:<15}{what[:20]}" in text for name, what in available().items())


def test_the_command_of_the_record_names_no_folder_of_this_machine(tmp_path):
    lists = [str(EXPERIMENTS.parent / "datalists" / f"cxr_pid_split{k}.json") for k in range(3)]
    arguments = parse(
        *("strategies", "--bundle", str(tmp_path / "covid_ttl"), "--dataset_dir", str(tmp_path / "cxr_pid")),
        *("--datalist", *lists, "--rows", "FTL", "TTL:blocks.3", "--only", "FTL", "--out", str(tmp_path)),
        *("--set", "max_epochs=4", "cache_dir=/cache", "--set", "repeated=part of it"),
    )
    assert command_line(arguments) == (
        "ttl experiment strategies --dataset_dir DATA/cxr_pid --datalist datalists/cxr_pid_split*.json "
        "--bundle bundles/covid_ttl --rows FTL TTL:blocks.3 --set max_epochs=4 'repeated=part of it' --out OUT"
    )
    arguments = parse(
        *("interdomain", "--dataset_dir", str(tmp_path / "t"), "--datalist", str(tmp_path / "a b.json"), "--out", "x"),
        *("--source_dir", str(tmp_path / "chexpert"), "--sources", f"full={tmp_path / 'full.json'}", "low=low.json"),
    )
    assert command_line(arguments) == (
        "ttl experiment interdomain --dataset_dir DATA/t --datalist 'LISTS/a b.json' --source_dir DATA/chexpert "
        "--sources full=LISTS/full.json low=LISTS/low.json --out OUT"
    )


def test_two_of_three_lists_are_named_one_by_one(tmp_path):
    lists = [str(EXPERIMENTS.parent / "datalists" / f"cxr_pid_split{k}.json") for k in range(2)]
    words = ["strategies", "--dataset_dir", str(tmp_path / "d"), "--datalist", *lists, "--out", "x"]
    assert "--datalist datalists/cxr_pid_split0.json datalists/cxr_pid_split1.json --out" in command_line(parse(*words))


def test_places_in_settings_are_named_by_their_last_part(tmp_path):
    runs = f"runs={{'FTL': '{tmp_path}/a/ftl_none_0', 'TTL:b': '{tmp_path}/ttl_b_0'}}"
    arguments = parse("saliency", "--demo", "--out", "x", "--set", f"mask_dir={tmp_path}/lungs", runs, "pictures=0")
    assert shlex.split(command_line(arguments))[4:] == [
        *("--set", "mask_dir=DATA/lungs", "runs={'FTL': 'RUNS/ftl_none_0', 'TTL:b': 'RUNS/ttl_b_0'}", "pictures=0"),
        *("--out", "OUT"),
    ]


def test_settings_go_to_the_experiment_where_it_has_them_and_to_the_training_else(tmp_path):
    words = ["transition", "--demo", "--out", str(tmp_path), "--set", "variance=0.99", "max_epochs=4", "points=stage"]
    config = json.loads((EXPERIMENTS / "transition.json").read_text())
    found = read_overrides(parse(*words), config)
    assert (found["variance"], found["points"], found["set"]) == (0.99, "stage", ["max_epochs=4"])
    assert "dataset_dir" not in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategies"], "pass either --demo, for made data, or --dataset_dir and --datalist"),
        (["strategies", "--demo", "--dataset_dir", "x"], "pass either --demo"),
        (["strategies", "--dataset_dir", "x"], "pass both dataset_dir and datalist, or neither"),
        (["strategies", "--demo", "--backbones", "resnet18"], "the experiment strategies has no --backbones"),
        (
            ["strategies", "--demo", "--bundle", "nowhere"],
            "nowhere is no bundle: expected a folder with configs/train.",
        ),
        (["strategies", "--demo", "--set", "seed=1"], "settings must leave 'seed' to the experiment: --seeds"),
        (["strategies", "--demo", "--set", "max_epochs"], "--set takes ID=VALUE"),
        (["architectures", "--demo", "--set", "weights=some"], "weights must be one of imagenet, none, available, got"),
        (["transition", "--demo", "--set", "null=some"], "null must be one of wachter, permute, got 'some'"),
        (["transition", "--demo", "--set", "variance=5"], "variance must be a share in (0, 1], got 5"),
        (["pooling", "--search", "nowhere"], "nowhere is no folder of a search: expected ledger.db"),
        (["interdomain", "--demo", "--sources", "full"], "a source is NAME=DATALIST, as full=chexpert_split0.json"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path):
    if "transition" in words or "architectures" in words or "interdomain" in words:
        words = [*words, "--set", "demo#data#patients=12"]
    assert main(["experiment", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("ttl experiment: ")
