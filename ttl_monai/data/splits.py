"""Splitting patients so that images, patients and every class are shared out in the asked fractions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttl_monai.data.records import Table, label_matrix, name_rows, patient_numbers


def split_groups(counts: np.ndarray, fractions: Sequence[float], *, seed: int | Sequence[int]) -> np.ndarray:
    """Share groups out among sections, whole, keeping every column of `counts` near the fractions.

    Iterative stratification (Sechidis et al., ECML 2011, doi 10.1007/978-3-642-23808-6_10) with groups in place of
    single examples: groups that carry the rarest column come first, large ones before small ones, and each goes to
    the section that has received the smallest part of what it is due in the columns that the group carries.

    Args:
        counts: what each group holds, shape (groups, columns), the first column its number of images.
        fractions: share of each section, positive, with sum 1.
        seed: seed of the order of groups that are otherwise alike.

    Returns:
        Index of the section of each group, shape (groups,).

    Note:
        scikit-learn's StratifiedGroupKFold is the nearest in a library. It knows one label an image and equal folds
        only (no .64/.16/.20 but by splitting twice, no multi-label images).
    """
    totals = counts.sum(axis=0)
    shares = counts[:, totals > 0] / totals[totals > 0]  # (groups, columns): the part of a column that a group holds
    rarest = np.where(shares > 0, totals[totals > 0], np.inf).min(axis=1)
    # Powers of two, not exact sizes: else patients of unlike sizes would fall alike with every seed.
    size = np.floor(np.log2(counts[:, 0]))
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.lexsort((-size[order], rarest[order]))]

    largest_first = np.argsort(-np.asarray(fractions), kind="stable")
    due = np.asarray(fractions)[largest_first]
    need = np.ones((len(due), shares.shape[1]))  # part of its due that a section still waits for, by column
    sections = np.empty(len(counts), dtype=np.intp)
    for group in order:
        share = shares[group]
        choice = int(np.argmax(need @ share))
        need[choice] -= share / due[choice]
        sections[group] = largest_first[choice]
    return sections


def split_patients(table: Table, fractions: Sequence[float], *, seed: int | Sequence[int]) -> np.ndarray:
    """The section of each record: stratified, and all images of a patient in one section.

    Args:
        table: the records; a patient may have several images with different labels.
        fractions: share of each section, with sum 1; a section of 0 stays empty.
        seed: seed of the split.

    Returns:
        Index of the section of each record, shape (records,).
    """
    patients = patient_numbers(table)
    labels = label_matrix(table.task, len(table.class_names), [record.label for record in table.records])
    # Images, positives and negatives of each class, and patients are all to be shared out in the fractions.
    columns = np.column_stack([np.ones(len(patients)), labels == 1, labels == 0])
    counts = np.zeros((patients.max() + 1, columns.shape[1]))
    np.add.at(counts, patients, columns)
    counts = np.column_stack([counts, np.ones(len(counts))])

    used = [index for index, fraction in enumerate(fractions) if fraction > 0]
    sections = split_groups(counts, [fractions[index] for index in used], seed=seed)
    return np.array(used)[sections][patients]


def published_split(table: Table, names: Sequence[str]) -> np.ndarray:
    """The section of each record as the data set publishes it.

    Args:
        table: the records, each with a section in `table.sections`.
        names: the names of the sections.

    Returns:
        Index of the section of each record, shape (records,).

    Raises:
        ValueError: patients in two sections, by row.
    """
    sections = np.array([names.index(table.sections[record.image]) for record in table.records])
    patients = patient_numbers(table)
    found = np.unique(np.column_stack([patients, sections]), axis=0)[:, 0]
    shared = np.isin(patients, found[1:][found[1:] == found[:-1]])
    if shared.any():
        rows = name_rows(record.row for record, both in zip(table.records, shared, strict=True) if both)
        raise ValueError(f"the published split has patients in two sections: {rows}; split by patient with --resplit")
    return sections
