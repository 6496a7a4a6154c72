import dataclasses

import numpy as np
import pytest
from scipy import optimize, stats

from ttl_monai.analysis import (
    CcaResult,
    Similarity,
    cca,
    excess_area,
    overlap_coefficient,
    pick_transition,
    quartile_rule,
    wachter_sample,
)

SHARES = (0.25, 0.5, 0.75)
WINDOWS = 74  # of the 3D figure, as its layer3 box implies: of 24 slices, 192 x 192
# PAPER.md section 4: level, digitised quartiles of FTL, channels and samples; overlap and quartile rule printed there.
RESNET50 = [
    ("layer3.4", "block", (0.47, 0.58, 0.70), 1024, 185_024, 0.00, False),
    ("layer3.5", "stage", (0.41, 0.53, 0.66), 1024, 185_024, 0.01, False),
    ("layer4.0", "block", (0.23, 0.38, 0.53), 2048, 46_256, 0.53, True),
    ("layer4.1", "block", (0.18, 0.325, 0.48), 2048, 46_256, 0.63, True),
    ("layer4.2", "stage", (0.14, 0.285, 0.44), 2048, 46_256, 0.69, True),
]
# Of layer4 only its first block was digitised; it stands for the end of that stage.
RESNEXT3D = [
    ("layer2.3", "stage", (0.335, 0.485, 0.65), 512, WINDOWS * 6 * 24 * 24, 0.01, False),
    ("layer3.0", "block", (0.205, 0.378, 0.57), 1024, WINDOWS * 3 * 12 * 12, 0.45, True),
    ("layer3.9", "block", (0.19, 0.345, 0.525), 1024, WINDOWS * 3 * 12 * 12, 0.50, True),
    ("layer3.22", "stage", (0.15, 0.273, 0.44), 1024, WINDOWS * 3 * 12 * 12, 0.61, True),
    ("layer4.2", "stage", (0.32, 0.65, 0.915), 2048, WINDOWS * 2 * 6 * 6, 0.84, True),
]


def beta_sample(quartiles, count):
    """Quantiles of the Beta distribution that comes nearest to the quartiles."""
    fit = optimize.least_squares(lambda log: stats.beta.ppf(SHARES, *np.exp(log)) - quartiles, [0, 0])
    return stats.beta.ppf((np.arange(count) + 0.5) / count, *np.exp(fit.x))


def digitised(rows):
    return [
        Similarity(point, level, beta_sample(quartiles, p), (p, p), n, wachter_sample(p, p, n))
        for point, level, quartiles, p, n, *_ in rows
    ]


def flat(points, **changes):
    """Points like (name, level, overlap): the coefficients are a mixture that overlaps the null by that much."""
    null = np.linspace(0.02, 0.18, 1000)
    return [
        Similarity(
            name,
            level,
            np.concatenate([np.linspace(0.02, 0.18, round(1000 * share)), np.full(1000 - round(1000 * share), 0.95)]),
            (20, 20),
            10_000,
            null,
            **changes,
        )
        for name, level, share in points
    ]


@pytest.mark.parametrize("rows", [RESNET50, RESNEXT3D], ids=["resnet50", "resnext3d"])
def test_statistics_of_the_papers_figure_are_those_noted(rows):
    for similarity, (*_, overlap, boxes_touch) in zip(digitised(rows), rows, strict=True):
        assert similarity.overlap == pytest.approx(overlap, abs=0.012), similarity.point
        assert similarity.quartile_rule is boxes_touch


def test_both_of_the_papers_picks_follow():
    found = pick_transition(digitised(RESNET50))
    assert (found.point, found.determined, found.candidate) == ("layer3.5", True, "layer3.5")
    assert "layer3.5 is the last stage end distinct from random features by overlap (overlap 0.01, then 0.69" in (
        found.reason
    )
    # The 3D figure has 5,328 samples for the 2,048 channels of layer4: enough to tell them from random ones, not more.
    found = pick_transition(digitised(RESNEXT3D))
    assert (found.point, found.determined, found.candidate) == ("layer3.22", True, "layer3.22")
    assert "layer4.2 has only 2.6 samples a dimension, so a later cut is not excluded" in found.reason
    found = pick_transition(digitised(RESNEXT3D), samples_per_channel=40)
    assert (found.point, found.determined, found.candidate) == (None, False, "layer3.22")
    assert "too few samples: 31968 at layer3.22, but its 1024 dimensions need 40960 (40 each)" in found.reason


