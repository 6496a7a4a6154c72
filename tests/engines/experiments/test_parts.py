"""The parts of an experiment that need no training."""

import json
from itertools import chain

import pytest

from tests.bundles.conftest import write_tiny_data
from ttl_monai.data import Datalist, make_findings_phantom
from ttl_monai.engines.experiments.architectures import choose_cut, half_depth
from ttl_monai.engines.experiments.cells import Plan, Repeat, Row, is_done
from ttl_monai.engines.experiments.conduct import conduct
from ttl_monai.engines.experiments.repeats import made_data, make_repeats
from ttl_monai.files import file_sha256
from ttl_monai.networks.points import Point
from ttl_monai.reports.by_cut import curves_of, plot_by_cut
from ttl_monai.settings import read_setting


@pytest.mark.parametrize(
    ("text", "name", "folder"),
    [
        ("FTL", "FTL", "ftl_none"),
        ("htl", "HTL", "htl_none"),
        ("TTL:blocks.3", "TTL blocks.3", "ttl_blocks.3"),
        ("LWFT:stem", "LWFT stem", "lwft_stem"),
    ],
)
def test_a_row_has_a_name_and_a_folder(text, name, folder):
    row = Row.parse(text)
    assert (row.name, row.folder) == (name, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("XTL", "a row is STRATEGY.* with one of FTL, HTL, LWFT, TF, TTL, got 'XTL'"),
        ("TTL", "TTL takes the point where it is cut, as TTL:layer3, got 'TTL'"),
        ("FTL:layer3", "FTL takes no cut, got 'FTL:layer3'"),
        ("TTL:nowhere/strategy_ttl.json", "there is no nowhere/strategy_ttl.json: expected a point, or the"),
    ],
)
def test_a_row_that_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Row.parse(text)


def test_the_cut_of_a_row_can_be_what_a_search_has_left(tmp_path):
    path = tmp_path / "strategy_ttl.json"
    path.write_text(json.dumps({"strategy": "TTL", "network_def#truncate_at": "blocks.4.2"}))
    assert Row.parse(f"TTL:{path}").cut == "blocks.4.2"
    path.write_text(json.dumps({"strategy": "TTL", "network_def#truncate_at": "@cuts#ttl"}))
    with pytest.raises(ValueError, match="names no cut"):
        Row.parse(f"TTL:{path}")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("tiny"), counts=(40, 16, 16))


def test_new_splits_share_the_paper_s_fractions_and_differ_by_seed(listed, tmp_path):
    repeats = make_repeats(listed.parent, [listed], [0, 1], resplit=True, folder=tmp_path)
    lists = [Datalist.load(each.datalist, listed.parent) for each in repeats]
    assert [each.seed for each in repeats] == [0, 1]
    sections = [
        [sorted(e["image"] for e in each.entries[s]) for s in ("training", "validation", "test")] for each in lists
    ]
    assert sections[0] != sections[1]
    assert sorted(chain(*sections[0])) == sorted(chain(*sections[1]))
    assert [len(part) / 72 for part in sections[0]] == pytest.approx([0.64, 0.16, 0.2], abs=0.04)
    assert make_repeats(listed.parent, [listed], [0, 1], resplit=True, folder=tmp_path) == repeats


@pytest.mark.parametrize(
    ("lists", "seeds", "resplit", "message"),
    [
        (2, [0, 1, 2], False, "as many seeds as datalists, or one of either, got 3 seeds for 2 lists"),
        (0, [0], False, "got 1 seeds for 0 lists"),
        (1, [], False, "got 0 seeds for 1 lists"),
        (2, [0, 1], True, "resplit draws the splits from one datalist, got 2"),
        (1, [3, 3], False, "two repeats have the same datalist and seed: 3, 3"),
    ],
)
def test_repeats_that_do_not_fit_are_refused(listed, tmp_path, lists, seeds, resplit, message):
    with pytest.raises(ValueError, match=message):
        make_repeats(listed.parent, [listed] * lists, seeds, resplit=resplit, folder=tmp_path)


