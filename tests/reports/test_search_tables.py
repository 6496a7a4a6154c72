import copy

import pytest

from ttl_monai.reports import agreement, candidates_table, console_table, docs_section, search_table


def cells(table, first):
    """The cells of the markdown line that begins with this text."""
    found = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    assert len(found) == 1, table
    return found[0].strip("| ").split(" | ")


def row(document, name):
    return next(each for each in document["methods"] if each["method"] == name)


def undetermine(document, name, reason):
    row(document, name).update(determined=False, pick=None, mean=None, std=None, regret=None, reason=reason)


def set_values(document, point, values, mean, std):
    """Other values of a trained cut; the mean and deviation are those that the caller worked out."""
    next(each for each in document["curve"] if each["point"] == point).update(values=values, mean=mean, std=std)


@pytest.fixture
def search(make_search):
    """Round numbers in place of the made ones."""
    document = make_search()
    set_values(document, "blocks.3.2", [0.98, 0.97, 0.99], 0.98, 0.01)
    set_values(document, None, [0.96, 0.95, 0.97], 0.96, 0.01)
    for name in ("exhaustive", "two-stage"):
        row(document, name).update(mean=0.98, std=0.01, regret=0.005)
    row(document, "svcca").update(mean=0.9689, std=0.002, regret=0.0161)
    row(document, "probe").update(mean=0.985, std=0.004, regret=0.0)
    probe = next(each for each in document["probe"] if each["point"] == "blocks.4.0")
    probe.update(values=[0.95, 0.94, 0.96], mean=0.95, std=0.01)
    return document


# Seconds: exhaustive 51 x 200 = 2.83 h, two-stage 6,600 = 110 min, so 1.545; 1,500 s are 25 min and .227 of it; 1,900 s
# 31.7 min and .288; 35 s .0053; FTL 3 x 200 s, .0909. Best mean .98 + .005, so the probe's .95 lies .035 below it.
EXPECTED = """\
| method | pick | `val_auprc` | regret | params (M) | of FTL | MACs (G) | cells | cost | of two-stage's |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| exhaustive | `blocks.3.2` | 0.980 ± 0.010 | 0.0050 | 0.254 | 7.5 % | 0.032 | 51 | 2.8 h | 155 % |
| two-stage | `blocks.3.2` | 0.980 ± 0.010 | 0.0050 | 0.254 | 7.5 % | 0.032 | 33 | 1.8 h | 100 % |
| SVCCA | `blocks.5.3` | 0.969 ± 0.002 | 0.0161 | 2.353 | 70 % | 0.065 | 7 | 25 min | 23 % |
| probe | `blocks.4.0` | 0.985 ± 0.004 | 0.0000 | 0.360 | 11 % | 0.035 | 10 | 32 min | 29 % |
| probe, before training | `blocks.4.0` | 0.985 ± 0.004 | 0.0071 | 0.360 | 11 % | 0.035 | - | 35 s | 0.5 % |
| probe as the model | `blocks.4.0` | 0.950 ± 0.010 | 0.0350 | 0.360 | 11 % | 0.035 | - | 35 s | 0.5 % |
| a cut at random | any | - | 0.0213 | - | - | - | - | - | - |
| FTL | whole network | 0.960 ± 0.010 | 0.0250 | 3.374 | 100 % | 0.074 | 3 | 10 min | 9.1 % |
"""


def test_methods_are_written_byte_for_byte(search):
    text = search_table(search)
    assert text.startswith(EXPECTED + "\nDataset: cxr_pid, 400 training patients. Backbone: `tf_efficientnet_lite0`")
    assert "spatial_size 96, max_epochs 4" in text
    assert "mean ± sample standard deviation over 3 repeats" in text
    assert "the smallest network within one standard deviation of the highest mean" in text
    assert "at least 67 % of their repeats" in text
    assert "\nTrainings: 51 done. Cells: 0 failed.\n" in text
    assert "\nThe best cut itself varies by 0.0040 (standard deviation) over the repeats.\n" in text
    assert text.endswith("\nRepeat it:\n\n```\nttl search --train-patients 400\n```\n")