@pytest.mark.parametrize("threshold", [0.62, 0.65, 0.68])
def test_thresholds_between_those_overlaps_give_the_same(threshold):
    for rows, expected in ((RESNET50, "layer3.5"), (RESNEXT3D, "layer3.22")):
        found = pick_transition(digitised(rows), threshold=threshold, samples_per_channel=1)
        assert found.point == expected


@pytest.mark.parametrize(
    ("threshold", "resnet", "resnext"), [(0.55, "layer3.5", "layer2.3"), (0.75, "layer4.2", "layer3.22")]
)
def test_other_thresholds_lose_one_of_the_papers_picks(threshold, resnet, resnext):
    for rows, expected in ((RESNET50, resnet), (RESNEXT3D, resnext)):
        assert pick_transition(digitised(rows), threshold=threshold, samples_per_channel=1).point == expected


def test_each_statistic_has_its_say():
    found = pick_transition(digitised(RESNET50))
    assert found.per_statistic == {"overlap": "layer3.5", "quartiles": "layer3.5", "excess": "layer3.5"}
    found = pick_transition(digitised(RESNEXT3D))
    assert found.per_statistic == {"overlap": "layer3.22", "quartiles": "layer2.3", "excess": "layer3.22"}
    found = pick_transition(digitised(RESNEXT3D), statistic="quartiles")
    assert (found.point, found.determined) == ("layer2.3", True)


def test_at_blocks_the_point_before_the_first_overlap_that_stays_is_picked():
    assert pick_transition(digitised(RESNET50), level="block").point == "layer3.5"
    points = [
        ("a.0", "block", 0.1),
        ("a.1", "stage", 0.2),
        ("b.0", "block", 0.6),
        ("b.1", "block", 0.4),
        ("b.2", "block", 0.7),
        ("b.3", "stage", 0.8),
        ("c.0", "block", 0.3),
        ("c.1", "stage", 0.9),
    ]
    # b.0 overlaps but b.1 does not; from b.2 on all of stage b overlap. Stage c, where c.0 does not, is not looked at.
    assert pick_transition(flat(points), level="block").point == "b.1"
    assert pick_transition(flat(points), level="block", threshold=0.75).point == "b.2"
    assert pick_transition(flat(points), level="block", threshold=0.95).point == "c.1"
    # Stage ends alone: c.1 overlaps, b.3 as well, a.1 does not.
    assert pick_transition(flat(points)).point == "a.1"


def test_the_last_distinct_stage_end_is_picked_even_after_one_that_overlaps():
    points = [("a", "stage", 0.1), ("b", "stage", 0.9), ("c", "stage", 0.5), ("d", "stage", 0.7)]
    assert pick_transition(flat(points)).point == "c"


def test_the_whole_network_can_be_picked_and_is_not_undetermined():
    points = [("a", "stage", 0.1), (None, "stage", 0.2)]
    found = pick_transition(flat(points))
    assert (found.point, found.determined, found.candidate) == (None, True, None)
    assert "the end of the network is the last stage end distinct" in found.reason


@pytest.mark.parametrize("level", ["stage", "block"])
def test_it_is_undetermined_where_the_first_point_is_random_already(level):
    found = pick_transition(flat([("a", "stage", 0.9), ("b", "stage", 0.95)]), level=level)
    assert (found.point, found.determined, found.candidate) == (None, False, None)
    assert found.reason == "even the first point, a, is like random features"
    assert found.per_statistic["overlap"] == "undetermined"


@pytest.mark.parametrize(("place", "too_few"), [(0, None), (1, 199), (2, 40), (3, None)])
def test_samples_count_at_the_two_points_that_decide(place, too_few):
    points = flat([("a", "stage", 0.1), ("b", "stage", 0.2), ("c", "stage", 0.9), ("d", "stage", 0.9)])
    for n, expected in ((2, True),) if too_few is None else ((too_few, False), (too_few + 1, True)):
        changed = [dataclasses.replace(each, n=n) if at == place else each for at, each in enumerate(points)]
        assert pick_transition(changed).determined is expected
    few = [dataclasses.replace(each, n=199, dims=(3, 20)) for each in points]
    assert "too few samples: 199 at b, but its 20 dimensions need 200" in pick_transition(few).reason
    assert pick_transition(few, samples_per_channel=9).point == "b"


@pytest.mark.parametrize(
    ("at_b", "reason"),
    [
        ((0.2, 0.3, 0.1), None),
        ((0.2, 0.7, 0.1), "b with all of them, but a in 1 of 3 cases with one group left out"),
        ((0.7, 0.7, 0.1), "but a in 2 of 3 cases"),
    ],
)
def test_groups_left_out_must_agree(at_b, reason):
    points = [("a", "stage", 0.1), ("b", "stage", 0.2), ("c", "stage", 0.9)]
    jackknives = [(0.1, 0.1, 0.1), at_b, (0.9, 0.9, 0.9)]
    made = [dataclasses.replace(each, jackknife=values) for each, values in zip(flat(points), jackknives, strict=True)]
    found = pick_transition(made)
    assert (found.point, found.candidate) == ("b" if reason is None else None, "b")
    if reason:
        assert reason in found.reason


