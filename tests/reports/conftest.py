import math
from statistics import fmean, stdev

import numpy as np
import pytest

# EfficientNet-lite0 without its head: name, level, parameters (M), MACs (G at 96 px).
LITE0 = [
    ("blocks.0.0", "stage", 0.002, 0.0044),
    ("blocks.1.0", "block", 0.007, 0.0106),
    ("blocks.1.1", "stage", 0.016, 0.0158),
    ("blocks.2.0", "block", 0.029, 0.0195),
    ("blocks.2.1", "stage", 0.056, 0.0233),
    ("blocks.3.0", "block", 0.088, 0.0256),
    ("blocks.3.1", "block", 0.171, 0.0286),
    ("blocks.3.2", "stage", 0.254, 0.0317),
    ("blocks.4.0", "block", 0.360, 0.0355),
    ("blocks.4.1", "block", 0.531, 0.0417),
    ("blocks.4.2", "stage", 0.701, 0.0479),
    ("blocks.5.0", "block", 0.925, 0.0520),
    ("blocks.5.1", "block", 1.401, 0.0563),
    ("blocks.5.2", "block", 1.877, 0.0606),
    ("blocks.5.3", "stage", 2.353, 0.0649),
    ("blocks.6.0", "stage", 2.959, 0.0704),
    (None, "stage", 3.374, 0.0741),
]


def resnext3d():
    """The 33 blocks of ResNeXt3D-101 and the whole network."""
    depths = {1: 3, 2: 4, 3: 23, 4: 3}
    names = [(stage, block) for stage, count in depths.items() for block in range(count)]
    rows = [
        (
            f"layer{stage}.{block}",
            "stage" if block == depths[stage] - 1 else "block",
            0.3 + 1.4 * number,
            1 + 0.9 * number,
        )
        for number, (stage, block) in enumerate(names)
    ]
    return [*rows, (None, "stage", 47.0, 31.0)]


def entry(point, values, **more):
    known = [value for value in values if value is not None]
    spread = {"mean": fmean(known) if known else None, "std": stdev(known) if len(known) > 1 else None}
    return {"point": point, "values": values, **spread, **more}


def method(document, name, pick, cells, seconds, **changes):
    """A row as `ttl search` writes it, from the document's curve."""
    trained = next(each for each in document["curve"] if each["point"] == pick)
    size = next(each for each in document["candidates"] if each["point"] == pick)
    best = max(each["mean"] for each in document["curve"] if each["mean"] is not None)
    row = {
        **{"method": name, "pick": pick, "determined": True, "reason": "", "mean": trained["mean"]},
        **{"std": trained["std"], "n": sum(value is not None for value in trained["values"])},
        **{"regret": best - trained["mean"], "params": size["params"], "macs": size["macs"]},
        **{"cells": cells, "seconds": seconds},
    }
    return {**row, **changes}


@pytest.fixture(scope="session")
def make_search():
    """A search document of made numbers: `make_search(net="lite0", repeats=3, picks=...)`."""

    def make(
        net="lite0", repeats=3, picks=("blocks.3.2", "blocks.3.2", "blocks.5.3", "blocks.4.0"), train_patients=400
    ):
        rows = LITE0 if net == "lite0" else resnext3d()
        generator = np.random.default_rng(0)
        document = {
            **{"schema": 1, "dataset": "cxr_pid", "bundle": "covid_ttl", "backbone": "tf_efficientnet_lite0"},
            **{"weights": "imagenet", "settings": {"spatial_size": 96, "max_epochs": 4}, "rule": "within-one-std"},
            **{"train_patients": train_patients, "repeats": repeats, "metric": "val_auprc", "quorum": 0.67},
            "commands": {"exhaustive": f"ttl search --train-patients {train_patients}"},
            **{"threads": [1], "devices": ["cpu"], "failed": [], "test": None},
        }
        document["candidates"] = [
            {"point": name, "level": level, "params": round(params * 1e6), "macs": round(macs * 1e9)}
            for name, level, params, macs in rows
        ]
        document["curve"], document["probe"], document["svcca"] = [], [], []
        for number, (name, level, _, _) in enumerate(rows):
            depth = number / (len(rows) - 1)
            mean = 0.985 - 0.16 * math.exp(-9 * depth) - 0.02 * depth**2
            values = [round(float(mean + 0.006 * generator.normal()), 4) for _ in range(repeats)]
            document["curve"].append(entry(name, values, seconds=[200.0] * repeats, epochs=[4] * repeats))
            values = [round(float(mean - 0.02 + 0.005 * generator.normal()), 4) for _ in range(repeats)]
            document["probe"].append(entry(name, values))
            overlap = round(float(1 / (1 + math.exp(-10 * (depth - 0.6)))), 3)
            boxes = {"quartiles": [0.3, 0.4, 0.5], "null_quartiles": [0.1, 0.2, 0.3]}
            document["svcca"].append(
                {"point": name, "level": level, **boxes, "overlap": overlap, "n": 9000, "dims": [80, 80]}
            )
        if net != "lite0" and picks[0].startswith("blocks"):
            picks = ("layer3.5", "layer3.22", "layer3.22", "layer2.1")
        exhaustive, two_stage, svcca, probe = picks
        before = {"pick": probe, "regret": 0.0071, "seconds": 35.0}
        document["methods"] = [
            method(document, "probe", probe, 10, 1900.0, before_training=before),
            method(document, "two-stage", two_stage, 33, 6600.0),
            method(document, "svcca", svcca, 7, 1500.0),
            method(document, "exhaustive", exhaustive, len(rows) * repeats, 200.0 * len(rows) * repeats),
        ]
        document["random"] = {"regret": 0.0213, "std_over_splits": 0.004}
        return document

    return make