def test_lists_of_two_data_sets_are_refused(listed, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(listed.read_text().replace('"tiny"', '"other"'))
    with pytest.raises(ValueError, match=r"splits of one data set.*other \(negative, positive\), tiny"):
        make_repeats(listed.parent, [listed, other], [0], resplit=False, folder=tmp_path)


def test_only_makers_of_this_package_make_data(tmp_path):
    with pytest.raises(ValueError, match=r"made by one of make_ctpa_phantom, .*make_tissue_phantom, got 'os.system'"):
        made_data(tmp_path / "data", "os.system", {})


def test_the_source_phantom_has_the_groups_of_table_4_on_the_same_split(tmp_path):
    folder = make_findings_phantom(tmp_path, patients=24, size=(96, 104)).parent
    lists = {name: Datalist.load(folder / f"{name}.json", folder) for name in ("full", "low", "high")}
    assert [each.class_names for each in lists.values()] == [
        ["Lung Opacity", "Cardiomegaly", "Atelectasis"],
        ["Lung Opacity"],
        ["Cardiomegaly", "Atelectasis"],
    ]
    assert {each.task for each in lists.values()} == {"multi-label"}
    labels = {e["image"]: e["label"] for s in lists["full"].entries.values() for e in s}
    assert {e["image"]: e["label"] for s in lists["high"].entries.values() for e in s} == {
        name: label[1:] for name, label in labels.items()
    }
    assert None in chain(*labels.values())


def point(name, level="block"):
    return Point(name, level, 1, 1, (1, 1), 1, 1)


@pytest.mark.parametrize(
    ("ends", "blocks", "cut"), [([2, 6, 12, 15], 16, "b6"), ([3, 7, 15], 16, "b7"), ([1, 9, 15], 16, "b9")]
)
def test_the_stage_end_nearest_to_half_the_depth(ends, blocks, cut):
    points = [point(f"b{k}", "stage" if k in ends else "block") for k in range(blocks)]
    assert half_depth([point("inside", "layer"), *points]) == cut


def test_a_network_without_stages_needs_a_cut():
    with pytest.raises(ValueError, match="no stage that ends below its last feature map: give the cut as NAME=CUT"):
        half_depth([point("a"), point("b")])


def test_cuts_of_the_paper_are_taken_and_others_are_said():
    assert choose_cut("timm:efficientnet_b0") == ("blocks.4", [])
    cut, (note,) = choose_cut("resnet18")
    assert cut == "layer2.1"
    assert "The paper has no cut for resnet18: layer2.1" in note


@pytest.mark.parametrize("text", ["max_epochs", "=4"])
def test_a_setting_without_name_or_value_is_refused(text):
    with pytest.raises(ValueError, match="--set takes ID=VALUE"):
        read_setting(text)


def test_the_curve_has_the_cuts_by_cost_and_the_whole_network_last(tmp_path):
    def row(strategy, cut, macs, *values):
        repeats = [{"test_auroc": value, "test_auprc": value} for value in values]
        return {"strategy": strategy, "cut": cut, "macs": macs, "repeats": repeats}

    rows = [
        row("FTL", None, 9, 0.7, 0.8),
        row("TTL", "b", 5, 0.8, None),
        row("TTL", "a", 2, 0.6, 0.7),
        row("HTL", None, 9, 0),
    ]
    curves = curves_of(rows, {"pooled": "", "flattened": ", flattened"})
    assert [each["cut"] for each in curves["pooled"]] == ["a", "b", "whole network"]
    assert curves["flattened"] == []
    with pytest.raises(ValueError, match="at least one line, each with at least one point"):
        plot_by_cut(curves, tmp_path / "figure.png", title="")
    del curves["flattened"]
    assert plot_by_cut(curves, tmp_path / "figures" / "figure.png", title="made").stat().st_size > 5000


class Made:
    def __init__(self, results):
        self.results = results

    def run(self):
        if self.results == "stop":
            raise KeyboardInterrupt
        return self.results


def test_results_name_the_experiment_and_the_command_and_a_part_writes_none(tmp_path):
    conduct(Made(None), name="made", output_dir=tmp_path, command="make it")
    assert not (tmp_path / "results.json").exists()
    conduct(Made({"tables": []}), name="made", output_dir=tmp_path, command="make it")
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"python", "torch", "monai"} <= {*results.pop("versions")}
    assert results == {"experiment": "made", "command": "make it", "tables": []}
    with pytest.raises(
        ValueError, match="holds the results of the experiment 'made', not of 'other': give another --out"
    ):
        conduct(Made({"tables": []}), name="other", output_dir=tmp_path)


def test_ctrl_c_says_how_to_go_on(tmp_path, caplog):
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        conduct(Made("stop"), name="made", output_dir=tmp_path)
    assert "Finished cells are kept; this goes on:" in caplog.text


def test_a_given_run_of_another_datalist_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("{}")
    (tmp_path / "run").mkdir()
    row = Row("TTL", "blocks.1", runs=(tmp_path / "run",))
    places = dict.fromkeys(("bundle", "dataset_dir", "cache_dir", "folder"), tmp_path)
    plan = Plan(rows=(row,), repeats=(Repeat(tmp_path / "list.json", 0),), evaluated=False, **places)
    record = {"data": {"sha256": "0" * 64}}
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"for TTL blocks\.1 was trained on another datalist than list\.json"):
        is_done(plan, row, 0)
    record["data"]["sha256"] = file_sha256(tmp_path / "list.json")
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    assert is_done(plan, row, 0)
