"""One row a series from the rows of its windows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ttl_monai.data import series_scores

POOLINGS = ("max", "mean", "top-k")


def check_pooling(pooling: str | None) -> None:
    """Raise ValueError unless it is one of `POOLINGS`, or None: every row counts for itself."""
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)} or None, got {pooling!r}.")


def pool_rows(ids: Sequence[Hashable], scores: np.ndarray, *, pooling: str) -> tuple[list[int], np.ndarray]:
    """Put the rows of each id together, each column on its own.

    Args:
        ids: what each row is of, shape (N,).
        scores: (N, K).
        pooling: one of `POOLINGS`, see `series_scores`.

    Returns:
        The number of the first row of each id, and the pooled scores (ids, K), both in the order of those rows.
    """
    check_pooling(pooling)
    first = {id_: len(ids) - 1 - row for row, id_ in enumerate(reversed(ids))}
    columns = [series_scores(column.tolist(), ids, method=pooling) for column in np.asarray(scores).T]
    order = sorted(first.values())
    return order, np.array([[column[ids[row]] for column in columns] for row in order], dtype=np.float64)


def check_labels(ids: Sequence[Hashable], labels: np.ndarray, order: Sequence[int]) -> None:
    """Raise ValueError unless all rows of an id have the label of its first row.

    Args:
        ids: what each row is of, shape (N,).
        labels: (N, ...), NaN where unknown.
        order: first rows, as `pool_rows` gives them.
    """
    of_id = {ids[row]: labels[row] for row in order}
    expected = np.array([of_id[id_] for id_ in ids])
    if not np.array_equal(np.asarray(labels, dtype=float), np.asarray(expected, dtype=float), equal_nan=True):
        raise ValueError(
            "the windows of a series have different labels, so that the series has none: expected the label of the "
            "series in 'label', as WindowDataset gives it"
        )
