"""The way of README, from a training to the archive: its lines are run as they stand there, but with small settings."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from PIL import Image

from tests.bundles.predict_inputs import write_xray
from tests.bundles.test_predict_dicom import check_valid
from tests.orthanc import PASSWORD, USER, client_of, running_orthanc
from ttl_monai.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REPO = Path(__file__).resolve().parents[1]
MADE = {"covid_ttl": ["sc", "sr"], "ctpa_ttl": ["sc", "sr"], "unet_ttl": ["seg"]}
# As DICOM calls them.
MODALITIES = {"sr": "SR", "seg": "SEG", "sc": "OT"}
SMALL = {
    "covid_ttl": "--max_epochs 1 --spatial_size 64",
    "ctpa_ttl": "--max_epochs 1",
    "unet_ttl": "--max_epochs 2 --spatial_size 64",
}
DEMO = {"covid_ttl": "demo_phantom", "unet_ttl": "demo_lung_phantom"}


def read_lines(bundle):
    """The commands of README's section, for a bundle."""
    section = (REPO / "README.md").read_text().partition("## From a training to the archive\n")[2]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)[1]
    lines = block.replace("ctpa_ttl", bundle).splitlines()
    assert [line.split()[0] for line in lines] == [f"STUDY={lines[0][6:]}", *["python"] * 2, *["ttl"] * 5]
    assert [line.split()[1] for line in lines if line.startswith("ttl")] == [
        *("pack", "lint", "export"),
        *["predict"] * 2,
    ]
    return lines


@pytest.fixture(scope="module")
def tell(tmp_path_factory):
    """The story of a bundle up to its DICOM objects, told once."""

    @cache
    def story(bundle):
        folder = tmp_path_factory.mktemp(bundle)
        ignored = shutil.ignore_patterns("eval", "cache", "data", "models")
        shutil.copytree(REPO / "bundles" / bundle, folder / "bundles" / bundle, ignore=ignored)
        study, train, evaluate, *packing, predict, from_server = read_lines(bundle)
        for line in (f"{train} {SMALL[bundle]}", evaluate):
            run_monai(folder, line)
        printed = [run_ttl(folder, line) for line in packing]
        source = Path(folder, study.partition("=")[2]) if bundle == "ctpa_ttl" else make_xray(folder, bundle)
        printed.append(run_ttl(folder, predict.replace("$STUDY", str(source))))
        return SimpleNamespace(folder=folder, study=source, printed=printed, from_server=from_server)

    return story


def run_monai(folder, line):
    """Run a line that begins with `python -m`, from a folder, with this checkout."""
    command = [sys.executable, "-W", "ignore", *shlex.split(line)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def run_ttl(folder, line):
    """Run a line that begins with `ttl` in this process, from a folder; gives what it prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))  # of the site key
        assert main(shlex.split(line)[1:]) == 0, printed.getvalue()
    return printed.getvalue()


def make_xray(folder, bundle):
    """An image of the demo as an x-ray in DICOM."""
    data = folder / "bundles" / bundle / "data" / DEMO[bundle]
    entry = json.loads((data / "datalist.json").read_text())["test"][0]
    pixels = np.asarray(Image.open(data / entry["image"]).convert("L"))
    dataset = pydicom.dcmread(write_xray(folder / "study/a.dcm", size=pixels.shape, StudyInstanceUID="1.2.3.77"))
    dataset.PixelData = (pixels.astype("<u2") * 16).tobytes()
    dataset.save_as(folder / "study/a.dcm")
    return folder / "study"


def read_uid(study):
    return pydicom.dcmread(next(study.rglob("*.dcm")), specific_tags=["StudyInstanceUID"]).StudyInstanceUID


@pytest.mark.parametrize("bundle", MADE)
def test_from_a_training_to_dicom_objects(bundle, tell):
    story = tell(bundle)
    packed, linted, exported, predicted = story.printed
    assert "no findings of ttl lint" in packed
    assert "findings" not in linted or "no findings" in linted
    assert "largest difference from the network" in exported
    assert "1 predicted, 0 refused" in predicted
    run = story.folder / "bundles" / bundle / "eval/ttl"
    metrics = json.loads((run / "test/metrics.json").read_text())
    assert metrics["n"] > 0
    assert (run / "export/model.onnx").stat().st_size > 10_000
    assert (story.folder / "packed" / f"{bundle}.zip").is_file()
    made = {path.stem.rpartition("_")[2]: path for path in (story.folder / "results/dicom").iterdir()}
    assert sorted(made) == MADE[bundle]
    for path in made.values():
        check_valid(path)
        assert pydicom.dcmread(path).StudyInstanceUID == read_uid(story.study)
    if bundle != "unet_ttl":
        (row,) = csv.DictReader((story.folder / "results/predictions.csv").open())
        assert 0 <= float(row["probability_positive"]) <= 1


@pytest.mark.parametrize("bundle", MADE)
def test_to_orthanc_and_back(bundle, tell, tmp_path):
    with running_orthanc(tmp_path) as url:  # skips where there is none
        story = tell(bundle)
        uid, client = read_uid(story.study), client_of(url)
        client.store_instances([pydicom.dcmread(path) for path in sorted(story.study.rglob("*.dcm"))])
        before = {each["0020000E"]["Value"][0] for each in client.search_for_series(uid)}
        line = story.from_server.replace("http://127.0.0.1:8042/dicom-web", url)
        credentials = tmp_path / "credentials"
        credentials.write_text(f"TTL_DICOMWEB_USER={USER}\nTTL_DICOMWEB_PASSWORD={PASSWORD}\n")
        credentials.chmod(0o600)
        line = line.replace("$UID", uid)
        printed = run_ttl(story.folder, f"{line} --credentials {credentials}")
        assert "1 predicted, 0 refused" in printed
        assert uid not in printed
        found = client.search_for_series(uid, fields=["Modality"])
        new = [each["00080060"]["Value"][0] for each in found if each["0020000E"]["Value"][0] not in before]
        assert sorted(new) == sorted(MODALITIES[name] for name in MADE[bundle])
