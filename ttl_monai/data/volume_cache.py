"""Prepared volumes on disk, from which a few slices are read without the rest."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.transforms.traits import RandomizableTrait
from monai.utils import MetaKeys
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ttl_monai.data.cache import prepare_folder, write_whole
from ttl_monai.data.fingerprint import hash_item, hash_transforms
from ttl_monai.data.records import raise_problems
from ttl_monai.data.volume import refusal_of
from ttl_monai.data.volume_reader import REPORT_KEY

__all__ = ["CachedVolume", "VolumeCache", "raise_unusable"]

logger = logging.getLogger(__name__)


class CachedVolume(NamedTuple):
    """One prepared volume.

    Attributes:
        array: int16 (K, J, I), mapped from disk: what is not touched is not read. With axes "LPS", K counts slices from
            the feet, J rows from the front, I columns from the right.
        affine: 4 x 4, from (i, j, k) to mm in RAS.
        read_affine: that of the volume as it was read, before it was cropped and resized.
        report: the report of the reader as a dictionary, None where the reader makes none.
    """

    array: np.ndarray
    affine: np.ndarray
    read_affine: np.ndarray
    report: dict[str, Any] | None


class VolumeCache:
    """Volumes after their deterministic transforms, each read and prepared once.

    One volume is an uncompressed .npy of int16 with its slices in a row, opened with `mmap_mode="r"`, beside a small
    JSON with affines and report. So a window of slices is one short sequential read; memory holds the window, whatever
    the number of studies and the length of a series; the operating system keeps what is read often; and workers share
    those pages.
    Measured (benchmarks/volume_cache.json): a window takes 0.7 ms, about as with safetensors' slicing, and 65 ms from
    compressed files. HDF5 and Zarr save disk space only by that decompression.

    An entry belongs to the item's image (path, modification time in ns and size of each file), to the transforms and
    to the versions of MONAI and of this package. It is written beside its place and moved there, the JSON last, so that
    workers and processes may share a folder; an entry that is cut short is made anew. Names are hashes, and no id,
    name or path is kept.

    Args:
        transform: deterministic transforms of {"image": path} that end with an image (1, I, J, K) in HU, such as
            `LoadImaged` with `VolumeReader` and `ensure_channel_first`, and `Resized`. Values are rounded to whole HU.
        cache_dir: a folder for the entries; None takes a temporary one that goes with this object.

    Attributes:
        is_kept: whether the entries stay, for other objects and processes.

    Raises:
        TypeError: for a transform whose parameters cannot be told apart by value.
        ValueError: for a random transform.
    """

    def __init__(self, transform: Sequence[Callable] | Callable, cache_dir: str | Path | None = None) -> None:
        self.is_kept = cache_dir is not None
        self._temporary = tempfile.TemporaryDirectory(prefix="ttl_monai-") if cache_dir is None else None
        self.cache_dir = Path(self._temporary.name if self._temporary is not None else str(cache_dir))
        prepare_folder(self.cache_dir)
        self.transform = transform if isinstance(transform, Compose) else Compose(transform)
        parts = self.transform.flatten().transforms
        if drawn := [type(part).__name__ for part in parts if isinstance(part, RandomizableTrait)]:
            raise ValueError(f"a cached volume must not depend on chance, but {', '.join(drawn)} does; move it behind")
        self._transform_hash = hash_transforms(parts).decode()[:16]

    def open(self, item: Mapping[str, Any]) -> CachedVolume:
        """The volume of an item, prepared now where it is not there yet.

        Args:
            item: has "image", a path; nothing else of it is looked at.

        Returns:
            The volume, its array mapped from disk.

        Raises:
            ValueError: where the transforms end with something else, and all that they raise.
        """
        source = {"image": item["image"]}
        entry = self.cache_dir / f"{hash_item(source).decode()}{self._transform_hash}.npy"
        return self._load(entry) or self._make(source, entry)

    def prepare(self, items: Sequence[Mapping[str, Any]], *, workers: int = 0) -> list[int]:
        """Prepare what is not there yet, in so many processes; the number of slices of each volume.

        Raises:
            ValueError: all that the reader refuses, by `image_id`, when the others are prepared; and at once whatever
                else goes wrong.
        """
        # A generator of its own: the loader would take a random number from the training's.
        loader: DataLoader[int | str] = DataLoader(
            _Lengths(self, items), batch_size=None, num_workers=workers, generator=torch.Generator()
        )
        shown = tqdm(loader, total=len(items), desc="volumes", leave=False, disable=None)
        found = list(shown)
        raise_unusable(items, [each if isinstance(each, str) else "" for each in found])
        return [int(length) for length in found]

    def _load(self, entry: Path) -> CachedVolume | None:
        """Open an entry; None when there is none, or none that is whole."""
        try:
            facts = json.loads(entry.with_suffix(".json").read_bytes())
            array = np.load(entry, mmap_mode="r")
            if array.dtype != np.int16 or list(array.shape) != facts["shape"]:
                raise ValueError("another array")
            return CachedVolume(array, np.array(facts["affine"]), np.array(facts["read_affine"]), facts["report"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
            logger.warning("cache entry %s is damaged (%s): making it anew", entry.name, type(error).__name__)
            return None

    def _make(self, source: dict[str, Any], entry: Path) -> CachedVolume:
        result = self.transform(source)
        image = result.get("image") if isinstance(result, Mapping) else None
        if not isinstance(image, torch.Tensor) or image.ndim != 4 or image.shape[0] != 1:
            found = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
            raise ValueError(f"the transforms of a volume must end with 'image' of shape (1, I, J, K), got {found}")
        affine, read_affine, report = np.eye(4), np.eye(4), None
        if isinstance(image, MetaTensor):
            affine = np.asarray(image.affine, dtype=float)
            read_affine = np.asarray(image.meta.get(MetaKeys.ORIGINAL_AFFINE, affine), dtype=float)
            report = json.loads(image.meta[REPORT_KEY]) if REPORT_KEY in image.meta else None
        limits = np.iinfo(np.int16)
        hu = image.as_subclass(torch.Tensor)[0].permute(2, 1, 0)  # (I, J, K) -> (K, J, I)
        hu = hu.round().clamp(limits.min, limits.max) if hu.is_floating_point() else hu
        array = np.ascontiguousarray(hu.to(torch.int16).numpy())
        affines = {"affine": affine.tolist(), "read_affine": read_affine.tolist()}
        facts = {"shape": list(array.shape), **affines, "report": report}
        write_whole(entry, lambda file: np.save(file, array))
        write_whole(entry.with_suffix(".json"), lambda file: file.write(json.dumps(facts).encode()))
        return CachedVolume(np.load(entry, mmap_mode="r"), affine, read_affine, report)


def raise_unusable(items: Sequence[Mapping[str, Any]], reasons: Sequence[str], limit: int = 10) -> None:
    """Raise one ValueError that names the volumes that cannot be used; return when there are none.

    Args:
        items: named by their `image_id`, or their number where they have none.
        reasons: what is against each item, "" where nothing is.
        limit: so many are named, the others counted.
    """
    named = [
        f"{item.get('image_id', f'number {number}')}: {reason}"
        for number, (item, reason) in enumerate(zip(items, reasons, strict=True))
        if reason
    ]
    more = [f"{len(named) - limit} more"] if len(named) > limit else []
    raise_problems(
        named[:limit] + more,
        f"{len(named)} of {len(items)} volumes cannot be used; mend them or take their rows out of the datalist",
    )


class _Lengths(Dataset):
    """The number of slices of each item's volume, or the reasons why it is refused; reading it prepares the volume."""

    def __init__(self, cache: VolumeCache, items: Sequence[Mapping[str, Any]]) -> None:
        self.cache, self.items = cache, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> int | str:
        try:
            return len(self.cache.open(self.items[index]).array)
        except (RuntimeError, ValueError) as error:
            return "; ".join(refusal_of(error).report.refusals)
