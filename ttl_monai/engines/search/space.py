"""The space of a search: one bundle, its truncation points, and one sealed datalist a repeat."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ttl_monai
from ttl_monai.engines.configs import config_files, open_workflow
from ttl_monai.engines.search.cells import Cell

KNOB = "network_def#truncate_at"
_TRAINS = ("data", "networks", "analysis", "handlers", "engines")  # rooms whose code decides the numbers


@dataclass(frozen=True)
class Space:
    """Everything that the cells of a search have in common, as plain values: it travels to workers as JSON.

    Attributes:
        folder: folder of the search.
        bundle: folder of the bundle.
        overlays: overlay files after train.json.
        settings: config ids and their values.
        dataset_dir: folder that the images' paths start from.
        datalists: the sealed datalists, one a repeat, by path below `folder`.
        originals: the user's datalists that they were made from, one a repeat; None is the made data's.
        manifests: a hash of each repeat's data.
        key_metric: id of the bundle's key metric, which is to be maximised.
        candidates: truncation points in the order of depth, the whole network (point None) last, each with its
            level, channels, params and macs, those of the head included.
        identity: hash of the config and of the versions of what trains it.
        sources: hash of the config files and of those versions, which workers check; empty: nothing to check.
        header: dataset, backbone, weights and the like, for the reports.
        seed: seed of the first repeat; each has its own.
        options: what an analysis is asked for, by its kind of cell.
    """

    folder: str
    bundle: str
    overlays: tuple[str, ...]
    settings: dict[str, Any]
    dataset_dir: str
    datalists: tuple[str, ...]
    originals: tuple[str | None, ...]
    manifests: tuple[str, ...]
    key_metric: str
    candidates: tuple[dict[str, Any], ...]
    identity: str
    header: dict[str, Any]
    sources: str = ""
    seed: int = 0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def repeats(self) -> int:
        """Number of repeats."""
        return len(self.datalists)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Space:
        """From what `to_json` gave."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})

    def cell(self, kind: str, point: str | None, repeat: int) -> Cell:
        """One cell, with the key that names its result."""
        # An analysis looks at all candidates at once: with others it is another one.
        looked_at = None if kind == "train" else [(each["point"], each["level"]) for each in self.candidates]
        parts = (
            self.identity,
            self.manifests[repeat],
            kind,
            point,
            repeat,
            self.seed,
            self.options.get(kind),
            looked_at,
        )
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return Cell(kind, point, repeat, key)

    def check_sources(self) -> None:
        """See whether this process would train what the search was begun with.

        Raises:
            ValueError: a config of the bundle was changed since, or other versions are installed here.
        """
        if self.sources and sources_hash(self.bundle, self.overlays) != self.sources:
            raise ValueError(
                f"the configs in {self.bundle} or the versions are not those that the search "
                f"was begun with (here: {', '.join(' '.join(pair) for pair in versions())}). Start `ttl search` again "
                "after a change; install the same versions on every machine."
            )

    def points(self, level: str | None = None) -> list[str]:
        """Names of the candidates, without the whole network.

        Args:
            level: "stage" for the coarse ones alone.
        """
        return [
            each["point"] for each in self.candidates if each["point"] and (level is None or each["level"] == level)
        ]

    def open_workflow(self, repeat: int, *, output_dir: str | Path, point: str | None = None, **overrides: Any) -> Any:
        """The bundle's training on one repeat's sealed datalist, initialised and not yet run.

        Args:
            repeat: number of the repeat.
            output_dir: folder of the run.
            point: where to cut; None trains the whole network.
            overrides: config ids and their values, over the search's settings.

        Returns:
            The `monai.bundle.ConfigWorkflow`.

        Raises:
            ValueError: what the config refused, in one line.
        """
        cut = {} if point is None else {"strategy": "TTL", KNOB: point}
        return open_workflow(
            config_files(self.bundle, self.overlays),
            {
                **self.settings,
                "dataset_dir": self.dataset_dir,
                "datalist": str(Path(self.folder, self.datalists[repeat])),
                "output_dir": str(output_dir),
                "seed": self.seed + repeat,
                **cut,
                **overrides,
            },
        )


def sources_hash(bundle: str | Path, overlays: Sequence[str]) -> str:
    """Hash of the config files as they are, and of the versions that decide the numbers."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for path in config_files(bundle, overlays):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def versions() -> list[tuple[str, str]]:
    """Names and versions of what decides the numbers of a training; of this package, the code as it is here."""
    root = Path(ttl_monai.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for room in _TRAINS for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    packages = ("monai", "torch", "torchvision", "timm", "scikit-learn")
    installed = [(name, importlib.metadata.version(name).partition("+")[0]) for name in packages]
    return [("ttl-monai", f"{ttl_monai.__version__} (code {digest.hexdigest()[:12]})"), *installed]
