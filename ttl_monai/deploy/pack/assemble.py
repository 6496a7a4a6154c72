"""Make a bundle of a run: everything in a folder beside the wanted one, linted, and only then under its name."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ttl_monai.deploy.export import describe
from ttl_monai.deploy.fetch import BundleRefused
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.manifest import is_plain_path, list_files, write_manifest
from ttl_monai.deploy.pack.card import write_card, write_data_license, write_large_files
from ttl_monai.deploy.pack.code import find_modules, package_name, required_packages, write_code
from ttl_monai.deploy.pack.configs import script_config, write_configs, write_json, write_model_record
from ttl_monai.deploy.pack.exports import write_exports
from ttl_monai.deploy.pack.metadata import packed_metadata, read_version
from ttl_monai.deploy.pack.run import FinishedRun, open_run
from ttl_monai.deploy.packed import EXPORTS
from ttl_monai.engines.runs import build_network

__all__ = ["Packed", "pack_run"]


@dataclass(frozen=True)
class Packed:
    """What was made.

    Attributes:
        folder: the bundle.
        archive: its zip file.
        package: name of the code's folder.
        differences: exported file -> largest difference to PyTorch.
        large: files that `large_files.yml` names.
    """

    folder: Path
    archive: Path
    package: str
    differences: Mapping[str, float]
    large: list[str] = field(default_factory=list)


def pack_run(
    run: str | Path,
    out: str | Path,
    *,
    bundle: str | Path | None = None,
    version: str | None = None,
    changelog: str | None = None,
    data_license: str | None = None,
    url: str | None = None,
    exports: tuple[str, ...] = EXPORTS,
) -> Packed:
    """Make a self-contained bundle of a finished run, and a zip file of it.

    Args:
        run: folder of the run.
        out: the folder that the bundle becomes; its name is the bundle's. It must not exist, or be empty; it and
            `out`.zip appear whole or not at all.
        bundle: folder of the source bundle; default: the one that the run lies in.
        version: three numbers; default: that of the source bundle.
        changelog: what is new in this version.
        data_license: licence of the data that the run was trained on.
        url: address below which files of more than 25 MiB will lie, for `large_files.yml`.
        exports: of `EXPORTS`.

    Returns:
        What was made.

    Raises:
        ValueError: the run cannot be packed, an option is wrong, an export cannot be made or differs from PyTorch, or
            the bundle has findings (`BundleRefused`); nothing was written.
        FileExistsError: `out` or its zip file exists.
    """
    if unknown := sorted(set(exports) - set(EXPORTS)):
        raise ValueError(f"expected exports of {', '.join(EXPORTS)}, got {', '.join(unknown)}")
    if url is not None and not re.fullmatch(r"https://[^\s\"'\\]+", url):
        raise ValueError(f"expected --url with an address of https, got {url!r}")
    out = Path(out).absolute()
    archive = out.with_name(f"{out.name}.zip")
    _check_place(out, archive)
    finished = open_run(run, bundle)
    source = json.loads((finished.bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    release, modules = read_version(version, source), find_modules()
    package = package_name(out.name, release, modules)
    metadata = packed_metadata(finished, source, required_packages(modules), release=release, changelog=changelog)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=out.parent) as stage:
        folder = Path(stage, out.name)
        folder.mkdir()
        write_code(folder, package, modules)
        write_configs(finished, folder, package)
        write_json(folder / "configs" / "metadata.json", metadata)
        shutil.copyfile(finished.bundle / "LICENSE", folder / "LICENSE")
        differences = _write_models(finished, folder, package, metadata, exports)
        write_card(finished, folder, metadata)
        write_data_license(finished, folder, data_license)
        large = write_large_files(folder, url)
        write_manifest(folder)
        if findings := lint_bundle(folder):
            raise BundleRefused(findings, f"nothing was written to {out}")
        zipped = _zip(folder, Path(stage, archive.name))
        folder.chmod(0o755)
        folder.rename(out)
        zipped.rename(archive)
    return Packed(out, archive, package, differences, large)


def _check_place(out: Path, archive: Path) -> None:
    if not is_plain_path(out.name):
        raise ValueError(f"expected --out with a name of ASCII letters, digits and _ . + -, got {out.name!r}")
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise FileExistsError(f"{out} exists and is not empty: name another folder, or remove it")
    if archive.exists() or archive.is_symlink():
        raise FileExistsError(f"{archive} exists: name another folder, or remove it")


def _write_models(
    run: FinishedRun, folder: Path, package: str, metadata: Mapping[str, Any], exports: tuple[str, ...]
) -> dict[str, float]:
    """Write the weights and their exported forms.

    Returns:
        Exported file -> largest difference to PyTorch.
    """
    models = folder / "models"
    write_model_record(run, folder, package)
    shutil.copyfile(run.folder / "model.pt", models / "model.pt")
    network = build_network(run.folder)
    (models / "model.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))
    image = metadata["network_data_format"]["inputs"]["image"]
    example = torch.zeros(2, image["num_channels"], *image["spatial_shape"])
    config = script_config(run, package)
    description = describe(run.spec, {"_meta_": metadata}, network, precision="float32")
    return write_exports(exports, network, example, models, metadata=metadata, config=config, description=description)


def _zip(folder: Path, path: Path) -> Path:
    """A zip file of the bundle, its folder on top, the same to the byte whenever it is made."""
    files, _ = list_files(folder)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*files, "MANIFEST.json"]:
            member = zipfile.ZipInfo(f"{folder.name}/{name}")
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with (folder / name).open("rb") as content, archive.open(member, "w", force_zip64=False) as target:
                shutil.copyfileobj(content, target)
    return path
