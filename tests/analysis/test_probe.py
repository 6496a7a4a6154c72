import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ttl_monai.analysis.probe import REGULARISATIONS, fit_probe, patient_folds

SHIFT, SCALE = 3.0, 7.0  # features are not standardised: the probe has to do it


def make_data(n=120, d=10, *, classes=2, seed=0, noise=1.0):
    """Features whose first columns carry the class, two images a patient."""
    generator = np.random.default_rng(seed)
    clean = generator.normal(size=(n, d))
    scores = clean[:, :classes] + noise * generator.gumbel(size=(n, classes))
    labels = scores.argmax(axis=1)
    features = SHIFT + clean * np.linspace(1, SCALE, d)
    return features, labels, [f"patient-{number // 2}" for number in range(n)]


def reference(c):
    """Scikit-learn's own pipeline, solved to the last digits."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-10, max_iter=50_000))


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("task", "classes", "shape"),
    [
        ("binary", 2, {"n": 120, "d": 10}),
        ("binary", 2, {"n": 40, "d": 90}),  # fewer samples than features
        ("multi-class", 4, {"n": 160, "d": 12}),
        ("multi-class", 2, {"n": 80, "d": 6}),
    ],
)
def test_probe_on_raw_features_is_scikit_learns_solution_on_standardised_ones(task, classes, shape):
    features, labels, groups = make_data(classes=classes, **shape)
    probe = fit_probe(features, labels, groups, task=task, num_classes=classes)
    assert probe.weight.shape == (classes, shape["d"])
    expected = reference(probe.regularisation[0]).fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(softmax(probe.logits(features)), expected, atol=2e-5)


def test_multi_label_fits_each_label_on_the_images_where_it_is_known():
    features, first, groups = make_data(n=140, d=8)
    generator = np.random.default_rng(1)
    second, third = (features[:, column] + generator.normal(size=140) > SHIFT for column in (3, 4))
    labels = np.stack([first, second, third], axis=1).astype(float)
    labels[generator.random(labels.shape) < 0.3] = np.nan
    probe = fit_probe(features, labels, groups, task="multi-label", num_classes=3)
    assert len(probe.regularisation) == len(probe.folds) == 3
    scaled = StandardScaler().fit_transform(features)  # the scale comes from all images, the fit from the known ones
    for number, c in enumerate(probe.regularisation):
        known = ~np.isnan(labels[:, number])
        model = LogisticRegression(C=c, tol=1e-10, max_iter=50_000).fit(scaled[known], labels[known, number])
        sigmoid = 1 / (1 + np.exp(-probe.logits(features)[:, number]))
        np.testing.assert_allclose(sigmoid, model.predict_proba(scaled)[:, 1], atol=2e-5)


def test_multi_label_without_unknown_labels_is_one_against_the_rest():
    features, labels, groups = make_data(n=150, classes=3)
    hot = np.eye(3)[labels]
    probe = fit_probe(features, hot, groups, task="multi-label", num_classes=3)
    for number, c in enumerate(probe.regularisation):
        expected = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=c, tol=1e-10)))
        expected.fit(features, hot[:, [number]])
        sigmoid = 1 / (1 + np.exp(-probe.logits(features)[:, number]))
        np.testing.assert_allclose(sigmoid, expected.predict_proba(features)[:, -1], atol=2e-5)


def held_out_loss(features, labels, folds, c):
    """The cross-validated log-loss, written out."""
    scaled, total = StandardScaler().fit_transform(features), 0.0
    for fit, held in folds:
        model = LogisticRegression(C=c, tol=1e-8, max_iter=20_000).fit(scaled[fit], labels[fit])
        total -= np.log(model.predict_proba(scaled[held])[np.arange(len(held)), labels[held]]).sum()
    return total / len(labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_regularisation_has_the_least_held_out_loss(classes):
    features, labels, groups = make_data(n=120, d=20, classes=classes)
    task = "binary" if classes == 2 else "multi-class"
    probe = fit_probe(features, labels, groups, task=task, num_classes=classes)
    folds = patient_folds(labels, groups, task=task, num_classes=classes)[0]
    expected = {c: held_out_loss(features, labels, folds, c) for c in REGULARISATIONS}
    assert probe.regularisation == (min(expected, key=expected.get),)
    for c, loss in probe.losses[0].items():
        assert loss == pytest.approx(expected[c], abs=2e-3)


def test_regularisation_is_stronger_where_the_features_say_less():
    clear, noisy = (fit_probe(*make_data(noise=noise), task="binary", num_classes=2) for noise in (0.05, 20))
    assert noisy.regularisation[0] < clear.regularisation[0]


def test_regularisation_is_chosen_across_patients():
    """Six images a patient look the same: only folds by patient show that the features tell patients, not classes."""
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 6)
    labels = generator.integers(0, 2, 40)[patient]
    features = generator.normal(size=(40, 60))[patient] + 0.01 * generator.normal(size=(240, 60))
    by_patient = fit_probe(features, labels, patient, task="binary", num_classes=2)
    by_image = fit_probe(features, labels, np.arange(240), task="binary", num_classes=2)
    assert by_patient.regularisation[0] <= 1e-3
    assert by_image.regularisation[0] >= 1


@pytest.mark.parametrize("task", ["binary", "multi-label"])
def test_folds_keep_patients_together_and_hold_every_image_once(task):
    _, labels, groups = make_data(n=90)
    labels = np.stack([labels, 1 - labels], axis=1) if task == "multi-label" else labels
    for folds in patient_folds(labels, groups, task=task, num_classes=2):
        assert len(folds) == 5
        assert sorted(np.concatenate([held for _, held in folds])) == list(range(90))
        for fit, held in folds:
            assert not {groups[each] for each in fit} & {groups[each] for each in held}
            assert sorted([*fit, *held]) == list(range(90))


def test_folds_follow_the_seed():
    _, labels, groups = make_data()
    first, same, other = (
        [held.tolist() for _, held in patient_folds(labels, groups, task="binary", num_classes=2, seed=seed)[0]]
        for seed in (0, 0, 1)
    )
    assert first == same != other


@pytest.mark.parametrize(("patients", "folds"), [(2, 2), (3, 3), (4, 4), (9, 5)])
def test_a_rare_class_has_fewer_folds_each_of_which_can_be_fitted(patients, folds):
    groups = [f"common-{number}" for number in range(60)] + [f"rare-{number // 3}" for number in range(3 * patients)]
    labels = np.array([0] * 60 + [1] * 3 * patients)
    found = patient_folds(labels, groups, task="binary", num_classes=2)[0]
    assert len(found) == folds
    assert all(set(labels[fit]) == {0, 1} for fit, _ in found)
    features = np.random.default_rng(0).normal(size=(len(labels), 4)) + labels[:, None]
    probe = fit_probe(features, labels, groups, task="binary", num_classes=2)
    assert probe.folds == (folds,)
    assert np.isfinite(probe.weight).all()


def test_given_folds_are_used():
    features, labels, groups = make_data(n=60)
    splits = patient_folds(labels, groups, task="binary", num_classes=2, folds=2, seed=5)
    assert fit_probe(features, labels, groups, task="binary", num_classes=2, splits=splits).folds == (2,)


@pytest.mark.parametrize("dead", [0.0, 5.0, 0.1])
def test_constant_features_get_no_weight_and_change_nothing(dead):
    features, labels, groups = make_data(n=80, d=6)
    without = fit_probe(features, labels, groups, task="binary", num_classes=2)
    rounding = np.random.default_rng(0).choice([0, 1e-8], size=80)  # float32 knows no such differences
    wide = np.column_stack([features, np.full(80, dead), dead * (1 + rounding)])
    probe = fit_probe(wide, labels, groups, task="binary", num_classes=2)
    assert (probe.weight[:, -2:] == 0).all()
    np.testing.assert_array_equal(probe.weight[:, :-2], without.weight)


def test_nothing_but_constants_gives_the_shares_of_the_classes():
    labels = np.array([0, 0, 0, 1] * 10)
    probe = fit_probe(np.ones((40, 3)), labels, np.arange(40), task="binary", num_classes=2)
    np.testing.assert_allclose(softmax(probe.logits(np.ones((2, 3)))), [[0.75, 0.25]] * 2, atol=1e-4)


def test_single_precision_features_give_the_same_probe():
    features, labels, groups = make_data()
    double, single = (
        fit_probe(features.astype(kind), labels, groups, task="binary", num_classes=2) for kind in ("f8", "f4")
    )
    np.testing.assert_allclose(single.weight, double.weight, atol=1e-5)


def changed(**changes):
    features, labels, groups = make_data(n=40, d=5)
    return {"features": features, "labels": labels, "groups": groups, "task": "binary", "num_classes": 2} | changes


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"task": "segmentation"}, "tasks binary, multi-class, multi-label, got 'segmentation'"),
        ({"num_classes": 3}, "2 classes, got num_classes=3"),
        ({"labels": np.arange(40) % 3}, r"from 0 to 1, got \[2.0\]"),
        ({"labels": np.full(40, np.nan)}, "from 0 to 1, got"),
        ({"labels": np.zeros((40, 2))}, r"class numbers \(N,\), got \(40, 2\)"),
        ({"labels": np.zeros((40, 2)), "task": "multi-label", "num_classes": 3}, r"must be \(N, 3\), got \(40, 2\)"),
        ({"features": np.ones((39, 5))}, r"N = 40 labels, got \(39, 5\)"),
        ({"features": np.ones(40)}, r"must be \(N, D\)"),
        ({"features": np.full((40, 5), np.nan)}, "finite, got 200 NaN or infinite of 200"),
        ({"groups": ["a"] * 39}, "each of the 40 images, got 39"),
        ({"labels": np.zeros(40)}, "class 1 has training images of 0 patients"),
        ({"labels": np.array([1, 1] + [0] * 38)}, "class 1 has training images of 1 patients"),
        (
            {"labels": np.stack([np.arange(40) % 2, np.zeros(40)], 1), "task": "multi-label"},
            "label 1: class 1 has training images of 0 patients",
        ),
        ({"labels": np.array([0] * 38 + [1, 1]), "groups": ["a"] * 38 + ["a", "b"]}, "class 0 .* of 1 patients"),
    ],
)
def test_probe_refuses_what_it_cannot_fit(changes, match):
    with pytest.raises(ValueError, match=match):
        fit_probe(**changed(**changes))
