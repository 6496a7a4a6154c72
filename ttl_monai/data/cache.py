"""A disk cache of deterministic preprocessing that follows its inputs, heals itself and holds no patient data."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch.utils.data import DataLoader
from tqdm import tqdm

from ttl_monai.data.fingerprint import hash_item, hash_transforms

__all__ = ["CachedDataset", "prepare_folder"]

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_CHECKSUM = "checksum"  # the entry that holds the CRC-32 of all others
_ABANDONED_S = 3600.0  # a temporary file older than this was left by a killed process
_FEW = 64  # images are read sooner than processes start
_FLOAT16_MAX = torch.finfo(torch.float16).max


class CachedDataset(PersistentDataset):
    """MONAI's `PersistentDataset`, with entries that are right, small, quick to read and anonymous.

    The result of the transforms before the first random one is kept in one file an item. What it adds:

    - An entry belongs to the transforms (classes, parameters, code of functions of one's own), to the item (values,
      and path, modification time in ns and size of each file that it names), and to the versions of MONAI and of this
      package. Change one of them, and it is computed anew. (A file rewritten with the same size and time is not seen.)
    - Empty, truncated or damaged entries are computed anew, with a warning. Entries are written beside their place
      and moved there, so that loader workers and other processes may share a folder.
    - Only the tensors under the item's own keys are stored, without metadata, file names or strings; whatever the
      transforms leave as it is comes from the item. Folders are made with mode 0700, files with 0600, and their names
      are hashes.
    - Images (items given as a path that become floating tensors) take 16 bits on disk and are float32 in use, on the
      first read too, so that all epochs see the same values; the rounding error in [0, 1] is below 2.5e-4.

    Items come back with their own keys only, tensors plain (no MetaTensor), also without a cache folder.

    Args:
        data: items as dicts.
        transform: the transforms; cached up to the first random one.
        cache_dir: a folder for the entries; None computes each item each time.

    Raises:
        TypeError: for items that are no dicts; for a transform whose parameters cannot be told apart by value; for one
            that turns a value into something that is neither the same nor a tensor.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable,
        cache_dir: str | Path | None = None,
    ) -> None:
        if cache_dir is not None:
            prepare_folder(Path(cache_dir))
        super().__init__(
            data, transform, cache_dir, hash_func=hash_item, hash_transform=hash_transforms, track_meta=False
        )

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Take other items. Entries stay (MONAI empties the folder): they are found by content, and can be shared."""
        self.data = data

    def prepare(self, items: Sequence[Mapping[str, Any]], *, workers: int = 0) -> None:
        """Compute the entries of items that have none yet, in so many processes; without a cache folder, nothing.

        Args:
            items: these instead of the data set's own, which stay as they are.
            workers: processes; few items are left to this one.
        """
        if self.cache_dir is None:
            return
        others = copy(self)
        others.set_data(items)
        # Item by item, thrown away: the reading itself fills the cache. A generator of its own: the loader would take a
        # random number from the training's.
        loader: DataLoader[Any] = DataLoader(
            others,
            batch_size=None,
            num_workers=workers if len(items) > _FEW else 0,
            generator=torch.Generator(),
        )
        for _ in tqdm(loader, total=len(items), desc="images", leave=False, disable=None):
            pass

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        """The item after the deterministic transforms, from the cache if it is there and sound."""
        item = item_transformed
        if not isinstance(item, Mapping):
            raise TypeError(f"items must be dicts such as {{'image': path, 'label': 0}}, got {type(item).__name__}")
        if self.cache_dir is None:
            return {**item, **self._tensors(item)}
        entry = self.cache_dir / f"{self.hash_func(item).decode()}{self.transform_hash}{_SUFFIX}"
        tensors = _load(entry, item)
        if tensors is None:
            tensors = {key: _compact(value, item[key]) for key, value in self._tensors(item).items()}
            _save(tensors, entry)
        return {**item, **{k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}}

    def _tensors(self, item: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Run the deterministic transforms and keep the tensors under the item's own keys."""
        result = self._pre_transform(deepcopy(dict(item)))
        tensors = {}
        for key in item:
            value = result.get(key)
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                value = torch.from_numpy(np.ascontiguousarray(value))
            if isinstance(value, torch.Tensor):
                tensor = value.as_subclass(torch.Tensor).detach()
                tensors[key] = tensor.float() if _is_image(tensor, item[key]) else tensor
            elif type(value) is not type(item[key]) or value != item[key]:
                raise TypeError(
                    f"a cached transform must leave '{key}' as it is or turn it into a tensor, got "
                    f"{type(value).__name__}; add ToTensord for it, or a random transform before it"
                )
        return tensors


def _is_image(value: torch.Tensor, source: object) -> bool:
    return isinstance(source, (str, os.PathLike, list, tuple)) and value.is_floating_point()


def _compact(value: torch.Tensor, source: object) -> torch.Tensor:
    """Images in 16 bits where they fit; labels and the rest as they are."""
    fits = _is_image(value, source) and (value.numel() == 0 or float(value.abs().max()) <= _FLOAT16_MAX)
    return (value.to(torch.float16) if fits else value).contiguous()


def _checksum(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    total = 0
    for key in sorted(tensors):
        total = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy().data, total)
    return torch.tensor(total, dtype=torch.int64)


def _load(entry: Path, item: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """Read an entry; None when there is none, or none that can be trusted."""
    try:
        tensors = safetensors.load(entry.read_bytes())
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, KeyError, EOFError) as error:
        logger.warning("cache entry %s is damaged (%s): computing it anew", entry.name, type(error).__name__)
        return None
    checksum = tensors.pop(_CHECKSUM, None)
    if checksum is None or not tensors.keys() <= item.keys() or not torch.equal(checksum, _checksum(tensors)):
        logger.warning("cache entry %s is damaged (wrong checksum): computing it anew", entry.name)
        return None
    return tensors


def _save(tensors: dict[str, torch.Tensor], entry: Path) -> None:
    """Write beside the place, then move: readers see a whole entry or none. A full disk costs time, not the run."""
    content = safetensors.save({**tensors, _CHECKSUM: _checksum(tensors)})
    try:
        write_whole(entry, lambda file: file.write(content))
    except OSError as error:
        logger.warning("cache entry not written to %s (%s); going on without it", entry.parent, error.strerror)


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Write a private file beside its place, then move it there: readers see a whole file or none.

    Args:
        path: the file.
        write: called with the open binary file.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def prepare_folder(folder: Path) -> None:
    """Make the folder private, and clear what killed writers left."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cache_dir must be a folder, got the file {folder}")
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        if any(folder.iterdir()):
            logger.warning("cache_dir %s can be read by others; make it private with chmod 700", folder)
        else:
            folder.chmod(0o700)
    for left in folder.glob("*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()
        except FileNotFoundError:  # another process cleared it first
            continue
