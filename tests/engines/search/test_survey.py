"""The look at the bundle from which a search starts, and one training cell, on the tiny images."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from monai.bundle.config_parser import ConfigParser
from monai.networks.nets import resnet10

import ttl_monai
from tests.bundles.conftest import BUNDLES, TINY, write_tiny_data
from ttl_monai.data import CachedDataset
from ttl_monai.engines.configs import config_files
from ttl_monai.engines.search.prepare import prepare_images
from ttl_monai.engines.search.run_cell import train_cell
from ttl_monai.engines.search.space import Space, versions
from ttl_monai.engines.search.survey import _candidates, survey
from ttl_monai.networks import TransferClassifier, backbones, count_params


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Two datalists of one folder of tiny images."""
    first = write_tiny_data(tmp_path_factory.mktemp("search"))
    content = json.loads(first.read_text())
    content["training"], content["validation"] = content["training"][::-1], content["validation"]
    second = first.with_name("tiny1.json")
    second.write_text(json.dumps({**content, "repeat": 1}))
    return [first, second]


@pytest.fixture
def look(lists, tmp_path):
    """Survey `covid_ttl` on the tiny images; keyword arguments replace the defaults."""

    def make(**changes) -> Space:
        values = {
            "folder": tmp_path / "search",
            "bundle": BUNDLES / "covid_ttl",
            "overlays": (),
            "settings": {**TINY, "cache_dir": str(tmp_path / "cache")},
            "dataset_dir": lists[0].parent,
            "datalists": lists,
            "repeats": None,
            "train_patients": None,
            "candidates": ["blocks.0", "blocks.1.0"],
            "seed": 0,
            "options": {},
        }
        return survey(**{**values, **changes})

    return make


@pytest.fixture(scope="module")
def key(lists, tmp_path_factory):
    """The key of the whole network's training on the first repeat."""
    folder = tmp_path_factory.mktemp("key")
    space = survey(
        folder=folder / "search",
        bundle=BUNDLES / "covid_ttl",
        overlays=(),
        settings={**TINY, "cache_dir": str(folder / "cache")},
        dataset_dir=lists[0].parent,
        datalists=lists,
        repeats=None,
        train_patients=None,
        candidates=["blocks.0"],
        seed=0,
        options={},
    )
    return space.cell("train", None, 0).key


def test_the_sealed_lists_have_no_test_section(look, lists):
    space = look()
    assert space.repeats == 2
    hidden = {entry["image"] for entry in json.loads(lists[0].read_text())["test"]}
    for name in space.datalists:
        text = Path(space.folder, name).read_text()
        assert json.loads(text)["test"] == []
        assert not any(f'"{image}"' in text for image in hidden)


def test_repeats_of_a_single_list_are_drawn_from_it(look, lists):
    space = look(datalists=lists[:1])
    assert space.repeats == 3
    assert len(set(space.manifests)) == 3
    assert space.originals == (str(lists[0]),) * 3


def test_candidates_are_the_points_by_depth_with_the_size_of_each_network(look):
    space = look()
    assert [row["point"] for row in space.candidates] == ["blocks.0.0", "blocks.1.0", None]
    assert [row["level"] for row in space.candidates] == ["stage", "block", "stage"]
    for row in space.candidates:
        network = TransferClassifier("tf_efficientnet_lite0", "none", in_channels=1, truncate_at=row["point"])
        assert row["params"] == count_params(network)
    assert space.points("stage") == ["blocks.0.0"]
    assert space.key_metric == "val_auprc"


def test_all_ends_of_blocks_are_candidates_and_the_last_feature_map_is_the_whole_network(look):
    space = look(settings={**TINY, "network_def#backbone": "resnet18"}, candidates=None)
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert space.points()[-7:] == blocks[:-1]
    assert space.candidates[-1]["point"] is None


