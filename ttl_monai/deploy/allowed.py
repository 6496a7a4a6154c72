"""What a bundle's configs may say: the exact expressions, targets and names that our own bundles use, packed or not.

`allowed.json` is the committed list. A test compares it with what `collect_allowed` finds in the bundles, so that
what is new there is added on purpose: look at the difference, then write the file anew with
`python -m ttl_monai.deploy.allowed bundles`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttl_monai.deploy.packed import ADDED
from ttl_monai.deploy.plain import load_plain

__all__ = ["ALLOWED", "Allowed", "collect_allowed", "load_allowed"]

ALLOWED = Path(__file__).with_name("allowed.json")
NO_ARGUMENTS = {"_target_", "_disabled_", "_requires_", "_desc_"}
"""What a component may say besides its arguments. MONAI knows `_mode_` too, which starts a debugger."""


@dataclass(frozen=True)
class Allowed:
    """The allow-lists, each sorted.

    Attributes:
        expressions: strings that MONAI evaluates (`$...`) or replaces by another part of a config or file (`%...`).
        targets: `_target_` -> the names of its arguments. MONAI passes on any argument, as `shell` to a reader that
            is `subprocess.run`, so names matter as much.
        readers: `reader` of transforms that load, which MONAI looks up as any Python name and calls.
        ids: keys at the top of configs; an overlay's `train#trainer` is one.
        metadata: keys at the top of metadata.json: those of MONAI's schema and ours.
        logging: the texts of logging.conf, whose `args` Python evaluates.
    """

    expressions: list[str]
    targets: dict[str, list[str]]
    readers: list[str]
    ids: list[str]
    metadata: list[str]
    logging: list[str]


def load_allowed() -> Allowed:
    """The committed allow-lists."""
    return Allowed(**json.loads(ALLOWED.read_text(encoding="utf-8")))


def collect_allowed(bundles: str | Path) -> Allowed:
    """The allow-lists as the configs of trusted bundles imply them.

    Args:
        bundles: the folder of the bundles, with MONAI's metadata schema in `schema`.

    Returns:
        What `allowed.json` has to hold.
    """
    expressions, readers, ids, metadata = set[str](), set[str](), set[str](), set[str]()
    targets: defaultdict[str, set[str]] = defaultdict(set)
    for path in Path(bundles).glob("schema/*.json"):
        metadata |= set(load_plain(path.read_bytes(), path.name)["properties"])
    configs = [(path.name, load_plain(path.read_bytes(), path.name)) for path in Path(bundles).glob("*/configs/*.json")]
    for name, content in [*configs, *ADDED.items()]:
        top = metadata if name == "metadata.json" else ids
        top |= set(content)
        for value in _every(content):
            if isinstance(value, str) and value.startswith(("$", "%")):
                expressions.add(value)
            elif isinstance(value, dict):
                readers |= {value["reader"]} if "reader" in value else set()
                if "_target_" in value:
                    targets[value["_target_"]] |= set(value) - NO_ARGUMENTS
    return Allowed(
        expressions=sorted(expressions),
        targets={name: sorted(targets[name]) for name in sorted(targets)},
        readers=sorted(readers),
        ids=sorted(ids),
        metadata=sorted(metadata),
        logging=sorted({path.read_text(encoding="utf-8") for path in Path(bundles).glob("*/configs/logging.conf")}),
    )


def _every(value: Any) -> Iterator[Any]:
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _every(each)


if __name__ == "__main__":
    ALLOWED.write_text(json.dumps(asdict(collect_allowed(sys.argv[1])), indent=4) + "\n", encoding="utf-8")
