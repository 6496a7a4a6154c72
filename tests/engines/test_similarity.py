"""SVCCA of two networks over a stream of images: the numbers of one big array, for any batches and groups."""

import itertools
import os

import numpy as np
import pytest
import torch
from torch import nn

from ttl_monai.analysis import as_samples, cca, match_grids, svcca, wachter_quantiles
from ttl_monai.engines.feature_moments import LayerMoments, PatientMoments, patient_group
from ttl_monai.engines.similarity import compare_networks, feed, image_batches, to_rows, transitions
from ttl_monai.networks import PointFeatures
from ttl_monai.networks.features import choose_points


class Block(nn.Module):
    def __init__(self, before, after, kind):
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if kind == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.conv1, self.norm = convolution(before, after, 3, padding=1), norm(after)
        self.conv2 = convolution(after, after, 3, stride=2, padding=1)

    def forward(self, image):
        return self.conv2(torch.relu(self.norm(self.conv1(image))))


class Tiny(nn.Module):
    def __init__(self, kind=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stage1 = nn.Sequential(Block(1, 4, kind), Block(4, 4, kind))
        self.stage2 = nn.Sequential(Block(4, 6, kind))

    def forward(self, image):
        return self.stage2(self.stage1(image)).flatten(2).mean(2)


PATIENTS = [f"p{number // 2}" for number in range(24)]


def images(kind=2):
    return torch.rand(len(PATIENTS), 1, *(24,) * kind, generator=torch.Generator().manual_seed(3))


def batches(size=7, kind=2):
    pixels = images(kind)
    for start in range(0, len(PATIENTS), size):
        yield pixels[start : start + size], PATIENTS[start : start + size]


def maps(network, points, kind=2):
    with torch.no_grad():
        return PointFeatures(network.eval(), points)(images(kind))


@pytest.mark.parametrize("sums", [PatientMoments, LayerMoments])
def test_sums_that_do_not_fit_the_free_memory_are_refused(monkeypatch, sums):
    before, after = Tiny(), Tiny(seed=1)
    points = choose_points(before, "block")
    names = [name for name, _ in points]
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_AVPHYS_PAGES": 1}[name])
    with pytest.raises(ValueError, match=r"second moments of these points need .* GiB, and .* free: name fewer points"):
        feed(before, after, names, batches(), [sums(points if sums is PatientMoments else names)])


@pytest.mark.parametrize(("kind", "size"), [(2, 7), (2, 1), (3, 24)])
def test_coefficients_are_those_of_all_samples_at_once(kind, size):
    before, after = Tiny(kind), Tiny(kind, seed=1)
    points = choose_points(before, "block")
    found = compare_networks(before, after, batches(size, kind), points)
    names = [name for name, _ in points]
    assert [each.point for each in found] == names == ["stage1.0", "stage1.1", None]
    first, second = maps(before, names, kind), maps(after, names, kind)
    for each in found:
        expected = cca(as_samples(first[each.point]), as_samples(second[each.point]))
        # float32 convolutions of other batch sizes differ by rounding
        np.testing.assert_allclose(each.coefficients, expected.coefficients, atol=1e-6)
        null = wachter_quantiles(*expected.dims, expected.n, (0.25, 0.5, 0.75))
        np.testing.assert_allclose(each.quartiles()[1], null, atol=2e-3)


def test_a_cut_of_variance_takes_the_null_of_the_kept_dimensions():
    before, after = Tiny(), Tiny(seed=1)
    (found,) = compare_networks(before, after, batches(), [("stage1.1", "stage")], variance=0.9)
    expected = svcca(
        *(as_samples(maps(network, ["stage1.1"])["stage1.1"]) for network in (before, after)), variance=0.9
    )
    assert found.dims == expected.dims != (4, 4)
    np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-9)
    np.testing.assert_allclose(np.median(found.null), wachter_quantiles(*expected.dims, expected.n, 0.5), atol=1e-3)


def test_the_jackknife_leaves_out_each_group_of_patients():
    before, after = Tiny(), Tiny(seed=1)
    (found,) = compare_networks(before, after, batches(), [("stage1.1", "stage")], groups=4)
    x, y = (maps(network, ["stage1.1"])["stage1.1"] for network in (before, after))
    groups = np.array([patient_group(patient, 4) for patient in PATIENTS])
    met = list(dict.fromkeys(groups))
    assert len(found.jackknife) == len(met) > 1
    for group, excess in zip(met, found.jackknife_excess, strict=True):
        kept = torch.from_numpy(groups != group)
        expected = cca(as_samples(x[kept]), as_samples(y[kept]))
        null = wachter_quantiles(*expected.dims, expected.n, (np.arange(1000) + 0.5) / 1000).mean()
        assert excess == pytest.approx((expected.coefficients.mean() - null) / (1 - null), abs=1e-9)


def test_a_patient_s_group_is_the_same_everywhere():
    # the published SHA-256 of "a" and of "b"
    assert [patient_group(name, 10) for name in "ab"] == [0xCA978112CA1BBDCA % 10, 0x3E23E8160039594A % 10]
    counts = np.bincount([patient_group(str(number), 10) for number in range(5000)])
    assert counts.min() > 400