def test_table_does_not_depend_on_the_order_of_methods_and_leaves_its_input_alone(search):
    before = copy.deepcopy(search)
    text = search_table(search)
    assert search == before
    search["methods"].reverse()
    assert search_table(search) == text


def test_undetermined_method_names_no_cut_and_says_why(search):
    search["svcca"] = search["svcca"][:3]
    undetermine(search, "svcca", "the groups' picks disagree:\n 4 for blocks.3.2, 6 for blocks.4.2.")
    text = search_table(search)
    assert cells(text, "SVCCA") == ["SVCCA", "undetermined", *["-"] * 5, "7", "25 min", "23 %"]
    assert "\nSVCCA names no cut: the groups' picks disagree: 4 for blocks.3.2, 6 for blocks.4.2.\n" in text


def test_a_pick_that_is_not_determined_is_not_shown(search):
    row(search, "two-stage").update(determined=False, pick="blocks.1.1", reason="under quorum")
    assert "blocks.1.1" not in search_table(search)
    assert "two-stage names no cut: under quorum." in console_table(search)
    assert cells(candidates_table(search), "`blocks.1.1`")[-1] == "-"


def test_the_whole_network_is_a_pick(search):
    row(search, "two-stage").update(pick=None)
    assert cells(search_table(search), "two-stage")[1:7] == [
        *("whole network", "0.980 ± 0.010", "0.0050", "3.374", "100 %", "0.074"),
    ]


def test_failures_are_counted_and_grouped_by_reason(search):
    search["curve"] = [each for each in search["curve"] if each["point"] != "blocks.4.1"]
    set_values(search, "blocks.2.1", [0.95, None, 0.97], 0.96, 0.0141)
    names = ["train-blocks.4.1-0", "train-blocks.4.1-1", "train-blocks.4.1-2"]
    search["failed"] = [{"cell": name, "reason": "out of\nmemory"} for name in names]
    search["failed"].append({"cell": "train-blocks.2.1-1", "reason": "killed."})
    line = "Trainings: 47 done. Cells: 4 failed: `{}`, `{}`, `{}` (out of memory); `train-blocks.2.1-1` (killed).\n"
    assert line.format(*names) in search_table(search)
    assert line.format(*names).replace("`", "") in console_table(search)
    row(search, "exhaustive")["done"] = 47
    assert cells(search_table(search), "exhaustive")[7] == "47 of 51"
    table = candidates_table(search)
    assert cells(table, "`blocks.4.1`")[5:7] == ["-", "0/3"]
    assert cells(table, "`blocks.2.1`")[5:7] == ["0.960 ± 0.014", "2/3"]


def test_one_repeat_shows_no_spread(make_search):
    search = make_search(repeats=1)
    search["random"]["std_over_splits"] = None
    search["threads"] = None
    text = search_table(search) + candidates_table(search)
    assert "±" not in text
    assert "one repeat, so that no spread is known" in text
    assert "best cut itself" not in text
    assert "Threads" not in text


def test_cells_that_were_done_differently_are_told(search):
    assert "Threads of one worker: 1, on cpu." in search_table(search)
    search |= {"threads": [1, 4], "devices": ["cpu", "cuda:0"]}
    text = search_table(search)
    assert "Threads of one worker: 1 and 4, on cpu and cuda:0. Costs of cells that were done differently do not" in text


def test_other_statistics_and_all_commands_are_named(search):
    found = {"point": "blocks.4.2", "determined": True}, {"point": None, "determined": False}
    search["svcca_picks"] = {"stage": dict(zip(("quartiles", "excess"), found, strict=True))}
    search["commands"] = {"probe": "ttl search --method probe", "svcca": "ttl search --method svcca --null permute"}
    text = search_table(search)
    assert "SVCCA by all statistics: at stage ends quartiles `blocks.4.2`, excess undetermined." in text
    assert text.endswith("```\nttl search --method probe\nttl search --method svcca --null permute\n```\n")


