"""The tissue phantom: its bytes, its dyes by an independent unmixing, and what does not tell the class."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, label, zoom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ttl_monai.data import Datalist, demo_tissue_phantom, make_tissue_phantom, phantom_tissue
from ttl_monai.data.phantom_patch import CLASS_NAMES, Stain, draw_tissue
from ttl_monai.data.phantom_tissue import draw_tissue_phantom

LYMPHOID, TUMOUR, MITOSIS = range(3)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def patches():
    return list(draw_tissue_phantom(seed=5, patients=24, size=(96, 112)))


@pytest.fixture(scope="module")
def clean():
    """Patches of the three classes on one slide of known dyes."""
    stain = Stain(np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]), (1, 1), (0.96, 0.96, 0.96), 0.5)
    return [
        [draw_tissue(stain, np.random.default_rng((9, k)), label=c, size=128) for k in range(8)] for c in range(3)
    ], stain


def haematoxylin(image, stain):
    """The amount of it by colour deconvolution (Ruifrok and Johnston 2001), not as the phantom makes pictures."""
    density = -np.log(np.clip(image / 255 / stain.light, 1e-3, None))
    return (density.reshape(-1, 3) @ np.linalg.pinv(stain.vectors))[:, 0].reshape(image.shape[:2])


def test_same_seed_gives_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_tissue_phantom(tmp_path / name, seed=seed, patients=4, size=(64, 72))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    images = [{data for name, data in tree(tmp_path / n).items() if "images/" in name} for n in "ac"]
    assert len(images[0]) == 12
    assert not images[0] & images[1]


def test_the_datalist_is_split_by_patient_and_has_the_hashes(tmp_path):
    path = make_tissue_phantom(tmp_path, seed=0, patients=10, size=(64, 64))
    datalist = Datalist.load(path, tmp_path)
    assert (datalist.task, datalist.class_names, datalist.public_ids) == ("multi-class", CLASS_NAMES, True)
    assert [len(datalist.section(section)) for section in datalist.entries] == [18, 6, 6]
    for entry in datalist.entries["test"]:
        assert entry["sha256"] == hashlib.sha256((tmp_path / entry["image"]).read_bytes()).hexdigest()
        assert Image.open(tmp_path / entry["image"]).mode == "RGB"
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert len(rows) == 31
    assert {row.split(",")[2] for row in rows[1:]} == set(CLASS_NAMES)
    assert "Made patches of stained tissue" in (tmp_path / "README.txt").read_text()


def test_every_patient_has_every_class_in_no_telling_order(patches):
    by_patient = {}
    for patch in patches:
        by_patient.setdefault(patch.patient, []).append(patch.label)
    assert all(sorted(labels) == [0, 1, 2] for labels in by_patient.values())
    assert len({tuple(labels) for labels in by_patient.values()}) >= 5


def test_it_looks_like_haematoxylin_and_eosin(patches):
    """Red above blue above green on the whole, as in pink and purple, and a light background at its brightest."""
    means = np.array([patch.image.mean(axis=(0, 1)) for patch in patches])
    assert (means[:, 1] < means[:, 2]).mean() > 0.95
    assert (means[:, 1] < means[:, 0]).all()
    assert ((means > 60) & (means < 230)).all()


def test_nuclei_differ_in_number_and_size_and_not_in_their_area(clean):
    classes, stain = clean
    areas = {}
    for c in (LYMPHOID, TUMOUR):
        masks = [gaussian_filter(haematoxylin(image, stain), 1) > 0.62 for image in classes[c]]
        areas[c] = np.mean([mask.mean() for mask in masks]), np.mean([label(mask)[1] for mask in masks])
    assert areas[LYMPHOID][1] > 1.6 * areas[TUMOUR][1]
    assert areas[LYMPHOID][0] == pytest.approx(areas[TUMOUR][0], rel=0.35)


def test_dividing_cells_are_dark_and_ragged_and_dead_ones_dark_and_round(clean):
    """Dark parts lie in all classes; those of mitosis have less area than the ellipse of their moments."""
    classes, stain = clean
    filled = {}
    for c, images in enumerate(classes):
        filled[c] = []
        for image in images:
            parts, count = label(haematoxylin(image, stain) > 1.75)
            for part in (parts == k for k in range(1, count + 1)):
                if part.sum() >= 20:
                    spread = np.linalg.eigvalsh(np.cov(np.stack(np.nonzero(part))))
                    filled[c].append(part.sum() / (4 * np.pi * np.sqrt(spread.prod())))
    ragged = [sum(share < 0.9 for share in filled[c]) for c in range(3)]
    assert min(map(len, filled.values())) >= 5
    assert np.median(filled[TUMOUR]) > 0.94  # two that touch are one part, hence not all of them
    assert ragged[MITOSIS] > 2 * max(ragged[LYMPHOID], ragged[TUMOUR])


def auroc(labels, values):
    area = roc_auc_score(labels, values)
    return max(area, 1 - area)


def test_colour_does_not_tell_the_class(patches):
    labels = np.array([patch.label for patch in patches])
    means = np.array([patch.image.mean(axis=(0, 1)) for patch in patches])
    for one, other in ((LYMPHOID, TUMOUR), (TUMOUR, MITOSIS)):
        chosen = np.isin(labels, (one, other))
        assert max(auroc(labels[chosen] == one, means[chosen, c]) for c in range(3)) < 0.75


def test_a_thumbnail_does_not_tell_dividing_cells(patches):
    chosen = [patch for patch in patches if patch.label != LYMPHOID]
    small = np.stack(
        [zoom(gaussian_filter(p.image.mean(axis=2), 6), 8 / len(p.image), order=1).ravel() for p in chosen]
    )
    labels = np.array([patch.label == MITOSIS for patch in chosen])
    trained = np.array([int(patch.patient[1:]) <= 12 for patch in chosen])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(
        small[trained], labels[trained]
    )
    assert roc_auc_score(labels[~trained], model.decision_function(small[~trained])) < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 2}, "patients >= 3, one for each of training, validation, test, got 2"),
        ({"size": (32, 64)}, r"64 <= size\[0\] <= size\[1\], got patients=100, size=\(32, 64\)"),
        ({"size": (96, 64)}, r"got patients=100, size=\(96, 64\)"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_tissue_phantom(tmp_path / "phantom", **arguments)
    assert not (tmp_path / "phantom").exists()
    with pytest.raises(ValueError, match="size must be at least 64 pixels"):
        draw_tissue(Stain.draw(np.random.default_rng(0)), np.random.default_rng(0), label=0, size=40)


def test_the_demo_is_made_once_and_anew_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_tissue, "DEMO_PATIENTS", 3)
    monkeypatch.setattr(phantom_tissue, "SIZE", (64, 64))
    path = demo_tissue_phantom(tmp_path / "demo")
    whole = tree(tmp_path / "demo")
    assert json.loads(path.read_text())["made_by"].endswith("size=(64, 64)), edition 1")
    next((tmp_path / "demo/images").iterdir()).write_bytes(b"cut")
    assert demo_tissue_phantom(tmp_path / "demo") == path
    assert tree(tmp_path / "demo") == whole
