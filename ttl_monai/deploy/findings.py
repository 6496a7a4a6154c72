"""What a check of a bundle finds, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Finding", "findings_table", "shown"]

LONGEST = 160


@dataclass(frozen=True)
class Finding:
    """One thing of a bundle that is not as it must be.

    Attributes:
        file: path in the bundle, POSIX.
        place: where in the file, for configs the id (`train#trainer#_target_`); empty for the file as a whole.
        found: what is there.
        allowed: what may be there.
        remedy: what to do about it.
    """

    file: str
    place: str
    found: str
    allowed: str
    remedy: str


def shown(value: object) -> str:
    """A value of a hostile file as text that cannot play tricks with a terminal: ASCII, escaped, cut to length."""
    text = ascii(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def findings_table(findings: Iterable[Finding]) -> str:
    """The findings as text, each with its place first and the rest below it, since expressions are long."""
    blocks = []
    for each in findings:
        where = _printable(f"{each.file}  {each.place}".rstrip())
        rest = {"found": each.found, "allowed": each.allowed, "remedy": each.remedy}
        blocks.append("\n".join([where, *(f"  {name:<8}{_printable(text)}" for name, text in rest.items())]))
    return "\n".join(blocks)


def _printable(text: str) -> str:
    return "".join(each if each.isascii() and each.isprintable() else ascii(each)[1:-1] for each in text)
