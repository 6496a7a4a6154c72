"""Bundles run in-process on a handful of tiny images."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from ttl_monai.data import make_ctpa_phantom, make_phantom
from ttl_monai.deploy.pack import pack_run
from ttl_monai.deploy.predict import predict_inputs
from ttl_monai.engines.workflow import told_cause

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
TINY_DATA = {"covid_ttl": "tiny_data", "ctpa_ttl": "tiny_scans", "unet_ttl": "tiny_masks"}
# What the tests train with, small enough for seconds; of each bundle.
TINY = {"spatial_size": 32, "batch_size": 8, "max_epochs": 1, "learning_rate": 1e-3, "network_def#weights": "none"}

TINY_OF = {
    "covid_ttl": TINY,
    "unet_ttl": TINY,
    "ctpa_ttl": {
        **{"spatial_size": [12, 32, 32], "crop_from": 36, "field_size": 48, "batch_size": 4, "max_epochs": 1},
        **{"learning_rate": 1e-3, "min_slices": 3, "jitter": 4},
    },
}


def write_tiny_data(folder: Path, *, counts=(16, 8, 7), seed=0) -> Path:
    """Noise images, the positive ones with a bright square; two images a patient; returns the datalist."""
    generator = np.random.default_rng(seed)
    sections, number = {}, 0
    (folder / "images").mkdir(parents=True)
    for name, count in zip(("training", "validation", "test"), counts, strict=True):
        sections[name] = []
        for _ in range(count):
            label = number % 2
            pixels = generator.integers(0, 120, (40, 48), dtype=np.uint8)
            if label:
                pixels[12:28, 16:32] += 120
            path = f"images/{number:03d}.png"
            Image.fromarray(pixels).save(folder / path)
            sections[name].append({"image": path, "label": label, "patient": f"{name}-{number // 2}"})
            number += 1
    header = {
        "name": "tiny",
        "task": "binary",
        "class_names": ["negative", "positive"],
        "seed": seed,
        "repeat": 0,
        "source": "made",
        "licence": "CC0",
        "public_ids": True,
        "made_by": "tests",
    }
    counts_ = {
        name: {"negative": sum(not r["label"] for r in rows), "positive": sum(r["label"] for r in rows)}
        for name, rows in sections.items()
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps({**header, "counts": counts_, **sections}))
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """The datalist of the tiny images; its folder is their dataset_dir."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_scans(tmp_path_factory) -> Path:
    """The datalist of a few small made CT scans; its folder is their dataset_dir."""
    return make_ctpa_phantom(tmp_path_factory.mktemp("scans"), seed=2, patients=8, shape=(30, 64, 64))


@pytest.fixture(scope="session")
def tiny_masks(tmp_path_factory) -> Path:
    """The datalist of a few x-rays, PNG and DICOM, with masks of the lungs."""
    return make_phantom(tmp_path_factory.mktemp("masks"), patients=6, size=(96, 112), masks=True)


@pytest.fixture
def bundle() -> str:
    """The bundle that `make_workflow` and `trained` take; a module may have another."""
    return "covid_ttl"


@pytest.fixture
def datalist(bundle, request) -> Path:
    """The tiny data of the bundle."""
    return request.getfixturevalue(TINY_DATA[bundle])


def open_tiny(
    bundle: str,
    listed: Path,
    folder: Path,
    names: Sequence[str],
    overrides: Mapping[str, Any],
    *,
    workflow_type: str = "train",
) -> ConfigWorkflow:
    """A workflow of a bundle on its tiny data, initialised, everything written below the folder.

    Overrides of `...` take a setting of the tests away.
    """
    settings = {
        "dataset_dir": str(listed.parent),
        "datalist": str(listed),
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "run"),
    }
    settings |= TINY_OF[bundle] if not {"evaluate.json", "inference.json"} & {*names} else {"batch_size": 8}
    settings |= overrides
    workflow = ConfigWorkflow(
        [str(BUNDLES / bundle / "configs" / name) for name in names],
        logging_file=False,
        workflow_type=workflow_type,
        **{key: value for key, value in settings.items() if value is not ...},
    )
    workflow.initialize()
    return workflow


@pytest.fixture
def make_workflow(bundle, request, tmp_path):
    """Build and initialise a workflow of the bundle on its tiny images, everything written below tmp_path."""

    def make(*names: str, workflow_type="train", bundle=bundle, **overrides) -> ConfigWorkflow:
        listed = request.getfixturevalue(TINY_DATA[bundle])
        return open_tiny(bundle, listed, tmp_path, names, overrides, workflow_type=workflow_type)

    return make


@pytest.fixture(scope="session")
def train_once(request, tmp_path_factory):
    """Train a cut network of a bundle, at the first call for it; gives the folder of the run."""

    @cache
    def train(bundle: str) -> Path:
        cut = "layer1" if bundle == "ctpa_ttl" else "blocks.1"
        folder, listed = tmp_path_factory.mktemp("trained"), request.getfixturevalue(TINY_DATA[bundle])
        workflow = open_tiny(bundle, listed, folder, ["train.json", "strategy_ttl.json"], {"cuts#ttl": cut})
        workflow.run()
        workflow.finalize()
        return folder / "run"

    return train


@pytest.fixture(scope="session")
def pack_once(train_once, tmp_path_factory, request):
    """Pack the tiny run of a bundle, at the first call for it; gives the run and what was packed. Read only."""
    made = {}

    def pack(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("packed")
            run = Path(shutil.copytree(train_once(name), folder / "run"))
            if name == "covid_ttl":  # the others are packed without an evaluation
                listed = request.getfixturevalue(TINY_DATA[name])
                settings = {"run_dir": str(run), "output_dir": ...}
                workflow = open_tiny(name, listed, folder, ["train.json", "evaluate.json"], settings)
                workflow.run()
            bundle = BUNDLES / name
            made[name] = run, pack_run(run, folder / name, bundle=bundle, version="1.2.3", exports=("torchscript",))
        return made[name]

    return pack


@pytest.fixture
def trained(train_once, tmp_path, bundle) -> Path:
    """The folder of a finished tiny training of a cut network: a copy for this test alone."""
    return Path(shutil.copytree(train_once(bundle), tmp_path / "run"))


@pytest.fixture
def data_options(request, bundle) -> list[str]:
    """The options of a command that name the tiny images of the bundle."""
    listed = request.getfixturevalue(TINY_DATA[bundle])
    return ["--dataset_dir", str(listed.parent), "--datalist", str(listed)]


@contextmanager
def refused(match: str) -> Iterator[None]:
    """Expect an error whose root cause matches: MONAI wraps what a config raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the cause is matched below
        yield
    cause = told_cause(caught.value)
    assert cause is not None, f"no error for a user in {caught.value!r}"
    assert re.search(match, str(cause), re.DOTALL), f"{match!r} is not in {str(cause)!r}"


@pytest.fixture(scope="session")
def site_key(tmp_path_factory) -> Path:
    """A site key of the tests, made on first use."""
    return tmp_path_factory.mktemp("key") / "site_key"


@pytest.fixture
def predict(site_key, train_once, tmp_path):
    """`ttl predict` of an input with the tiny model of a bundle, or another run of it; gives the results."""

    def run(bundle, source, *, out=None, run_dir=None, **options):
        out = tmp_path / "out" if out is None else out
        run_dir = train_once(bundle) if run_dir is None else run_dir
        return predict_inputs(run_dir, source, out, configs=BUNDLES / bundle, site_key=site_key, **options)

    return run
