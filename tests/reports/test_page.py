import csv
import importlib.util
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from ttl_monai.analysis import operating_intervals, threshold_at_sensitivity
from ttl_monai.cli import main
from ttl_monai.reports.page import write_report
from ttl_monai.reports.page.inputs import read_inputs, shown_key
from ttl_monai.reports.page.provenance import without_places
from ttl_monai.reports.page.strategies import head_of, metric_keys

HERE = Path(__file__).parent
SECTIONS = (
    *("strategies", "truncation", "saliency", "figures", "similarity", "curves", "calibration", "operating"),
    *("confusion", "segmentation", "wrong", "gallery", "training", "complexity", "data", "provenance"),
)
VOID = {"meta", "img", "br", "link", "hr", "input"}


def load(name):
    """A module beside this one: the tests are no package."""
    spec = importlib.util.spec_from_file_location(f"report_{name}", HERE / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = load("page_runs")


class Page(HTMLParser):
    """All elements with their attributes, the text, and whether the tags are closed in order."""

    def __init__(self, path):
        super().__init__()
        self.source, self.elements, self.open, self.words = path.read_text(), [], [], []
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_search):
    """One of everything."""
    root = tmp_path_factory.mktemp("runs")
    made.write_json(root / "search" / "search.json", make_search())
    made.make_picture(root / "inference" / f"{'a' * 64}_gradcam.png")
    made.make_picture(root / "inference" / f"{made.CANARY}_gradcam.png")
    return {
        "ftl": made.make_run(root / "ftl"),
        "ttl": made.make_run(root / "ttl", "TTL", "blocks.3", params=253_570, noise=1.6),
        "masks": made.make_masks_run(root / "masks"),
        "experiment": made.make_experiment(root / "experiment"),
        "search": root / "search",
        "svcca": made.make_similarity(root / "svcca"),
        "inference": root / "inference",
    }


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    """The page of everything, with all that can be written beside it."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    names = [str(folder) for folder in folders.values()]
    more = ["--prevalence", "0.1", "--png", str(out.parent / "png"), "--csv", "--json"]
    assert main(["report", *names, "--out", str(out), *more]) == 0
    return out


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_every_section_is_there_in_order(page):
    assert [each["id"] for each in page.all("section") if "id" in each] == list(SECTIONS)


def test_the_page_needs_nothing_else(page):
    assert not page.all("script", "link", "iframe", "object", "base")
    targets = [each[key] for _, each in page.elements for key in ("src", "href", "xlink:href") if each.get(key)]
    assert targets
    assert not [each[:40] for each in targets if not each.startswith(("#", "data:image/"))]
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page.source)
    assert "@import" not in page.source


def test_no_name_no_path_no_markup_of_others(written):
    beside = [path for path in written.parent.rglob("*") if path.suffix in (".html", ".csv", ".json")]
    assert len(beside) > 10
    for path in beside:
        assert made.CANARY not in path.read_text(), path.name
        assert made.CANARY not in path.name
    assert made.EVIL not in written.read_text()
    assert "&lt;script&gt;" in written.read_text()


def test_what_a_screen_reader_needs(page):
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    assert [each["lang"] for each in page.all("html")] == ["en"]
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(each["alt"] for each in page.all("img"))
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    named = [each["aria-labelledby"].split() for _, each in page.elements if "aria-labelledby" in each]
    assert {name for names in named for name in names} <= set(ids)
    assert {each["href"][1:] for each in page.all("a", "use") if "href" in each} <= set(ids)
    assert all(each.get("role") == "img" for each in page.all("svg"))
    assert len(page.all("title")) == 1 + len(page.all("svg"))


def test_drawings_take_the_colours_of_the_page(page):
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.source, flags=re.S))
    assert "var(--c0)" in drawings
    assert "var(--ink)" in drawings
    assert not re.findall(r"(?:fill|stroke): #(?:000000|ffffff|0072b2)", drawings)


def test_the_summary_is_made_from_the_numbers(page):
    assert (
        "On cxr, TTL blocks.3 keeps 7.5 % of the parameters of FTL; AUROC difference to FTL +0.006 (95 % CI -0.002 to "
        "+0.014), p = 0.31 over 3 repeats."
    ) in page.text
    assert "2.2x as fast on the CPU" in page.text


def test_published_values_are_marked(page):
    assert [tag for tag, each in page.elements if each.get("class") == "published"] == ["tr", "tr"]
    assert "0.853 ± 0.004" in page.text
    assert "Published beside FTL: supplement, Table 3. Published beside TTL blocks.2" in page.text
    assert "TTL blocks.2: the logs, 80 s on the CPU and 6.72 s on the GPU. Differs: its cut." in page.text
    assert "its cut. Differs in all of these: the data." in page.text
    assert "A note of the table." in page.text


def test_what_an_experiment_alone_knows_is_there(written):
    tables = json.loads(written.with_suffix(".json").read_text())
    found = [row for table in tables.values() for row in table["rows"]]
    assert {"package": "monai", "version": "1.6.1"} in found
    (source,) = [row for row in found if "source" in row]
    assert (source["labels"], source["validation AUPRC"], source["epochs"]) == ("Edema, Fracture", "0.500", "4")


def test_runs_of_an_experiment_are_told_apart_and_called_the_first_of_several(tmp_path):
    content = json.loads((made.make_experiment(tmp_path) / "results.json").read_text())
    table = content["tables"][0]
    table["rows"] = [{**table["rows"][0], "published": None, "run": "runs/imagenet"}]
    table["rows"][0]["repeats"] = [{**each, "seed": k} for k, each in enumerate(table["rows"][0]["repeats"])]
    other = {**table, "weights": "source low", "rows": [{**table["rows"][0], "run": "runs/low"}]}
    made.write_json(tmp_path / "results.json", {**content, "tables": [table, other]})
    for name in ("imagenet", "low"):
        made.make_run(tmp_path / "runs" / name)
    page = Page(write_report([tmp_path], tmp_path / "r.html"))
    assert "FTL, from imagenet: AUROC" in page.text
    assert "FTL, from source low" in page.text
    assert page.text.count("Of the first repeat of each row") == 6
    assert "Seeds of the repeats, of which the first is shown: 0, 1, 2." in page.text
    assert "The paper's figures at hand have nothing for these rows." in page.text


def test_images_of_a_segmentation_are_counted_by_section(tmp_path):
    folder = made.make_masks_run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    record["data"] |= {"counts": {"training": {}, "test": {}}, "images": {"training": 31, "test": 20}}
    made.write_json(folder / "run.json", record)
    tables = write_report([folder], tmp_path / "r.html", as_json=True).with_suffix(".json").read_text()
    assert json.loads(tables)["data"]["rows"] == [
        {"section": "training", "images": "31"},
        {"section": "test", "images": "20"},
    ]


def test_maps_are_scored_beside_what_an_even_map_gets(written):
    tables = json.loads(written.with_suffix(".json").read_text())
    rows = tables["saliency-1"]["rows"]
    assert [(row["network"], row["share inside"], row["pointing game"]) for row in rows] == [
        ("FTL", "0.400 (0.300 to 0.600)", "-"),
        ("TTL blocks.2", "0.500 (0.300 to 0.600)", "-"),
    ]
    assert {row["share of the image"] for row in rows} == {"0.270"}
    assert [row["metric"] for row in tables["saliency-2"]["rows"]] == ["gradcam lungs share"]
    metrics = [
        row.get("metric", "") for name in tables if name.startswith("strategies") for row in tables[name]["rows"]
    ]
    assert not [each for each in metrics if "gradcam" in each]


def test_tables_and_figures_beside_the_page(written):
    tables = json.loads(written.with_suffix(".json").read_text())
    files = sorted(path.stem for path in (written.parent / "report_tables").iterdir())
    assert files == sorted(tables)
    rows = list(csv.DictReader((written.parent / "report_tables" / "operating.csv").open()))
    assert rows == tables["operating"]["rows"]
    pictures = sorted((written.parent / "png").iterdir())
    assert {"roc0", "pr0", "reliability0", "search0", "svcca0", "matrix0", "cuts0"} <= {path.stem for path in pictures}
    for path in pictures:
        with Image.open(path) as image:
            assert min(image.size) > 50
            assert len(set(image.convert("L").resize((40, 40)).getdata())) > 3


def test_operating_points_are_chosen_on_validation(written, folders):
    rows = json.loads(written.with_suffix(".json").read_text())["operating"]["rows"]
    run = read_inputs([folders["ttl"]]).runs[0]
    wanted = [row for row in rows if row["run"] == "TTL blocks.3" and row["wanted sensitivity"] == "≥ 90%"]
    threshold = threshold_at_sensitivity(run.validation.labels, run.validation.scores, 0.9)
    values, _ = operating_intervals(run.test.labels, run.test.scores, run.test.patients, threshold, 0.1)
    assert wanted[0]["threshold"] == f"{threshold:.3f}"
    for head, name in (("sensitivity", "sensitivity"), ("specificity", "specificity"), ("PPV", "ppv"), ("NPV", "npv")):
        assert wanted[0][head].startswith(f"{values[name]:.2f} (")


def test_a_task_of_three_classes(tmp_path):
    folder = made.make_run(tmp_path / "run", classes=("a", "b", "c"))
    out = write_report([folder], tmp_path / "r.html", as_json=True)
    tables = json.loads(out.with_suffix(".json").read_text())
    run = read_inputs([folder]).runs[0]
    expected = confusion_matrix(run.test.labels, run.test.scores.argmax(axis=1))
    rows = tables["confusion"]["rows"]
    found = [[int(row[f"called {name}"].split()[0]) for name in "abc"] for row in rows]
    assert found == expected.tolist()
    assert "operating" not in tables
    assert len(tables["wrong"]["rows"]) == min(10, len(run.test.labels) - expected.trace())


def test_what_is_missing_is_said(tmp_path):
    folder = made.make_run(tmp_path / "run")
    shutil.rmtree(folder / "validation")
    text = Page(write_report([folder], tmp_path / "r.html")).text
    assert "No validation scores, from which thresholds for a wanted sensitivity are chosen: FTL." in text
    assert "no similarity of features" in text
    assert "no metric against the truncation point" in text


def test_a_run_that_was_not_evaluated_has_its_training(tmp_path):
    folder = made.make_run(tmp_path / "run")
    shutil.rmtree(folder / "test")
    page = Page(write_report([folder / "run.json"], tmp_path / "r.html"))
    assert "training" in [each.get("id") for each in page.all("section")]
    assert "evaluate the runs" in page.text


@pytest.mark.parametrize(("value", "there"), [(None, False), (2.5, True)])
def test_millimetres_are_shown_where_files_state_them(value, there):
    repeat = {"test_dice": 0.9, "test_jaccard": 0.8, "test_hausdorff95": 3.0, "test_hausdorff95_mm": value}
    keys = metric_keys([{"repeats": [repeat, repeat]}])
    assert keys == [key for key in repeat if there or key != "test_hausdorff95_mm"]
    assert head_of("test_hausdorff95_mm") == "HD95 (mm)"


@pytest.mark.parametrize(
    ("image", "shown"),
    [("ab" * 32, "abababababab…"), (f"{'ab' * 32}#7", "abababababab…#7"), ("P0001", "row 5"), ("a/b.png", "row 5")],
)
def test_images_are_named_by_keys_or_rows(image, shown):
    assert shown_key(image, 4) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ttl x --dataset_dir /data/DOE/x --seed 1", "ttl x --dataset_dir PATH --seed 1"),
        ("--datalist=/a/b.json", "--datalist=PATH"),
        ("'/a/b c'", "'PATH c'"),
        ("~/x C:\\a\\b \\\\host\\c", "PATH PATH PATH"),
        ("datalists/cxr_split*.json 3/4 a/b", "datalists/cxr_split*.json 3/4 a/b"),
    ],
)
def test_paths_from_a_root_are_left_out(text, shown):
    assert without_places(text) == shown


def spoil(name, text):
    return lambda folder: (folder / name).write_text(text)


def other_auroc(folder):
    made.write_json(folder / "test" / "metrics.json", {"test_auroc": 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "has no model.json: has its training finished an epoch"),
        (lambda folder: (folder / "run.json").unlink(), "holds nothing to report: expected run.json"),
        (spoil("run.json", "{"), "run.json is not valid JSON"),
        (spoil("results.json", "{}"), "must have `tables`"),
        (other_auroc, "predictions.csv gives another AUROC than metrics.json has"),
        (
            spoil(
                "results.json", json.dumps({"tables": [], "figures": [{"file": "../x.png", "title": "", "alt": ""}]})
            ),
            "expected a picture",
        ),
    ],
)
def test_bad_folders_are_refused(tmp_path, change, message):
    folder = made.make_run(tmp_path / "run")
    change(folder)
    with pytest.raises(ValueError, match=message):
        write_report([folder], tmp_path / "r.html")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sensitivities": [0.9, 1.2]}, r"got \[1.2\]"), ({"prevalence": 0.0}, "a prevalence between 0 and 1; got 0.0")],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_report([tmp_path], tmp_path / "r.html", **options)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs at least one folder"):
        write_report([], tmp_path / "r.html")


CHECKS = """(() => {
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  const images = [...document.images].filter(each => !each.complete || !each.naturalWidth).length;
  const drawings = [...document.querySelectorAll('svg')].map(each => each.getBoundingClientRect());
  const flat = drawings.filter(each => each.width < 150 || each.height < 50).length;
  const parts = [...document.querySelectorAll('section')].map(each => each.getBoundingClientRect());
  const small = parts.filter(each => each.height < 60).length;
  const colours = getComputedStyle(document.body);
  return {wide, images, flat, small, ink: colours.color, page: colours.backgroundColor,
          sections: [...document.querySelectorAll('section[id]')].map(each => each.id)};
})()"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_shows_it_whole_on_phone_and_desk_in_light_and_dark(written, tmp_path):
    with load("browser").start_browser(shutil.which("chromium"), tmp_path / "profile") as browser:
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                browser.open(written, width, 900, scheme)
                found = browser.evaluate(CHECKS)
                assert found["wide"] <= 0
                assert found["images"] == found["flat"] == found["small"] == 0
                assert found["sections"] == list(SECTIONS)
                ink, paper = (sum(map(int, re.findall(r"\d+", found[key])[:3])) for key in ("ink", "page"))
                assert (ink < 200 and paper > 700) if scheme == "light" else (ink > 600 and paper < 150)
                picture = tmp_path / f"{width}_{scheme}.png"
                browser.screenshot(picture)
                with Image.open(picture) as image:
                    assert image.width == width
                    assert image.height > 3000
        browser.pdf(tmp_path / "print.pdf")
        assert (tmp_path / "print.pdf").read_bytes().startswith(b"%PDF")
