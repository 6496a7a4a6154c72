"""Check the content of a config against the allow-lists, as plain data: MONAI's parser is not asked."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from ttl_monai.deploy.allowed import NO_ARGUMENTS, Allowed
from ttl_monai.deploy.findings import Finding, shown
from ttl_monai.deploy.packed import to_source

__all__ = ["check_config", "check_top", "check_values"]

DEPTH = 40
"""Levels of nesting. Our configs have eight."""
_SEPARATOR = re.compile(r"#|::")  # of MONAI's ids
_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[\\/]|[A-Za-z][\w+.-]*://|file:", re.ASCII | re.IGNORECASE)
_ON_PURPOSE = "if it is meant and safe, add it to our bundles and to the allow-list on purpose; else drop the bundle"


def check_config(content: Any, file: str, allowed: Allowed, *, packages: frozenset[str]) -> Iterator[Finding]:
    """Find what a file of `configs` says beyond the allow-lists.

    Args:
        content: what `load_plain` read.
        file: its path in the bundle.
        allowed: the allow-lists.
        packages: names under which the bundle carries our code: `<package>.networks` is `ttl_monai.networks` there.

    Yields:
        A finding for each value.
    """
    yield from check_top(content, file, allowed)
    yield from check_values(content, file, allowed, packages=packages, paths=True)


def check_top(content: Any, file: str, allowed: Allowed) -> Iterator[Finding]:
    """Find keys at the top that our configs do not have: ids that nobody reads, or overlays of what nobody overlays."""
    known = allowed.metadata if file.endswith("/metadata.json") else allowed.ids
    if not isinstance(content, dict):
        yield Finding(file, "", f"a {type(content).__name__}", "a JSON object", "take the file of the original bundle")
        return
    for key in content:
        if key not in known:
            yield Finding(file, str(key), f"the key {shown(key)}", _near(str(key), known, "key"), _ON_PURPOSE)


def check_values(
    content: Any, file: str, allowed: Allowed, *, packages: frozenset[str], paths: bool, place: str = "", depth: int = 0
) -> Iterator[Finding]:
    """Find expressions, targets, arguments, readers, paths and look-alikes that are not allowed, at any depth.

    Args:
        content: what `load_plain` read.
        file: its path in the bundle.
        allowed: the allow-lists.
        packages: see `check_config`.
        paths: whether absolute paths and `..` are findings: in configs, not in the records of docs.
        place: the id of `content`.
        depth: its level.

    Yields:
        A finding for each value.
    """
    check = _Check(file, allowed, packages, paths)
    if depth > DEPTH:
        yield Finding(file, place[:80], "nesting", f"at most {DEPTH} levels", "take the file of the original bundle")
    elif isinstance(content, str):
        yield from check.text(content, place)
    elif isinstance(content, (dict, list)):
        if isinstance(content, dict):
            yield from check.component(content, place)
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            below = f"{place}#{key}" if place else str(key)
            if isinstance(content, dict):
                yield from check.key(key, value, below, top=not place)
            yield from check_values(value, file, allowed, packages=packages, paths=paths, place=below, depth=depth + 1)


class _Check:
    """The rules for one value of one file."""

    def __init__(self, file: str, allowed: Allowed, packages: frozenset[str], paths: bool) -> None:
        self.file, self.allowed, self.packages, self.paths = file, allowed, packages, paths

    def ours(self, text: str) -> str:
        """A text in which the bundle's own copy of our code has its usual name."""
        return to_source(text, self.packages)

    def text(self, value: str, place: str) -> Iterator[Finding]:
        """Expressions, macros, paths and characters that cannot be seen."""
        yield from self.visible(value, place)
        # MONAI asks for the first character as it is. That a blank or a full-width dollar comes first is a trick.
        if unicodedata.normalize("NFKC", value).strip().startswith(("$", "%")):
            if self.ours(value) not in self.allowed.expressions:
                what = "macro" if value.startswith("%") else "expression"
                near = _near(value, self.allowed.expressions, what)
                yield Finding(self.file, place, f"the {what} {shown(value)}", near, _ON_PURPOSE)
        elif (
            self.paths
            and not self.is_reference(value)
            and (_ABSOLUTE.match(value) or ".." in re.split(r"[\\/]", value))
        ):
            yield Finding(
                self.file,
                place,
                f"the path {shown(value)}",
                "paths within the bundle",
                "give such a path on the command line, as --dataset_dir",
            )

    def is_reference(self, value: str) -> bool:
        """Metadata name addresses, which nothing follows."""
        return self.file.endswith("metadata.json") and value.startswith("https://")

    def visible(self, text: str, place: str) -> Iterator[Finding]:
        """Control, format and unassigned characters, which make a text look like another."""
        hidden = {each for each in text if unicodedata.category(each)[0] == "C" and each not in "\n\t"}
        if hidden:
            yield Finding(self.file, place, f"{shown(text)} with invisible characters", "visible text", "remove them")

    def key(self, key: Any, value: Any, place: str, *, top: bool) -> Iterator[Finding]:
        """The keys that MONAI acts on, also where an overlay's id ends in one (`train#trainer#_target_`)."""
        name = unicodedata.normalize("NFKC", str(key)).strip()
        yield from self.visible(str(key), place)
        if not top and _SEPARATOR.search(name):
            yield Finding(self.file, place, f"the key {shown(key)}", "ids with # or :: at the top only", "nest it")
        last = _SEPARATOR.split(name)[-1]
        if last == "_target_":
            if not isinstance(value, str) or self.ours(value) not in self.allowed.targets or key != name:
                near = _near(str(value), self.allowed.targets, "target")
                yield Finding(self.file, place, f"the target {shown(value)}", near, _ON_PURPOSE)
        elif last == "reader":
            if not isinstance(value, str) or self.ours(value) not in self.allowed.readers:
                allowed = " or ".join(self.allowed.readers)
                yield Finding(self.file, place, f"the reader {shown(value)}", allowed, _ON_PURPOSE)
        elif last.startswith("_") and last.endswith("_") and (last not in NO_ARGUMENTS or key != name):
            allowed = ", ".join(sorted(NO_ARGUMENTS))
            yield Finding(self.file, place, f"the key {shown(key)}", allowed, "remove it")

    def component(self, content: dict[Any, Any], place: str) -> Iterator[Finding]:
        """Arguments that our configs do not give to this target."""
        target = content.get("_target_")
        known = self.allowed.targets.get(self.ours(target)) if isinstance(target, str) else None
        for name in [] if known is None else content.keys() - NO_ARGUMENTS - set(known):
            allowed = f"the arguments {', '.join(known or [])} of {target}"
            yield Finding(self.file, f"{place}#{name}".lstrip("#"), f"the argument {shown(name)}", allowed, _ON_PURPOSE)


def _near(value: str, known: Any, what: str) -> str:
    """How many are allowed, and the one that is most like the value, for an honest slip."""
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.8) if len(value) < 400 else []
    return f"one of {len(known)} {what}s of our bundles" + (f"; the nearest is {shown(near[0])}" if near else "")