def test_without_reference_two_stage_or_probe_the_cells_are_dashes(search):
    search["methods"] = [row(search, "svcca")]
    row(search, "svcca")["regret"] = None
    search.update(probe=None, random=None)
    text = search_table(search)
    assert cells(text, "SVCCA")[3::6] == ["-", "-"]
    assert cells(text, "FTL")[3::6] == ["-", "-"]
    assert "| probe" not in text
    assert "| a cut at random" not in text


def test_a_probe_pick_that_was_never_trained_has_no_metric(search):
    search["curve"] = [each for each in search["curve"] if each["point"] != "blocks.4.0"]
    assert cells(search_table(search), "probe, before training")[2] == "-"
    assert cells(search_table(search), "probe as the model")[2] == "0.950 ± 0.010"
    assert cells(candidates_table(search), "`blocks.4.0`")[5:9] == ["-", "-", "-", "0.950 ± 0.010"]


def test_candidates_show_everything_known_of_a_cut(search):
    search["curve"][7]["seconds"] = [100.0, 300.0, 470.0]
    table = candidates_table(search)
    assert cells(table, "`blocks.3.2`") == [
        *("`blocks.3.2`", "stage", "0.254", "7.5 %", "0.032", "0.980 ± 0.010", "3/3", "5 min"),
        *(cells(table, "`blocks.3.2`")[8], "0.17", "exhaustive, two-stage"),
    ]
    assert table.count("\n") == 2 + 17
    search.update(probe=None, svcca=None)
    lines = candidates_table(search).splitlines()
    assert "probe" not in lines[0]
    assert "SVCCA" not in lines[0]
    assert {line.count("|") for line in lines} == {10}


@pytest.mark.parametrize(
    ("opened", "words"), [(True, "opened once the cut was chosen by two-stage:"), (False, "NOT sealed")]
)
def test_the_test_split_says_when_it_was_opened(search, opened, words):
    assert "The test split was not opened." in search_table(search)
    rows = [
        {"strategy": "TTL", "point": "blocks.3.2", "values": [0.9, 0.8], "mean": 0.85, "std": 0.0707},
        {"strategy": "FTL", "point": None, "values": [0.9], "mean": 0.9, "std": None},
    ]
    search["test"] = {"opened_after_choice": opened, "method": "two-stage", "rows": rows}
    assert "\n| strategy | cut | test |\n" in search_table(search)
    search["test"]["metric"] = "test_auprc"
    text = search_table(search)
    assert "\n| strategy | cut | `test_auprc` |\n" in text
    assert f"The test split was {words}" in text
    assert "| TTL | `blocks.3.2` | 0.850 ± 0.071 |\n| FTL | whole network | 0.900 |\n" in text


def test_console_columns_are_aligned_without_markdown(search):
    lines = console_table(search).splitlines()
    table = lines[: lines.index("")]
    assert len(table) == 2 + 8
    assert not set("|`") & set("".join(table))
    ends = [position for position, sign in enumerate(table[1]) if sign == "-" and table[1][position + 1 :][:1] != "-"]
    assert len(ends) == 9
    for line in table:
        assert len(line) <= 110
        for position in ends[:-1]:
            assert line[position + 1 : position + 3] == "  "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"schema 1, got 2; write search\.json anew"),
        ({"metric": None}, "a search document must have the keys .*missing: metric"),
        ({"candidates": []}, "needs candidates, each once, got none"),
        ({"svcca": [{"point": "layer9"}]}, r"svcca names layer9, .*none of the candidates blocks\.0\.0, "),
    ],
)
@pytest.mark.parametrize("function", [search_table, candidates_table, console_table, agreement])
def test_what_is_no_search_document_is_refused(search, function, change, message):
    search.update(change)
    if change == {"metric": None}:
        del search["metric"]
    with pytest.raises(ValueError, match=message):
        function(search)


