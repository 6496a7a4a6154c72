"""The bundle that predicts: its inference.json as a MONAI workflow, with the trained model that it is for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ttl_monai.data import SeriesRules
from ttl_monai.deploy.fetch import BundleRefused
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.manifest import MANIFEST
from ttl_monai.deploy.plain import read_plain
from ttl_monai.deploy.predict.suitability import check_rules
from ttl_monai.engines.configs import open_workflow
from ttl_monai.engines.runs import reader_options
from ttl_monai.engines.volumes import RULES, FoundVolumes
from ttl_monai.files import file_sha256

__all__ = ["Predictor", "find_bundle", "open_predictor"]

ENTRY = "configs/inference.json"


def find_bundle(path: str | Path, configs: str | Path | None = None) -> tuple[Path, Path | None]:
    """The bundle and the run that a path means.

    Args:
        path: a bundle with models/model.pt, or the folder of a finished run.
        configs: the bundle of a run that does not lie in one.

    Returns:
        The bundle's folder, and that of the run; None where the bundle's own model is meant.

    Raises:
        ValueError: neither, or a run whose bundle is not known.
    """
    folder = Path(path).resolve()
    if (folder / ENTRY).is_file():
        if not (folder / "models" / "model.pt").is_file():
            raise ValueError(f"{path} has no models/model.pt: name a finished run, or a packed bundle")
        return folder, folder / "models" if (folder / "models" / "model.json").is_file() else None
    if not (folder / "model.json").is_file() or not (folder / "model.pt").is_file():
        raise ValueError(
            f"expected a bundle (with {ENTRY} and models/model.pt) or a finished run (with model.json and model.pt), "
            f"got {path}"
        )
    if configs is None:
        around = [each for each in folder.parents if (each / ENTRY).is_file()]
        if not around:
            raise ValueError(f"the run {path} lies in no bundle: name the bundle that trained it by --bundle DIR")
        return around[0], folder
    if not Path(configs, ENTRY).is_file():
        raise ValueError(f"expected a bundle with {ENTRY} for --bundle, got {configs}")
    return Path(configs).resolve(), folder


@dataclass
class Predictor:
    """A bundle's inference, ready to be given items.

    Attributes:
        workflow: of inference.json, initialised.
        accepts: what the bundle says that it is for, see `check_rules`.
        spec: what the model is (`model.json`).
        metadata: of the bundle.
        weights_sha256: of the model.pt that is loaded.
        volumes: whether it takes series (`find_volumes`) instead of images.
    """

    workflow: ConfigWorkflow
    accepts: dict[str, Any]
    spec: dict[str, Any]
    metadata: dict[str, Any]
    weights_sha256: str
    volumes: bool

    @property
    def series_rules(self) -> SeriesRules:
        """What the reader of the bundle wants of a series; the modality is judged by `accepts`."""
        reader = self._reader if self.volumes else {}
        return SeriesRules(**{name: reader[name] for name in RULES if name in reader and name != "modality"})

    @property
    def gaps(self) -> str:
        """What the reader does about unequal gaps."""
        return str(self.setting("gaps") or self._reader.get("gaps", "refuse")) if self.volumes else "refuse"

    @property
    def _reader(self) -> dict[str, Any]:
        return reader_options(self.spec["preprocessing"])

    @property
    def is_segmentation(self) -> bool:
        """Whether masks come out."""
        return "axis" in self.parser

    @property
    def parser(self) -> Any:
        """The config."""
        return self.workflow.parser

    def setting(self, name: str) -> Any:
        """A resolved part of the config."""
        return self.parser.get_parsed_content(name)

    def give(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Let the workflow predict these; as objects, so that MONAI does not evaluate any text of theirs."""
        if self.volumes:
            self.parser["found"] = FoundVolumes(list(map(dict, items)))
        else:
            self.parser["items"] = tuple(items)
        self.parser.parse(reset=True)


def open_predictor(
    bundle: Path, run_dir: Path | None, output_dir: Path, *, stage: Path, settings: Mapping[str, Any], maps: bool
) -> Predictor:
    """Open the workflow of a bundle's inference.json.

    Args:
        bundle: the bundle's folder; a packed one is linted first.
        run_dir: the run; None for the bundle's own model.
        output_dir: where the workflow writes.
        stage: a private folder, for prepared images; nothing in it is predicted unasked.
        settings: values of the config, by id.
        maps: let the workflow write the Grad-CAM of series, as a volume that lies on them.

    Returns:
        The predictor.

    Raises:
        ValueError: a bundle with findings, one that does not say what it accepts, or a run of another bundle.
    """
    if (bundle / MANIFEST).is_file() and (findings := lint_bundle(bundle)):
        raise BundleRefused(findings, "nothing was predicted")
    config = read_plain(bundle / ENTRY, ENTRY)
    if "accepts" not in config:
        raise ValueError(f"{ENTRY} of the bundle does not say what it accepts: it needs the entry 'accepts'")
    given: dict[str, Any] = {"bundle_root": str(bundle), "output_dir": str(output_dir), "dataset_dir": str(stage)}
    given |= {} if run_dir is None else {"run_dir": str(run_dir)}
    given |= {"gradcam": maps} if "found" in config else {}
    given |= {"cache_dir": str(stage / "cache")} if "cache_dir" in config else {}
    given |= settings
    workflow = open_workflow([str(bundle / ENTRY)], given, workflow_type="infer")
    parser: Any = workflow.parser
    spec = dict(parser.get_parsed_content("spec"))
    train = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))["network_def"]["_target_"]
    if train.rpartition(".")[2] != spec["network_def"]["_target_"].rpartition(".")[2]:
        raise ValueError(
            f"the run has a {spec['network_def']['_target_']}, but the bundle {bundle.name} is for {train}: name the "
            "bundle that trained it by --bundle DIR"
        )
    accepts = {name: value for name, value in parser["accepts"].items() if name != "_desc_"}
    check_rules(accepts)
    found = Predictor(
        workflow=workflow,
        accepts=accepts,
        spec=spec,
        metadata=read_plain(bundle / "configs" / "metadata.json", "metadata.json"),
        weights_sha256=file_sha256(Path(parser.get_parsed_content("trained"), "model.pt")),
        volumes="found" in parser,
    )
    if found.is_segmentation:
        # One network, trained on single images or on the slices of volumes: the other kind is none of its own.
        accepts["series" if spec.get("axis") is None else "image"] = None
    return found
