"""Boxes with their null beside them, the matrix, CSV and text from one document."""

import csv
import io

import matplotlib.image
import numpy as np
import pytest

from ttl_monai.reports import plot_matrix, plot_similarity, similarity_csv, similarity_text
from ttl_monai.reports import similarity as module


def make(determined=True, null="wachter"):
    generator = np.random.default_rng(0)
    points = []
    for index, name in enumerate(("layer1.1", "layer2.0", "layer2.1", None)):
        values = np.sort(generator.beta(8 - 2 * index, 2, 40))[::-1]
        random = generator.uniform(0, 0.1 + 0.1 * index, 400)
        points.append(
            {
                "point": name,
                "level": "block" if name == "layer2.0" else "stage",
                "coefficients": values.tolist(),
                "dims": [40, 40] if index else [39, 40],
                "n": 12345,
                "mean": round(float(values.mean()), 5),
                "null": null,
                "null_quantiles": np.quantile(random, np.linspace(0, 1, 21)).tolist(),
                "quartiles": np.quantile(values, (0.25, 0.5, 0.75)).tolist(),
                "null_quartiles": np.quantile(random, (0.25, 0.5, 0.75)).tolist(),
                "overlap": 0.1 + 0.25 * index,
                "quartile_rule": index == 3,
                "excess_area": 0.8 - 0.2 * index,
                "jackknife": [0.08 + 0.25 * index, 0.12 + 0.25 * index],
            }
        )
    return {
        "runs": ["initial", "ftl"],
        "data": {"name": "tiny", "images": 24},
        "null": null,
        "points": points,
        "matrix": {"points": ["a", "whole"], "excess_area": [[0.9, 0.4], [0.3, 0.2]], "mean": [[1, 1], [1, 1]]},
        "picks": {
            "stage": {
                "overlap": {"point": "layer2.1", "determined": True},
                "excess": {"point": None, "determined": False},
            }
        },
        "pick": "layer2.1" if determined else None,
        "determined": determined,
        "reason": "it is the last stage end" if determined else "too few samples",
    }


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures, save = [], module._save
    monkeypatch.setattr(module, "_save", lambda figure, path: figures.append(figure) or save(figure, path))
    return figures


def test_each_point_has_its_box_and_its_null_s_beside_it(drawn, tmp_path, monkeypatch):
    boxes = []
    from matplotlib.axes import Axes

    original = Axes.bxp
    monkeypatch.setattr(Axes, "bxp", lambda self, stats, **k: boxes.append((stats, k)) or original(self, stats, **k))
    document = make()
    path = plot_similarity(document, tmp_path / "a" / "similarity.png")
    assert matplotlib.image.imread(path).shape[1] > 600
    (real, left), (null, right) = boxes
    for index, each in enumerate(document["points"]):
        assert [real[index][key] for key in ("q1", "med", "q3")] == pytest.approx(each["quartiles"])
        assert (real[index]["whislo"], real[index]["whishi"]) == (min(each["coefficients"]), max(each["coefficients"]))
        assert [null[index][key] for key in ("q1", "med", "q3")] == each["null_quartiles"]
        assert null[index]["whishi"] == each["null_quantiles"][-1]
        assert left["positions"][index] < index < right["positions"][index]
    upper, lower = drawn[0].axes
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [
        "initial and ftl",
        "random features (closed form)",
    ]
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["layer1.1", "layer2.0", "layer2.1", "whole"]
    lines = {line.get_label(): line for line in lower.get_lines()}
    assert lines["transition"].get_xdata()[0] == 2
    assert lines["block"].get_ydata().tolist() == [0.35]
    spans = [collection.get_segments()[0][:, 1].tolist() for collection in lower.collections]
    assert spans == [each["jackknife"] for each in document["points"]]


def test_without_a_transition_the_reason_stands_there_and_no_line(drawn, tmp_path):
    plot_similarity(make(determined=False, null="permute"), tmp_path / "b.png")
    upper, lower = drawn[0].axes
    assert "random features (exchanged images)" in [text.get_text() for text in upper.get_legend().get_texts()]
    assert lower.get_xlabel() == "Transition: undetermined, too few samples."
    assert "transition" not in [line.get_label() for line in lower.get_lines()]


def test_the_matrix_shows_every_pair_with_names_at_both_sides(drawn, tmp_path):
    plot_matrix(make(), tmp_path / "matrix.png")
    axes = drawn[0].axes[0]
    assert {text.get_text() for text in axes.texts} == {"0.90", "0.40", "0.30", "0.20"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("ftl", "initial")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "whole"]


def test_csv_has_a_row_a_point():
    rows = list(csv.DictReader(io.StringIO(similarity_csv(make()))))
    assert [row["point"] for row in rows] == ["layer1.1", "layer2.0", "layer2.1", "whole"]
    first = rows[0]
    assert (first["n"], first["dims_before"], first["dims_after"], first["quartile_rule"]) == ("12345", "39", "40", "0")
    assert float(first["jackknife_std"]) == pytest.approx(np.std([0.08, 0.12], ddof=1), abs=1e-5)
    assert float(first["null_q3"]) == make()["points"][0]["null_quartiles"][2]


def test_text_has_aligned_numbers_and_a_verdict():
    lines = similarity_text(make()).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert "39x40" in lines[1]
    assert "12,345" in lines[4]
    assert lines[-2:] == [
        "Transition: layer2.1; it is the last stage end.",
        "By statistic, at stage ends: overlap layer2.1, excess undetermined.",
    ]
    end = {**make(), "pick": None}
    assert "Transition: the end of the network; it is the last stage end." in similarity_text(end)


@pytest.mark.parametrize(
    ("draw", "change", "message"),
    [(plot_similarity, {"points": []}, "at least one point"), (plot_matrix, {"matrix": None}, "all points, got none")],
)
def test_nothing_to_draw_is_refused(tmp_path, draw, change, message):
    with pytest.raises(ValueError, match=message):
        draw({**make(), **change}, tmp_path / "x.png")