def test_groups_left_out_may_find_a_later_point_or_none():
    points = flat([("a", "stage", 0.5), ("b", "stage", 0.7)])
    later = [dataclasses.replace(each, jackknife=values) for each, values in zip(points, [(0.5,), (0.6,)], strict=True)]
    assert "but b in 1 of 1 cases" in pick_transition(later).reason
    none = [dataclasses.replace(each, jackknife=values) for each, values in zip(points, [(0.7,), (0.7,)], strict=True)]
    assert "but none in 1 of 1 cases" in pick_transition(none).reason


@pytest.mark.parametrize("statistic", ["overlap", "quartiles", "excess"])
def test_each_statistic_uses_its_own_jackknife(statistic):
    good = {"jackknife": (0.1,), "jackknife_quartiles": (False,), "jackknife_excess": (0.9,)}
    bad = {"jackknife": (0.9,), "jackknife_quartiles": (True,), "jackknife_excess": (0.0,)}
    name = {"overlap": "jackknife", "quartiles": "jackknife_quartiles", "excess": "jackknife_excess"}[statistic]
    points = flat([("a", "stage", 0.1), ("b", "stage", 0.95)])
    other = [dataclasses.replace(points[0], **good), dataclasses.replace(points[1], **bad)]
    assert pick_transition(other, statistic=statistic).point == "a"
    swapped = [dataclasses.replace(other[0], **{name: bad[name]}), other[1]]
    assert pick_transition(swapped, statistic=statistic).determined is False


def test_a_similarity_is_built_from_results():
    generator = np.random.default_rng(0)
    pairs = [
        (CcaResult(np.sort(generator.random(30))[::-1], (30, 40), 900 - group), wachter_sample(30, 40, 900 - group, 50))
        for group in range(4)
    ]
    made = Similarity.from_results("layer2", "stage", pairs[0], pairs[1:])
    assert (made.point, made.level, made.dims, made.n) == ("layer2", "stage", (30, 40), 900)
    assert made.overlap == overlap_coefficient(pairs[0][0].coefficients, pairs[0][1])
    assert made.jackknife == tuple(overlap_coefficient(each.coefficients, null) for each, null in pairs[1:])
    assert made.jackknife_quartiles == tuple(quartile_rule(each.coefficients, null) for each, null in pairs[1:])
    assert made.jackknife_excess == tuple(excess_area(each.coefficients, null) for each, null in pairs[1:])
    assert made.quartiles() == tuple(
        np.quantile(each, SHARES).tolist() for each in (pairs[0][0].coefficients, pairs[0][1])
    )


@pytest.mark.parametrize(
    ("similarities", "options", "message"),
    [
        ([("a", "block", 0.1)], {}, "at least one point with level 'stage'"),
        ([], {"level": "block"}, "at least one point"),
        ([("a", "stage", 0.1)], {"statistic": "mean"}, "one of overlap, quartiles, excess, got 'mean'"),
        ([("a", "stage", 0.1)], {"level": "layer"}, "'stage' or 'block', got 'layer'"),
    ],
)
def test_what_makes_no_sense_is_refused(similarities, options, message):
    with pytest.raises(ValueError, match=message):
        pick_transition(flat(similarities), **options)


def test_groups_must_be_the_same_everywhere():
    first, second = flat([("a", "stage", 0.1), ("b", "stage", 0.9)])
    with pytest.raises(ValueError, match=r"as many groups left out at every point, got \[0, 2\]"):
        pick_transition([first, dataclasses.replace(second, jackknife=(0.1, 0.2))])


@pytest.mark.parametrize("seed", range(5))
def test_random_features_of_few_dimensions_are_never_a_pick(seed):
    generator = np.random.default_rng(seed)
    points = []
    for name in ("a", "b"):
        x, y = generator.standard_normal((2, 160, 8))
        null = wachter_sample(8, 8, 160)
        points.append(Similarity(name, "stage", cca(x, y).coefficients, (8, 8), 160, null))
    found = pick_transition(points)
    assert not found.determined
    # What overlaps clearly less is one.
    same = Similarity("same", "stage", np.full(8, 0.9), (8, 8), 160, points[0].null)
    assert pick_transition([same, dataclasses.replace(same, point="b", coefficients=points[0].null)]).point == "same"
