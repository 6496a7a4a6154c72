"""Send a packed bundle to a Hugging Face repository, through MONAI's `push_to_hf_hub`."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import monai.bundle

from ttl_monai.deploy.fetch import BundleRefused
from ttl_monai.deploy.lint import lint_bundle
from ttl_monai.deploy.manifest import MANIFEST, list_files
from ttl_monai.files import file_sha256

__all__ = ["Upload", "plan_push", "push_bundle"]


@dataclass(frozen=True)
class Upload:
    """One file that would be sent: its path in the bundle, bytes and SHA-256."""

    path: str
    size: int
    sha256: str


def plan_push(bundle: str | Path, repo: str) -> list[Upload]:
    """What `push_bundle` would send. Nothing leaves the machine.

    Args:
        bundle: the folder of a packed bundle.
        repo: ORG/NAME.

    Returns:
        Every file, the MANIFEST last.

    Raises:
        ValueError: a bad name of the repository, a bundle without MANIFEST or with findings (`BundleRefused`).
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII):
        raise ValueError(f"expected --repo ORG/NAME of Hugging Face, got {repo!r}")
    folder = Path(bundle)
    if findings := lint_bundle(folder):
        raise BundleRefused(findings, "nothing was sent")
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: send what ttl pack made, so that others can verify it")
    files, _ = list_files(folder)
    return [Upload(name, (folder / name).stat().st_size, file_sha256(folder / name)) for name in [*files, MANIFEST]]


def push_bundle(bundle: str | Path, repo: str) -> str:
    """Lint a packed bundle and send it, as a private repository with the bundle's version as a tag.

    The token is the one that `hf auth login` stored or HF_TOKEN holds. MONAI writes a README.md for the hub into the
    folder that it sends, hence a copy is sent; `fetch_bundle` leaves out what the MANIFEST does not name.

    Args:
        bundle: the folder of a packed bundle.
        repo: ORG/NAME; it is made where it does not exist.

    Returns:
        The address of the commit.

    Raises:
        ValueError: see `plan_push`; nothing was sent.
    """
    uploads = plan_push(bundle, repo)
    with tempfile.TemporaryDirectory() as stage:
        name = repo.partition("/")[2]
        copy = Path(stage, name)
        for each in uploads:
            target = copy / each.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(bundle, each.path), target)
        # The copy is what is sent: it is checked, whatever happened to the bundle meanwhile.
        if findings := lint_bundle(copy):
            raise BundleRefused(findings, "nothing was sent")
        version = json.loads((copy / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
        return str(monai.bundle.push_to_hf_hub(repo=repo, name=name, bundle_dir=stage, version=version))
