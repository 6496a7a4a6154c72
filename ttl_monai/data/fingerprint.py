"""What a cache entry belongs to, as a hash: an item with its files, and transforms with their code."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

import ttl_monai
from ttl_monai.data.hdf5 import split_entry
from ttl_monai.data.sidecar import sidecar_path

__all__ = ["hash_item", "hash_transforms"]


def hash_item(item: Mapping[str, Any]) -> bytes:
    """SHA-256 (hex) of an item's values and of the identity of the files that it names."""
    return _digest({key: _with_identity(value) for key, value in item.items()})


def _with_identity(value: Any) -> Any:
    """Put (path, modification time, size) for a path; for a folder, those of its files; for an HDF5 entry, its key.

    Of a PNG with a side-car those of the side-car as well, by which it is shown.
    """
    if isinstance(value, (list, tuple)):
        return [_with_identity(one) for one in value]
    if not isinstance(value, (str, os.PathLike)):
        return value
    if entry := split_entry(value):
        return [_with_identity(entry[0]), entry[1]]
    path = Path(value)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return [str(path.absolute()), *(_with_identity(one) for one in sorted(path.iterdir()))]
    except (OSError, ValueError):  # not a path
        return str(value)
    identity = (str(path.absolute()), status.st_mtime_ns, status.st_size)
    sidecar = sidecar_path(path)
    return (*identity, *_with_identity(sidecar)) if path.suffix == ".png" and sidecar.is_file() else identity


def hash_transforms(transforms: Iterable[Callable]) -> bytes:
    """SHA-256 (hex) of what the transforms are and do.

    Pickling, MONAI's own way, names a function without its code, cannot take a lambda, and depends on which strings
    happen to be one object.
    """
    return _digest([monai.__version__, ttl_monai.__version__, list(transforms)])


def _digest(value: Any) -> bytes:
    return hashlib.sha256(_describe(value, ()).encode()).hexdigest().encode()


_PLAIN = (
    *(types.NoneType, types.EllipsisType, bool, int, float, complex, str, bytes, slice, range),
    *(np.generic, np.dtype, torch.dtype, torch.device),
)


def _describe(value: Any, above: tuple[int, ...]) -> str:
    """A text that is the same in all processes, and differs where the value does."""
    if id(value) in above:
        return "<again>"
    inner = functools.partial(_describe, above=(*above, id(value)))
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(value if isinstance(value, np.ndarray) else value.detach().cpu().numpy())
        return f"array {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{inner(key)}: {inner(one)}" for key, one in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inner, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "set " + ", ".join(sorted(map(inner, value)))
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, types.CodeType):
        return f"code {value.co_code.hex()} {value.co_names} {inner(value.co_consts)}"
    if isinstance(value, functools.partial):
        return f"partial {inner([value.func, value.args, value.keywords])}"
    return _describe_object(value, inner)


_LIBRARIES = {"builtins", "abc", "typing", "collections", "monai", "torch", "numpy"}


def _describe_object(value: Any, inner: Callable[[Any], str]) -> str:
    """Functions and classes by name, and by code unless they are a library's; objects by class and attributes."""
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        constants = {n: value.__globals__.get(n) for n in value.__code__.co_names}
        plain = {n: v for n, v in constants.items() if isinstance(v, (bool, int, float, str, tuple))}
        return f"{name} {inner([value.__code__, value.__defaults__, value.__kwdefaults__, cells, plain])}"
    if isinstance(value, types.MethodType):
        return f"{name} {inner([value.__self__, value.__func__])}"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, (type, types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc)):
        return f"{name} {getattr(value, '__name__', '')}"
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        raise TypeError(
            f"a cached transform holds a {name}, and whether that changes cannot be told; give it plain values"
        )
    # MONAI's transforms keep per-thread state, which appears at the first run; it is no parameter.
    attributes = {key: one for key, one in attributes.items() if not isinstance(one, threading.local)}
    own = [cls for cls in type(value).__mro__ if cls.__module__.partition(".")[0] not in _LIBRARIES]
    code = [[f for f in vars(cls).values() if isinstance(f, types.FunctionType)] for cls in own]
    return f"{type(value).__module__}.{type(value).__qualname__} {inner([attributes, code])}"
