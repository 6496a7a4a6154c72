"""What of a run's config goes into a packed bundle, without a training: runs are written as such a run records them."""

import json
from pathlib import Path

import pytest

from ttl_monai.deploy.pack.card import write_large_files
from ttl_monai.deploy.pack.configs import write_configs, write_model_record
from ttl_monai.deploy.pack.metadata import packed_metadata
from ttl_monai.deploy.pack.run import FinishedRun
from ttl_monai.deploy.packed import CODE_PATH

BUNDLES = Path(__file__).resolve().parents[3] / "bundles"
PACKAGE = "ttl_monai_x_0_1_0_12345678"
NETWORK = {"backbone": "tf_efficientnet_lite0", "weights": "/data/mine.pt", "in_channels": 3, "num_classes": 3}
NETWORK |= {"truncate_at": "blocks.3", "freeze_up_to": None, "slim_after": None}


@pytest.fixture
def make_run(tmp_path):
    """A run of covid_ttl with settings in its merged config, as MONAI leaves it: ids with `::`."""

    def make(**settings):
        train = json.loads((BUNDLES / "covid_ttl/configs/train.json").read_text())
        text = json.dumps(train | settings).replace("train#", "train::").replace("validate#", "validate::")
        target = train["network_def"]["_target_"]
        spec = {"network_def": {"_target_": target, **NETWORK}, "strategy": "TTL", "spatial_size": 96}
        spec |= {"class_names": ["a", "b", "c"], "validation": {"val_auroc": 0.51239, "val_auprc": float("nan")}}
        record = {"config": json.loads(text), "data": {"name": "mine"}}
        return FinishedRun(tmp_path, BUNDLES / "covid_ttl", spec, record, {}, train)

    return make


@pytest.fixture
def packed(make_run, tmp_path):
    """Files of the packed bundle of such a run, as text and as content."""

    def make(**settings):
        write_configs(make_run(**settings), tmp_path / "new", PACKAGE)
        return {path.name: json.loads(path.read_text()) for path in (tmp_path / "new/configs").glob("*.json")}

    return make


@pytest.mark.parametrize(("data", "block"), [(None, "demo"), ("/data/me/images", "protocol")])
def test_the_settings_that_a_run_chose_are_written_in(data, block, packed):
    source = json.loads((BUNDLES / "covid_ttl/configs/train.json").read_text())
    train = packed(dataset_dir=data, learning_rate=0.5)["train.json"]
    assert train["spatial_size"] == source[block]["spatial_size"]
    assert train["max_epochs"] == source[block]["max_epochs"]
    assert train["learning_rate"] == 0.5
    assert not {"demo", "protocol", "settings", "cuts"} & set(train)


def test_the_network_stands_there_without_references(packed):
    network = packed()["train.json"]["network_def"]
    assert network["_target_"] == f"{PACKAGE}.networks.TransferClassifier"
    assert {name: network[name] for name in NETWORK} == {**NETWORK, "weights": "none"}


def test_where_and_how_a_run_ran_stays_with_its_author(packed):
    places = {name: f"/data/me/{name}" for name in ("dataset_dir", "datalist", "cache_dir", "output_dir", "demo_dir")}
    ranks = {"rank": "$int(os.environ['RANK'])", "device": "$torch.device('cuda', 7)", "use_cuda": True}
    files = packed(**places, **ranks, bundle_root="/data/me/bundle", resume="auto", num_workers=9, finalize=["$x"])
    assert "/data/me" not in json.dumps(files)
    source = json.loads((BUNDLES / "covid_ttl/configs/train.json").read_text())
    assert all(files["train.json"][name] == source[name] for name in [*places, "rank", "device", "resume"])
    assert not {"use_cuda", "finalize"} & set(files["train.json"])


