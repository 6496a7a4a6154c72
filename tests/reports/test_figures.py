import math
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics

from ttl_monai.reports import figures, plot_roc_pr, plot_training_curves


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they were when saved, so that a test can read their lines and legends."""
    seen = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        seen.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


@pytest.fixture
def binary():
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 2
    return labels, np.clip(0.5 + 0.2 * generator.normal(size=80) + 0.3 * (labels - 0.5), 0, 1)


def epoch(number, auprc=0.5, **changes):
    row = {"epoch": number, "train_loss": 1 / number, "val_auroc": 0.6, "val_auprc": auprc, "learning_rate": 1e-4}
    return {**row, **changes}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes, label):
    return next(each for each in axes.get_lines() if each.get_label().startswith(label))


def words(axes):
    return " ".join(text.get_text() for text in axes.texts)


def check_picture(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1000
        assert image.convert("L").getextrema()[0] < 60  # something dark was drawn


def test_training_curves_show_the_history(drawn, tmp_path):
    history = [epoch(k, auprc) for k, auprc in enumerate([0.5, 0.8, 0.7], 1)]
    path = plot_training_curves(history, tmp_path / "new" / "curves.png")
    check_picture(path)
    loss, score, rate = drawn[0].axes
    assert line(loss, "training").get_xydata().tolist() == [[1, 1], [2, 0.5], [3, pytest.approx(1 / 3)]]
    assert line(score, "AUPRC").get_ydata().tolist() == [0.5, 0.8, 0.7]
    assert line(score, "best AUPRC: 0.800, epoch 2").get_xydata().tolist() == [[2, 0.8]]
    assert rate.get_yscale() == "log"
    assert [axes.get_xlabel() for axes in (loss, score, rate)] == ["epoch"] * 3
    assert all(axes.get_ylabel() for axes in (loss, score, rate))


def test_epochs_without_validation_are_bridged(drawn, tmp_path):
    history = [epoch(1), epoch(2, None), epoch(3, math.nan), {"epoch": 4, "train_loss": 0.1}, epoch(5, 0.7)]
    check_picture(plot_training_curves(history, tmp_path / "curves.png"))
    assert line(drawn[0].axes[1], "AUPRC").get_xydata().tolist() == [[1, 0.5], [5, 0.7]]


def test_undefined_validation_says_so(drawn, tmp_path):
    history = [epoch(1, math.nan, val_auroc=math.nan)]
    check_picture(plot_training_curves(history, tmp_path / "curves.png"))
    assert "no finite value yet" in words(drawn[0].axes[1])


def test_empty_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_training_curves([], tmp_path / "curves.png")


def test_areas_stand_in_the_legends_and_are_those_under_the_lines(drawn, binary, tmp_path):
    labels, scores = binary
    check_picture(plot_roc_pr(labels, scores, ["negative", "positive"], tmp_path / "roc_pr.png"))
    roc, pr = drawn[0].axes
    false_rate, true_rate = line(roc, "positive").get_data()
    area = float(np.trapezoid(true_rate, false_rate))
    assert legend(roc)[0] == f"positive: AUROC {area:.3f}"
    assert area == pytest.approx(metrics.roc_auc_score(labels, scores))
    curve = line(pr, "positive")
    assert curve.get_drawstyle() == "steps-post"
    recall, precision = curve.get_data()
    area = float(-(np.diff(recall) * precision[:-1]).sum())
    assert legend(pr)[0] == f"positive: AUPRC {area:.3f} (prevalence 0.500)"
    assert area == pytest.approx(metrics.average_precision_score(labels, scores))


def test_operating_point_lies_on_the_curves(drawn, binary, tmp_path):
    labels, scores = binary
    plot_roc_pr(labels, scores, ["negative", "positive"], tmp_path / "roc_pr.png", threshold=0.5)
    roc, pr = drawn[0].axes
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, scores >= 0.5)
    assert line(roc, "threshold 0.5").get_xydata().tolist() == [pytest.approx([fp / (fp + tn), tp / (tp + fn)])]
    assert line(pr, "threshold 0.5").get_xydata().tolist() == [pytest.approx([tp / (tp + fn), tp / (tp + fp)])]


def test_two_columns_draw_the_positive_class(drawn, binary, tmp_path):
    labels, scores = binary
    plot_roc_pr(labels, scores, ["a", "b"], tmp_path / "one.png")
    plot_roc_pr(labels, np.stack([1 - scores, scores], 1), ["a", "b"], tmp_path / "two.png")
    assert legend(drawn[0].axes[0]) == legend(drawn[1].axes[0])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(("label", "kind"), [(0, "negatives"), (1, "positives")])
@pytest.mark.parametrize("threshold", [None, 0.5, math.nan])
def test_one_class_says_so_and_draws_on(drawn, tmp_path, label, kind, threshold):
    path = plot_roc_pr([label] * 5, np.linspace(0, 1, 5), ["healthy", "ill"], tmp_path / "one.png", threshold)
    check_picture(path)
    for axes in drawn[0].axes:
        assert f"ill: undefined, only {kind} (n = 5)" in legend(axes)
        assert "one class only" in words(axes)


def test_multi_label_leaves_unknown_out_and_names_what_is_undefined(drawn, tmp_path):
    labels = np.array([[0, 1, np.nan], [1, 1, np.nan], [np.nan, 1, np.nan], [1, 1, np.nan]])
    check_picture(plot_roc_pr(labels, np.random.default_rng(0).random((4, 3)), ["x", "y", "z"], tmp_path / "a.png"))
    shown = legend(drawn[0].axes[1])
    assert shown[0].endswith("(prevalence 0.667)")
    assert shown[1:] == ["y: undefined, only positives (n = 4)", "z: no labels"]


def test_multi_class_draws_every_class_distinctly(drawn, tmp_path):
    generator = np.random.default_rng(0)
    names = [f"class {k}" for k in range(9)]
    plot_roc_pr(np.arange(90) % 9, generator.random((90, 9)), names, tmp_path / "multi.png")
    lines = [line(drawn[0].axes[0], name) for name in names]
    assert len({(each.get_color(), each.get_linestyle()) for each in lines}) == 9


def test_figures_go_without_pyplot_and_leave_no_global_state(binary, tmp_path):
    if "matplotlib.pyplot" in sys.modules:
        before = sys.modules["matplotlib.pyplot"].get_fignums()
        plot_roc_pr(*binary, ["a", "b"], tmp_path / "a.png")
        assert sys.modules["matplotlib.pyplot"].get_fignums() == before
    assert not hasattr(figures, "plt")


@pytest.mark.parametrize(
    ("labels", "scores", "names", "threshold", "message"),
    [
        ([0, 1, 1], [0.1, 0.2], ["a", "b"], None, r"labels \(3,\) and scores \(2,\)"),
        ([[0, 1]], [[0.1, 0.2, 0.3]], ["a", "b", "c"], None, r"labels \(1, 2\) and scores \(1, 3\)"),
        ([0, 1], [0.1, 0.2], ["b"], None, "2 class names, got 1"),
        ([0, 1, 2], np.eye(3), ["a", "b", "c"], 0.5, "there are 3 classes"),
    ],
)
def test_input_that_does_not_fit_is_refused(tmp_path, labels, scores, names, threshold, message):
    with pytest.raises(ValueError, match=message):
        plot_roc_pr(labels, scores, names, tmp_path / "a.png", threshold)
