"""The data of a bundle: the user's own, or made on first use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ttl_monai.data
from ttl_monai.data import Datalist, XrayReader
from ttl_monai.data.dicom_folders import fold_series
from ttl_monai.data.records import content_sha256

logger = logging.getLogger(__name__)


def open_data(
    dataset_dir: str | None,
    datalist: str | None,
    demo_dir: str,
    trained: Mapping[str, Any] | None = None,
    *,
    make: str = "demo_phantom",
) -> Datalist:
    """The datalist to train or evaluate on.

    Args:
        dataset_dir: folder that the list's paths start from; None for made data.
        datalist: the datalist file.
        demo_dir: where made data lies, and is made on first use.
        trained: the `model.json` of a run that is to be evaluated.
        make: name of the function of `ttl_monai.data` that makes data in a folder and gives the path of its datalist.

    Raises:
        ValueError: if only one of the two is given, or none for a run that was trained on other than the made data.
        OSError: if files are missing.
    """
    if (dataset_dir is None) != (datalist is None):
        given, missing = ("dataset_dir", "datalist") if datalist is None else ("datalist", "dataset_dir")
        raise ValueError(
            f"--{given} was given without --{missing}: pass both (`ttl datalist --help` makes a datalist), or neither "
            "to train on made images."
        )
    if dataset_dir is None or datalist is None:
        return open_demo(demo_dir, trained, make=make)
    return Datalist.load(datalist, dataset_dir)


def open_demo(demo_dir: str, trained: Mapping[str, Any] | None, *, make: str) -> Datalist:
    """The made data of a bundle, made on first use; arguments as for `open_data`.

    Raises:
        ValueError: there is no such function, or the run was trained on other data.
    """
    # Of that module alone: a config must not name any function to be called.
    makers = [name for name in ttl_monai.data.__all__ if name.startswith("demo_")]
    if make not in makers:
        raise ValueError(f"make_demo must be one of {', '.join(makers)}, got {make!r}.")
    data = Datalist.load(getattr(ttl_monai.data, make)(demo_dir), demo_dir)
    if trained is not None and trained["data_sha256"] != data.sha256:
        raise ValueError(
            "the run was not trained on the made images: say by --dataset_dir (and, to evaluate, --datalist) which "
            "images are meant."
        )
    return data


def announce(data: Datalist, strategy: str, settings: Mapping[str, Any]) -> None:
    """Say in one line what is about to be trained, on what, with which settings."""
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    counts = ", ".join(f"{len(entries)} {name}" for name, entries in data.entries.items())
    logger.info("%s on %s (%s): %s.", strategy, data.name, counts, shown)


def inference_items(
    dataset_dir: str | None,
    demo_dir: str,
    trained: Mapping[str, Any] | None = None,
    *,
    make: str = "demo_phantom",
    file_names: bool = False,
    series: bool = False,
) -> list[dict[str, Any]]:
    """The images to predict.

    Args:
        dataset_dir: one image file, or a folder that is searched with its subfolders; None takes the made test images.
        demo_dir: where made data lies.
        trained: the `model.json` of the run.
        make: see `open_data`.
        file_names: identify images by their path below `dataset_dir` in the results. Off by default, since names of
            files and folders often hold those of patients: then by the first 16 hex digits of the content's SHA-256,
            and of files with equal content the first alone is taken, which the log says.
        series: take the slices of a CT, MR or PET series that lie in one folder as one volume, its path being the
            folder's.

    Returns:
        Items with `image` (path) and `image_id`, in the order of the sorted paths.

    Raises:
        ValueError: if there is no image, or no folder was given for a run that was trained on other than made data.
    """
    if dataset_dir is None:
        data = open_demo(demo_dir, trained, make=make)
        return [{"image": item["image"], "image_id": item["image_id"]} for item in data.section("test")]
    root = Path(dataset_dir)
    if not root.exists():
        raise ValueError(f"--dataset_dir must be an image file or a folder of images, but {root} does not exist.")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    reader = XrayReader()
    paths = [root] if root.is_file() else [path for path in files if reader.verify_suffix(path)]
    if not paths:
        raise ValueError(f"no image was found among the {len(files)} files of the folder {root}.")
    if len(paths) < len(files):
        verb = "is" if len(files) - len(paths) == 1 else "are"
        logger.info(
            "%d of %d files %s left out: no images by name or content.", len(files) - len(paths), len(files), verb
        )
    if series:
        paths = fold_series(paths)
    base = root.parent if root.is_file() or paths == [root] else root
    items: dict[str, dict[str, Any]] = {}
    for path in paths:
        key = path.relative_to(base).as_posix() if file_names else content_sha256(path)[:16]
        items.setdefault(key, {"image": str(path), "image_id": key})
    if len(items) < len(paths):
        # Named by their content they would overwrite one another's results.
        logger.info("%d images repeat the content of another and are predicted once.", len(paths) - len(items))
    return list(items.values())


def mask_items(
    items: Sequence[Mapping[str, Any]], axis: str | None = None, *, classes_of: Callable[..., Any] | None = None
) -> list[dict[str, Any]]:
    """See `ttl_monai.data.segmentation_items`, which a config that has `data` as an id cannot import by that name."""
    return ttl_monai.data.segmentation_items(items, axis, classes_of=classes_of)


def check_classes(spec: Mapping[str, Any], data: Datalist) -> list[str]:
    """The class names of a run, after checking that a datalist has the same ones in the same order.

    Raises:
        ValueError: naming both.
    """
    trained, listed = list(spec["class_names"]), list(data.class_names)
    if trained != listed:
        raise ValueError(f"the run was trained on the classes {trained}, but the datalist {data.name} has {listed}.")
    return trained


def evaluation_facts(spec: Mapping[str, Any], data: Datalist) -> dict[str, Any]:
    """What `metrics.json` says besides the metrics; warns when the list is not the one of the training."""
    if spec["data_sha256"] != data.sha256:
        logger.warning(
            "The datalist %s is not the one that the run was trained on: make sure that no patient of the training is "
            "in it, or the result is too good.",
            data.name,
        )
    return {
        "strategy": spec["strategy"],
        "epoch": spec["epoch"],
        "model_sha256": spec["sha256"],
        "data_sha256": data.sha256,
        "same_datalist_as_training": spec["data_sha256"] == data.sha256,
    }