def test_bad_rows_are_named(search):
    row(search, "probe")["before_training"]["pick"] = "layer9"
    with pytest.raises(ValueError, match="the picks of probe names layer9"):
        search_table(search)
    del row(search, "svcca")["cells"]
    search["methods"].remove(row(search, "probe"))
    with pytest.raises(ValueError, match=r"the method svcca of the search document .*missing: cells"):
        search_table(search)
    search["candidates"].append(search["candidates"][0])
    with pytest.raises(ValueError, match="each once"):
        search_table(search)


def test_agreement_is_the_same_cut_or_one_within_a_standard_deviation(search):
    assert agreement(search) == (
        "The exhaustive search picked `blocks.3.2` (0.980 ± 0.010); two-stage agreed (the same cut); SVCCA did not "
        "agree (`blocks.5.3`, 0.0111 lower, more than one standard deviation); probe agreed (`blocks.4.0`, 0.0050 "
        "higher, within one standard deviation)."
    )


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (0.9701, "agreed (`blocks.5.3`, 0.0099 lower, within"),
        (0.9699, "did not agree (`blocks.5.3`, 0.0101 lower, more than"),
        (0.9899, "agreed (`blocks.5.3`, 0.0099 higher, within"),
        (0.9901, "did not agree (`blocks.5.3`, 0.0101 higher, more than"),
        (None, "cannot be judged (`blocks.5.3` has no trained mean)"),
    ],
)
def test_agreement_turns_at_one_standard_deviation_of_the_reference(search, mean, words):
    row(search, "svcca")["mean"] = mean
    assert f"; SVCCA {words}" in agreement(search)


def test_agreement_of_one_repeat_is_the_same_cut_only(make_search):
    text = agreement(make_search(repeats=1))
    assert "two-stage agreed (the same cut)" in text
    assert text.count("one repeat knows no spread") == 2
    assert "±" not in text


def test_agreement_without_a_reference_lists_the_picks(search):
    undetermine(search, "exhaustive", "2 of 17 cuts under quorum")
    undetermine(search, "svcca", "too few samples")
    row(search, "two-stage")["pick"] = None
    assert agreement(search) == (
        "The exhaustive search names no cut (2 of 17 cuts under quorum), so that there is no reference to agree with: "
        "two-stage picked the whole network, SVCCA names no cut (too few samples), probe picked `blocks.4.0`."
    )
    search["methods"] = []
    assert agreement(search) == "The exhaustive search was not run, so that there is no reference to agree with."


def test_section_holds_a_table_a_sentence_and_a_command_a_search(search, make_search):
    small = make_search(train_patients=100)
    text = docs_section([small, search], figures=["100.png", "400.png"], level=4)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    names = "cxr_pid, tf_efficientnet_lite0"
    assert heads == [f"#### {names}, 100 training patients", f"#### {names}, 400 training patients"]
    assert EXPECTED in text
    assert agreement(small) in text
    assert agreement(search) in text
    assert text.index("(100.png)") < text.index(EXPECTED) < text.index("(400.png)")
    assert text.endswith("```\nttl search --train-patients 100\nttl search --train-patients 400\n```\n")
    assert text.count("Regret: ") == 1


def test_section_of_unfit_documents_is_refused(search, make_search):
    with pytest.raises(ValueError, match="at least one search document"):
        docs_section([])
    with pytest.raises(ValueError, match="got 1 for 2"):
        docs_section([search, make_search(train_patients=100)], figures=["a.png"])
    with pytest.raises(ValueError, match=r"must differ in .*400 training patients, \d+ cuts; .*, \d+ cuts"):
        docs_section([search, make_search()])