def test_a_space_travels_as_json(look):
    space = look(settings={**TINY, "max_epochs": 2})
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"settings": {**TINY, "num_workers": 3}}, True),  # how fast, not what
        ({"candidates": ["blocks.0"]}, True),
        ({"settings": {**TINY, "max_epochs": 2}}, False),
        ({"settings": {**TINY, "network_def#head": "flatten"}}, False),
        ({"train_patients": 4}, False),
    ],
    ids=["speed", "candidates", "epochs", "head", "patients"],
)
def test_only_what_is_trained_decides_the_key(look, key, changes, same):
    assert (look(**changes).cell("train", None, 0).key == key) is same


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bundle": Path("nowhere")}, "nowhere is no bundle: expected a folder with configs/train.json"),
        ({"overlays": ("none.json",)}, "there is no overlay 'none.json'"),
        ({"settings": {**TINY, "max_epohcs": 3}}, "'max_epohcs' is no setting here; did you mean 'max_epochs'"),
        ({"repeats": 3}, "3 repeats were asked of 2 datalists"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"overlays": ("strategy_ttl.json",)}, "a search looks for the cut itself, but the config sets"),
        ({"candidates": ["blocks.9"]}, "expected the name of a truncation point, got 'blocks.9'"),
        ({"train_patients": 99}, "train_patients must be from 2 to"),
    ],
)
def test_what_a_training_would_refuse_is_refused_at_once(look, changes, match):
    with pytest.raises(ValueError, match=match):
        look(**changes)


def test_lists_of_two_data_sets_are_refused(look, lists, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(lists[0].read_text()), "name": "other"}))
    with pytest.raises(ValueError, match=r"splits of one data set with the same classes; got tiny .* other"):
        look(datalists=[lists[0], other])


def test_a_training_cell_goes_on_where_it_was_stopped(look, tmp_path):
    space = look(settings={**TINY, "cache_dir": str(tmp_path / "cache"), "max_epochs": 2})
    cell = space.cell("train", "blocks.1.0", 0)
    result = train_cell(space, cell, tmp_path / "run")
    network = TransferClassifier("tf_efficientnet_lite0", "none", in_channels=1, truncate_at="blocks.1.0")
    assert result["params"] == count_params(network)
    assert result["value"] == result["metrics"]["val_auprc"]
    assert (result["metric"], result["epochs"]) == ("val_auprc", 2)
    assert "val_threshold" not in result["metrics"]
    assert not (tmp_path / "run" / "last.pt").exists()
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert model["network_def"]["truncate_at"] == "blocks.1.0"
    assert model["strategy"] == "TTL"

    # Stopped after the first epoch: the attempt that follows has its epoch and its seconds.
    short = look(settings={**TINY, "cache_dir": str(tmp_path / "cache"), "max_epochs": 1})
    workflow = short.open_workflow(0, output_dir=tmp_path / "stopped", point="blocks.1.0")
    workflow.run()
    workflow.finalize()
    shutil.copytree(tmp_path / "stopped", tmp_path / "resumed")
    resumed = train_cell(space, cell, tmp_path / "resumed")
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in result.items() if k != "seconds"}
    first = json.loads((tmp_path / "stopped" / "run.json").read_text())["history"][0]["seconds"]
    assert resumed["seconds"] > first


def test_an_undefined_metric_fails_the_cell(look, lists, tmp_path):
    content = json.loads(lists[0].read_text())
    content["validation"] = [entry for entry in content["validation"] if entry["label"]]
    content["counts"]["validation"] = {"negative": 0, "positive": len(content["validation"])}
    path = tmp_path / "one_class.json"
    path.write_text(json.dumps(content))
    folder = lists[0].parent
    space = look(datalists=[path], repeats=1, dataset_dir=folder)
    with pytest.raises(ValueError, match="no epoch had a finite val_auprc: does the validation section of repeat 0"):
        train_cell(space, space.cell("train", "blocks.0.0", 0), tmp_path / "run")


def test_values_that_only_a_band_of_settings_has_decide_the_key(look, lists, tmp_path):
    bundle = tmp_path / "covid_ttl"
    shutil.copytree(BUNDLES / "covid_ttl" / "configs", bundle / "configs")
    own = {**TINY, "cache_dir": str(tmp_path / "cache"), "patience": "$@settings['patience']"}
    keys = set()
    for patience in (3, 4):
        train = json.loads((bundle / "configs" / "train.json").read_text())
        train["protocol"]["patience"] = patience
        (bundle / "configs" / "train.json").write_text(json.dumps(train))
        keys.add(look(bundle=bundle, settings=own).cell("train", None, 0).key)
    assert len(keys) == 2


