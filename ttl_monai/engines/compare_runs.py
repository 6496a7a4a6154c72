"""Two runs compared, or a run with what it started from: `ttl svcca`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from torch import nn
from tqdm import tqdm

from ttl_monai.analysis import pick_transition
from ttl_monai.data import Datalist, PrepareBatch
from ttl_monai.engines.datasets import mask_items, open_data
from ttl_monai.engines.feature_moments import GROUPS, LayerMoments, Null, PatientMoments, Points
from ttl_monai.engines.runs import GIVEN, build_dataset, build_network, build_preprocessing, load_spec
from ttl_monai.engines.similarity import feed, image_batches, to_rows, transitions
from ttl_monai.handlers.svcca import spread
from ttl_monai.networks.features import choose_points, points_of
from ttl_monai.networks.points import find_point

logger = logging.getLogger(__name__)

INITIAL = "initial"


def initial_network(run_dir: str | Path) -> nn.Module:
    """The network of a run as it was before training, in evaluation mode.

    Pretrained weights are loaded again; random ones are drawn again from the run's seed, as the run drew them.

    Args:
        run_dir: folder of the run.

    Raises:
        ValueError: the weights cannot be had, or random ones were drawn by another version of torch.
    """
    record = json.loads(Path(run_dir, "run.json").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(record["seed"]))
        parser = ConfigParser({"network": load_spec(run_dir)["network_def"]})
        network: nn.Module = parser.get_parsed_content("network")
    info = getattr(network, "weight_info", None)
    drawn = [key for key in info.report.reinitialised if not key.startswith("head.")] if info else ["all"]
    made_with = record["versions"]["torch"]
    if drawn and made_with != torch.__version__:
        raise ValueError(
            f"{len(drawn)} tensors of {Path(run_dir).name} started from random numbers that torch {made_with} drew; "
            f"torch {torch.__version__} may draw others. Compare where the run was made, or train with svcca.json"
        )
    return network.eval()


def _run_folder(path: str | Path) -> Path:
    missing = [name for name in ("model.json", "model.pt", "run.json") if not Path(path, name).is_file()]
    if missing:
        raise ValueError(f"{path} is no training run: expected a folder with {', '.join(missing)}.")
    return Path(path)


def run_data(
    run_dir: str | Path, dataset_dir: str | Path | None = None, datalist: str | Path | None = None
) -> Datalist:
    """The data that are given, or those that the run's bundle made for it.

    Args:
        run_dir: folder of the run, with the config of the training in `run.json`.
        dataset_dir: folder of the images. `run.json` holds no path of data, so that it has to be said again.
        datalist: likewise.

    Raises:
        ValueError: the run's data cannot be found (with the remedy).
    """
    record, name = json.loads(Path(run_dir, "run.json").read_text()), Path(run_dir).name
    for option, path in (("dataset_dir", dataset_dir), ("datalist", datalist)):
        if path is not None and not Path(path).exists():
            raise ValueError(f"{path} does not exist here: say by --{option} where the images of the run are.")
    if dataset_dir is not None or datalist is not None:
        folder = None if dataset_dir is None else str(dataset_dir)
        data = open_data(folder, None if datalist is None else str(datalist), "")  # says which of the two is missing
        # A search trains on copies of a list without its test section.
        if not {record["data"]["sha256"], load_spec(run_dir)["data_sha256"]} & {data.sha256, data.origin_sha256}:
            logger.warning("%s was trained on another datalist than the given one (by SHA-256).", name)
        return data
    config = record["config"]
    demo = config.get("demo_dir", GIVEN)
    if config.get("dataset_dir") is not None or not demo.startswith("$"):
        raise ValueError(f"{name} keeps no path of the data that it was trained on: pass --dataset_dir and --datalist.")
    bundles = [each for each in Path(run_dir).absolute().parents if (each / "configs" / "train.json").is_file()]
    if not bundles:
        raise ValueError(
            f"{name} was trained on images that its bundle made, and it lies in no bundle: pass --dataset_dir and "
            "--datalist."
        )
    demo = str(bundles[0] / "data" / config["make_demo"])
    return open_data(None, None, demo, load_spec(run_dir), make=config["make_demo"])


def common_points(
    first: nn.Module, second: nn.Module, points: str | Sequence[str], *, names: tuple[str, str]
) -> Points:
    """The points that two networks both have.

    Args:
        first: a network.
        second: another one, cut elsewhere perhaps.
        points: see `choose_points`.
        names: what to call the networks in an error.

    Returns:
        (name, level) in the order of depth; None, the end, where both networks end at the same point.

    Raises:
        ValueError: there are none, or a point was named that one of them lacks.
    """
    found = [points_of(network) for network in (first, second)]
    if not isinstance(points, str):
        for every, name in zip(found, names, strict=True):
            for point in points:
                try:
                    find_point(every, point)
                except ValueError as error:
                    raise ValueError(f"{name} has no point {point!r}: {error}") from error
        return choose_points(second, points)
    longer = second if len(found[1]) >= len(found[0]) else first
    in_both = {each.name for each in found[0]} & {each.name for each in found[1]}
    same_end = found[0][-1].name == found[1][-1].name
    common = [each for each in choose_points(longer, points) if each[0] in in_both or (each[0] is None and same_end)]
    if not common:
        shown = [", ".join(each.name for each in every if each.level == "stage") for every in found]
        raise ValueError(
            f"the two runs have no points in common: {names[0]} has {shown[0] or 'no stages'}; {names[1]} has "
            f"{shown[1] or 'no stages'}. Compare runs of one backbone, or name points of both by --points"
        )
    return common


def compare_runs(
    run_a: str | Path,
    run_b: str | Path,
    *,
    points: str | Sequence[str] = "stage",
    dataset_dir: str | Path | None = None,
    datalist: str | Path | None = None,
    images: int | None = None,
    null: Null = "wachter",
    variance: float | None = None,
    groups: int = GROUPS,
    matrix: bool = True,
    device: torch.device | None = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Compare the features of two runs on the training and validation images of the second one.

    Args:
        run_a: folder of a run, or "initial": the second run's network before training.
        run_b: folder of a run; its preprocessing is used.
        points: "stage", "block" or names.
        dataset_dir: folder of the images; None for those that the run's bundle made.
        datalist: likewise. Its test section is never used.
        images: how many (of volumes that are cut: slices with foreground), spread over the list; None takes all.
        null: see `compare_networks`.
        variance: likewise.
        groups: likewise.
        matrix: compare all points with each other, too.
        device: where to compute; default: CUDA if there is one.
        batch_size: images at a time.

    Returns:
        The document that `reports.plot_similarity` draws: `runs`, `data`, `points` (see `to_rows`), `matrix`, `picks`
        (see `transitions`), `pick` and its `reason`.

    Raises:
        ValueError: no run, no points in common, or no images.
    """
    folder_b = _run_folder(run_b)
    before = initial_network(folder_b) if str(run_a) == INITIAL else build_network(_run_folder(run_a))
    after = build_network(folder_b)
    names = (INITIAL if str(run_a) == INITIAL else Path(run_a).name, Path(run_b).name)
    chosen = common_points(before, after, points, names=names)
    if names[0] != INITIAL and load_spec(run_a)["preprocessing"] != load_spec(run_b)["preprocessing"]:
        logger.warning("The runs differ in their preprocessing; that of %s is used for both.", names[1])
    data = run_data(folder_b, dataset_dir, datalist)
    items = [item for section in ("training", "validation") if data.entries[section] for item in data.section(section)]
    if axis := load_spec(folder_b).get("axis"):
        # As the run's training saw its volumes: slices in which something is drawn.
        items = mask_items(items, axis, classes_of=build_preprocessing(folder_b).transforms[0].slice_classes)
    items = [items[index] for index in spread(items, images)]
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = build_dataset(folder_b, items, None)
    moments = PatientMoments(chosen, groups=groups, null=null, device=device)
    pairs = LayerMoments([name for name, _ in chosen], device=device)
    batches = image_batches(dataset, PrepareBatch(), device=device, batch_size=batch_size, groups=groups)
    shown = tqdm(batches, total=-(-len(dataset) // batch_size), desc="features", leave=False, disable=None)
    feed(before.to(device), after.to(device), moments.names, shown, [moments, *([pairs] if matrix else [])])
    similarities = moments.similarities(variance=variance)
    picks = transitions(similarities)
    pick = pick_transition(similarities, level="stage" if "stage" in picks else "block")
    return {
        "schema": 1,
        "runs": list(names),
        "data": {"name": data.name, "sha256": data.sha256, "images": len(dataset)},
        "null": null,
        "variance": variance,
        "groups": groups,
        "points": to_rows(similarities, null),
        "matrix": pairs.matrix(variance=variance) if matrix else None,
        "picks": picks,
        "pick": pick.point,
        "determined": pick.determined,
        "reason": pick.reason,
    }
