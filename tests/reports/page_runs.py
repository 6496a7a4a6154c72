"""Folders as trainings, comparisons and experiments leave them, of made numbers."""

import csv
import json

import numpy as np
from PIL import Image

from ttl_monai.analysis import auroc, average_precision, classification_intervals, mean_intervals, operating_point

CANARY = "DOE^JANE"  # in every place where a name or a path may stand
EVIL = "<script>alert('x')</script>"


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def make_run(folder, strategy="FTL", cut=None, *, classes=("negative", EVIL), params=3_373_570, noise=1.0, **more):
    """A training with test and validation predictions; the images of pseudonymous and of plain ids take turns."""
    generator = np.random.default_rng(7)
    task = "binary" if len(classes) == 2 else "multi-class"
    scored = {}
    for section, count in (("validation", 40), ("test", 60)):
        labels = np.arange(count) % len(classes)
        logits = noise * generator.normal(size=(count, len(classes)))
        logits[np.arange(count), labels] += 1.2
        scores = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 6)
        patients = [f"{k // 2:064x}" if k % 4 < 2 else f"{CANARY}{k // 2}" for k in range(count)]
        images = [f"{k:064x}#3" if k % 4 < 2 else f"images/{CANARY}{k}.png" for k in range(count)]
        rows = [
            {"patient": patient, "image": image, "label": classes[label]}
            | {f"probability_{name}": f"{value:.6f}" for name, value in zip(classes, row, strict=True)}
            for patient, image, label, row in zip(patients, images, labels, scores, strict=True)
        ]
        write_csv(folder / section / "predictions.csv", rows)
        scored[section] = labels, scores, patients
    threshold = operating_point(*scored["validation"][:2]) if task == "binary" else None
    labels, scores, patients = scored["test"]
    metrics = {"test_auroc": auroc(labels, scores), "test_auprc": average_precision(labels, scores)}
    intervals = classification_intervals(labels, scores, patients, resamples=50)
    write_json(folder / "test" / "metrics.json", metrics | intervals.to_dict("test"))
    write_records(folder, strategy, cut, task, classes, params, threshold, **more)
    return folder


def make_masks_run(folder):
    """A training of a segmentation with pictures of two images."""
    generator = np.random.default_rng(1)
    dice = generator.uniform(0.5, 1, (20, 2))
    dice[3, 1] = np.nan
    images = [f"images/{CANARY}{k}.png" for k in range(20)]
    patients = [f"{CANARY}{k}" for k in range(20)]
    rows = []
    for image, patient, values in zip(images, patients, dice, strict=True):
        row = {"patient": patient, "image": image}
        for name, value in zip(("lung", "heart"), values, strict=True):
            shown = "" if np.isnan(value) else f"{value:.6f}"
            row |= {f"dice_{name}": shown, f"jaccard_{name}": shown}
        rows.append(row)
    write_csv(folder / "test" / "masks.csv", rows)
    intervals = mean_intervals({"dice": dice, "jaccard": dice}, patients, resamples=50).to_dict("test")
    mean = float(np.nanmean(dice, axis=0).mean())
    write_json(folder / "test" / "metrics.json", {"test_dice": mean, "test_jaccard": mean, **intervals})
    for k in np.argsort(np.nanmean(dice, axis=1))[:2]:
        make_picture(folder / "test" / "masks" / f"{images[k]}_mask.png")
    write_records(folder, "TTL", "layer2", "segmentation", ("background", "lung", "heart"), 500_000, None)
    return folder


def write_records(folder, strategy, cut, task, classes, params, threshold, **more):
    key = "val_dice" if task == "segmentation" else "val_auprc"
    history = [
        {"epoch": k, "train_loss": 1 / k, key: 0.8 + k / 100, "learning_rate": 1e-3, "seconds": 9, "data_wait": 0.1}
        for k in (1, 2, 3)
    ]
    counts = {section: dict.fromkeys(classes, 30) for section in ("training", "validation", "test")}
    write_json(
        folder / "run.json",
        {
            **{"status": "finished", "strategy": strategy, "seed": 0, "params": params, "trainable_params": params},
            **{"macs": 131_791_362, "device": "cpu", "wall_s": 27.0, "versions": {"torch": "2.14.1"}},
            "data": {"name": f"made {EVIL}", "sha256": "c2" * 32, "counts": counts},
            "config": {"dataset_dir": f"/data/{CANARY}/", "datalist": f"/data/{CANARY}.json"},
            **{"best": history[-1], "history": history},
            **more,
        },
    )
    write_json(
        folder / "model.json",
        {
            "network_def": {"_target_": "x.Net", "backbone": "lite0", "weights": "imagenet", "truncate_at": cut},
            **{"strategy": strategy, "task": task, "class_names": classes, "spatial_size": 128},
            **{"threshold": threshold, "sha256": "f1" * 32, "epoch": 3},
        },
    )


