"""Look into weights and exported models without loading them: members of the zip, opcodes of the pickles."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import safetensors

from ttl_monai.deploy.findings import Finding, shown
from ttl_monai.deploy.plain import TEXT_LIMIT
from ttl_monai.deploy.script_code import check_script

__all__ = ["check_model_file", "extra_configs"]

PICKLE_LIMIT = 64 * 2**20
"""Bytes of a pickle of an archive, which holds names and shapes only, or of its code."""
_REMEDY = "save tensors only (torch.save of a state_dict, safetensors); do not load this file"
_COMMON = r"version|byteorder|\.data/serialization_id"
# What torch.save and torch.jit.save (with extra files) put under the archive's one folder.
_MEMBERS = {
    ".pt": rf"{_COMMON}|data\.pkl|data/\d+|\.format_version|\.storage_alignment",
    ".ts": rf"{_COMMON}|data\.pkl|(data|constants)/\d+|constants\.pkl|extra/[\w.-]+|code/[\w./]+\.py(\.debug_pkl)?",
}
_STORAGES = ["Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double"]
_TENSORS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}Storage" for name in _STORAGES),
}
_SCRIPT = {f"torch.jit._pickle {name}" for name in ("build_intlist", "build_doublelist", "build_boollist")}
_SCRIPT |= {"torch.jit._pickle build_tensorlist", "torch.jit._pickle restore_type_tag"}
# Opcodes that import or call by other ways than GLOBAL and REDUCE; torch.save and torch.jit.save write none of them.
_FORBIDDEN = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_LOOKS_PICKLED = re.compile(rb"\x80[\x02-\x05][cX\x8a\x8c\x95(}\])q]")


def check_model_file(path: Path, file: str) -> Iterator[Finding]:
    """Find what a file with weights holds besides tensors. Nothing is loaded.

    Args:
        path: the file.
        file: its path in the bundle.

    Yields:
        A finding for each global of a pickle that is not a tensor's, each member that torch does not write, each
        ambiguity of the zip, and for pickles and archives under another name.
    """
    if path.suffix in _MEMBERS:
        with path.open("rb") as stream:
            yield from _check_archive(stream, file, path.suffix)
    elif path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, framework="numpy"):  # reads and checks the header alone
                pass
        except safetensors.SafetensorError as error:
            yield Finding(file, "", f"no safetensors file: {error}", "a valid header", "get the bundle anew")
    else:
        with path.open("rb") as stream:
            start = stream.read(8)
        if start.startswith(b"PK") or _LOOKS_PICKLED.match(start):
            yield Finding(file, "", "an archive or a pickle", f"those only as {', '.join(_MEMBERS)}", _REMEDY)


def extra_configs(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the JSON files in a TorchScript archive: MONAI puts metadata and configs there.

    Only after `check_model_file` found nothing.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".json") and "/extra/" in member.filename:
                with archive.open(member) as stream:
                    yield member.filename, stream.read(TEXT_LIMIT + 1)


def _check_archive(stream: IO[bytes], file: str, kind: str) -> Iterator[Finding]:
    def finding(where: str, found: str, allowed: str) -> Finding:
        return Finding(file, where, found, allowed, _REMEDY)

    if stream.read(4) != b"PK\x03\x04":
        yield finding("", "no zip archive (an old pickled file?)", f"what torch writes as {kind}")
        return
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        yield finding("", f"a broken zip archive: {shown(str(error))}", f"what torch writes as {kind}")
        return
    members = archive.infolist()
    names = [each.filename for each in members]
    # zipfile and torch may see other members where archives are chained, commented or doubled.
    if min((each.header_offset for each in members), default=1) or archive.comment or len(set(names)) < len(names):
        yield finding("", "an archive that can be read in two ways", "one zip, each member once, no comment")
    if len({name.partition("/")[0] for name in names}) > 1:
        yield finding("", "several folders", "one folder")
    for member in members:
        name = member.filename.partition("/")[2]
        if ".." in name.split("/") or not re.fullmatch(_MEMBERS[kind], name, re.ASCII):
            yield finding(member.filename, f"the member {shown(member.filename)}", f"the members of a {kind} of torch")
        elif name.endswith(("pkl", ".py")):
            if member.file_size > PICKLE_LIMIT:
                yield finding(name, f"a pickle or code of {member.file_size:,} bytes", f"at most {PICKLE_LIMIT:,}")
                continue
            try:
                data = archive.read(member)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
                yield finding(name, f"a member that cannot be read: {shown(str(error))}", "a whole archive")
                continue
            wrong = _check_code(data) if name.endswith(".py") else _check_pickle(data, kind)
            yield from (finding(name, found, allowed) for found, allowed in wrong)


def _check_code(data: bytes) -> Iterator[tuple[str, str]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        yield "code that is no UTF-8", "TorchScript as torch writes it"
        return
    yield from check_script(text)


def _check_pickle(data: bytes, kind: str) -> Iterator[tuple[str, str]]:
    """What a pickle imports beyond tensors, from its opcodes: found, allowed."""
    allowed = _TENSORS | (_SCRIPT if kind == ".ts" else set())
    try:
        opcodes = [(code.name, argument) for code, argument, _ in pickletools.genops(data)]
    except Exception as error:  # genops raises what its readers of arguments raise; any of it is the finding
        yield f"a broken pickle: {shown(str(error))}", "what torch writes"
        return
    for name, argument in opcodes:
        # Those of __torch__.torch.classes are no code of the archive, but classes of libraries in C++.
        own = str(argument).startswith("__torch__") and not str(argument).startswith("__torch__.torch.classes")
        script_class = kind == ".ts" and name == "GLOBAL" and own
        if name in _FORBIDDEN or (name == "GLOBAL" and argument not in allowed and not script_class):
            yield f"{name} {shown(argument)}", "the globals of tensors: OrderedDict, _rebuild_tensor_v2, storages"
