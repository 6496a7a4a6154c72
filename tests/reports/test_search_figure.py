import copy

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ttl_monai.reports import plot_search


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they were when saved, so that a test can read what stands in them."""
    seen = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        seen.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def rename(document, change):
    """Other names of the points, everywhere."""
    for key in ("candidates", "curve", "probe", "svcca"):
        for each in document[key] or []:
            each["point"] = each["point"] and change(each["point"])
    for each in document["methods"]:
        for holder in (each, each.get("before_training")):
            if holder:
                holder["pick"] = holder["pick"] and change(holder["pick"])
    return document


def undetermined(make):
    document = make()
    for each in document["methods"]:
        if each["method"] in ("svcca", "exhaustive"):
            each.update(determined=False, pick=None, mean=None, std=None, regret=None, reason="too few samples " * 20)
    for each in document["svcca"][9:]:
        each["n"] = 799  # of 80 neurons
    return document


def failed(make):
    document = make(train_patients=None)
    document["curve"][4].update(values=[0.97, None, 0.968], mean=0.969)
    del document["curve"][9]  # blocks.4.1, of which no repeat is done
    cells = ["train-blocks.2.1-1", "train-blocks.4.1-0", "train-blocks.4.1-1", "train-blocks.4.1-2", "probe-0"]
    document["failed"] = [{"cell": cell, "reason": "out of memory"} for cell in cells]
    return document


def sparse(make):
    document = make()
    document.update(probe=None, svcca=None)
    document["curve"] = [each for number, each in enumerate(document["curve"]) if number in (14, 7, 8, 2)]
    return document


def unstarted(make):
    return {**make(), "curve": [], "probe": None, "svcca": None, "methods": [], "random": None}


def many(make):
    """124 candidates, as of a deep net searched at every block."""
    document = make("3d")
    document.update(svcca=None, probe=None)
    extra = [{"point": f"more.{k}", "level": "block", "params": 3e5 + k, "macs": 1e9} for k in range(90)]
    document["candidates"][1:1] = extra
    return document


CASES = {
    "whole": lambda make: make(),
    "one-repeat-3d": lambda make: make("3d", repeats=1),
    "failed": failed,
    "undetermined": undetermined,
    "sparse": sparse,
    "unstarted": unstarted,
    "many": many,
    "long": lambda make: rename(make(), lambda name: f"features.denseblock{name[7]}.denselayer{name[9]}"),
    "short": lambda make: rename(make(), lambda name: name[7] + name[9]),
}


def draw(case, make, drawn, tmp_path):
    document = CASES[case](make)
    before = copy.deepcopy(document)
    path = plot_search(document, tmp_path / "new" / "search.png")
    assert document == before
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 1200 <= image.width <= 2000
        assert 800 <= image.height <= 2000
    return document, drawn[-1]


def overlapping(boxes):
    pairs = [(one, other) for number, one in enumerate(boxes) for other in boxes[:number]]
    return [pair for pair in pairs if pair[0].overlaps(pair[1])]


def line(axes, label):
    return next(each for each in axes.get_lines() if str(each.get_label()).startswith(label))


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("case", CASES)
def test_names_picks_and_legend_do_not_cover_each_other(case, make_search, drawn, tmp_path):
    _, figure = draw(case, make_search, drawn, tmp_path)
    FigureCanvasAgg(figure).draw()
    strip, *panels = figure.axes
    names = [each for each in panels[-1].get_xticklabels() if each.get_text()]
    assert names
    assert min(each.get_fontsize() for each in names) >= 8
    assert not overlapping([each.get_window_extent() for each in names])
    marks = [each.get_window_extent() for each in strip.get_lines()]
    words = [each.get_window_extent() for each in strip.texts]
    assert not overlapping(words)
    assert not [word for word in words if any(word.overlaps(mark) for mark in marks)]
    assert all(word.x0 >= strip.bbox.x0 and word.x1 <= strip.bbox.x1 for word in words)
    legend = figure.legends[0].get_window_extent()
    assert not [axes for axes in figure.axes if legend.overlaps(axes.get_window_extent())]
    assert not [each for each in names if legend.overlaps(each.get_window_extent())]


def test_panels_show_the_document(make_search, drawn, tmp_path):
    document, figure = draw("whole", make_search, drawn, tmp_path)
    strip, metric, overlap, size = figure.axes
    means = [each["mean"] for each in document["curve"]]
    assert line(metric, "trained").get_ydata().tolist() == means
    assert line(metric, "linear probe").get_ydata().tolist() == [each["mean"] for each in document["probe"]]
    assert set(line(metric, "whole network (FTL)").get_ydata()) == {means[-1]}
    band = metric.collections[0].get_paths()[0].vertices
    third = band[band[:, 0] == 2][:, 1]
    spread = document["curve"][2]["std"]
    assert sorted(set(third)) == pytest.approx([means[2] - spread, means[2] + spread])
    assert line(overlap, "SVCCA: overlap").get_ydata().tolist() == [each["overlap"] for each in document["svcca"]]
    assert size.get_yscale() == "log"
    assert line(size, "parameters").get_ydata()[-1] == pytest.approx(3.374)
    names = {each.get_text(): each.get_fontweight() for each in size.get_xticklabels()}
    assert list(names) == [each["point"] or "whole network" for each in document["candidates"]]
    assert {name for name, weight in names.items() if weight == "normal"} == {
        each["point"] for each in document["candidates"] if each["level"] == "block"
    }
    assert strip.get_title(loc="left") == "cxr_pid, tf_efficientnet_lite0, 400 training patients"


def test_picks_stand_above_their_cuts(make_search, drawn, tmp_path):
    _, figure = draw("whole", make_search, drawn, tmp_path)
    strip, *panels = figure.axes
    rows = [each.get_text() for each in strip.get_yticklabels()]
    assert rows == ["exhaustive", "two-stage", "SVCCA", "probe", "probe, before training"]
    assert [mark.get_xydata().tolist()[0] for mark in strip.get_lines()] == [[7, 0], [7, 1], [14, 2], [8, 3], [8, 4]]
    assert [text.get_text().split()[0] for text in strip.texts] == [
        *("blocks.3.2", "blocks.3.2", "blocks.5.3", "blocks.4.0", "blocks.4.0"),
    ]
    for axes in panels:
        dotted = [each for each in axes.get_lines() if each.get_xdata()[0] == each.get_xdata()[-1]]
        assert {7, 8, 14} <= {each.get_xdata()[0] for each in dotted}


def test_undetermined_methods_have_no_mark_but_a_reason(make_search, drawn, tmp_path):
    _, figure = draw("undetermined", make_search, drawn, tmp_path)
    strip, _, overlap, _ = figure.axes
    assert [mark.get_ydata()[0] for mark in strip.get_lines()] == [1, 3, 4]
    reasons = [text.get_text() for text in strip.texts if text.get_text().startswith("no pick: too few samples")]
    assert len(reasons) == 2
    few = line(overlap, "SVCCA, too few samples (n < 10 p)")
    assert few.get_xdata().tolist() == list(range(9, 17))
    assert few.get_markerfacecolor() == "white"


def test_failed_repeats_are_marked_and_leave_no_value(make_search, drawn, tmp_path):
    _, figure = draw("failed", make_search, drawn, tmp_path)
    metric = figure.axes[1]
    assert line(metric, "failed trainings (4)").get_xdata().tolist() == [4, 9]
    assert 9 not in line(metric, "trained").get_xdata()
    assert len(line(metric, "trained").get_xdata()) == 16


def test_one_repeat_has_no_band(make_search, drawn, tmp_path):
    _, figure = draw("one-repeat-3d", make_search, drawn, tmp_path)
    assert len(figure.axes[-1].get_xticklabels()) == 34
    bands = figure.axes[1].collections[::2]  # after each its bars
    assert len(bands) == 2
    for band in bands:
        assert {len(set(path.vertices[path.vertices[:, 0] == 3][:, 1])) for path in band.get_paths()} == {1}
    assert "trained, one repeat" in labels(figure)


def test_a_part_of_the_curve_is_drawn_in_the_order_of_depth(make_search, drawn, tmp_path):
    _, figure = draw("sparse", make_search, drawn, tmp_path)
    assert len(figure.axes) == 3
    metric = figure.axes[1]
    assert line(metric, "trained").get_xdata().tolist() == [2, 7, 8, 14]
    band, bars = metric.collections
    measured = {x for path in band.get_paths() for x in path.vertices[:, 0]}
    assert {7, 8} <= measured
    assert not measured & {3, 4, 5, 6, 9, 10, 11, 12, 13}
    assert [bar[0, 0] for bar in bars.get_segments()] == [2, 14]
    assert not [label for label in labels(figure) if "probe" in label or "SVCCA" in label or "FTL" in label]


def test_a_search_that_has_nothing_yet_says_so(make_search, drawn, tmp_path):
    _, figure = draw("unstarted", make_search, drawn, tmp_path)
    strip, metric, _ = figure.axes
    assert [text.get_text() for text in (*strip.texts, *metric.texts)] == [
        *("no method has finished yet", "nothing trained yet"),
    ]
    assert labels(figure) == ["parameters, head included"]


def test_a_threshold_of_the_overlap_is_drawn_where_it_is_known(make_search, drawn, tmp_path):
    plot_search({**make_search(), "svcca_threshold": 0.65}, tmp_path / "a.png")
    assert set(line(drawn[0].axes[2], "SVCCA threshold 0.65").get_ydata()) == {0.65}


def test_many_points_are_named_at_stage_ends_and_picks(make_search, drawn, tmp_path):
    document, figure = draw("many", make_search, drawn, tmp_path)
    names = {each.get_text() for each in figure.axes[-1].get_xticklabels()}
    ends = {each["point"] or "whole network" for each in document["candidates"] if each["level"] == "stage"}
    assert names == ends - {"layer4.2"} | {"layer3.5", "layer2.1"}  # layer4.2 stands too near to the whole network


def test_equal_documents_make_equal_files(make_search, tmp_path):
    one, two = (plot_search(sparse(make_search), tmp_path / name) for name in ("a.png", "b.png"))
    assert one.read_bytes() == two.read_bytes()


def test_what_is_no_search_document_is_refused(make_search, tmp_path):
    with pytest.raises(ValueError, match="schema 1, got None"):
        plot_search({}, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
