"""`ttl points` prints what `list_points` finds."""

import json
import re

import pytest

from ttl_monai.cli import main
from ttl_monai.networks import list_points
from ttl_monai.networks.backbones import build_backbone


def lines_of(capsys, *arguments):
    assert main(["points", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_table_has_a_row_a_point_with_cost_and_share(capsys):
    lines = lines_of(capsys, "resnet50")
    assert lines[0].startswith("resnet50, input 3x224x224: 23,508,032 parameters, 4.120 GMACs")
    rows = [line.split() for line in lines[3:]]
    assert len(rows) == 17
    assert rows[0][:2] == ["maxpool", "(stem)"]
    assert rows[13] == ["layer3.5", "stage", "1024", "16", "14x14", "8,543,296", "36.3%", "3.309", "80.3%"]
    assert rows[-1][6] == rows[-1][8] == "100.0%"


@pytest.mark.parametrize(("level", "count"), [("stage", 4), ("block", 9), ("layer", 12)])
def test_level_is_a_level_and_the_coarser_ones(capsys, level, count):
    lines = lines_of(capsys, "resnet18", "--image-size", "64", "--level", level, "--weights", "none")
    assert len(lines) - 3 == count


def test_a_network_without_blocks_shows_every_point(capsys):
    rows = lines_of(capsys, "torchvision:alexnet", "--image-size", "96")[3:]
    assert {row.split()[1] for row in rows} == {"layer"}
    assert len(rows) == 13


def test_json_holds_the_points(capsys):
    assert main(["points", "resnet18", "--image-size", "96", "64", "--level", "stage", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["input_shape"] == [1, 3, 96, 64]
    assert [point["name"] for point in document["points"]] == ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert document["points"][2]["spatial_size"] == [6, 4]
    expected = list_points(build_backbone("resnet18"))[-1]
    assert document["params"] == document["points"][-1]["params"] == expected.params


def test_a_3d_network_takes_one_size_or_three(capsys):
    one = lines_of(capsys, "monai:resnet18", "--image-size", "32", "--level", "stage")
    three = lines_of(capsys, "monai:resnet18", "--image-size", "32", "32", "32", "--level", "stage")
    assert one == three
    assert "2x2x2" in one[-1]


def test_the_papers_3d_network_at_its_window(capsys):
    lines = lines_of(capsys, "resnext3d101", "--image-size", "24", "192", "192", "--level", "stage")
    assert lines[0].startswith("resnext3d101, input 3x24x192x192: 47,521,216 parameters, 42.528 GMACs")
    cut = ["layer3.22", "stage", "1024", "16", "3x12x12", "31,206,848", "65.7%", "40.974", "96.3%"]
    assert lines[5].split() == cut


def test_an_inflated_network_takes_volumes(capsys):
    lines = lines_of(capsys, "resnet18_3d", "--image-size", "16", "32", "32", "--level", "stage")
    assert lines[0].startswith("resnet18_3d, input 3x16x32x32: ")
    assert lines[-1].split()[:5] == ["layer4.1", "stage", "512", "32", "1x1x1"]


BAD = [
    (["resnet05"], "no backbone 'resnet05'"),
    (["resnet18", "--image-size", "3", "4", "5"], r"1 or 2 positive numbers, got \[3, 4, 5\]"),
    (["resnet18", "--image-size", "0"], r"positive numbers, got \[0\]"),
    (["torchvision:alexnet", "--level", "stage"], "torchvision:alexnet has no points of level 'stage'; --level layer"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_what_it_refuses_is_one_message(capsys, arguments, message):
    assert main(["points", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("ttl points: ")


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["points", "--help"])
    assert "ttl points resnet50 --level stage" in capsys.readouterr().out
