"""The methods on made curves: what they ask for, round by round, and what they pick."""

import math

import pytest

from ttl_monai.engines.search.choice import choose, score
from ttl_monai.engines.search.document import make_document
from ttl_monai.engines.search.methods import METHODS, Exhaustive, Probe, Svcca, TwoStage, make_method
from ttl_monai.engines.search.space import Space

# A network of three stages; the whole network is None.
POINTS = ["stem", "a.0", "a.1", "b.0", "b.1", "b.2", "c.0", "c.1"]
STAGES = {"a.1", "b.2", "c.1"}
# The best cut, b.1, lies below the end of its stage, as the paper's TTL-2 does.
CURVE = dict(zip([*POINTS, None], [0.5, 0.6, 0.7, 0.8, 0.9, 0.85, 0.84, 0.83, 0.82], strict=True))


def make_space(repeats=2, points=POINTS, **changes):
    rows = [
        {"point": each, "level": "stage" if each in STAGES or each is None else "block", "params": 10 * k, "macs": k}
        for k, each in enumerate([*points, None], start=1)
    ]
    values = {
        "folder": "folder",
        "bundle": "bundle",
        "overlays": (),
        "settings": {},
        "dataset_dir": "data",
        "datalists": tuple(f"{k}.json" for k in range(repeats)),
        "originals": (None,) * repeats,
        "manifests": tuple(f"data{k}" for k in range(repeats)),
        "key_metric": "val_auprc",
        "candidates": tuple(rows),
        "identity": "config",
        "header": {"dataset": "made", "train_patients": None},
    }
    return Space(**{**values, **changes})


def answer(space, cell, curve, spread=0.0):
    """The result of a cell: its repeats lie `spread` above and below the curve."""
    shift = spread * (1 if cell.repeat % 2 else -1)
    if cell.kind == "train":
        return {"value": curve[cell.point] + shift, "seconds": 10.0, "epoch": 1}
    if cell.kind == "probe":
        points = {each["point"] or "whole": {"value": curve[each["point"]] + shift} for each in space.candidates}
        return {"points": points, "seconds": 1.0}
    return {"pick": "b.2", "determined": True, "reason": "made", "points": [], "picks": {}, "seconds": 2.0}


def play(method, curve=CURVE, *, failing=(), spread=0.0, probe_curve=None):
    """Do what a method asks for until it asks for nothing; returns the rounds and the results."""
    results, failures, rounds = {}, {}, []
    while cells := method.pending(results, frozenset({*results, *failures})):
        rounds.append(cells)
        for cell in cells:
            if cell.name in failing:
                failures[cell.key] = "made to fail"
            else:
                used = probe_curve if cell.kind == "probe" and probe_curve else curve
                results[cell.key] = answer(method.space, cell, used, spread)
    return rounds, results, method.outcome(results, frozenset({*results, *failures})), failures


def names(cells):
    return {cell.point for cell in cells}


@pytest.mark.parametrize(
    ("means", "std", "rule", "expected"),
    [
        ([0.7, 0.9, 0.8], 0.0, "best", 1),
        ([0.7, 0.9, 0.9], 0.0, "best", 1),  # a tie goes to the smaller network
        ([0.7, 0.85, 0.9], 0.06, "within-one-std", 1),
        ([0.7, 0.85, 0.9], 0.06, "best", 2),
        ([0.7, 0.85, 0.9], 0.04, "within-one-std", 2),
    ],
)
def test_choose_prefers_the_smaller_network_within_the_margin(means, std, rule, expected):
    # Two repeats at mean -+ std / sqrt(2) have the sample standard deviation `std`.
    scores = [score(str(k), [mean - std / 2**0.5, mean + std / 2**0.5]) for k, mean in enumerate(means)]
    assert choose(scores, rule=rule).point == str(expected)


def test_one_repeat_has_no_spread_so_the_best_is_chosen():
    scores = [score("a", [0.8]), score("b", [0.9])]
    assert math.isnan(scores[0].std)
    assert choose(scores, rule="within-one-std").point == "b"


@pytest.mark.parametrize(("quorum", "expected"), [(2 / 3, [0.85, 0.9]), (0.9, [0.85])])
def test_candidates_are_compared_on_the_repeats_that_they_share(quorum, expected):
    # Repeat 0 is hard for both, but the larger network has failed there.
    method = Exhaustive(make_space(repeats=3, points=["a.1"]), quorum=quorum)
    values = {("a.1", 0): 0.2, ("a.1", 1): 0.8, ("a.1", 2): 0.9, (None, 1): 0.85, (None, 2): 0.95}
    results = {method.space.cell("train", *place).key: {"value": value} for place, value in values.items()}
    means = [each.mean for each in method.scores(["a.1", None], results)]
    assert means == pytest.approx(expected if len(expected) == 2 else [1.9 / 3])


