"""A value of a config as a command line writes it. Imports nothing heavy."""

from __future__ import annotations

import ast
import re
from typing import Any

__all__ = ["read_setting"]

_NAMES = re.compile(r"\[\s*([\w.+:-]+(?:\s*,\s*[\w.+:-]+)*)\s*\]")


def read_setting(text: str) -> tuple[str, Any]:
    """A value of a config: `ID=VALUE`, the value read as a Python literal where it is one.

    A list of names needs no quotes, of which a shell would leave none: `points=[blocks.1, blocks.2]`.

    Raises:
        ValueError: no ID or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set takes ID=VALUE, such as --set max_epochs=20, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        names = _NAMES.fullmatch(value)
        return name, re.split(r"\s*,\s*", names[1]) if names else value
