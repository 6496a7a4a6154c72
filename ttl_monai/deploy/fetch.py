"""Bring a bundle here: its hash is verified before it is unpacked, and it is linted before it gets its name."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import monai.bundle
from monai.apps.utils import download_url

from ttl_monai.deploy.findings import Finding, findings_table
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.manifest import MANIFEST, SHA256, is_plain_path, read_manifest
from ttl_monai.deploy.unpack import unpack_bundle
from ttl_monai.files import file_sha256

__all__ = ["BundleRefused", "fetch_bundle"]

SCHEMES = ("https", "http", "file")


class BundleRefused(ValueError):
    """A bundle that was not put in place, or not sent, for what `lint_bundle` found."""

    def __init__(self, findings: list[Finding], what: str) -> None:
        super().__init__(f"{findings_table(findings)}\n{what} ({len(findings)} findings)")


def fetch_bundle(source: str, out: str | Path, *, sha256: str, version: str | None = None) -> Path:
    """Get a bundle from a file, an address or the Hugging Face hub, through MONAI's own download.

    Args:
        source: a zip file, the address of one (https, http, file), or the NAME or ORG/NAME of a bundle on the hub
            (NAME alone is MONAI/NAME).
        out: the folder that the bundle becomes. It must not exist, and appears whole or not at all.
        sha256: 64 hex digits from whom you trust: the SHA-256 of the zip file, or, of a bundle on the hub, that of its
            MANIFEST.json, which names all its files with theirs.
        version: tag on the hub; default: the newest. Not for files and addresses.

    Returns:
        `out`.

    Raises:
        ValueError: no hash or another one, an archive that is refused, or a bundle with findings (`BundleRefused`).
        FileExistsError: `out` exists.
        OSError: the source cannot be read.
    """
    digest = sha256.strip().lower()
    if not SHA256.fullmatch(digest):
        raise ValueError(f"expected --sha256 with the 64 hex digits of what is to be fetched, got {sha256!r}")
    out = Path(out).absolute()
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} exists: name a folder that does not, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out.parent) as stage:
        bundle = _stage(source, Path(stage), digest, version)
        if findings := lint_bundle(bundle):
            raise BundleRefused(findings, f"nothing was written to {out}")
        bundle.rename(out)
    return out


def _stage(source: str, stage: Path, digest: str, version: str | None) -> Path:
    """The bundle, verified against the hash, in a folder of the stage."""
    scheme = urlparse(source).scheme
    is_file = not scheme and Path(source).is_file()
    if not scheme and not is_file and is_plain_path(source) and source.count("/") < 2 and not source.endswith(".zip"):
        return _from_hub(source, stage, digest, version)
    if version is not None:
        raise ValueError("--version is for bundles on the hub; the hash says which version a file is")
    if not is_file and scheme not in SCHEMES:
        raise ValueError(f"expected a zip file, an address ({', '.join(SCHEMES)}) or NAME or ORG/NAME, got {source!r}")
    archive, unpacked = stage / "download.zip", stage / "unpacked"
    download_url(Path(source).absolute().as_uri() if is_file else source, archive, hash_val=digest, progress=False)
    if not archive.is_file():  # download_url swallows errors of permissions
        raise OSError(f"{source} could not be downloaded to {stage}")
    unpacked.mkdir()
    return unpack_bundle(archive, unpacked)


def _from_hub(source: str, stage: Path, digest: str, version: str | None) -> Path:
    """The files that the MANIFEST of a bundle on the hub names; the hub's own files are left out."""
    name = source.rpartition("/")[2]
    monai.bundle.download(
        name=name,
        repo=source if "/" in source else f"MONAI/{source}",
        source="huggingface_hub",
        version=version,
        bundle_dir=stage / "hub",
        progress=False,
    )
    snapshot, bundle = stage / "hub" / name, stage / name
    manifest = snapshot / MANIFEST
    if manifest.is_symlink() or not manifest.is_file():
        raise ValueError(f"{source} has no {MANIFEST}: it was not packed by ttl pack, and cannot be verified")
    if (found := file_sha256(manifest)) != digest:
        raise ValueError(f"expected {MANIFEST} of {source} with sha256 {digest}, found {found}")
    for path in [MANIFEST, *read_manifest(snapshot)]:
        target = bundle / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (snapshot / path).exists():  # a missing one is a finding of the lint
            shutil.copyfile(snapshot / path, target, follow_symlinks=False)
    return bundle