def test_two_stage_looks_on_both_sides_of_the_best_stage_end():
    rounds, _, outcome, _ = play(TwoStage(make_space()))
    assert [names(cells) for cells in rounds] == [{"a.1", "b.2", "c.1", None}, {"b.0", "b.1", "c.0"}]
    assert (outcome.determined, outcome.pick) == (True, "b.1")
    assert len(outcome.cells) == 2 * 7


@pytest.mark.parametrize(
    ("best", "fine"),
    [("a.1", {"stem", "a.0", "b.0", "b.1"}), ("b.2", {"b.0", "b.1", "c.0"}), ("c.1", {"c.0"}), (None, set())],
)
def test_the_fine_round_lies_between_the_coarse_neighbours(best, fine):
    curve = {**dict.fromkeys(CURVE, 0.5), best: 0.9}
    rounds, *_ = play(TwoStage(make_space()), curve)
    assert (names(rounds[1]) if len(rounds) > 1 else set()) == fine


def test_two_stage_refuses_a_network_without_stages():
    with pytest.raises(ValueError, match="needs a network with stages"):
        play(TwoStage(make_space(points=["x", "y"])))


def test_exhaustive_trains_everything_and_finds_the_best():
    rounds, _, outcome, _ = play(Exhaustive(make_space(repeats=3)))
    assert len(rounds) == 1
    assert len(rounds[0]) == 27
    assert [cell.repeat for cell in rounds[0]] == sorted(cell.repeat for cell in rounds[0])
    assert outcome.pick == "b.1"


def test_a_tie_within_one_std_goes_to_the_smaller_network():
    _, _, outcome, _ = play(Exhaustive(make_space()), spread=0.08)  # std .113: from .787 on
    assert outcome.pick == "b.0"
    assert "within one standard deviation" in outcome.reason


def test_probe_trains_only_its_three_best():
    peak = {**CURVE, "c.0": 0.95}  # the probes climb longer than the trainings, as they do on real images
    rounds, results, outcome, _ = play(Probe(make_space()), probe_curve=peak)
    assert [cell.kind for cell in rounds[0]] == ["probe"] * 2
    assert names(rounds[1]) == {"c.0", "b.1", "b.2"}
    assert outcome.before_training.pick == "c.0"
    assert outcome.pick == "b.1"
    assert sum(results[cell.key]["seconds"] for cell in outcome.before_training.cells) == 2.0


def test_the_rule_picks_of_the_probe_are_always_trained():
    rounds, *_ = play(Probe(make_space()), spread=0.08)
    assert "b.0" in names(rounds[1])  # within one std, but the fourth best


def test_svcca_trains_two_networks():
    rounds, _, outcome, _ = play(Svcca(make_space()))
    assert [[cell.name for cell in cells] for cells in rounds] == [["train-whole-0"], ["svcca-0"], ["train-b.2-0"]]
    assert (outcome.pick, outcome.reason, len(outcome.cells)) == ("b.2", "made", 3)


def test_svcca_without_a_transition_picks_nothing():
    method = Svcca(make_space())
    whole, compare = method.space.cell("train", None, 0), method.space.cell("svcca", None, 0)
    results = {whole.key: {"value": 0.8, "seconds": 1.0}}
    results[compare.key] = {
        "pick": None,
        "determined": False,
        "reason": "too few samples",
        "points": [],
        "seconds": 1.0,
    }
    assert method.pending(results, frozenset(results)) == []
    outcome = method.outcome(results, frozenset(results))
    assert (outcome.determined, outcome.pick, outcome.reason) == (False, None, "too few samples")


@pytest.mark.parametrize(
    ("failing", "determined"),
    [
        (["train-b.1-0"], True),  # one candidate has too few repeats, the others are enough
        ([f"train-{name}-{k}" for name in ("stem", "a.0", "a.1", "b.0") for k in (0, 1)], False),
        ([f"train-{name}-0" for name in POINTS], False),
    ],
)
def test_no_winner_is_named_below_the_quorum(failing, determined):
    _, _results, outcome, failures = play(Exhaustive(make_space()), failing=failing)
    assert len(failures) == len(failing)
    assert outcome.determined is determined
    if determined:
        assert outcome.pick == "b.2"  # the best of those with both repeats
    else:
        assert outcome.pick is None
        assert "quorum" in outcome.reason


@pytest.mark.parametrize("failing", ["train-whole-0", "svcca-0", "train-b.2-0"])
def test_svcca_stops_where_a_cell_fails(failing):
    rounds, _, outcome, _ = play(Svcca(make_space()), failing=[failing])
    assert rounds[-1][0].name == failing
    assert not outcome.determined
    assert failing in outcome.reason


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("guess", {}, "method must be one of two-stage, probe, svcca, exhaustive, got 'guess'"),
        ("probe", {"rule": "worst"}, "rule must be one of within-one-std, best, got 'worst'"),
        ("probe", {"quorum": 0}, "quorum must be above 0"),
        ("probe", {"quorum": 1.5}, "quorum must be above 0 and at most 1, got 1.5"),
    ],
)
def test_wrong_settings_are_refused(name, settings, match):
    with pytest.raises(ValueError, match=match):
        make_method(name, make_space(), **settings)


