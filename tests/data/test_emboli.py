"""Synthetic emboli: filling defects inside of the arteries, positions of sections apart, nothing else that tells."""

import json

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt

from ttl_monai.data import Datalist, read_nifti
from ttl_monai.data.emboli import Blob, Site, check_apart, draw_scan, partition_arteries, surroundings
from ttl_monai.data.emboli_files import BLOCKS, EMBOLI, MARGIN_MM, SHAPE, make_emboli, read_cta

SPACING = (2.0, 1.5, 1.5)


@pytest.fixture(scope="module")
def chest():
    """A made vessel, 100 mm long and 24 mm wide, of 500 HU in lung."""
    places = np.moveaxis(np.mgrid[:24, :40, :80] * np.reshape(SPACING, (3, 1, 1, 1)), 0, -1)
    arteries = np.hypot(places[..., 0] - 23, places[..., 1] - 30) < 12
    arteries &= abs(places[..., 2] - 60) < 50
    return np.where(arteries, 500, -800).astype(np.int16), arteries


@pytest.fixture(scope="module")
def parts(chest):
    return partition_arteries(chest[1], SPACING, blocks=BLOCKS, margin_mm=4, seed=1)


def blobs(site, count, seed=0):
    rng = np.random.default_rng(seed)
    return [site.place(rng) for _ in range(count)]


def covered(blob, shape):
    volume = np.zeros(shape)
    box, cover = blob.cover(shape, SPACING)
    volume[box] = cover
    return volume


def test_sections_share_the_arteries_and_lie_apart(chest, parts):
    assert sum(part.astype(int) for part in parts.values()).max() == 1
    assert all((part <= chest[1]).all() and part.sum() > 100 for part in parts.values())
    voxels = {name: np.argwhere(part) * SPACING for name, part in parts.items()}
    for name, other in (("training", "validation"), ("training", "test"), ("validation", "test")):
        # every pair of voxels, as an oracle
        nearest = min(np.linalg.norm(voxels[other] - voxel, axis=1).min() for voxel in voxels[name][::7])
        assert nearest >= 4
    again, another = (partition_arteries(chest[1], SPACING, blocks=BLOCKS, margin_mm=4, seed=s) for s in (1, 2))
    assert (again["test"] == parts["test"]).all()
    assert (another["test"] != parts["test"]).any()


def test_defects_of_one_section_touch_no_other(chest, parts):
    shapes = {name: sum(covered(b, chest[1].shape) for b in blobs(Site(p, SPACING), 4)) for name, p in parts.items()}
    for name, cover in shapes.items():
        assert not (cover[~parts[name]] > 0).any()  # the soft edge too
    check_apart({name: cover > 0 for name, cover in shapes.items()}, SPACING, 4)


def test_a_blob_has_its_size_and_a_soft_edge():
    round_one = Blob(np.array([23.0, 30.0, 60.0]), np.array([5.0, 5.0, 5.0]), np.eye(3), 50.0)
    cover = covered(round_one, (24, 40, 80))
    assert cover.sum() * np.prod(SPACING) == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.1)
    away = np.linalg.norm(np.moveaxis(np.indices(cover.shape), 0, -1) * SPACING - round_one.centre_mm, axis=-1)
    np.testing.assert_array_equal(cover == 1, away <= 4)
    assert not cover[away >= 6].any()
    assert ((cover > 0) & (cover < 1)).any()


def test_blobs_have_diameters_and_densities_as_asked(chest):
    found = blobs(Site(chest[1], SPACING), 40)
    diameters = 2 * np.array([blob.half_axes_mm for blob in found])
    assert diameters.min() >= 8
    assert diameters.max() <= 16
    ratios = diameters.max(axis=1) / diameters.min(axis=1)
    assert ratios.max() <= 2
    assert ratios.max() > 1.3  # elongated ones too
    assert all(30 <= blob.hu <= 80 for blob in found)


def test_scans_with_and_without_defects_differ_in_them_alone(chest, parts):
    hu, arteries = chest
    emboli, others = blobs(Site(parts["test"], SPACING), 2), blobs(surroundings(hu, arteries, SPACING), 3)
    options = {"others": others, "shape": (24, 36, 72), "seed": 3}
    positive = draw_scan(hu, arteries, SPACING, emboli=emboli, **options)
    negative = draw_scan(hu, arteries, SPACING, emboli=[], **options)
    assert negative.slices == ()
    assert not negative.emboli.any()
    changed = positive.hu != negative.hu
    assert changed.any()
    assert not changed[~binary_dilation(positive.emboli, iterations=3)].any()
    assert not (positive.emboli & ~positive.arteries).any()
    counted = [k for k in range(24) if positive.emboli[k].sum() >= 2]
    assert list(positive.slices) == counted
    other = draw_scan(hu, arteries, SPACING, emboli=[], **{**options, "seed": 4})
    assert (other.hu != negative.hu).mean() > 0.9