def test_exchanged_images_give_a_null_far_below_the_real_ones():
    network = Tiny()
    (found,) = compare_networks(network, network, batches(), [("stage1.0", "block")], null="permute")
    assert found.coefficients.min() > 1 - 1e-6
    assert np.median(found.null) < 0.5
    # neighbours of one patient are not exchanged: 12 pairs of the 23 are left
    x = maps(network, ["stage1.0"])["stage1.0"]
    pairs = [(b, a) for a, b in itertools.pairwise(range(24)) if PATIENTS[a] != PATIENTS[b]]
    left, right = (as_samples(x[list(side)]) for side in zip(*pairs, strict=True))
    np.testing.assert_allclose(found.null, cca(left, right).coefficients, atol=1e-9)
    assert len(found.jackknife) > 1


def test_both_networks_stay_as_they_are_also_on_error():
    before, after = Tiny().train(), Tiny(seed=1).train()
    after.stage2.eval()
    flags = [module.training for network in (before, after) for module in network.modules()]

    def fail(*_):
        raise KeyError("stop")

    with pytest.raises(KeyError):
        feed(before, after, ["stage1.0"], batches(), [fail])
    assert [module.training for network in (before, after) for module in network.modules()] == flags
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks for network in (before, after) for module in network.modules())


def test_the_matrix_compares_all_pairs_on_the_smaller_grid():
    before, after = Tiny(), Tiny(seed=1)
    names = ["stage1.0", None]
    pairs = LayerMoments(names)
    feed(before, after, names, batches(), [pairs])
    matrix = pairs.matrix()
    assert matrix["points"] == ["stage1.0", "whole"]
    x, y = maps(before, names), maps(after, names)
    for row, column in itertools.product(range(2), range(2)):
        expected = cca(*map(as_samples, match_grids(x[names[row]], y[names[column]])))
        assert matrix["mean"][row][column] == pytest.approx(expected.mean, abs=1e-5)
    assert matrix["excess_area"][0][0] < matrix["mean"][0][0]


class Images:
    def __init__(self, size=24):
        self.data = [{"image": images()[n], "patient": PATIENTS[n], "image_id": f"i{n}"} for n in range(size)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def test_batches_hold_each_image_once_by_groups_and_seldom_beside_its_patient_s_other():
    def prepare(batch, device):
        return batch["image"].to(device), None

    state = torch.get_rng_state()
    found = list(image_batches(Images(), prepare, device=torch.device("cpu"), batch_size=5, groups=3))
    assert torch.equal(torch.get_rng_state(), state)
    patients = [patient for _, batch in found for patient in batch]
    assert sorted(patients) == sorted(PATIENTS)
    assert [patient_group(patient, 3) for patient in patients] == sorted(patient_group(p, 3) for p in PATIENTS)
    assert sum(a == b for a, b in itertools.pairwise(patients)) < 6
    pixels = {tuple(image.flatten()[:3].tolist()) for batch, _ in found for image in batch}
    assert len(pixels) == 24


def test_rows_and_picks_are_plain_values():
    before = Tiny()
    similarities = compare_networks(before, before, batches(), choose_points(before, "block"))
    rows, picks = to_rows(similarities, "wachter"), transitions(similarities)
    assert [row["point"] for row in rows] == ["stage1.0", "stage1.1", None]
    assert all(min(row["coefficients"]) > 0.999 and row["overlap"] < 0.05 and not row["quartile_rule"] for row in rows)
    assert all(
        len(row["null_quantiles"]) == 21 and row["null_quartiles"] == sorted(row["null_quartiles"]) for row in rows
    )
    assert set(picks) == {"stage", "block"}
    # equal features are reused up to the end
    for level in picks.values():
        assert set(level) == {"overlap", "quartiles", "excess"}
        assert all(each["point"] is None and each["determined"] for each in level.values())


class Bad:
    def unknown_null(self):
        PatientMoments([], null="noise")

    def no_groups(self):
        PatientMoments([], groups=0)

    def no_images(self):
        compare_networks(Tiny(), Tiny(), [], [("stage1.0", "block")])

    def one_patient(self):
        compare_networks(Tiny(), Tiny(), [(images(), ["p"] * 24)], [("stage1.0", "block")], null="permute")

    def dead_point(self):
        network = Tiny()
        nn.init.zeros_(network.stage1[0].conv2.weight)
        compare_networks(Tiny(), network, batches(), [("stage1.0", "block")])

    def other_grid(self):
        network = Tiny()
        network.stage1[0].conv2.stride = (1, 1)
        compare_networks(Tiny(), network, batches(), [("stage1.0", "block")])

    def empty_data(self):
        list(image_batches(Images(0), None, device=torch.device("cpu")))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("unknown_null", "null must be one of wachter, permute, got 'noise'"),
        ("no_groups", "groups must be at least 1, got 0"),
        ("no_images", "at least one image"),
        ("one_patient", "at least two patients, got one"),
        ("dead_point", "no SVCCA at stage1.0: .*constant"),
        ("other_grid", r"maps of one size at stage1.0, got \(12, 12\) and \(24, 24\)"),
        ("empty_data", "the data set is empty"),
    ],
)
def test_bad_input_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        getattr(Bad(), case)()
