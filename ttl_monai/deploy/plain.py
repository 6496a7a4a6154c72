"""Read JSON and YAML of strangers as data: strictly, bounded, and nothing of it is evaluated."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["TEXT_LIMIT", "load_plain", "read_plain"]

TEXT_LIMIT = 16 * 2**20
"""Bytes of a JSON file. The largest of our bundles' has 30 KB."""
YAML_LIMIT = 2**18
"""Bytes of a YAML file, whose parser is slow."""


def read_plain(path: Path, name: str) -> Any:
    """`load_plain` of a file, of which no more than the limit is read."""
    with path.open("rb") as file:
        return load_plain(file.read(TEXT_LIMIT + 1), name)


def load_plain(data: bytes, name: str) -> Any:
    """The content of a JSON or YAML file.

    What two parsers may read in two ways is refused: keys that stand twice, a byte order mark, YAML's anchors and tags.

    Args:
        data: the file.
        name: its name, which ends in .json, .yaml or .yml.

    Raises:
        ValueError: the file is too large, nested too deeply, no UTF-8, or not strictly JSON or YAML; the name is told.
    """
    is_yaml = name.endswith((".yaml", ".yml"))
    limit = YAML_LIMIT if is_yaml else TEXT_LIMIT
    if len(data) > limit:
        raise ValueError(f"{name}: expected at most {limit:,} bytes of text, found more")
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{name}: expected UTF-8 without a byte order mark, found one")
    try:
        text = data.decode("utf-8")
        return _load_yaml(text) if is_yaml else json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from None


def _unique(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"expected each key once, found {next(key for key in keys if keys.count(key) > 1)!r} again")
    return found


def _load_yaml(text: str) -> Any:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError(f"expected plain YAML, found an anchor, alias or tag in line {event.start_mark.line + 1}")
    return yaml.load(text, Loader=_UniqueLoader)  # a SafeLoader


class _UniqueLoader(yaml.SafeLoader):
    """YAML's safe loader, which takes the last of several equal keys, made to refuse them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _unique([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep=deep)