def make_experiment(folder):
    """The results of an experiment: published values, a difference and a figure."""
    generator = np.random.default_rng(0)

    def row(strategy, cut, params, latency, mean, published=None):
        repeats = [
            {"split": k, "seed": 0, "val_auprc": mean, "test_auroc": mean + generator.normal() / 100}
            | {"test_auprc": mean, "test_auprc_trapezoid": mean, "wall_s": 9.0}
            for k in range(3)
        ]
        sizes = {"params": params, "trainable_params": params, "macs": 40 * params, "latency_ms": latency}
        return {"strategy": strategy, "cut": cut, "repeats": repeats, **sizes, "seconds": 27.0, "published": published}

    published = {"auroc": "0.853 ± 0.004", "auprc": "0.861 ± 0.002", "params": 23_500_000, "macs": None, "cut": None}
    rows = [
        row("FTL", None, 3_373_570, 29.9, 0.98, {**published, "source": "supplement, Table 3", "differs": "the data"}),
        row("TTL", "blocks.2", 55_722, 9.3, 0.97),
        row("TTL", "blocks.3", 253_570, 13.6, 0.985),
    ]
    gap = {"a": "TTL blocks.3", "b": "FTL", "metric": "test_auroc", "mean": 0.006, "low": -0.002, "high": 0.014}
    table = {
        **{"dataset": "cxr", "backbone": "lite0", "weights": "imagenet", "spatial_size": 128, "max_epochs": 4},
        **{"batch_size": 16, "learning_rate": 5e-4, "threads": 2, "rows": rows},
        "command": f"ttl experiment strategies --dataset_dir /data/{CANARY}/xrays --out 'C:\\{CANARY}\\x'",
        "differences": [{**gap, "n": 3, "p": 0.31, "method": "paired bootstrap over patients"}],
    }
    for number, each in enumerate(rows[:2]):
        each["metrics"] = {"gradcam_lungs_share": 0.4 + number / 10, "gradcam_lungs_pointing": None}
        each["metrics"] |= {"gradcam_lungs_auroc": 0.7, "gradcam_half_area": 0.1}
        each["intervals"] = {"gradcam_lungs_share": [0.3, 0.6]}
    shares = {**gap, "metric": "gradcam_lungs_share", "mean": 0.1, "n": 20, "method": "bootstrap over patients"}
    table["differences"] += [shares, {**shares, "metric": "gradcam_half_area", "mean": 0.2}]
    rows[1]["published"] = {**published, "auroc": "0.7", "cut": "layer3.5", "cpu_s": 80.0, "gpu_s": 6.72}
    rows[1]["published"] |= {"source": "the logs", "differs": "the data; its cut"}
    table["notes"] = ["A note of the table."]
    make_picture(folder / "figures" / "maps.png")
    figure = {"file": "figures/maps.png", "title": "Maps", "alt": "Maps of four strategies", "caption": "Equal size."}
    content = {"experiment": "strategies", "command": table["command"], "tables": [table], "figures": [figure]}
    source = {"name": "low", "dataset": "chexpert", "class_names": ["Edema", "Fracture"], "val_auprc": 0.5, "epoch": 3}
    content["sources"] = [{**source, "epochs": 4, "sha256": "ab" * 32}]
    content["versions"] = {"monai": "1.6.1"}
    content["masks"] = {"dataset": "masked", "structures": {"lungs": {"area": 0.27, "images": 20}}}
    write_json(folder / "results.json", content)
    return folder


def make_similarity(folder):
    """A comparison as `ttl svcca` writes it."""
    grid = np.linspace(0, 1, 21)
    points = [
        {
            **{"point": name, "level": "stage", "coefficients": (grid * top).tolist(), "dims": [16, 16], "n": 9000},
            **{"null_quantiles": (grid / 10).tolist(), "null_quartiles": [0.025, 0.05, 0.075], "mean": top / 2},
            **{"quartiles": [top / 4, top / 2, 3 * top / 4], "overlap": 0.1, "jackknife": [0.1, 0.12]},
            **{"quartile_rule": False, "excess_area": top / 2},
        }
        for name, top in (("blocks.1", 0.9), (None, 0.4))
    ]
    document = {
        **{"runs": ["initial", "ftl"], "data": {"name": "made", "images": 90}, "null": "wachter", "points": points},
        **{"determined": True, "pick": "blocks.1", "reason": "the last one distinct", "picks": {}},
        "matrix": {"points": ["blocks.1", "whole"], "excess_area": [[0.9, 0.2], [0.2, 0.5]]},
    }
    write_json(folder / "similarity.json", document)
    return folder


def make_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.arange(96, dtype=np.uint8), (80, 1))).save(path)