def test_a_cell_is_another_one_when_anything_that_decides_it_changes():
    base = make_space().cell("train", "b.1", 0)
    others = [
        make_space().cell("train", "b.1", 1),
        make_space().cell("train", "b.2", 0),
        make_space().cell("train", None, 0),
        make_space(identity="other config").cell("train", "b.1", 0),
        make_space(manifests=("other data", "data1")).cell("train", "b.1", 0),
        make_space(seed=1).cell("train", "b.1", 0),
    ]
    assert len({base.key, *(each.key for each in others)}) == 7
    assert make_space(folder="elsewhere").cell("train", "b.1", 0) == base
    assert make_space(options={"svcca": {"null": "permute"}}).cell("train", "b.1", 0) == base
    svcca = make_space().cell("svcca", None, 0)
    fewer = make_space(points=POINTS[:4])
    assert fewer.cell("train", "b.0", 0) == make_space().cell("train", "b.0", 0)
    assert fewer.cell("svcca", None, 0) != svcca  # it looks at all candidates
    assert fewer.cell("probe", None, 0) != make_space().cell("probe", None, 0)
    assert make_space(options={"svcca": {"null": "permute"}}).cell("svcca", None, 0) != svcca


def test_methods_share_cells_and_the_document_compares_them():
    space = make_space()
    methods = [make_method(name, space) for name in METHODS]
    results = {}
    for method in [make_method("exhaustive", space), *methods]:
        while cells := method.pending(results, frozenset(results)):
            results |= {cell.key: answer(space, cell, CURVE) for cell in cells}
    assert sum(result["seconds"] == 10.0 for result in results.values()) == 18  # each network once
    document = make_document(space, methods, results, {}, commands={"probe": "ttl search"})
    rows = {row["method"]: row for row in document["methods"]}
    assert {name: row["pick"] for name, row in rows.items()} == {
        "exhaustive": "b.1",
        "two-stage": "b.1",
        "probe": "b.1",
        "svcca": "b.2",
    }
    assert rows["svcca"]["regret"] == pytest.approx(0.05)
    assert rows["exhaustive"]["regret"] == 0
    # Costs are sums over the cells that a method needed, whoever trained them.
    assert {name: row["seconds"] for name, row in rows.items()} == {
        "exhaustive": 180.0,
        "two-stage": 140.0,
        "probe": 62.0,
        "svcca": 22.0,
    }
    assert rows["probe"]["before_training"] == {"pick": "b.1", "regret": 0.0, "seconds": 2.0}
    expected = sum(0.9 - CURVE[point] for point in POINTS) / len(POINTS)
    assert document["random"]["regret"] == pytest.approx(expected)
    assert [row["point"] for row in document["curve"]] == [*POINTS, None]


def test_the_table_shows_the_repeats_that_the_choice_compared():
    method = make_method("exhaustive", make_space(repeats=3))
    _, results, outcome, failures = play(method, failing=["train-b.1-0"], spread=0.01)
    document = make_document(method.space, [method], results, failures, commands={})
    (row,) = document["methods"]
    assert (row["pick"], row["n"]) == ("b.1", method.space.repeats - 1)
    assert f"{row['mean']:.4f}" in outcome.reason
    assert f"on {row['n']} of {method.space.repeats} repeats" in outcome.reason


def test_without_the_whole_curve_nothing_is_called_a_regret():
    method = TwoStage(make_space())
    _, results, _, _ = play(method)
    document = make_document(method.space, [method], results, {}, commands={})
    assert document["random"] is None
    assert document["methods"][0]["regret"] is None
    assert document["methods"][0]["mean"] == pytest.approx(0.9)


def test_svcca_may_find_that_the_whole_network_is_reused():
    method = Svcca(make_space())
    whole, compare = method.space.cell("train", None, 0), method.space.cell("svcca", None, 0)
    found = {"pick": None, "determined": True, "reason": "reused to the end", "points": [], "seconds": 1.0}
    results = {whole.key: {"value": 0.8, "seconds": 1.0}, compare.key: found}
    outcome = method.outcome(results, frozenset(results))
    assert (outcome.determined, outcome.pick) == (True, None)


@pytest.mark.parametrize(("cores", "workers", "threads"), [(16, 1, 16), (16, 8, 2), (2, 2, 1), (2, 8, 1), (16, 0, 16)])
def test_workers_share_the_cores(monkeypatch, cores, workers, threads):
    from ttl_monai.engines.search import supervise

    monkeypatch.setattr(supervise, "_cores", lambda: cores)
    assert supervise.threads_of(workers) == threads
