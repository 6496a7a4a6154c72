"""The code that a packed bundle carries: the modules that its configs need, under a name of their own."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import ttl_monai

__all__ = ["find_modules", "package_name", "rename", "required_packages", "write_code"]

ROOTS = ("ttl_monai.data", "ttl_monai.engines", "ttl_monai.handlers", "ttl_monai.networks")
"""What targets and expressions of configs name."""
_OURS = re.compile(r"ttl_monai(\.\w+)*")


def find_modules() -> dict[str, Path]:
    """The modules that configs need: `ROOTS`, and what they import, at any place.

    Returns:
        Dotted name -> file, sorted.
    """
    source = Path(ttl_monai.__file__).parent
    known = {_dotted(path.relative_to(source.parent)): path for path in source.rglob("*.py")}
    found: dict[str, Path] = {}
    waiting = list(ROOTS)
    while waiting:
        parts = waiting.pop().split(".")
        for end in range(1, len(parts) + 1):  # a module brings the packages that it lies in
            name = ".".join(parts[:end])
            if name in known and name not in found:
                found[name] = known[name]
                waiting += [each for each in _imports(_parse(known[name])) if each.split(".")[0] == "ttl_monai"]
    return dict(sorted(found.items()))


def package_name(bundle: str, version: str, modules: Mapping[str, Path]) -> str:
    """The name of the code's folder: of the bundle, its version and the code's content.

    With the content, two bundles can share a module of one process only where it is the same to the byte.

    Args:
        bundle: name of the bundle.
        version: its version.
        modules: what `find_modules` gives.
    """
    digest = hashlib.sha256()
    for name, path in modules.items():
        digest.update(f"{name}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    words = "_".join([bundle, version, digest.hexdigest()[:8]])
    return f"ttl_monai_{re.sub(r'[^a-z0-9]', '_', words.lower())}"


def write_code(folder: Path, package: str, modules: Mapping[str, Path]) -> None:
    """Write the modules, renamed, and the data files beside them.

    Args:
        folder: of the bundle.
        package: what `package_name` gives.
        modules: what `find_modules` gives.
    """
    source = Path(ttl_monai.__file__).parent
    for path in modules.values():
        target = folder / package / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rename(path.read_text(encoding="utf-8"), package), encoding="utf-8")
        if path.name == "__init__.py":
            for data in path.parent.glob("*.json"):
                (target.parent / data.name).write_bytes(data.read_bytes())


def rename(source: str, package: str) -> str:
    """Python code that imports `ttl_monai` under another name.

    Imports are changed, and strings that are a dotted name as a whole (loggers, targets, resources). The name
    `ttl_monai` itself stays bound, so that the code below the imports is as it was; so are texts that mention it, as
    the origin of made data, whose hash must not change.

    Args:
        source: a module.
        package: the other name.
    """
    lines = source.encode().splitlines(keepends=True)  # columns of ast count bytes
    edits = sorted(_edits(ast.parse(source), package), reverse=True)
    for line, start, end, text in edits:
        row = lines[line - 1]
        lines[line - 1] = row[:start] + text.encode() + row[end:]
    return b"".join(lines).decode()


def required_packages(modules: Mapping[str, Path]) -> set[str]:
    """The distributions that the modules import at their top, besides MONAI, PyTorch and NumPy.

    Args:
        modules: what `find_modules` gives.

    Raises:
        ValueError: one is of no installed distribution.
    """
    names = set[str]()
    for path in modules.values():
        names |= {each.split(".")[0] for each in _imports(_parse(path), nested=False)}
    names -= {"ttl_monai", "monai", "torch", "numpy", *sys.stdlib_module_names}
    known = packages_distributions()
    if unknown := sorted(names - set(known)):
        raise ValueError(f"expected an installed distribution for each import, found none for {', '.join(unknown)}")
    return {known[name][0] for name in names}


@cache
def _parse(path: Path) -> ast.Module:
    """A module of this package, which does not change while it runs."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.Module, *, nested: bool = True) -> Iterator[str]:
    """The names that a module imports, those of `from` imports as what they may be: modules."""
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _edits(tree: ast.Module, package: str) -> Iterator[tuple[int, int, int, str]]:
    """Line, first and last column in bytes, and the new text there."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and _OURS.fullmatch(node.module):
            start = node.col_offset + len("from ")
            yield node.lineno, start, start + len("ttl_monai"), package
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _OURS.fullmatch(alias.name):
                    name = package + alias.name.removeprefix("ttl_monai")
                    text = f"{name} as {alias.asname}" if alias.asname else f"{package} as ttl_monai"
                    if not alias.asname and name != package:  # `import ttl_monai.data` binds `ttl_monai`
                        text = f"{name}\n{' ' * node.col_offset}import {text}"
                    yield alias.lineno, alias.col_offset, alias.end_col_offset or 0, text
        # The places of an f-string's parts are wrong before Python 3.12, and none is a name as a whole.
        elif isinstance(node, ast.Constant) and id(node) not in parts and _OURS.fullmatch(str(node.value)):
            name = str(node.value).replace("ttl_monai", package, 1)
            yield node.lineno, node.col_offset, node.end_col_offset or 0, f'"{name}"'
