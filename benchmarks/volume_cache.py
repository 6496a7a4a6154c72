"""What it takes to cut a window of 24 slices out of a stored volume, by the form that it is stored in.

Each form in its own process: the median time of a window at a random place of random volumes, every one opened anew as
a shuffled epoch does; the memory that the process grew by; the bytes on disk. The files are in the page cache, so disks
are left out; what a form must decode or copy is not.

    python benchmarks/volume_cache.py [--slices 300] [--volumes 4] [--windows 60] [--out benchmarks/volume_cache.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ttl_monai.data.phantom_ct import draw_ct

SIDE, WINDOW = 208, 24


def save_nifti(path: Path, array: np.ndarray) -> None:
    """One NIfTI, slices along its last axis as usual."""
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), path)


def cut_nifti(path: Path, start: int) -> np.ndarray:
    """A window of a NIfTI, read through nibabel's array proxy."""
    return np.asarray(nib.load(path).dataobj[..., start : start + WINDOW])


def cut_safetensors(path: Path, start: int) -> np.ndarray:
    """A window of a tensor, read by safetensors' own slicing."""
    with safe_open(path, framework="np") as file:
        return file.get_slice("image")[start : start + WINDOW]


def save_hdf5(path: Path, array: np.ndarray) -> None:
    """One HDF5 data set, compressed slice by slice, so that a window need not decode the rest."""
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=array, chunks=(1, *array.shape[1:]), compression="gzip")


def cut_hdf5(path: Path, start: int) -> np.ndarray:
    """A window of an HDF5 data set."""
    with h5py.File(path) as file:
        return file["image"][start : start + WINDOW]


# name: suffix, how to save, how to cut a window
FORMS: dict[str, tuple[str, Callable[[Path, np.ndarray], None], Callable[[Path, int], np.ndarray]]] = {
    ".npy, mapped": (".npy", np.save, lambda path, k: np.array(np.load(path, mmap_mode="r")[k : k + WINDOW])),
    "safetensors, sliced": (".safetensors", lambda path, array: save_file({"image": array}, path), cut_safetensors),
    "safetensors, whole": (
        ".safetensors",
        lambda path, array: save_file({"image": array}, path),
        lambda path, k: load_file(path)["image"][k : k + WINDOW],
    ),
    "HDF5, compressed slices": (".h5", save_hdf5, cut_hdf5),
    "NIfTI": (".nii", save_nifti, cut_nifti),
    "NIfTI, compressed": (".nii.gz", save_nifti, cut_nifti),
    "NumPy, compressed": (
        ".npz",
        lambda path, array: np.savez_compressed(path, image=array),
        lambda path, k: np.load(path)["image"][k : k + WINDOW],
    ),
}


def write(name: str, folder: Path, slices: int, volumes: int) -> None:
    """Some volumes in one form."""
    suffix, save, _ = FORMS[name]
    for n in range(volumes):
        scan = draw_ct(n, positive=False, shape=(48, 104, 104)).hu
        array = np.resize(scan.repeat(2, axis=1).repeat(2, axis=2), (slices, SIDE, SIDE))
        save(folder / f"{n}{suffix}", array)


def measure(name: str, folder: Path, slices: int, volumes: int, windows: int) -> dict[str, object]:
    """Time, memory and size of one form."""
    suffix, _, cut = FORMS[name]
    paths = [folder / f"{n}{suffix}" for n in range(volumes)]
    rng = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(windows):
        path, start = paths[rng.integers(volumes)], int(rng.integers(slices - WINDOW))
        began = time.perf_counter()
        window = cut(path, start)
        total = int(window.sum())  # touches every voxel
        times.append(time.perf_counter() - began)
        if window.size != WINDOW * SIDE * SIDE or total == 0:
            raise ValueError(f"{name}: expected {WINDOW} slices of {SIDE} x {SIDE}, got shape {window.shape}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    size = statistics.mean(path.stat().st_size for path in paths)
    return {
        "form": name,
        "window_ms": round(1e3 * statistics.median(times), 2),
        "memory_mib": round(grown / 1024, 1),
        "disk_mib": round(size / 2**20, 1),
    }


def main() -> None:
    """Measure all forms and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in FORMS:
        with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            # A process for each step, so that the memory of writing does not hide that of reading.
            pool.apply(write, (name, Path(folder), args.slices, args.volumes))
            rows.append(pool.apply(measure, (name, Path(folder), args.slices, args.volumes, args.windows)))
        print(json.dumps(rows[-1]))
    if args.out:
        setting = {"slices": args.slices, "side": SIDE, "window": WINDOW, "volumes": args.volumes}
        args.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=4) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