def test_overlays_of_data_are_written_in_and_those_of_processes_are_not(packed):
    source = json.loads((BUNDLES / "covid_ttl/configs/train.json").read_text())
    part = source["train"] | {"augment": source["train"]["augment"] | {"flip": True}, "sampler": {"_target_": "X"}}
    part["dataloader"] = part["dataloader"] | {"sampler": "@train#sampler"}
    part["handlers"] = [*part["handlers"], {"_target_": "ttl_monai.handlers.SVCCAHandler"}]
    train = packed(train=part, in_channels=3)["train.json"]["train"]
    assert train["augment"]["flip"] is True
    assert "sampler" not in train
    assert "sampler" not in train["dataloader"]
    assert len(train["handlers"]) == len(source["train"]["handlers"])
    assert train["trainer"]["train_handlers"] == source["train"]["trainer"]["train_handlers"]  # ids as we write them


def test_entries_find_the_code_and_the_packed_model(packed):
    files = packed()
    for name in ("train.json", "inference.json"):
        assert files[name]["code"]["path"] == CODE_PATH
        assert not [each for each in files[name]["imports"] if "ttl_monai" in each]
    assert files["inference.json"]["run_dir"] == files["evaluate.json"]["run_dir"] == "$@bundle_root + '/models'"
    steps = files["train.json"]["run"]
    start = steps.index("$@code#engines.start_from(@network_def, @start_from, @class_names)")
    assert start < steps.index("$@record.attach(@train#trainer)")
    assert not [name for name in files if name.startswith(("strategy", "backbone", "data", "search"))]


def test_the_record_of_the_model_names_no_file_of_the_author(make_run, tmp_path):
    write_model_record(make_run(), tmp_path / "new", PACKAGE)
    text = (tmp_path / "new/models/model.json").read_text()
    assert "/data/mine.pt" not in text
    assert f"{PACKAGE}.networks.TransferClassifier" in text
    assert "_requires_" not in text


def test_metadata_is_of_the_run_s_network(make_run):
    source = json.loads((BUNDLES / "covid_ttl/configs/metadata.json").read_text())
    metadata = packed_metadata(make_run(), source, {"scipy"}, release="0.3.0", changelog=None)
    image, pred = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
    assert (image["image"]["num_channels"], image["image"]["spatial_shape"]) == (3, [96, 96])
    assert image["image"]["channel_def"] == {"0": "red", "1": "green", "2": "blue"}
    assert pred["pred"]["num_channels"] == 3
    assert pred["pred"]["channel_def"] == {"0": "a", "1": "b", "2": "c"}
    assert metadata["eval_metrics"] == {"val_auroc": 0.5124}  # the one that is undefined is left out
    assert metadata["changelog"]["0.3.0"] == "TTL of tf_efficientnet_lite0, cut after blocks.3, trained on mine"
    assert metadata["changelog"].keys() == {*source["changelog"], "0.3.0"}
    assert "+" not in metadata["pytorch_version"]
    assert "scipy" in metadata["required_packages_version"]


def test_a_package_that_is_not_installed_is_an_error(make_run):
    source = json.loads((BUNDLES / "covid_ttl/configs/metadata.json").read_text())
    with pytest.raises(ValueError, match="no-such-package is named by the bundle's metadata, but not installed"):
        packed_metadata(make_run(), source, {"no-such-package"}, release="0.3.0", changelog=None)


@pytest.mark.parametrize(
    ("url", "address"), [("https://host.org/b/", "https://host.org/b/models/model.pt"), (None, "")]
)
def test_large_files_are_listed_with_their_hash(url, address, tmp_path, monkeypatch):
    monkeypatch.setattr("ttl_monai.deploy.pack.card.LARGE", 10)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.pt").write_bytes(b"12345678901")
    (tmp_path / "models/small.pt").write_bytes(b"1234567890")
    assert write_large_files(tmp_path, url) == ["models/model.pt"]
    assert (tmp_path / "large_files.yml").read_text() == (
        f'large_files:\n  - path: "models/model.pt"\n    url: "{address}"\n'
        '    hash_val: "254aa248acb47dd654ca3ea53f48c2c26d641d23d7e2e93a1ec56258df7674c4"\n    hash_type: "sha256"\n'
    )
