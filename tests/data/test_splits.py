"""Splits: whole patients, right fractions, every class in its share, whatever the labels."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from ttl_monai.data.records import Record, Table
from ttl_monai.data.splits import split_groups, split_patients

PAPER = (0.64, 0.16, 0.2)


def made_table(task, patients, *, num_classes=2, seed=0, images=4):
    """Patients with 1 to `images` images; rare classes, mixed labels inside a patient, unknown labels."""
    rng = np.random.default_rng(seed)
    frequency = np.geomspace(1, 0.05, num_classes)
    records = []
    for patient in range(patients):
        for _ in range(rng.integers(1, images + 1)):
            label = int(rng.choice(num_classes, p=frequency / frequency.sum()))
            if task == "multi-label":
                values = np.where(rng.random(num_classes) < frequency / 2, 1.0, 0.0)
                label = tuple(None if rng.random() < 0.2 else value for value in values.tolist())
            if task == "segmentation":
                label = f"mask{len(records)}.png"
            records.append(Record(len(records) + 2, f"{len(records)}.png", label, f"patient {patient}"))
    return Table(task, [f"class {index}" for index in range(num_classes)], records)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("task", "patients", "num_classes", "images"),
    [
        ("binary", 1121, 2, 2),
        ("binary", 60, 2, 1),
        ("multi-class", 400, 7, 5),
        ("multi-class", 40, 3, 8),
        ("multi-label", 600, 14, 6),
        ("multi-label", 60, 3, 2),
        ("segmentation", 100, 3, 1),
        ("segmentation", 73, 3, 3),
    ],
)
def test_fractions_hold_within_a_patient_or_two(task, patients, num_classes, images, seed):
    """For all images, and those of each class, each section is within 1.5 large patients of its share."""
    table = made_table(task, patients, num_classes=num_classes, images=images, seed=seed)
    split = split_patients(table, PAPER, seed=seed)
    kinds = {"all": np.ones(len(split), dtype=bool)}
    labels = [record.label for record in table.records]
    for c in range(num_classes if task != "segmentation" else 0):
        if task == "multi-label":
            kinds |= {f"{c} is {value}": np.array([label[c] == value for label in labels]) for value in (0, 1)}
        else:
            kinds[f"{c}"] = np.array([label == c for label in labels])
    off = {
        (kind, section): np.sum(split[carries] == section) - fraction * carries.sum()
        for kind, carries in kinds.items()
        for section, fraction in enumerate(PAPER)
    }
    assert {place: distance for place, distance in off.items() if abs(distance) > max(1.5 * images, 2)} == {}
    sizes = [
        len({record.patient for record, s in zip(table.records, split, strict=True) if s == section})
        for section in range(3)
    ]
    np.testing.assert_allclose(np.array(sizes) / patients, PAPER, atol=0.02 + 1 / patients)


def test_no_patient_is_in_two_sections():
    table = made_table("multi-label", 300, num_classes=5)
    split = split_patients(table, PAPER, seed=3)
    sections = {}
    for record, section in zip(table.records, split, strict=True):
        sections.setdefault(record.patient, set()).add(section)
    assert all(len(found) == 1 for found in sections.values())
    assert len(sections) == 300


def test_split_is_the_same_for_a_seed_and_another_for_another():
    table = made_table("binary", 50)
    first, again, other = (split_patients(table, PAPER, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_patients_of_unlike_sizes_still_differ_between_seeds():
    counts = np.array([[size, size] for size in range(1, 11)])
    splits = {split_groups(counts, PAPER, seed=seed).tobytes() for seed in range(5)}
    assert len(splits) > 1


def test_three_patients_of_a_class_reach_all_sections():
    labels = [0] * 100 + [1] * 3
    table = Table("binary", ["a", "b"], [Record(i, f"{i}", label, f"{i}") for i, label in enumerate(labels)])
    for seed in range(10):
        assert sorted(split_patients(table, PAPER, seed=seed)[-3:].tolist()) == [0, 1, 2]


def test_a_section_of_zero_stays_empty():
    table = made_table("binary", 100)
    split = split_patients(table, (0.8, 0.0, 0.2), seed=0)
    assert set(split.tolist()) == {0, 2}
    assert np.mean(split == 0) == pytest.approx(0.8, abs=0.02)
    assert set(split_patients(table, (0.0, 0.0, 1.0), seed=0).tolist()) == {2}


def test_classes_are_at_least_as_even_as_with_scikit_learn():
    """Oracle: StratifiedGroupKFold with five folds, one of them the test section."""
    table = made_table("multi-class", 300, num_classes=5, images=4)
    labels = np.array([record.label for record in table.records])
    groups = [record.patient for record in table.records]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    theirs = [
        np.abs([np.mean(np.isin(np.flatnonzero(labels == c), test)) - 0.2 for c in range(5)]).max() for _, test in folds
    ]
    ours = []
    for seed in range(5):
        split = split_patients(table, PAPER, seed=seed)
        ours.append(np.abs([np.mean(split[labels == c] == 2) - 0.2 for c in range(5)]).max())
    assert np.mean(ours) <= np.mean(theirs)