def test_a_changed_config_is_noticed_before_a_cell_is_trained(look, tmp_path):
    bundle = tmp_path / "covid_ttl"
    shutil.copytree(BUNDLES / "covid_ttl" / "configs", bundle / "configs")
    space = look(bundle=bundle)
    space.check_sources()
    path = bundle / "configs" / "train.json"
    path.write_text(path.read_text().replace('"patience": 5', '"patience": 6'))
    with pytest.raises(ValueError, match="are not those that the search was begun with"):
        space.check_sources()


def test_changed_code_is_another_version_where_it_decides_the_numbers(tmp_path, monkeypatch):
    package = tmp_path / "ttl_monai"
    shutil.copytree(Path(ttl_monai.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(ttl_monai, "__file__", str(package / "__init__.py"))
    found = []
    for changed in (None, "reports/tables.py", "data/transforms.py"):
        if changed:
            (package / changed).write_text((package / changed).read_text() + "# changed\n")
        found.append(versions.__wrapped__())
    assert found[0] == found[1] != found[2]
    assert dict(found[0]).keys() == {"ttl-monai", "monai", "torch", "torchvision", "timm", "scikit-learn"}


def test_another_search_in_the_folder_leaves_the_sealed_lists_of_the_first(look):
    first = look()
    before = {name: Path(first.folder, name).read_bytes() for name in first.datalists}
    second = look(train_patients=4)
    assert not set(first.datalists) & set(second.datalists)
    assert {name: Path(first.folder, name).read_bytes() for name in first.datalists} == before


def test_images_are_prepared_once_for_all_repeats_and_kinds(look, tmp_path, monkeypatch):
    space = look()
    decoded = []
    original = CachedDataset._tensors
    monkeypatch.setattr(CachedDataset, "_tensors", lambda self, item: decoded.append(item) or original(self, item))
    assert prepare_images(space, ("probe", "train"), workers=0) > 0
    # 16 images of training by its own transforms; 24 of both sections by those of validation.
    assert len(decoded) == 16 + 24
    prepare_images(space, ("probe", "train"), workers=0)
    train_cell(space, space.cell("train", "blocks.0.0", 0), tmp_path / "run")
    assert len(decoded) == 16 + 24


def test_overlays_are_found_by_name_and_by_path(tmp_path):
    own = tmp_path / "own.json"
    own.write_text("{}")
    files = config_files(BUNDLES / "covid_ttl", ["backbone_resnet50.json", str(own)])
    assert [Path(each).name for each in files] == ["train.json", "backbone_resnet50.json", "own.json"]


@pytest.mark.parametrize(
    ("definition", "size", "expected"),
    [
        (
            {"_target_": "ttl_monai.networks.TransferUNet", "encoder": "resnet18", "weights": "none"},
            64,
            [("layer1.0", "block"), ("layer1.1", "stage"), (None, "stage")],
        ),
        (
            {
                "_target_": "ttl_monai.networks.TransferClassifier",
                "backbone": "made3d",
                "weights": "none",
                "num_classes": 3,
            },
            [8, 32, 32],
            [("layer1.0", "stage"), ("layer2.0", "stage"), (None, "stage")],
        ),
    ],
    ids=["unet", "3d"],
)
def test_networks_of_any_task_and_dimension_have_candidates(monkeypatch, definition, size, expected):
    monkeypatch.setitem(backbones.REGISTRY, "made3d", lambda: resnet10(spatial_dims=3, n_input_channels=3))
    parser = ConfigParser({"network_def": definition, "spatial_size": size, "in_channels": 1})
    rows = _candidates(SimpleNamespace(parser=parser), [point for point, _ in expected if point])
    assert [(row["point"], row["level"]) for row in rows] == expected
    sizes = [(row["params"], row["macs"]) for row in rows]
    assert sizes == sorted(sizes)
    assert sizes[0] != sizes[-1]
