"""From the cells of a table to labels: one class an image, or several labels an image with unknown ones, and slices."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def class_labels(values: Sequence[str], class_names: Sequence[str] | None = None) -> tuple[list[int | None], list[str]]:
    """One class an image.

    Args:
        values: the cells.
        class_names: names in the order of the labels; the cells hold these names, or 0, 1, ... in their order.
            Default: every value found is a class, numbers in their order before words in theirs.

    Returns:
        The index of the class of each cell, None where it is empty or unknown; and the names of the classes.

    Raises:
        ValueError: fewer than two classes, or so many values that the cells cannot be classes.
    """
    found = set(values) - {""}
    if class_names is None:
        if 3 * len(found) > max(len(values), 6):
            raise ValueError(
                f"the label has {len(found)} different values in {len(values)} rows: is it the right column?"
            )
        class_names = sorted(found, key=_numbers_first)
    names = list(class_names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected at least two different classes, got {len(names)} names")
    by_name = {name: index for index, name in enumerate(names)}
    by_number = {text: index for index in range(len(names)) for text in (str(index), f"{index}.0")}
    known = max(by_name, by_number, key=lambda table: len(found & table.keys()))
    return [known.get(value) for value in values], names


def multi_labels(
    rows: Sequence[Sequence[str]], *, uncertain: str | None = None, blank: str = "unknown"
) -> list[tuple[float | None, ...] | None]:
    """Several labels an image, each 1, 0 or unknown.

    Args:
        rows: the cells of each image, one a label: 1, 0 (also 1.0, 0.0), or empty or "nan".
        uncertain: what -1 means: "unknown", "negative" or "positive" (CheXpert's U-Ones); None: an error.
        blank: what an empty cell means: "unknown" or "negative".

    Returns:
        For each image one of 1, 0, None (unknown) a label; None instead where a cell is anything else.
    """
    meaning: dict[str, int | None] = {"unknown": None, "negative": 0, "positive": 1}
    values: dict[float, int | None] = {0.0: 0, 1.0: 1}
    if uncertain:
        values[-1.0] = meaning[uncertain]
    known: dict[str, int | None] = {}

    def value_of(cell: str) -> int | None:
        if cell not in known:
            number = float(cell) if cell else math.nan
            known[cell] = meaning[blank] if math.isnan(number) else values[number]
        return known[cell]

    labels: list[tuple[float | None, ...] | None] = []
    for cells in rows:
        try:
            labels.append(tuple(value_of(cell) for cell in cells))
        except (ValueError, KeyError):
            labels.append(None)
    return labels


def slice_numbers(cell: str) -> list[int] | None:
    """The numbers of slices in a cell, ascending, each once; None where it holds anything else.

    Args:
        cell: numbers from 0 or ranges of them, with spaces or semicolons between; may be empty.

    Example:
        >>> slice_numbers("12 3;5-7")
        [3, 5, 6, 7, 12]
    """
    numbers: set[int] = set()
    for word in cell.replace(";", " ").split():
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", word)
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not found:
            return None
        numbers.update(found)
    return sorted(numbers)


def _numbers_first(value: str) -> tuple[float, str]:
    try:
        return (float(value), value)
    except ValueError:
        return (math.inf, value)
