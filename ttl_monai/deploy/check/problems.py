"""What a preflight found, and how it is shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ttl_monai.data.list_problems import name_places
from ttl_monai.engines.workflow import told_cause

PROBLEM, WARNING, NOTE = "problem", "warning", "note"
# In the order in which they are made and shown.
CHECKS = ("config", "datalist", "images", "weights", "batch", "disk", "output")
_PATH = re.compile(r"(?<![\w.:/~])/(?:[^/\s'\":;,]+/)+([^/\s'\":;,]+)")


@dataclass(frozen=True)
class Problem:
    """One thing that was found.

    Attributes:
        severity: "problem" (the training would fail or be wrong), "warning" (it may be) or "note" (a fact).
        what: what was found, in words.
        where: a file, rows of the datalist such as `training[3]`, or ids of the config.
        remedy: what to do about it.
    """

    severity: str
    what: str
    where: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        where = f" [{name_places(list(self.where))}]" if self.where else ""
        return f"{self.severity:7s} {self.what}{where}" + (f" -> {self.remedy}" if self.remedy else "")


@dataclass
class Findings:
    """All that was found, by check.

    Attributes:
        found: of each check that was made.
        skipped: why a check was not made.
        names: what a folder is called in messages, which name no other place of the machine.
    """

    found: dict[str, list[Problem]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, check: str, severity: str, what: str, *where: str, remedy: str = "") -> None:
        """Note one thing, its paths shortened."""
        places = tuple(self.hide(each) for each in where)
        self.found.setdefault(check, []).append(Problem(severity, self.hide(what), places, self.hide(remedy)))

    def start(self, check: str) -> None:
        """Say that a check is made, so that one that finds nothing is shown as well."""
        self.found.setdefault(check, [])

    @contextmanager
    def collect(self, check: str, *where: str, remedy: str = "") -> Iterator[None]:
        """Turn what is raised into problems: one that lists several gives as many."""
        try:
            yield
        except Exception as error:  # a preflight reports whatever stops a training, and goes on to the next check
            for what in reasons_of(error):
                self.add(check, PROBLEM, what, *where, remedy=remedy)

    def hide(self, text: str) -> str:
        """A text without the places of this machine: the known folders by their names, of other paths the last part."""
        for path in sorted(self.names, key=len, reverse=True):
            text = text.replace(path, self.names[path])
        return _PATH.sub(r".../\1", text)

    def count(self, severity: str, check: str | None = None) -> int:
        """How many there are of a severity, of one check or of all."""
        lists = self.found.values() if check is None else [self.found.get(check, [])]
        return sum(each.severity == severity for problems in lists for each in problems)

    def exit_code(self, *, strict: bool = False) -> int:
        """2 with problems; with `strict`, 1 with warnings; else 0."""
        return 2 if self.count(PROBLEM) else 1 if strict and self.count(WARNING) else 0

    def to_json(self, *, strict: bool = False) -> dict[str, Any]:
        """As plain JSON values, with all places."""
        return {
            "exit_code": self.exit_code(strict=strict),
            "counts": dict(Counter(each.severity for problems in self.found.values() for each in problems)),
            "found": {check: [asdict(each) for each in problems] for check, problems in self.found.items()},
            "skipped": self.skipped,
        }

    def lines(self) -> list[str]:
        """The table: one line a thing, by check, and a line at the end that counts."""
        lines = []
        for check in CHECKS:
            if check in self.skipped:
                lines.append(f"{check}: not checked, as {self.skipped[check]}")
            if check not in self.found:
                continue
            bad = self.count(PROBLEM, check) + self.count(WARNING, check)
            lines.append(f"{check}: {self._counted(check)}" if bad else f"{check}: nothing found")
            order = (PROBLEM, WARNING, NOTE)
            lines += [f"  {each}" for each in sorted(self.found[check], key=lambda each: order.index(each.severity))]
        return [*lines, f"{self._counted()} in all" if self.count(PROBLEM) + self.count(WARNING) else "nothing found"]

    def _counted(self, check: str | None = None) -> str:
        counts = {severity: self.count(severity, check) for severity in (PROBLEM, WARNING)}
        return ", ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in counts.items() if number)


def reasons_of(error: BaseException) -> Sequence[str]:
    """What an error says, without what MONAI wraps around it; of `raise_problems`, each of the problems."""
    cause = told_cause(error)
    if cause is None:
        last = [line for line in str(error).splitlines() if line.strip()]
        return [f"{type(error).__name__}: {last[0] if last else 'without a message'}"]
    if isinstance(cause, OSError) and cause.strerror:
        return [f"{cause.strerror}: {cause.filename}" if cause.filename else cause.strerror]
    head, *bullets = str(cause).split("\n- ")
    return bullets or [head]
