"""Check a bundle before anything of it is executed: its files are read as data, never evaluated or unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ttl_monai.deploy.allowed import Allowed, load_allowed
from ttl_monai.deploy.archives import check_model_file, extra_configs
from ttl_monai.deploy.config_check import check_config, check_values
from ttl_monai.deploy.findings import Finding, shown
from ttl_monai.deploy.manifest import MADE_BY_USE, MANIFEST, SHA256, is_plain_path, list_files, verify_manifest
from ttl_monai.deploy.packed import VENDORED
from ttl_monai.deploy.plain import load_plain, read_plain

__all__ = ["lint_bundle", "vendored_packages"]

LARGE = ("large_files.yml", "large_files.yaml")
# .pt2 is left out: torch.export.load evaluates expressions and looks up any name of torch in it, as torch.os.system.
# Which kinds of files each folder may hold; "" is the bundle's own folder.
KINDS = {
    "": {"LICENSE", *LARGE, ".sha256"},
    "configs": {".json", ".yaml", ".yml", "logging.conf"},
    "docs": {".md", ".txt", ".json", ".csv", ".png", ".jpg", ".jpeg"},
    "models": {".pt", ".ts", ".safetensors", ".onnx", ".xml", ".bin", ".json", ".txt"},
}
CODE = {".py", ".json", "py.typed"}
FINDINGS_PER_FILE = 100
LARGE_KEYS = {"path", "url", "hash_val", "hash_type"}


def lint_bundle(bundle: str | Path) -> list[Finding]:
    """Find everything of a bundle that our own bundles do not have.

    A source bundle has no hashes. One with models, vendored code, a MANIFEST or a .sha256 file counts as packed: the
    MANIFEST must name every file with its SHA-256. The code that a bundle carries is checked by its hash alone: that
    proves where it comes from once the MANIFEST's own hash is known (`ttl fetch --sha256`), not that it does no harm.

    Args:
        bundle: the folder of the bundle.

    Returns:
        The findings; an empty list for a bundle that may be run.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path(bundle)
    if not folder.is_dir():
        raise ValueError(f"expected the folder of a bundle, found none at {folder}")
    allowed, packages = load_allowed(), vendored_packages(folder)
    files, findings = list_files(folder)
    if not {"configs/metadata.json", "LICENSE"} <= set(files):
        text = "LICENSE and configs/metadata.json"
        findings.append(Finding(folder.name, "", f"no {text}", "a MONAI bundle", "name the folder that holds configs"))
    large = dict[str, str]()
    for name in files:
        if problem := _unknown_kind(name, packages):
            findings += [] if problem in findings else [problem]  # one for a folder
        else:
            findings += islice(_check_file(folder / name, name, allowed, packages, large), FINDINGS_PER_FILE)
    if any(name.startswith("models/") or name.endswith(".sha256") for name in [*files, *_beside(folder)]) or packages:
        findings += verify_manifest(folder, files, optional=large)
    return findings


def vendored_packages(bundle: str | Path) -> frozenset[str]:
    """Names of the folders in which a bundle carries our code."""
    return frozenset(each.name for each in Path(bundle).iterdir() if VENDORED.fullmatch(each.name) and each.is_dir())


def _beside(folder: Path) -> list[str]:
    """What makes a bundle a packed one besides its files: the MANIFEST, which is no file of its own list."""
    return ["models/"] if (folder / MANIFEST).exists() or (folder / "models").exists() else []


def _unknown_kind(name: str, packages: frozenset[str]) -> Finding | None:
    """A finding where a file is of no kind that its folder may hold."""
    path = Path(name)
    top = path.parts[0] if len(path.parts) > 1 else ""
    kinds = CODE if top in packages else KINDS.get(top)
    if kinds is None:
        allowed = f"the folders {', '.join(filter(None, KINDS))} and vendored code (ttl_monai_...)"
        left = "what runs have left: move it elsewhere, or lint a fresh copy; a record in it could name what is run"
        remedy = left if top in MADE_BY_USE else "remove the folder"
        return Finding(top, "", f"the folder {shown(top)}", allowed, remedy)
    if path.name in kinds or (path.suffix in kinds and path.suffix):
        return None
    return Finding(
        name, "", f"the file {shown(path.name)}", f"of {top or 'the top'}: {', '.join(sorted(kinds))}", "remove it"
    )


def _check_file(
    path: Path, name: str, allowed: Allowed, packages: frozenset[str], large: dict[str, str]
) -> Iterator[Finding]:
    """The findings within one file. Files of `large_files.yml` are added to `large`."""
    if path.suffix in (".json", ".yaml", ".yml"):
        try:
            content = read_plain(path, name)
        except ValueError as error:
            yield Finding(name, "", shown(str(error)), "strict JSON or YAML", "take the file of the original bundle")
            return
        if name.startswith("configs/"):
            yield from check_config(content, name, allowed, packages=packages)
        else:
            paths = name.startswith("models/")  # docs are records of what was done, with commands
            yield from check_values(content, name, allowed, packages=packages, paths=paths)
        if name in LARGE:
            yield from _check_large_files(content, name, large)
    elif path.suffix == ".conf":
        text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
        if text not in allowed.logging:
            yield Finding(name, "", "another text", "the logging.conf of our bundles: Python evaluates it", "take ours")
    elif path.suffix not in CODE:
        problems = list(check_model_file(path, name))
        yield from problems
        for member, data in [] if problems or path.suffix != ".ts" else extra_configs(path):
            yield from _check_extra(data, f"{name}/{member}", allowed, packages)


def _check_extra(data: bytes, name: str, allowed: Allowed, packages: frozenset[str]) -> Iterator[Finding]:
    """The findings within a config that an exported model carries."""
    try:
        content = load_plain(data, name)
    except ValueError as error:
        yield Finding(name, "", shown(str(error)), "strict JSON", "export the model anew")
    else:
        yield from check_values(content, name, allowed, packages=packages, paths=True)


def _check_large_files(content: Any, name: str, large: dict[str, str]) -> Iterator[Finding]:
    entries = content.get("large_files") if isinstance(content, Mapping) else None
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        yield Finding(name, "", shown(content), "large_files: a list", "take the file of the original bundle")
        return
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or set(entry) != LARGE_KEYS or not _is_good_entry(entry):
            allowed = "path in models/, url with https or none, hash_type sha256, hash_val of 64 hex digits"
            yield Finding(name, f"large_files#{number}", shown(entry), allowed, "state all four")
        else:
            large[entry["path"]] = entry["hash_val"]


def _is_good_entry(entry: Mapping[str, Any]) -> bool:
    path, url, digest, kind = (str(entry[key]) for key in ("path", "url", "hash_val", "hash_type"))
    in_models = is_plain_path(path) and path.startswith("models/")
    # No address yet: the file is in the folder, and MONAI's download finds it there by its hash.
    return in_models and (url.startswith("https://") or not url) and kind == "sha256" and bool(SHA256.fullmatch(digest))