def test_distractors_lie_outside_of_the_arteries(chest):
    hu, arteries = chest
    for blob in blobs(surroundings(hu, arteries, SPACING), 10):
        assert not (covered(blob, hu.shape)[arteries] > 0).any()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"blocks": {"training": 1, "test": 1}}, "blocks must be a number, at least 1, for each of training"),
        ({"blocks": {**BLOCKS, "test": 0}}, "at least 1"),
        ({"margin_mm": 80.0}, r"nothing is left for .* with margins of 80 mm"),
        ({"blocks": {**BLOCKS, "test": 10**6}}, "expected arteries of at least 1000006 voxels"),
    ],
)
def test_partitions_that_cannot_be_are_refused(chest, options, reason):
    with pytest.raises(ValueError, match=reason):
        partition_arteries(chest[1], SPACING, **{"blocks": BLOCKS, "margin_mm": 4.0, "seed": 0, **options})


def test_parts_that_are_near_are_refused(parts):
    near = binary_dilation(parts["test"], iterations=6)
    with pytest.raises(ValueError, match=r"at least 4 mm apart, but .*test.* are \d\.\d\d mm apart"):
        check_apart({**parts, "test": near}, SPACING, 4)


@pytest.mark.parametrize("size", [1, 3])
def test_a_site_without_room_is_refused(size):
    inside = np.zeros((20, 20, 20), dtype=bool)
    inside[5 : 5 + size, 5 : 5 + size, 5 : 5 + size] = True
    with pytest.raises(ValueError, match="no place was found for a blob of 8 to 16 mm"):
        Site(inside, SPACING).place(np.random.default_rng(0))


def test_defects_in_a_real_ct_are_as_said(shared_data, tmp_path):
    cta = shared_data / "cta"
    hu, arteries, spacing_mm = read_cta(cta)
    parts = partition_arteries(arteries, spacing_mm, blocks=BLOCKS, margin_mm=MARGIN_MM, seed=0)
    check_apart(parts, spacing_mm, MARGIN_MM)
    for part in parts.values():
        assert not (part & ~arteries).any()
        emboli = [Site(part, spacing_mm).place(np.random.default_rng(0), (10, 14))]
        scan = draw_scan(hu, arteries, spacing_mm, emboli=emboli, others=[], shape=SHAPE, seed=5, noise=False)
        core = (
            distance_transform_edt(scan.emboli, sampling=spacing_mm) > 4
        )  # no partial volume, between slices of 3 mm neither
        assert core.any()
        assert scan.hu[core].min() >= 30
        assert scan.hu[core].max() <= 80
        ring = binary_dilation(scan.emboli, iterations=4) & ~binary_dilation(scan.emboli, iterations=2) & scan.arteries
        assert np.median(scan.hu[ring]) > 300
        assert not (scan.emboli & ~scan.arteries).any()
    make_emboli(cta, tmp_path, seed=0, pairs={"training": 2, "validation": 1, "test": 1})
    lists = {name: Datalist.load(tmp_path / f"{name}.json", tmp_path) for name in ("datalist", "shuffled", "elsewhere")}
    assert [len(lists["datalist"].section(name)) for name in BLOCKS] == [4, 2, 2]
    for item in (item for name in BLOCKS for item in lists["datalist"].section(name)):
        image = read_nifti(item["image"])
        assert image.array.shape == SHAPE[::-1]
        assert bool(item["slices"]) == (item["label"] == 1)
        if item["label"]:
            twin = read_nifti(item["image"].replace("positive", "negative")).array
            changed = np.flatnonzero((abs(image.array.astype(int) - twin) > 100).sum(axis=(0, 1)) >= 2)
            assert set(item["slices"]) <= set(changed.tolist())
            assert len(changed) <= len(item["slices"]) + 4 * EMBOLI[1]  # soft edges
    before = (tmp_path / "datalist.json").stat().st_mtime_ns
    make_emboli(cta, tmp_path, seed=0, pairs={"training": 2, "validation": 1, "test": 1})
    assert (tmp_path / "datalist.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="use another folder"):
        make_emboli(cta, tmp_path, seed=1, pairs={"training": 2, "validation": 1, "test": 1})
    elsewhere = json.loads((tmp_path / "elsewhere.json").read_text())["test"]
    assert [entry["label"] for entry in elsewhere] == [1, 0]
    assert not elsewhere[1]["slices"]
